"""The page of a run: one file of HTML that needs no other, and the parts that it is made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lightning_topk.report._console import LABELS
from lightning_topk.report._page_style import STYLE

# Nothing is loaded, from wherever, and nothing is run.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its id, of letters, digits, ``-`` and ``_``.
        heading: Its heading, as text.
        body: Its contents, as HTML.
    """

    anchor: str
    heading: str
    body: str


def page_html(title: str, lead: str, sections: Sequence[Section], footer: str = "") -> str:
    """Return a page.

    Args:
        title: Title and heading, as text.
        lead: A line below the heading, as text.
        sections: The parts, in their order.
        footer: The last line, as text.

    Returns:
        HTML of a file that loads nothing and runs nothing.

    Example:
        >>> page = page_html("a < b", "", [Section("one", "One", "<p>1</p>")])
        >>> "<h1>a &lt; b</h1>" in page, '<h2 id="one">One</h2>' in page
        (True, True)
    """
    links = "".join(f'<li><a href="#{each.anchor}">{escape(each.heading)}</a></li>' for each in sections)
    parts = [
        f'<section aria-labelledby="{each.anchor}"><h2 id="{each.anchor}">{escape(each.heading)}</h2>\n{each.body}'
        "</section>"
        for each in sections
    ]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f'<header><h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p></header>',
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>',
            *parts,
            f"</main>\n<footer><p>{escape(footer)}</p></footer>\n</body>\n</html>\n",
        ]
    )


def table_html(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, main: int | None = None) -> str:
    """Return a table of texts whose first column is the heading of each row, and which scrolls where it is too wide.

    Args:
        caption: What it shows, as text.
        columns: Headings of the columns, as text.
        rows: Cells, as text.
        main: The row that is set in bold.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for place, (first, *others) in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        body.append(f'<tr{" class=main" if place == main else ""}><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>"
        + "\n".join(body)
        + "</tbody></table></div>\n"
    )


def accuracy_html(
    caption: str, rows: Sequence[Mapping[str, Any]], ks: Iterable[int], best: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """Return the table of groups, in percent with one decimal; ``best`` are rows of the best epoch beside the last."""
    ks = list(ks)
    counted = any(row["training_samples"] is not None for row in rows)
    sources = [("", rows)] if best is None else [("last ", rows), ("best ", best)]
    # What people look for comes first, as a phone shows few columns.
    columns = ["group", *(f"{name}top-{k}" for name, _ in sources for k in ks)]
    columns += ["classes", *["training samples"] * counted, "samples"]
    lines = []
    for place, row in enumerate(rows):
        seen = "" if row["classes_seen"] == row["classes"] else f"{row['classes_seen']:,} seen of "
        cells = [LABELS[row["group"]], *(percent(source[place][f"top{k}"]) for _, source in sources for k in ks)]
        numbers = [f"{row[name]:,}" for name in ["training_samples"] * counted + ["samples"]]
        lines.append([*cells, f"{seen}{row['classes']:,}", *numbers])
    return table_html(caption, columns, lines, main=0)


def facts_html(facts: Mapping[str, Any]) -> str:
    """Return names and values as a list."""
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(str(v))}</dd>\n" for n, v in facts.items()) + "</dl>\n"


def figure_html(heading: str, picture: str, description: str, note: str = "") -> str:
    """Return a figure with its heading, a description for those who do not see it, and a note below.

    Args:
        heading: As text.
        picture: An ``svg`` element.
        description: What there is to see, as text.
        note: How to read it, as text.
    """
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return (
        f'<figure><h3>{escape(heading)}</h3>\n<div role="img" aria-label="{escape(description)}">{picture}</div>\n'
        f"{caption}</figure>\n"
    )


def details_html(summary: str, body: str) -> str:
    """Return HTML that is shown on demand."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def percent(value: float | None) -> str:
    """Return a share in percent with one decimal, "-" for one that is not known."""
    return "-" if value is None else f"{100 * value:.1f}"
