"""Whether the scores under a loss are log-probabilities, up to a constant."""

from typing import Any

from torch import nn

from lightning_topk.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    VSLoss,
)
from lightning_topk.losses._wrapper import LossWrapper

_SOFTMAX = (BalancedSoftmaxLoss, CrossEntropyLoss, FocalLoss, LogitAdjustedLoss, VSLoss, nn.CrossEntropyLoss)


def softmax_factor(loss: Any) -> float | None:
    """Return the factor on the logits under which their softmax is what a loss fits to the labels.

    Args:
        loss: A loss. One that is made of another, such as :class:`~lightning_topk.losses.PriorAdjustedLoss`, is judged
            by the inner one.

    Returns:
        1 for cross-entropy and its relatives, the scale of the cosines for
        :class:`~lightning_topk.losses.LDAMLoss`, ``None`` for a loss that makes no probabilities of the scores, as all
        hinge losses.

    Example:
        >>> from lightning_topk.losses import FocalLoss, LDAMLoss, NoisedTopKLoss
        >>> softmax_factor(FocalLoss()), softmax_factor(LDAMLoss(scale=20.0)), softmax_factor(NoisedTopKLoss(k=5))
        (1.0, 20.0, None)
    """
    while isinstance(loss, LossWrapper):
        loss = loss.loss
    if isinstance(loss, LDAMLoss):
        return float(loss.scale)
    return 1.0 if isinstance(loss, _SOFTMAX) else None


def sharpness(loss: Any) -> float:
    """Return a factor on the logits under which their softmax tells likely classes from others.

    Args:
        loss: A loss.

    Returns:
        :func:`softmax_factor` where there is one, else the ``scale`` of the loss: cosines alone, as of a normalised
        head, lie too close together. 1 where it has none.

    Example:
        >>> from lightning_topk.losses import FocalLoss, NoisedTopKLoss
        >>> sharpness(FocalLoss()), sharpness(NoisedTopKLoss(k=5, scale=50.0))
        (1.0, 50.0)
    """
    factor = softmax_factor(loss)
    if factor is None:
        scale = getattr(loss, "scale", None)
        factor = float(scale) if isinstance(scale, int | float) and scale > 0 else 1.0
    return factor
