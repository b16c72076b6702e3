"""What a report says, collected from a run: accuracies of an evaluation, and the circumstances."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_topk.callbacks._report_observed import Found, Observer
from lightning_topk.callbacks._training_counts import known_names
from lightning_topk.losses import TopKLoss
from lightning_topk.report import accuracy_table, counts_summary


@dataclass(frozen=True)
class Measured:
    """What one evaluation of one dataloader found.

    Attributes:
        stage: ``"val"`` or ``"test"``.
        loader: Number of the dataloader, ``None`` when it is the only one.
        histogram: Rank histogram on the CPU, shape [C, max_k + 1].
        ks: The K of tables.
        k: The K that epochs are compared by.
        counts: Training samples of each class, shape [C], or ``None``.
        names: Names of the classes, or ``None``.
        rows: The table at ``ks``.
        found: What was seen beyond ranks, or ``None``.
        source: The dataloader.
    """

    stage: str
    loader: int | None
    histogram: Tensor
    ks: list[int]
    k: int
    counts: Tensor | None
    names: list[str] | None
    rows: list[dict[str, Any]]
    found: Found | None = None
    source: Any = None

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        return self.stage if self.loader is None else f"{self.stage}_dataloader_{self.loader}"

    @property
    def suffix(self) -> str:
        """End of the names of its logged scalars."""
        return "" if self.loader is None else f"/dataloader_idx_{self.loader}"

    @property
    def monitor(self) -> str:
        """Name of the scalar that epochs are compared by."""
        return f"{self.stage}_macro_top{self.k}{self.suffix}"

    def scalars(self) -> dict[str, float]:
        """Return macro and micro accuracies under the names that the mixin logs them by."""
        found = {}
        for k in sorted({*self.ks, self.k}):
            macro, micro = accuracy_table(self.histogram, [k])
            found[f"{self.stage}_macro_top{k}{self.suffix}"] = macro[f"top{k}"]
            found[f"{self.stage}_top{k}{self.suffix}"] = micro[f"top{k}"]
        return {name: value for name, value in found.items() if value is not None}


def check_module(module: Any, ks: list[int] | None) -> None:
    """Raise when a module has no metrics to report, or not up to the largest K that is asked for."""
    name = type(module).__name__
    if not hasattr(module, "topk_evaluations"):
        raise TypeError(f"TopKReport needs a module with TopKMixin first among its bases. Found {name} without it.")
    if not module.topk_ks:
        raise ValueError(
            "TopKReport needs the metrics of TopKMixin: leave `metrics=True`, or take the callback away. "
            f"Found `metrics=False` in {name}."
        )
    if ks is not None and ks[-1] > max(module.topk_ks):
        raise ValueError(
            "Parameter `ks` of TopKReport should be in [1, max(metrics)] with the metrics of the module. "
            f"Found `ks = {ks}` with `metrics = {list(module.topk_ks)}`."
        )


def measure(
    trainer: Trainer,
    pl_module: Any,
    stage: str,
    ks: list[int] | None,
    observer_of: Callable[[str], Observer | None],
) -> list[Measured]:
    """Read off what an evaluation that has just ended found; every rank has to call it, as histograms are summed.

    Args:
        trainer: The trainer.
        pl_module: A module with the mixin.
        stage: ``"val"`` or ``"test"``.
        ks: The K of tables; those of the module's metrics when not given.
        observer_of: Returns the observer of an evaluation of the module by its key: one on every rank, or none on all.
    """
    batches, loaders = (
        (trainer.num_val_batches, trainer.val_dataloaders)
        if stage == "val"
        else (trainer.num_test_batches, trainer.test_dataloaders)
    )
    counts = getattr(pl_module.topk_criterion, "class_counts", None)
    found = []
    for loader in range(len(batches)):
        histogram = pl_module.topk_evaluations[f"{stage}_{loader}"].counted().cpu()
        if not len(histogram):  # no logits were seen, so that even their number is not known
            continue
        observer = observer_of(f"{stage}_{loader}")
        own = None if counts is None or len(counts) != len(histogram) else counts.cpu()
        source = loaders[loader] if isinstance(loaders, (list, tuple)) else loaders
        found.append(
            Measured(
                stage=stage,
                loader=loader if len(batches) > 1 else None,
                histogram=histogram,
                ks=ks or list(pl_module.topk_ks),
                k=min(pl_module.topk_k, max(pl_module.topk_ks)),
                counts=own,
                names=known_names([getattr(trainer, "datamodule", None), getattr(source, "dataset", None)]),
                rows=accuracy_table(histogram, ks or pl_module.topk_ks, own),
                found=None if observer is None else observer.summed(len(histogram), trainer.strategy.root_device),
                source=source,
            )
        )
    return found


def history_row(trainer: Trainer, pl_module: Any, measured: list[Measured], loss: float) -> dict[str, Any]:
    """Return the row of the history for a validation that has just ended."""
    logged = trainer.callback_metrics.items()
    row = {name: float(value) for name, value in logged if not isinstance(value, Tensor) or value.numel() == 1}
    for each in measured:
        row.update(each.scalars())
    own = {"train_loss": loss, "epsilon": getattr(pl_module.topk_criterion, "epsilon", None)}
    row.update({name: float(value) for name, value in own.items() if value is not None and value == value})
    return {**row, "epoch": trainer.current_epoch, "step": trainer.global_step}


def facts_of_run(
    trainer: Trainer, pl_module: Any, measured: Measured, best: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return all that is needed to tell later what a table is of."""
    fitting = trainer.state.fn == "fit"
    # A checkpoint that was loaded for an evaluation says nothing about epoch and step.
    checkpoint = None if fitting or trainer.ckpt_path is None else str(trainer.ckpt_path)
    seed = os.environ.get("PL_GLOBAL_SEED")
    return {
        "stage": measured.stage,
        "function": str(getattr(trainer.state.fn, "value", trainer.state.fn)),
        "dataloader": measured.loader,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "epoch": trainer.current_epoch if fitting else None,
        "step": trainer.global_step if fitting or (checkpoint is None and trainer.global_step) else None,
        "checkpoint": checkpoint,
        "ks": measured.ks,
        "rows": measured.rows,
        "best": best,
        "class_counts": None if measured.counts is None else counts_summary(measured.counts),
        "loss": _spec(pl_module.topk_criterion),
        "seeds": {"seed_everything": None if seed is None else int(seed), "torch": torch.initial_seed()},
        "versions": {
            "lightning_topk": sys.modules[__name__.partition(".")[0]].__version__,
            "lightning": lightning.__version__,
            "torch": torch.__version__,
        },
    }


def _spec(loss: Any) -> Any:
    try:
        return loss.spec() if isinstance(loss, TopKLoss) else repr(loss)
    except TypeError:  # it was made with a generator or the like
        return repr(loss)
