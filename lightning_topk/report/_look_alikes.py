"""Pairs of classes that share top-K sets: a table, and cards with examples for a page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lightning_topk.report._page import percent
from lightning_topk.report._thumbnails import SMALL


def look_alike_table(
    pairs: Sequence[tuple[int, int, int, int]], support: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, list[Any]]:
    """Return pairs of classes as columns.

    Args:
        pairs: Tuples (a, b, n_ab, n_ba): two classes, how many samples of the first have the second among their K
            best, and the other way round.
        support: Evaluated samples of each class, shape [C].
        names: Names of the classes.

    Returns:
        Columns ``class_a``, ``name_a``, ``class_b``, ``name_b``, ``samples_a``, ``b_in_topk_of_a`` (of these samples),
        ``samples_b`` and ``a_in_topk_of_b``.

    Example:
        >>> look_alike_table([(0, 2, 3, 1)], [4, 9, 2])["b_in_topk_of_a"]
        [3]
    """
    known = names is not None and len(names) == len(support)
    name = [str(each) for each in names or ()] if known else [None] * len(support)
    return {
        "class_a": [a for a, _, _, _ in pairs],
        "name_a": [name[a] for a, _, _, _ in pairs],
        "class_b": [b for _, b, _, _ in pairs],
        "name_b": [name[b] for _, b, _, _ in pairs],
        "samples_a": [int(support[a]) for a, _, _, _ in pairs],
        "b_in_topk_of_a": [n for _, _, n, _ in pairs],
        "samples_b": [int(support[b]) for _, b, _, _ in pairs],
        "a_in_topk_of_b": [n for _, _, _, n in pairs],
    }


def look_alikes_html(
    table: Mapping[str, Sequence[Any]], k: int, pictures: Mapping[tuple[int, int], Sequence[tuple[str, int, int]]]
) -> str:
    """Return the pairs as cards.

    Args:
        table: Columns of :func:`look_alike_table`.
        k: K.
        pictures: Data URI, width and height of samples of the first class that have the second among their K best.
    """
    cards = []
    for row in zip(*table.values(), strict=True):
        each = dict(zip(table, row, strict=True))
        a, b = (_title(each[f"class_{end}"], each[f"name_{end}"]) for end in "ab")
        sides = [
            _side(a, b, each["b_in_topk_of_a"], each["samples_a"], k, pictures.get((each["class_a"], each["class_b"]))),
            _side(b, a, each["a_in_topk_of_b"], each["samples_b"], k, pictures.get((each["class_b"], each["class_a"]))),
        ]
        cards.append(f"<li><h4>{escape(a)} and {escape(b)}</h4>\n{''.join(sides)}</li>")
    return '<ol class="pairs">' + "\n".join(cards) + "</ol>\n"


def _title(number: int, name: str | None) -> str:
    return f"class {number}" if name is None else name


def _side(own: str, other: str, count: int, samples: int, k: int, pictures: Any) -> str:
    share = f" ({percent(count / samples)}\u00a0%)" if samples else ""
    text = (
        f"<p><b>{escape(own)}</b>: {count:,} of {samples:,} samples{share} have {escape(other)} among the {k} best</p>"
    )
    if not pictures:
        return text
    alt = escape(f"Sample of {own} that has {other} among its {k} best")
    images = "".join(
        f'<img src="{uri}" width="{width}" height="{height}" alt="{alt}"'
        f"{' class=small' if max(width, height) <= SMALL else ''}>"
        for uri, width, height in pictures
    )
    return f'{text}<div class="samples">{images}</div>'
