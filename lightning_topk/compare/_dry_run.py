"""What a comparison would do: its runs, and how long they would take."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_topk.compare._grid import Grid
from lightning_topk.compare._progress import duration
from lightning_topk.compare._timing import run_seconds

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class PlannedColumn:
    """The runs of a column.

    Attributes:
        settings: Number of settings.
        runs: Runs in all: those of the tuning seeds, and the others of the setting that is chosen.
        finished: Runs that are found finished.
        seconds: Time of a run; None when it is not known.
    """

    settings: int
    runs: int
    finished: int
    seconds: float | None = None


def plan_of(grid: Grid, workers: Any, folder: Path) -> dict[str, PlannedColumn]:
    """Return the runs of each column, with the time of a run from finished runs, or from a few steps of training.

    Args:
        grid: All runs.
        workers: Make the steps.
        folder: For what they need to write.
    """
    tuning = grid.tuning_jobs()
    left = {job.key for job in grid.unfinished(tuning)}
    planned, unknown = {}, {}
    for column in grid.comparison.columns:
        own = [job for job in tuning if job.column == column.name]
        settings = len(column.settings())
        seeds = set(grid.comparison.seeds) - set(grid.comparison.tuning_seeds) if settings > 1 else ()
        seconds = [grid.results[job.key]["seconds"] for job in own if job.key in grid.results]
        planned[column.name] = PlannedColumn(
            settings, len(own) + len(seeds), sum(job.key not in left for job in own), _mean(seconds)
        )
        if own and not seconds:
            unknown[column.name] = replace(own[0], folder=folder)
    tasks = [partial(_seconds_task, job) for job in unknown.values()]
    for event in workers.run(tasks):
        if event.kind == "done":
            planned[list(unknown)[event.index]].seconds = event.value
        elif event.kind == "failed":
            grid.failures[list(unknown.values())[event.index].key] = event.value
    return planned


def plan_table(planned: Mapping[str, PlannedColumn]) -> "Table":
    """Return the plan for a rich console."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("column", no_wrap=True)
    for name in ("settings", "runs", "finished", "per run"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, each in planned.items():
        time = "-" if each.seconds is None else duration(each.seconds)
        table.add_row(name, str(each.settings), str(each.runs), str(each.finished), time)
    return table


def plan_sentence(planned: Mapping[str, PlannedColumn], jobs: int) -> str:
    """Return the number of runs that are left, and the time that they would take."""
    left = sum(each.runs - each.finished for each in planned.values())
    known = {name: each.seconds for name, each in planned.items() if each.seconds is not None}
    if not left or len(known) < len(planned):
        return f"{left} runs to make."
    seconds = math.fsum((each.runs - each.finished) * known[name] for name, each in planned.items()) / max(jobs, 1)
    return f"{left} runs to make, about {duration(seconds)} of training with {max(jobs, 1)} at a time."


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _seconds_task(job: Any, launcher: Any, report: Any, cache: dict[str, Any]) -> float:
    return run_seconds(job, launcher, cache)
