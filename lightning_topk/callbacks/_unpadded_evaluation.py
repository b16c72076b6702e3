"""Evaluation in which no process sees a sample twice."""

import os
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler, UnrepeatedDistributedSamplerWrapper
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler
from torchmetrics import Metric

_LEAVE_OUT = "or leave the callback out: the metrics of TopKMixin are exact without it."


class UnpaddedEvaluation(Callback):
    """Give each process its share of the validation and test samples without repeating any.

    By default Lightning repeats samples until all processes have equally many. The metrics and the loss of
    :class:`~lightning_topk.TopKMixin` leave the repeated ones out and need no more. This callback is for other numbers
    of your own that should be exact too: the shares are then as they are, up to one sample longer on the first
    processes, and 61 samples on two processes are 31 and 30.

    So processes may see different numbers of batches, and none may wait for another within a batch. Refused on all
    processes, by an error before anything waits, are

    * fewer samples than processes, and loaders with ``drop_last``;
    * streams, loaders that are no ``DataLoader``, distributed samplers of your own (but for Lightning's
      ``UnrepeatedDistributedSampler``), and ``Trainer(use_distributed_sampler=False)``;
    * strategies other than ``ddp``: where parameters are sharded, every forward pass waits for all processes;
    * ``limit_val_batches`` and ``limit_test_batches`` as a share of the batches;
    * in a step of evaluation, ``self.log(..., on_step=True, sync_dist=True)`` and metrics with
      ``dist_sync_on_step=True``, from the first batch on.

    A step that calls ``self.all_gather`` or another collective cannot be recognised, and waits until the timeout of
    the process group. ``torch.nn.SyncBatchNorm`` does not synchronise in evaluation and is fine. Log means by a
    ``torchmetrics.MeanMetric`` that is given the size of the batch as its weight: Lightning's own mean over processes
    is one of equal shares.

    On one process, and in training and prediction, the callback does nothing.

    Raises:
        TypeError: A strategy, loader, data set or sampler of a kind as above.
        ValueError: A number of samples, or an option, as above.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=UnpaddedEvaluation(), logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        self._connector: Any = None
        self._updates: list[tuple[str, int]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict" and trainer.world_size > 1:
            _check_trainer(trainer, "test" if stage == "test" else "val")
            connector: Any = trainer._data_connector
            self._connector, connector._prepare_dataloader = connector, _unrepeating(connector._prepare_dataloader)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._updates = _updates_of_waiting_metrics(pl_module) if self._connector is not None else []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._connector is None or trainer._results is None:
            return
        for logged in trainer._results.result_metrics:
            if logged.is_tensor and logged.meta.on_step and logged.meta.sync.should:
                raise ValueError(
                    "Values that are logged in a step of evaluation should not be synchronised there under "
                    f"UnpaddedEvaluation. Found `self.log({logged.meta.name!r}, on_step=True, sync_dist=True)`: set "
                    f"`on_step=False`, {_LEAVE_OUT}"
                )
        if batch_idx == 0:
            updates = _updates_of_waiting_metrics(pl_module)
            for before, (name, after) in zip(self._updates, updates, strict=False):
                if before != (name, after):
                    raise ValueError(
                        "Metrics of evaluation should not be synchronised in every step under UnpaddedEvaluation. "
                        f"Found `dist_sync_on_step=True` in {name}: set it to False, {_LEAVE_OUT}"
                    )

    on_test_batch_end = on_validation_batch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._connector is not None:
            del self._connector._prepare_dataloader
        self._connector, self._updates = None, []


def _check_trainer(trainer: Trainer, stage: str) -> None:
    if not any(cls.__name__ == "DDPStrategy" for cls in type(trainer.strategy).__mro__):
        raise TypeError(
            "UnpaddedEvaluation needs a strategy whose forward pass waits for no other process: `ddp`. "
            f"Found {type(trainer.strategy).__name__}: choose `ddp`, {_LEAVE_OUT}"
        )
    if not trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "UnpaddedEvaluation needs a trainer that shares out the samples. "
            f"Found `use_distributed_sampler=False`: set it to True, {_LEAVE_OUT}"
        )
    limit = getattr(trainer, f"limit_{stage}_batches")
    if isinstance(limit, float) and 0.0 < limit < 1.0:
        raise ValueError(
            f"Parameter `limit_{stage}_batches` should be a number of batches under UnpaddedEvaluation, as processes "
            f"may have different numbers. Found `limit_{stage}_batches = {limit}`."
        )


def _unrepeating(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Change how a trainer makes a loader ready: in evaluation it gets a sampler that repeats nothing."""

    def prepare_unrepeating(loader: Any, shuffle: bool, mode: Any) -> Any:
        if mode not in ("validate", "test"):
            return prepare(loader, shuffle=shuffle, mode=mode)
        trainer = prepare.__self__.trainer  # type: ignore[attr-defined]
        sampler = _unrepeated_sampler(loader, {**trainer.distributed_sampler_kwargs, "shuffle": shuffle})
        return loader if sampler is None else _update_dataloader(loader, sampler, mode=mode)

    return prepare_unrepeating


def _unrepeated_sampler(loader: Any, options: dict[str, Any]) -> DistributedSampler | None:
    """Return a sampler in the place of that of the loader, or None when that is one which repeats nothing."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        kind = type(loader.dataset if isinstance(loader, DataLoader) else loader).__name__
        raise TypeError(
            "UnpaddedEvaluation needs a DataLoader of a data set with a length, which it can share out. "
            f"Found {kind}: take its shares yourself, {_LEAVE_OUT}"
        )
    batches: Any = loader.batch_sampler
    sampler: Any = loader.sampler if batches is None else getattr(batches, "sampler", loader.sampler)
    if getattr(batches, "drop_last", False):
        raise ValueError(
            "A loader of evaluation should have `drop_last=False` under UnpaddedEvaluation, or a process may be left "
            f"without a batch. Found `drop_last=True`: set it to False, {_LEAVE_OUT}"
        )
    own = isinstance(sampler, DistributedSampler)
    if own and sampler.total_size != len(sampler.dataset):
        raise TypeError(
            "UnpaddedEvaluation needs loaders without a distributed sampler, or with Lightning's "
            f"UnrepeatedDistributedSampler. Found {type(sampler).__name__}: leave the sampler to the trainer, "
            f"{_LEAVE_OUT}"
        )
    samples, processes = len(sampler.dataset if own else sampler), options["num_replicas"]
    if 0 < samples < processes:
        raise ValueError(
            "UnpaddedEvaluation needs a sample for every process. "
            f"Found {samples} for {processes} processes: use fewer processes, {_LEAVE_OUT}"
        )
    if own:
        return None
    options = {**options, "seed": int(os.environ.get("PL_GLOBAL_SEED", 0))}
    if isinstance(sampler, RandomSampler | SequentialSampler):
        return UnrepeatedDistributedSampler(loader.dataset, **options)
    return UnrepeatedDistributedSamplerWrapper(sampler, **options)


def _updates_of_waiting_metrics(pl_module: LightningModule) -> list[tuple[str, int]]:
    """List the metrics that wait for the other processes in every call, with how often each was updated."""
    metrics = [module for module in pl_module.modules() if isinstance(module, Metric)]
    return [(type(metric).__name__, metric.update_count) for metric in metrics if metric.dist_sync_on_step]
