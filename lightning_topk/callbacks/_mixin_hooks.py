"""The work of TopKMixin that belongs to moments of the run rather than to a call of the loss."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler

from lightning_topk._ranks import seed_of_run, share_of_samples
from lightning_topk.callbacks._loss_parameters import train_loss_parameters
from lightning_topk.callbacks._optimizer_states import fit_states, places_of
from lightning_topk.losses import TopKLoss
from lightning_topk.metrics import unpadded_size


class MixinHooks(Callback):
    """Noise keys before training batches; position, reset, sync and logging of the metrics in evaluation.

    :class:`~lightning_topk.TopKMixin` adds it to the trainer. The seed of the noise is part of the checkpoint, so that
    a resumed run draws the same noise on every rank also when nobody called ``seed_everything``.
    """

    def __init__(self) -> None:
        self._seed: int | None = None
        self._places: dict[str, list[int]] = {}
        self._checkpoint: dict[str, Any] = {}
        self._loaders: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed, "loss_parameters": self._places}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seed = state_dict["seed"]

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._seed = seed_of_run(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        # Whoever made the optimizers, a method of the module or the command line, they are there by now.
        train_loss_parameters(pl_module, pl_module.topk_criterion, trainer.optimizers)
        self._places = places_of(pl_module.topk_criterion, trainer.optimizers)
        written = self._checkpoint.get("callbacks", {}).get(self.state_key, {}).get("loss_parameters", {})
        if "optimizer_states" in self._checkpoint and written != self._places:
            fit_states(self._checkpoint["optimizer_states"], written, self._places)
        self._checkpoint = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._checkpoint = checkpoint  # its optimizer states are restored after `on_fit_start`

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        # Processes that work on the same samples, as under tensor parallelism, have to draw the same noise.
        share = share_of_samples(trainer)
        # Batches that were begun are one too many after a checkpoint from within a batch; those completed never are.
        done = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        for module in pl_module.modules():
            if isinstance(module, TopKLoss):
                module.seed_noise(self._seed or 0, share, done)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        # A strategy with a device mesh averages the gradients of what `configure_model` has sharded, and of no more.
        if hasattr(type(trainer.strategy), "device_mesh"):
            members = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            for parameter in pl_module.topk_criterion.parameters():
                if id(parameter) in members and parameter.grad is not None and not hasattr(parameter, "device_mesh"):
                    parameter.grad = trainer.strategy.reduce(parameter.grad, reduce_op="mean")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._begin("val", pl_module, trainer.val_dataloaders)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._begin("test", pl_module, trainer.test_dataloaders)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        pl_module.topk_begin_batch("val", dataloader_idx, _real_rows(self._loaders[dataloader_idx], batch_idx))

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        pl_module.topk_begin_batch("test", dataloader_idx, _real_rows(self._loaders[dataloader_idx], batch_idx))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.topk_end("val", log=not trainer.sanity_checking)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.topk_end("test")

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._loaders = []

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        pl_module.topk_interrupted()

    def _begin(self, stage: str, pl_module: Any, loaders: Any) -> None:
        self._loaders = CombinedLoader(loaders).flattened
        pl_module.topk_begin(stage, len(self._loaders))
        for loader in self._loaders:
            _warn_of_own_order(loader)


def _sampler_and_size(loader: Any) -> tuple[Any, int | None]:
    """Sampler of a loader, and how many of its indices in a row make a batch: None for batches of an own order."""
    batches = getattr(loader, "batch_sampler", None)
    if batches is None:  # each sample is a batch
        return getattr(loader, "sampler", None), 1
    in_order = isinstance(batches, BatchSampler) and type(batches).__iter__ is BatchSampler.__iter__
    return getattr(batches, "sampler", None), batches.batch_size if in_order else None


def _real_rows(loader: Any, batch_idx: int) -> tuple[int, int] | None:
    """Rows of this batch as (all, those that are no padding of a DistributedSampler); None where nothing is padded."""
    sampler, size = _sampler_and_size(loader)
    real = unpadded_size(sampler)
    if real is None or size is None:
        return None
    seen = batch_idx * size
    rows = min(size, len(sampler) - seen)
    return rows, min(max(real - seen, 0), rows)


def _warn_of_own_order(loader: Any) -> None:
    sampler, size = _sampler_and_size(loader)
    if size is None and unpadded_size(sampler) is not None and sampler.total_size > len(sampler.dataset):
        rank_zero_warn(
            "A batch sampler should take indices in the order of its sampler, so that TopKMixin can tell the samples "
            f"that are repeated for the sake of equal shares. Found {type(loader.batch_sampler).__name__}: "
            f"{len(sampler.dataset)} samples are counted as {sampler.total_size}. The callback UnpaddedEvaluation "
            "has none repeated."
        )
