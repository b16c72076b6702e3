"""Where a report goes: the folder, the loggers and the console. Nothing here ends a run."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_topk.callbacks._report_facts import Measured
from lightning_topk.report import (
    class_table,
    console_table,
    csv_text,
    history_columns,
    json_text,
    write_atomically,
)

if TYPE_CHECKING:
    from rich.table import Table

STAGES = {"val": "Validation", "test": "Test"}


def log_dir_of(trainer: Trainer) -> str:
    """Return the log directory of the first logger, as ModelCheckpoint finds it, or the trainer's root."""
    for logger in trainer.loggers[:1]:
        if getattr(logger, "log_dir", None):
            return str(logger.log_dir)
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        return os.path.join(logger.save_dir or trainer.default_root_dir, str(logger.name), version)
    return trainer.default_root_dir


def print_below_bar(trainer: Any, callback: Any) -> None:
    """Move a callback behind the progress bar, which is closed in its ``teardown`` and ``on_exception``."""
    order = trainer.callbacks
    bar = trainer.progress_bar_callback
    if bar in order and order.index(callback) < order.index(bar):
        # A new list: Lightning is going through the old one.
        rest = [each for each in order if each is not callback]
        place = rest.index(bar) + 1
        trainer.callbacks = [*rest[:place], callback, *rest[place:]]


class ReportFolder:
    """The folder ``report`` in a log directory; what cannot be written costs one warning.

    Args:
        log_dir: The log directory.
        writes: Whether this process writes at all.
    """

    def __init__(self, log_dir: str, *, writes: bool) -> None:
        self.log_dir = log_dir
        self.path = Path(log_dir, "report")
        self.writes = writes
        self._warned = False

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the folder, or warn."""
        if not self.writes:
            return
        try:
            if "://" in self.log_dir:
                raise OSError("it is no folder of this machine")
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / name, content)
        except (OSError, ValueError) as error:  # ValueError: a path with a null character
            self._warn(f"The folder of TopKReport should be one that can be written: `{self.path}`. Found {error!r}.")

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"{message} The run goes on without these files; `dirpath` names another folder.")


def write_tables(folder: ReportFolder, measured: Measured, facts: Mapping[str, Any]) -> None:
    """Write the table of groups as CSV and JSON, and that of classes as CSV."""
    columns = {name: [row[name] for row in measured.rows] for name in measured.rows[0]}
    if facts["best"] is not None:
        columns.update({f"best_top{k}": [row[f"top{k}"] for row in facts["best"]["rows"]] for k in measured.ks})
    folder.write(f"{measured.stem}_table.csv", csv_text(columns))
    folder.write(f"{measured.stem}_table.json", json_text(facts))
    classes = class_table(measured.histogram, measured.ks, measured.counts, measured.names)
    folder.write(f"{measured.stem}_classes.csv", csv_text(classes))


def write_history(folder: ReportFolder, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the history as CSV."""
    folder.write("history.csv", csv_text(history_columns(history)))


def print_report(folder: ReportFolder, tables: Iterable[tuple[Measured, Mapping[str, Any]]]) -> None:
    """Print the tables and, as the last line, the log directory."""
    from rich.console import Console

    console = Console()
    for measured, facts in tables:
        title = title_of(measured, " in %")
        if facts["checkpoint"] is not None:
            title += f", {os.path.basename(facts['checkpoint'])}"
        best = facts["best"]
        if best is not None and best["step"] == facts["step"]:
            title, best = f"{title}: epoch {facts['epoch']}, the best by {best['monitor']}", None
        elif best is not None:
            title += f": last epoch {facts['epoch']}, best epoch {best['epoch']} by {best['monitor']}"
        table = console_table(measured.rows, measured.ks, name="last", beside=best and best["rows"])
        if best is not None and _width(table) > console.width:
            title += f" ({100 * best['value']:.1f})"
            table = console_table(measured.rows, measured.ks)
        console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
        # What is too wide for the console is broken by the terminal; rich would cut the numbers.
        Console(width=max(console.width, _width(table))).print(table)
        console.print()
    if folder.writes and os.path.isdir(folder.log_dir):
        console.print(shown_path(folder.log_dir), markup=False, highlight=False, soft_wrap=True)


def _width(table: "Table") -> int:
    from rich.console import Console

    return Console(width=10_000).measure(table).maximum


def shown_path(path: str) -> str:
    """Return a path as it is typed: relative within the working directory, absolute elsewhere."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the working directory was removed; another drive
        return path
    return os.path.abspath(path) if relative.startswith(os.pardir) or relative == os.curdir else relative


def title_of(measured: Measured, unit: str) -> str:
    """Return what is evaluated, with the unit, and the number of the dataloader where there are several."""
    loader = "" if measured.loader is None else f", dataloader {measured.loader}"
    return f"{STAGES[measured.stage]} accuracy{unit}{loader}"
