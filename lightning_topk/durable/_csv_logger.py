"""The logger of CSV files for runs that are stopped and go on."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from lightning_topk.report import replacing, unwritable, write_atomically


class MetricsTable:
    """The file ``metrics.csv`` of a run, and ``hparams.yaml`` beside it.

    Args:
        log_dir: Folder of the run, which is made. What it holds of an earlier part of the run is read, and kept unless
            :meth:`begin` says otherwise.
    """

    def __init__(self, log_dir: str) -> None:
        try:
            os.makedirs(log_dir, exist_ok=True)
        except OSError as error:
            raise unwritable(log_dir, error) from error
        self.log_dir = log_dir
        self.path = Path(log_dir, "metrics.csv")
        self.hparams: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = _read(self.path)
        self.pending = 0
        self._cut = False

    def begin(self, *, resumed: bool) -> None:
        """Start a run: from nothing, or after the rows that were logged before the place where it goes on."""
        self._cut = resumed
        if not resumed and self.rows:
            rank_zero_warn(
                "A run that starts from the beginning should have a folder of its own. "
                f"Found {len(self.rows)} rows of a run before in `{self.path}`, which will be replaced."
            )
            self.rows = []

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write the hyper-parameters."""
        self.hparams.update(params)
        with replacing(Path(self.log_dir, "hparams.yaml")) as beside:
            save_hparams_to_yaml(beside, self.hparams)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        step = len(self.rows) if step is None else step
        if self._cut:
            # The first row of a resumed run: the rows from its step on come once more.
            self.rows = [row for row in self.rows if int(row["step"]) < step]
            self._cut = False
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self.rows.append({**values, "step": step})
        self.pending += 1

    def save(self) -> None:
        """Write the file, if there is anything new."""
        if not self.pending:
            return
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=sorted(set().union(*self.rows)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, out.getvalue())
        self.pending = 0


class ResumableCSVLogger(CSVLogger):
    """Lightning's ``CSVLogger``, whose file goes on when a run is resumed in its folder, and is whole at any time.

    Lightning's logger deletes the file ``metrics.csv`` of a folder that it starts in, and appends to it later: a
    resumed run loses what was logged before, and a killed process may leave half a row. This one reads what is there,
    drops the rows that the resumed run logs once more, and puts the file in its place in one step. With
    :class:`~lightning_topk.durable.SafeStop` the file is up to date at every checkpoint, so that a resumed run leaves
    the very file that an uninterrupted run leaves.

    The whole file is written each time. So that this costs little in a long run, a tenth more rows than in the file
    are waited for, besides ``flush_logs_every_n_steps``.

    Args:
        save_dir: A folder of this machine.
        name: Name of the experiment.
        version: Name of the run, or its number; the next free number when not given.
        prefix: What stands before the names of metrics.
        flush_logs_every_n_steps: How often the file is written, in steps.

    Raises:
        ValueError: A folder with a protocol, such as ``s3://``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for loss in (2.0, 1.0):
        ...         logger = ResumableCSVLogger(folder, version="run")
        ...         logger.log_metrics({"loss": loss}, step=int(2 - loss))
        ...         logger.save()
        ...     print(Path(logger.log_dir, "metrics.csv").read_text(), end="")
        loss,step
        2.0,0
        1.0,1
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        if "://" in str(save_dir):
            raise ValueError(f"Parameter `save_dir` should be a folder of this machine. Found `save_dir = {save_dir}`.")
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = MetricsTable(self.log_dir)  # type: ignore[assignment]
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        table = self.experiment
        table.log_metrics({f"{self._prefix}-{k}" if self._prefix else k: v for k, v in metrics.items()}, step)
        due = step is not None and (step + 1) % self._flush_logs_every_n_steps == 0
        if due and 10 * table.pending >= len(table.rows):
            self.save()


def _read(path: Path) -> list[dict[str, Any]]:
    """Read the whole rows of a file; another logger may have left it with half of one."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: value for name, value in row.items() if value}
        for row in rows
        if None not in row and None not in row.values() and str(row.get("step", "")).isdecimal()
    ]
