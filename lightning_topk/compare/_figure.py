"""The figure of a comparison: an interval for each loss, a panel for each K."""

from typing import TYPE_CHECKING

from lightning_topk.compare._table import Cell, ComparisonTable
from lightning_topk.report._style import INK, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEST, _CLOSE, _OTHER = "#0072B2", "#56B4E9", "#8C8C8C"
_ROW_HEIGHT, _MARGIN = 0.26, 1.3  # inches


def figure_of(table: ComparisonTable, group: str = "macro") -> "Figure":
    """Draw the mean and confidence interval of every column, with a panel for each K.

    Args:
        table: The table.
        group: The accuracies that are drawn.

    Returns:
        The figure: a diamond for the best, discs for what is not significantly worse, circles for the rest.

    Raises:
        ValueError: A table without accuracies of the group.
    """
    rows = [(measure[1], cells) for measure, cells in table.rows if measure[0] == group]
    if not rows:
        raise ValueError(f"A figure needs accuracies of the group it shows. Found no row of `{group}` in the table.")
    figure, panels = new_figure(
        len(rows), f"{group} accuracy on the test set, 95 % intervals over {len(table.seeds)} seeds"
    )
    figure.set_size_inches(max(7.2, 2.2 + 2.4 * len(rows)), _MARGIN + _ROW_HEIGHT * max(len(table.columns), 4))
    places = list(range(len(table.columns)))
    for number, (axes, (k, cells)) in enumerate(zip(panels, rows, strict=True)):
        tidy(axes)
        for place, name in zip(places, table.columns, strict=True):
            _draw(axes, place, cells[name])
        axes.set_yticks(places, table.columns if number == 0 else [""] * len(places))
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlabel(f"top-{k} (%)", fontsize=9, color=INK)
    return figure


def _draw(axes: object, place: int, cell: Cell) -> None:
    if cell.mean is None:
        return
    color = _BEST if cell.best else _CLOSE if cell.close else _OTHER
    axes.errorbar(  # type: ignore[attr-defined]
        100 * cell.mean,
        place,
        xerr=None if cell.half is None else 100 * cell.half,
        fmt="D" if cell.best else "o",
        markersize=5,
        color=color,
        markerfacecolor=color if cell.best or cell.close else "white",
        capsize=2.5,
        linewidth=1.3,
    )
