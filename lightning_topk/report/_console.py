"""The table of a run for the console."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {
    "macro": "all, macro",
    "micro": "all, micro",
    "many": "many (> 100)",
    "medium": "medium (20-100)",
    "few": "few (< 20)",
}


def console_table(
    rows: Sequence[Mapping[str, Any]],
    ks: Sequence[int],
    *,
    name: str = "",
    beside: Sequence[Mapping[str, Any]] | None = None,
    beside_name: str = "best",
) -> "Table":
    """Build a table for a rich console, in percent with one decimal; "-" where nothing was seen.

    Args:
        rows: Rows of :func:`~lightning_topk.report.accuracy_table`.
        ks: The K that are shown.
        name: What ``rows`` are, above each of their columns when there are others beside them.
        beside: Rows of another evaluation, shown in further columns.
        beside_name: What these are.

    Returns:
        The table; ``rich.print`` shows it.

    Example:
        >>> import torch
        >>> from lightning_topk.report import accuracy_table
        >>> rows = accuracy_table(torch.tensor([[3, 1, 0], [1, 0, 1]]), ks=[1, 2])
        >>> table = console_table(rows, [1, 2])
        >>> [(column.header, *column.cells) for column in table.columns][2]
        ('top-1', '62.5', '66.7')
    """
    from rich.box import SIMPLE
    from rich.table import Table

    with_counts = any(row["training_samples"] is not None for row in rows)
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    table.add_column("group", no_wrap=True)
    table.add_column("classes", justify="right", no_wrap=True)
    if with_counts:
        table.add_column("training\nsamples", justify="right", no_wrap=True)
    sources = [(name, rows)] if beside is None else [(name, rows), (beside_name, beside)]
    for source, _ in sources:
        for k in ks:
            table.add_column(f"{source}\ntop-{k}" if beside is not None else f"top-{k}", justify="right", no_wrap=True)
    for position, row in enumerate(rows):
        seen = "" if row["classes_seen"] == row["classes"] else f"{row['classes_seen']}/"
        cells = [LABELS[row["group"]], f"{seen}{row['classes']}"]
        if with_counts:
            cells.append(f"{row['training_samples']:,}")
        cells += [_percent(source[position][f"top{k}"]) for _, source in sources for k in ks]
        table.add_row(*cells, style="bold" if row["group"] == "macro" else "", end_section=row["group"] == "micro")
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
