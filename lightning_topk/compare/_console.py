"""The table of a comparison for the console and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_topk.compare._table import Cell, ComparisonTable, label_of, text_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STEP = "time per step"


def rich_table(table: ComparisonTable, columns: Sequence[str] | None = None) -> "Table":
    """Return the table for a rich console, or some of its columns."""
    from rich.box import SIMPLE
    from rich.table import Table

    grid = cells_of(table, lambda cell, text: f"[bold]{text}[/bold]" if cell.best else text)
    places = [0, *(1 + place for place, name in enumerate(table.columns) if columns is None or name in columns)]
    shown = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for place in places:
        shown.add_column(grid[0][place], justify="right" if place else "left", no_wrap=True)
    ends = _section_ends(table)
    for number, row in enumerate(grid[1:]):
        shown.add_row(*(row[place] for place in places), end_section=number in ends)
    return shown


def print_table(table: ComparisonTable, console: "Console") -> None:
    """Print a table with its notes, in several parts where the console has no room for all columns side by side."""
    part: list[str] = []
    for name in table.columns:
        if part and console.measure(rich_table(table, [*part, name])).maximum >= console.width:
            console.print(rich_table(table, part))
            console.print()
            part = []
        part.append(name)
    console.print(rich_table(table, part))
    console.print()
    for note in table.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def markdown(table: ComparisonTable) -> str:
    """Return the table in Markdown, with its notes below."""
    grid = cells_of(table, lambda cell, text: f"**{text}**" if cell.best else text.replace("*", r"\*"))
    rows = ["| " + " | ".join(row) + " |" for row in grid]
    rows.insert(1, "|---" + "|---:" * len(table.columns) + "|")
    return "\n".join([*rows, "", *(f"{note.replace('*', chr(92) + '*')}\n" for note in table.notes)])


def cells_of(table: ComparisonTable, decorate: Any) -> list[list[str]]:
    """Return header and rows as text; ``decorate`` marks the text of a cell."""
    names = [f"{name} !" if name in table.failures else name for name in table.columns]
    grid = [["", *names]]
    for measure, cells in table.rows:
        grid.append([label_of(measure), *(_text(cells[name], table, decorate) for name in table.columns)])
    if table.step_time:
        grid.append([_STEP, *(_time(table.step_time, name) for name in table.columns)])
    return grid


def _text(cell: Cell, table: ComparisonTable, decorate: Any) -> str:
    text = text_of(cell)
    if cell.values and len(cell.values) < len(table.seeds):
        text += f" (n={len(cell.values)})"
    return str(decorate(cell, text + "*" * cell.close))


def _time(times: Mapping[str, float], name: str) -> str:
    return f"{times[name]:.2f} x" if name in times else "-"


def _section_ends(table: ComparisonTable) -> set[int]:
    groups = [measure[0] for measure, _ in table.rows]
    return {place for place in range(len(groups) - 1) if groups[place] != groups[place + 1] in ("micro", "many")} | (
        {len(groups) - 1} if table.step_time else set()
    )
