"""The work of TopKMixin that belongs to moments of the run rather than to a call of the loss."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lightning_topk.callbacks._loss_parameters import train_loss_parameters
from lightning_topk.losses import TopKLoss
from lightning_topk.metrics import unpadded_size


class MixinHooks(Callback):
    """Noise keys before training batches; position, reset, sync and logging of the metrics in evaluation.

    :class:`~lightning_topk.TopKMixin` adds it to the trainer. The seed of the noise is part of the checkpoint, so that
    a resumed run draws the same noise on every rank also when nobody called ``seed_everything``.
    """

    def __init__(self) -> None:
        self._seed: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seed = state_dict["seed"]

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))
            self._seed = int(trainer.strategy.broadcast(seed))

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        # Whoever made the optimizers, a method of the module or the command line, they are there by now.
        train_loss_parameters(pl_module, pl_module.topk_criterion, trainer.optimizers)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for module in pl_module.modules():
            if isinstance(module, TopKLoss):
                module.seed_noise(self._seed or 0, trainer.global_rank, trainer.fit_loop.total_batch_idx)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.topk_begin("val", _number_of_loaders(trainer.num_val_batches))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.topk_begin("test", _number_of_loaders(trainer.num_test_batches))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        rows = _real_rows(trainer.val_dataloaders, batch_idx, dataloader_idx)
        pl_module.topk_begin_batch("val", dataloader_idx, rows)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        rows = _real_rows(trainer.test_dataloaders, batch_idx, dataloader_idx)
        pl_module.topk_begin_batch("test", dataloader_idx, rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.topk_end("val", log=not trainer.sanity_checking)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.topk_end("test")


def _number_of_loaders(batches: Any) -> int:
    return len(batches) if isinstance(batches, list) else 1


def _real_rows(loaders: Any, batch_idx: int, dataloader_idx: int) -> tuple[int, int] | None:
    """Rows of this batch as (all, those that are no padding of a DistributedSampler); None where nothing is padded."""
    loader = loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    real = None if sampler is None else unpadded_size(sampler)
    if sampler is None or real is None or size is None:
        return None
    seen = batch_idx * size
    rows = min(size, len(sampler) - seen)
    return rows, min(max(real - seen, 0), rows)
