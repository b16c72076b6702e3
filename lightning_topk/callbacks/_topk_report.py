"""What a run leaves behind: a table on the console, files and figures in its log directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_topk._checks import check_int
from lightning_topk.callbacks._report_facts import Measured, check_module, facts_of_run, history_row, measure
from lightning_topk.callbacks._report_observed import Observers, ReportOptions, observer_for
from lightning_topk.callbacks._report_output import (
    ReportFolder,
    log_dir_of,
    print_below_bar,
    print_report,
    write_history,
    write_tables,
)
from lightning_topk.callbacks._report_pictures import Pictures
from lightning_topk.report import rows_up_to


class TopKReport(Callback):
    """Print one table at the end of a run, and write tables, history and figures to ``report`` in its log directory.

    After each validation of ``fit``, and at the end of ``validate`` and ``test``, rank 0 writes

    * ``<stage>_table.csv`` and ``<stage>_table.json``: macro and micro top-K accuracy of all classes, and macro top-K
      accuracy of the many-, medium- and few-shot classes when their counts are known; in the JSON file also versions,
      seeds, loss, counts, epoch and step. ``<stage>`` is ``val`` or ``test``, with ``_dataloader_<i>`` added when there
      are several dataloaders;
    * ``<stage>_classes.csv``: training samples, evaluated samples and top-K accuracy of each class;
    * ``history.csv`` (``fit`` alone): one row for each validation, with the training loss as the mean over the batches
      since the one before, epsilon, and every scalar that was logged.

    At the end it draws ``<stage>_accuracy_by_count.png``, ``<stage>_accuracy_by_k.png`` and ``learning_curves.png``,
    hands them to loggers with an ``add_figure`` (TensorBoard), prints the table, with the best epoch by the macro
    accuracy at the module's K beside the last one, and as the last line the log directory. Beside the figures it puts

    * ``report.html``: tables, figures, look-alikes with examples, and the facts of the run on one page that needs no
      other file. What is evaluated later by the same trainer, as by ``test`` after ``fit``, joins it;
    * ``<stage>_look_alikes.csv``: the pairs of classes that are most often among the K best of one another's samples;
    * ``<stage>_average_k.csv`` and ``<stage>_average_k.png``: sets of K classes on average, made by one threshold on
      the probability of a class (Lorieul et al. 2021). The threshold is chosen in validation and part of the
      checkpoint; a test without a validation before it chooses its own, and says so;
    * ``<stage>_coverage.png``: how often the K best classes hold the label, against their probability.

    Every file is complete at any time, also when the run is killed. The history is part of the checkpoint, so a resumed
    run continues it. A folder that cannot be written costs one warning and no training. With ``fast_dev_run`` there are
    no files.

    Args:
        ks: The K in tables and files, each at most the largest K of the module's metrics; those metrics' when not
            given.
        dirpath: The folder in place of the log directory, which is that of the first logger or, without one,
            ``default_root_dir``.
        figures: Whether figures, page and what is beside them are made.
        look_alikes: How many pairs of look-alikes there are. 0 saves a matrix [C, C] of int32 on the device, or for
            more than 2048 classes a list of at most 4 million pairs, beyond which the rarest are not exact.
        examples: How many pictures there are at most for each class of a pair, where the data give images; they are
            read from the data set at the end. 0 saves K + 1 numbers for each of at most 262,144 samples.
        reliability: Whether there are average-K and coverage. Pairs and reliability together take about 12 microseconds
            for a sample of 1000 classes on one core, which is seen where the model is no more than a linear layer.

    Raises:
        TypeError: A module without :class:`~lightning_topk.TopKMixin`.
        ValueError: A module whose metrics are switched off, or ``ks`` beyond them.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[TopKReport(ks=[1, 5])], logger=False, enable_checkpointing=False)
        >>> trainer.callbacks[0]
        TopKReport(ks=[1, 5], dirpath=None, figures=True)
    """

    def __init__(
        self,
        ks: Sequence[int] | None = None,
        dirpath: str | Path | None = None,
        figures: bool = True,
        look_alikes: int = 24,
        examples: int = 3,
        reliability: bool = True,
    ) -> None:
        self.ks = None if ks is None else sorted({check_int("ks", k, 1) for k in ks})
        if self.ks == []:
            raise ValueError("Parameter `ks` should hold at least one K. Found none.")
        self.dirpath = None if dirpath is None else str(dirpath)
        self.figures = bool(figures)
        self.options = ReportOptions(look_alikes, examples, bool(reliability))
        self._observers = Observers()
        self._levels: dict[str, int] = {}
        self._pictures = Pictures()
        self._history: list[dict[str, Any]] = []
        self._best: dict[str, Any] | None = None
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._folder: ReportFolder | None = None
        self._tables: list[tuple[Measured, dict[str, Any]]] = []
        self._ran = False

    def __repr__(self) -> str:
        own = f"ks={self.ks}, dirpath={self.dirpath!r}, figures={self.figures}{self.options.changed()}"
        return f"{type(self).__name__}({own})"

    def state_dict(self) -> dict[str, Any]:
        loss = [float(self._loss_sum), self._loss_count]
        return {
            "history": [dict(row) for row in self._history],
            "best": self._best,
            "loss": loss,
            "average_k_levels": dict(self._levels),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._history, self._best = list(state_dict["history"]), state_dict["best"]
        self._loss_sum, self._loss_count = state_dict["loss"]
        self._levels = dict(state_dict.get("average_k_levels", {}))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        check_module(pl_module, self.ks)
        self._tables, self._ran = [], False
        folder = trainer.strategy.broadcast(self.dirpath or log_dir_of(trainer))
        writes = trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)
        self._folder = ReportFolder(folder, writes=writes)
        if stage == "fit":
            self._loss_sum, self._loss_count = 0.0, 0
            self._forget_after(trainer.global_step or -1)  # a run from the start forgets what was before it
            self._pictures = Pictures()
        print_below_bar(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ran = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            exact = torch.float32 if loss.device.type == "mps" else torch.float64
            # Lightning divides the loss by the number of batches whose gradients it accumulates.
            self._loss_sum = self._loss_sum + loss.detach().to(exact) * trainer.accumulate_grad_batches
            self._loss_count += 1

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._observe(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._observe(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._observers.place(pl_module, f"val_{dataloader_idx}")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._observers.place(pl_module, f"test_{dataloader_idx}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._measure(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module, "test")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._ran and trainer.is_global_zero and stage != "predict":
            self._finish(trainer)
        self._ran = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._observers.stop()
        # All that was measured is on the disk. Whoever stops a run on purpose wants its table, too; after any other
        # exception the traceback should be what is seen last.
        if self._ran and trainer.is_global_zero and isinstance(exception, KeyboardInterrupt):
            self._finish(trainer)
        self._ran = False

    def _observe(self, trainer: Trainer, pl_module: Any) -> None:
        """Have the scores of an evaluation looked at whose files will be written."""
        wanted = self.figures and (self.options.look_alikes > 0 or self.options.reliability)
        if not wanted or trainer.sanity_checking or getattr(trainer, "fast_dev_run", False):
            self._observers.begin(None)
            return
        remember = trainer.is_global_zero
        self._observers.begin(lambda: observer_for(pl_module, self.ks, self.options, remember=remember))

    def _forget_after(self, step: int) -> None:
        self._history = rows_up_to(self._history, step)
        if self._best is not None and self._best["step"] > step:
            self._best = None

    def _measure(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the numbers of an evaluation, on every rank, and write them, on rank 0."""
        self._ran = True
        measured = measure(trainer, pl_module, stage, self.ks, self._observers.of)
        self._observers.stop()
        self._choose_levels(measured, stage)
        fitting = trainer.state.fn == "fit"
        if fitting:
            self._remember(trainer, pl_module, measured)
        best = [self._best_of(each) if fitting else None for each in measured]
        self._tables = [
            (each, facts_of_run(trainer, pl_module, each, best_of_it))
            for each, best_of_it in zip(measured, best, strict=True)
        ]
        if self._folder is not None and self._folder.writes:
            for each, facts in self._tables:
                write_tables(self._folder, each, facts)
            if fitting:
                write_history(self._folder, self._history)

    def _remember(self, trainer: Trainer, pl_module: LightningModule, measured: list[Measured]) -> None:
        mean = torch.as_tensor(self._loss_sum, device=trainer.strategy.root_device) / self._loss_count
        loss = float(trainer.strategy.reduce(mean, reduce_op="mean"))
        self._loss_sum, self._loss_count = 0.0, 0
        row = history_row(trainer, pl_module, measured, loss)
        self._forget_after(row["step"] - 1)
        self._history.append(row)
        value = row.get(measured[0].monitor) if measured else None
        if measured and value is not None and (self._best is None or value > self._best["value"]):
            self._best = {
                "epoch": row["epoch"],
                "step": row["step"],
                "monitor": measured[0].monitor,
                "value": value,
                "tables": {each.stem: each.rows for each in measured},
            }

    def _best_of(self, measured: Measured) -> dict[str, Any] | None:
        """Return the best epoch with the rows of this dataloader in it; the first dataloader says which is best."""
        if self._best is None or measured.stem not in self._best["tables"]:
            return None
        best = {name: value for name, value in self._best.items() if name != "tables"}
        return {**best, "rows": self._best["tables"][measured.stem]}

    def _finish(self, trainer: Trainer) -> None:
        if self._folder is not None:
            if self.figures:
                history = self._history if trainer.state.fn == "fit" else []
                self._pictures.write(self._folder, trainer, self._tables, history, self.options, self._levels)
            print_report(self._folder, self._tables)

    def _choose_levels(self, measured: list[Measured], stage: str) -> None:
        """Keep the thresholds of average-K that the first dataloader of a validation gives, for the test to come."""
        first = measured[0].found if stage == "val" and measured else None
        if first is not None and first.sets is not None:
            max_k = measured[0].histogram.shape[1] - 1
            self._levels = {str(k): first.sets.average_k(k).level for k in range(1, max_k + 1)}
