"""What losses share that are made of another loss: one interface for both, one state, one set of scalars."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_topk._reduce import weigh_rows
from lightning_topk.losses._base import TopKLoss
from lightning_topk.losses._build import LossLike, build_loss


class LossWrapper(TopKLoss):
    """Base of losses around another loss of this package, which is in the attribute ``loss``.

    The wrapper owns what it wraps: it takes over ``ignore_index``, class weights and reduction, and sets the
    ``reduction`` of the inner loss to ``"none"``. Class counts and noise keys go on to the inner loss, and its
    parameters are seen and set through the wrapper: ``wrapper.k``, ``wrapper.epsilon = 0.5``. The class counts are
    saved once, by the wrapper.

    Args:
        loss: The inner loss: an object, a class, a name or a mapping as in :func:`build_loss`.
        common: ``weight``, ``ignore_index`` and ``reduction`` as in :class:`TopKLoss`.

    Raises:
        TypeError: An inner loss that is none of this package.
        ValueError: An inner loss with class weights of its own.
    """

    loss: TopKLoss

    def __init__(self, loss: LossLike, **common: Any) -> None:
        super().__init__(**common)
        inner = build_loss(loss)
        if not isinstance(inner, TopKLoss):
            raise TypeError(
                f"Parameter `loss` of {type(self).__name__} should be a loss of lightning_topk.losses. Found {inner!r}."
            )
        if inner.weight is not None:
            raise ValueError(
                f"Class weights should be given to {type(self).__name__}, `weight=...`, not to the loss in it. "
                f"Found {inner!r}."
            )
        inner.reduction, inner.ignore_index = "none", self.ignore_index
        self.class_counts = inner.class_counts
        # Saved by the wrapper alone, so that checkpoints of any two losses fit one another.
        inner._saves_counts = False
        self.loss = inner

    @property
    def needs_class_counts(self) -> bool:  # type: ignore[override]
        """Whether the inner loss cannot be computed before :meth:`bind_class_counts` was called."""
        return self.loss.needs_class_counts

    def bind_class_counts(self, counts: Any, *, names: Sequence[str] | None = None) -> None:
        self.loss.bind_class_counts(counts, names=names)
        super().bind_class_counts(counts, names=names)

    def seed_noise(self, *key: int) -> None:
        self.loss.seed_noise(*key)

    def row_losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weighted inner losses of the samples, [...], and their weights, [...]; 0 and 0 where ignored.

        None stands for the weight 1 of each of at least one sample.
        """
        return weigh_rows(self.loss, logits, targets, weight=self.weight, ignore_index=self.ignore_index)

    def _counts_changed(self) -> None:
        self.loss.class_counts = self.class_counts
        self.loss._counts_changed()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get("_modules", {}).get("loss")
            # Scalars alone: a tensor of the inner loss is not to be taken for one of the wrapper.
            if inner is None or name.startswith("_") or name in inner._constants or name in inner._parameters:
                raise
            return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("_modules", {}).get("loss")
        if inner is not None and not hasattr(type(self), name) and _has_scalar(inner, name):
            setattr(inner, name, value)
        else:
            super().__setattr__(name, value)


def _has_scalar(loss: TopKLoss, name: str) -> bool:
    """Tell whether a scalar of that name can be set on the loss, or through it on the one in it."""
    if isinstance(getattr(type(loss), name, None), property):
        return True
    return isinstance(loss, LossWrapper) and _has_scalar(loss.loss, name)
