"""Figures as parts of a page: vector graphics that follow its colours and fit a phone."""

import io
import re
from typing import TYPE_CHECKING, Any

from lightning_topk.report._style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of the figures that are of the paper, not of the data, and the names that a page knows them by.
_OF_PAGE = {INK.lower(): "var(--ink)", "#e4e4e4": "var(--grid)", "#888888": "var(--muted)", "#8c8c8c": "var(--muted)"}
_WIDTH, _HEIGHT = 5.2, 3.9  # inches, of one panel: small enough that letters can be read on a phone


def svg_of(figure: "Figure", prefix: str) -> str:
    """Return a figure as an ``svg`` element whose colours of lines and letters are variables of the page.

    The figure is laid out anew: panels one below the other, legends below them.

    Args:
        figure: A figure of this package; it is changed.
        prefix: Beginning of all ids, which have to be of one figure alone within a page.

    Returns:
        The element, with ``aria-hidden``: what it shows is to be said beside it.
    """
    import matplotlib as mpl

    _stack(figure)
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r"\bfont: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    # Black is what an element has that says nothing.
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: _OF_PAGE.get(found[0], found[0]), text)
    width, height = (72 * size for size in figure.get_size_inches())
    opening = f'<svg class="figure" viewBox="0 0 {width:g} {height:g}" aria-hidden="true" focusable="false"'
    opening += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r"<svg[^>]*>", opening, text, count=1).strip()


def _stack(figure: "Figure") -> None:
    panels: list[Any] = list(figure.axes)
    figure.suptitle("")  # the page has a heading of its own
    figure.set_size_inches(_WIDTH, _HEIGHT * len(panels))
    grid = figure.add_gridspec(len(panels), 1)
    for row, axes in enumerate(panels):
        axes.set_subplotspec(grid[row, 0])
        if axes.get_legend() is not None:
            _put_below(axes)


def _put_below(axes: Any) -> None:
    old = axes.get_legend()
    handles, labels = old.legend_handles, [text.get_text().replace("\n", " ") for text in old.get_texts()]
    columns = 1 if max(map(len, labels)) > 30 else 2 if max(map(len, labels)) > 14 else 3
    axes.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        frameon=False,
        fontsize=9,
        ncols=min(columns, len(labels)),
    )
