"""Class weights that set in late in training (DRW)."""

from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_topk._checks import check_choice, check_float, check_int
from lightning_topk.imbalance import ZERO_COUNTS, class_balanced_weights
from lightning_topk.losses import TopKLoss


class DeferredReweighting(Callback):
    r"""Train with class-balanced weights from an epoch on: ``loss.weight = class_balanced_weights(counts, beta)``.

    The network first learns features from all samples alike, and then, best at a low learning rate, its decision
    between frequent and rare classes is corrected. It works with every loss of this package, as all take class
    weights; :class:`~lightning_topk.losses.LDAMLoss` with it is LDAM-DRW. The counts are those bound to the loss, and a
    loss around another one is weighted once.

    The weights hold for training batches alone: ``val_loss`` stays comparable over the epochs, and equal to that of a
    checkpoint that is validated on its own. Weights that the loss was made with hold before ``start_epoch`` and in
    evaluation. With ``reduction="mean"`` the loss is divided by the sum of the batch's weights, as in the authors'
    code. The callback holds no state: what is used follows from the epoch, also in a run that is resumed. In each
    epoch ``reweighted``, 0 or 1, is logged.

    Args:
        start_epoch: The first epoch with weights, >= 0, counted from 0. Cao et al.: 160 of 200.
        beta: In [0, 1], see :func:`~lightning_topk.imbalance.class_balanced_weights`. 0.9999 in the authors' code;
            the paper's inverse frequency is 1.
        zero_counts: What a class without training samples does: ``"error"`` names the classes, ``"clamp"`` counts it
            as one sample.
        log: Whether ``reweighted`` is logged.

    Raises:
        TypeError: A parameter of the wrong type.
        ValueError: A parameter out of range, or a module without a loss of this package.
        RuntimeError: A loss without class counts when training starts.

    References:
        Cao, Wei, Gaidon, Arechiga, Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019; the weights are those of the authors' code.

    Example:
        >>> import lightning as L
        >>> trainer = L.Trainer(max_epochs=200, callbacks=DeferredReweighting(start_epoch=160), logger=False)
    """

    def __init__(
        self,
        start_epoch: int = 160,
        beta: float = 0.9999,
        zero_counts: Literal["error", "clamp"] = "error",
        log: bool = True,
    ) -> None:
        self.start_epoch = check_int("start_epoch", start_epoch, 0)
        self.beta = check_float("beta", beta, 0.0, 1.0)
        self.zero_counts = check_choice("zero_counts", zero_counts, ZERO_COUNTS)
        self._logs = log  # not `log`: a trainer puts its own method in that place
        self._weights: list[tuple[TopKLoss, Tensor]] = []
        self._before: list[tuple[TopKLoss, Tensor | None]] = []
        self._announced = False

    def __repr__(self) -> str:
        shown = f"start_epoch={self.start_epoch}, beta={self.beta}, zero_counts={self.zero_counts!r}"
        return f"{type(self).__name__}({shown})"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not _outermost_losses(pl_module):
            raise ValueError(
                f"DeferredReweighting needs a loss of lightning_topk.losses. Found none in {type(pl_module).__name__}."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weights, self._announced = [], False
        for loss in _outermost_losses(pl_module):
            if loss.class_counts is None:
                raise RuntimeError(
                    "DeferredReweighting needs losses that know the training counts of the classes. Found none in "
                    f"{type(loss).__name__}: add the callback ClassFrequencies with counts, or call "
                    "`loss.bind_class_counts(counts)`."
                )
            weights = class_balanced_weights(loss.class_counts, self.beta, zero=self.zero_counts)
            self._weights.append((loss, weights.to(loss.class_counts.device)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._restore()
        active = trainer.current_epoch >= self.start_epoch
        if active:
            self._announce(trainer.current_epoch)
            self._before = [(loss, loss.weight) for loss, _ in self._weights]
            for loss, weights in self._weights:
                loss.weight = weights
        if self._logs:
            pl_module.log("reweighted", float(active), on_step=False, on_epoch=True, batch_size=1)

    def on_train_batch_end(self, *_: Any) -> None:
        self._restore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weights = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()
        self._weights = []

    def _restore(self) -> None:
        """Give the losses the weights back that they had before the batch."""
        for loss, weight in self._before:
            loss.weight = weight
        self._before = []

    def _announce(self, epoch: int) -> None:
        if not self._announced:
            self._announced = True
            ranges = ", ".join(f"{type(loss).__name__} {w.min():.3g} to {w.max():.3g}" for loss, w in self._weights)
            rank_zero_info(f"DeferredReweighting: class weights from epoch {epoch} on: {ranges}.")


def _outermost_losses(module: LightningModule) -> list[TopKLoss]:
    """Return the losses that stand in no other loss; these weigh the samples."""
    losses = [each for each in module.modules() if isinstance(each, TopKLoss)]
    inner = {id(each) for loss in losses for each in loss.modules() if each is not loss}
    return [loss for loss in losses if id(loss) not in inner]
