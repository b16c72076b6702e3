"""The history of a run: one row of numbers for each validation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FIRST_COLUMNS = ("epoch", "step", "train_loss", "val_loss", "epsilon")


def rows_up_to(rows: Iterable[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Return the rows that were measured at a step of at most ``step``.

    A run that goes on from a checkpoint measures the later ones anew.

    Example:
        >>> rows_up_to([{"step": 5}, {"step": 10}], 5)
        [{'step': 5}]
    """
    return [row for row in rows if row["step"] <= step]


def history_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns: epoch, step and losses first, then the others by name.

    Args:
        rows: Values by name; rows may have different names.

    Returns:
        Columns of one length; ``None`` where a row has no such value.

    Example:
        >>> history_columns([{"step": 5, "val_top1": 0.5, "epoch": 0}, {"step": 10, "epoch": 1}])
        {'epoch': [0, 1], 'step': [5, 10], 'val_top1': [0.5, None]}
    """
    names = {name for row in rows for name in row}
    ordered = [name for name in FIRST_COLUMNS if name in names] + sorted(names.difference(FIRST_COLUMNS))
    return {name: [row.get(name) for row in rows] for name in ordered}
