"""The comparison itself."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lightning_topk.compare._dry_run import PlannedColumn, plan_of
from lightning_topk.compare._grid import Grid
from lightning_topk.compare._launcher import Launcher
from lightning_topk.compare._plan import Comparison, adjusted_name
from lightning_topk.compare._progress import Progress
from lightning_topk.compare._run import remove_weights
from lightning_topk.compare._select import accuracies
from lightning_topk.compare._table import ComparisonTable, build_table
from lightning_topk.compare._timing import step_times
from lightning_topk.compare._workers import Workers
from lightning_topk.compare._write import write_tables

if TYPE_CHECKING:
    from rich.console import Console


def compare(
    comparison: Comparison,
    output: str | Path,
    launcher: Launcher,
    *,
    jobs: int = 1,
    keep: bool = False,
    timing: bool = True,
    console: "Console | None" = None,
    command: Sequence[str] | None = None,
    workers: Any = None,
) -> ComparisonTable:
    """Make all runs of a comparison that are not finished, and write its table.

    Args:
        comparison: What is compared, from :func:`read_comparison`.
        output: Folder of the runs, tables and figure.
        launcher: Reads the options of runs and builds them.
        jobs: Runs at a time, each in a process of its own; 0 makes them in this process.
        keep: Whether the weights of finished runs are kept.
        timing: Whether the time of a training step is measured.
        console: Where progress is told; stderr when not given.
        command: The command that this is, to be written beside the table.
        workers: Where runs are made, in the place of processes of this machine.

    Returns:
        The table. Columns with failed runs are named in ``failures``.
    """
    from rich.console import Console

    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True) if console is None else console
    grid = Grid(comparison, output / "runs", launcher, keep=keep)
    if workers is None:
        workers = Workers(jobs, launcher, threads_of(jobs), output / "log.txt")
    with Progress(console, jobs) as progress, workers:
        tuning = grid.tuning_jobs()
        grid.run(tuning, workers, progress, "training", later=grid.later_runs())
        final = grid.final_jobs()
        grid.run(final, workers, progress, "chosen settings")
        times = step_times(grid, workers, output, console) if timing else None
    if not keep:
        for job in (*tuning, *final):
            if job.key in grid.results:
                remove_weights(job.folder)
    table = table_of(grid)
    if times:
        table.step_time = times["relative"]
    write_tables(table, grid, output, command=command, times=times)
    return table


def dry_run(
    comparison: Comparison, output: str | Path, launcher: Launcher, *, jobs: int = 1
) -> dict[str, PlannedColumn]:
    """Return the runs that :func:`compare` would make, without training.

    Args:
        comparison: What is compared.
        output: Folder in which finished runs are looked for.
        launcher: Reads the options of runs and builds them.
        jobs: As in :func:`compare`.

    Returns:
        Numbers of runs by column, and the time of one, which comes from finished runs or from a few steps.

    Raises:
        ValueError: A run that cannot be built.
    """
    with TemporaryDirectory() as folder:
        grid = Grid(comparison, Path(output) / "runs", launcher)
        with Workers(min(jobs, 1), launcher, threads_of(jobs), Path(folder, "log.txt")) as workers:
            planned = plan_of(grid, workers, Path(folder))
    for key, message in grid.failures.items():
        raise ValueError(f"Every run of a comparison should be one that can be made. Found in run {key}: {message}")
    return planned


def table_of(grid: Grid) -> ComparisonTable:
    """Return the table of the runs that were chosen."""
    comparison = grid.comparison
    ks = sorted({*comparison.ks, comparison.k})
    values: dict[str, dict[int, Any]] = {}
    for name, candidate in grid.chosen.items():
        values[name] = {}
        if candidate is not None:
            for seed in comparison.seeds:
                result = grid.results.get(candidate.setting.keys[seed])
                if result is not None and candidate.variant in result["test"]:
                    values[name][seed] = accuracies(result, "test", candidate.variant, ks)
    failures: dict[str, list[str]] = {}
    for setting in grid.settings:
        for key in dict.fromkeys(setting.keys.values()):
            if key in grid.failures:
                for name in (setting.column.name, adjusted_name(setting.column.name)):
                    if name in values:
                        failures.setdefault(name, []).append(f"{grid.failures[key]} (runs/{key})")
    return build_table(values, comparison.seeds, comparison.ks, comparison.k, failures)


def threads_of(jobs: int) -> int:
    """Return the threads of each of several processes on this machine."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    limit = int(os.environ.get("OMP_NUM_THREADS", cores) or cores)
    return max(1, min(cores // max(jobs, 1), limit))
