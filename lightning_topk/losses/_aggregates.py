"""The average of the largest losses of a batch (ATk), and what all aggregates over the batch share."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_topk._checks import check_float, check_values
from lightning_topk._reduce import reduce_rows
from lightning_topk.losses._base import checked_scalar
from lightning_topk.losses._build import LossLike
from lightning_topk.losses._wrapper import LossWrapper


def topk_shares(values: Tensor, fraction: float, weights: Tensor | None = None) -> Tensor:
    r"""Share of each value in the mean of the largest ones; the shares sum to 1.

    The mean of the k = fraction n largest of n values, and with it the average top-k loss, is the sum of the values
    times their shares. A k that is not whole takes in a part of one value more; less than one value is one value. With
    weights, the fraction is one of all weight.

    Args:
        values: Values, shape [n].
        fraction: k / n in [0, 1]. 1 gives the mean, 0 the maximum.
        weights: Weight >= 0 of each value, shape [n]; 1 when not given.

    Returns:
        Shares, shape [n], without gradient; zeros when nothing has weight.

    Raises:
        TypeError: Values or weights that are no floating point tensors.
        ValueError: ``fraction`` out of range, or shapes that do not fit.

    Example:
        >>> topk_shares(torch.tensor([1.0, 4.0, 2.0, 3.0]), fraction=0.5)
        tensor([0.0000, 0.5000, 0.0000, 0.5000])
    """
    check_float("fraction", fraction, 0.0, 1.0)
    check_values("values", values)
    if values.ndim != 1:
        raise ValueError(f"Argument `values` should have shape [n]. Found {list(values.shape)}.")
    if weights is not None:
        check_values("weights", weights)
        if weights.shape != values.shape:
            raise ValueError(
                f"Argument `weights` should have the shape of the values, {list(values.shape)}. "
                f"Found {list(weights.shape)}."
            )
    if not values.numel():
        return torch.zeros_like(values)
    weights = torch.ones_like(values) if weights is None else weights.detach()
    order = torch.where(weights > 0, values.detach(), -torch.inf).argsort(descending=True)
    heavy = weights.gather(0, order)
    mass = torch.maximum(fraction * heavy.sum(), heavy[:1])
    taken = torch.minimum((mass - heavy.cumsum(0) + heavy).clamp(min=0), heavy)
    return torch.zeros_like(taken).scatter(0, order, taken / torch.where(mass > 0, mass, 1.0))


class Aggregate(LossWrapper):
    """What the aggregates share: in ``train()`` they pool, in ``eval()`` they are the mean of the individual losses."""

    _always_shown: ClassVar[tuple[str, ...]] = ("loss", "fraction")

    def __init__(
        self,
        loss: LossLike | None,
        fraction: float,
        weight: Sequence[float] | Tensor | None,
        ignore_index: int,
        reduction: str,
    ) -> None:
        loss = "CrossEntropyLoss" if loss is None else loss
        super().__init__(loss, weight=weight, ignore_index=ignore_index, reduction=reduction)
        if isinstance(self.loss, Aggregate):
            raise TypeError(
                f"Parameter `loss` of {type(self).__name__} should be a loss of single samples, not one over a batch. "
                f"Found {self.loss!r}."
            )
        self.fraction = fraction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses, weights = self.row_losses(logits, targets)
        each = losses
        if weights is not None and (self.weight is not None or targets.is_floating_point()):
            # A row without weight has the loss 0, or NaN, which should stay.
            each = losses / torch.where(weights > 0, weights, 1.0)
        return reduce_rows(self._pooled(each, losses, weights), weights, self.reduction)

    @abstractmethod
    def _pooled(self, each: Tensor, losses: Tensor, weights: Tensor | None) -> Tensor:
        """Turn losses of rows, and the same times their weights, into weighted contributions of rows."""


class AverageTopKLoss(Aggregate):
    r"""Average of the largest individual losses of a batch (ATk), from their mean to their maximum.

    .. math:: L = \frac1k \sum_{i \le k} \ell_{[i]}, \qquad k = \text{fraction} \cdot n

    with :math:`\ell_{[i]}` the i-th largest of the n losses of the batch. The "top-k" of this loss are the k hardest
    examples of a batch; it has nothing to do with the K guesses of top-K accuracy, which are classes. Examples outside
    the k have no gradient. In ``eval()`` it is the mean of all individual losses, so that the loss of a validation set
    does not depend on how it is split into batches or over processes.

    A fraction in place of k is right for a short last batch too, and with ignored targets n counts the others. When
    fraction times n is no whole number, one more loss counts with the rest as its weight. Class weights act as
    repetitions: n is the sum of the weights, and ``fraction=1`` gives the weighted mean.

    Args:
        loss: The individual loss: an object, ``{"class_path": ..., "init_args": {...}}``, or a name from
            :mod:`lightning_topk.losses`; :class:`CrossEntropyLoss` when not given. Its parameters are read and set
            through this one, as in ``aggregate.epsilon = 0.5``.
        fraction: k / n in [0, 1]: 1 is the mean, 0 the maximum (as is everything below 1 / n). May be set at any time.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, the aggregate; ``"none"``, the contribution of each row, of which it is the mean; or
            ``"sum"`` of these.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type, or an aggregate in an aggregate.
        ValueError: A parameter out of range, shapes that do not fit, or a class index outside [0, C).

    References:
        Fan, Lyu, Ying, Hu, "Learning with Average Top-k Loss", NIPS 2017; the maximum: Shalev-Shwartz, Wexler,
        "Minimizing the Maximal Loss: How and Why", ICML 2016 (definitions as cited by Xia, Liu, Mao, NeurIPS 2024).

    Example:
        >>> logits, targets = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])
        >>> [AverageTopKLoss(fraction=fraction)(logits, targets) for fraction in (1.0, 0.75, 0.0)]
        [tensor(2.3556), tensor(2.9098), tensor(4.0181)]
    """

    fraction = checked_scalar(
        "fraction", lambda name, value: check_float(name, value, 0.0, 1.0), "k / n, in [0, 1]; may be scheduled."
    )

    def __init__(
        self,
        loss: LossLike | None = None,
        *,
        fraction: float = 0.9,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(loss, fraction, weight, ignore_index, reduction)

    def _pooled(self, each: Tensor, losses: Tensor, weights: Tensor | None) -> Tensor:
        if not self.training:
            return losses
        flat = None if weights is None else weights.reshape(-1)
        shares = topk_shares(each.reshape(-1), self.fraction, flat) * (each.numel() if flat is None else flat.sum())
        return shares.reshape(each.shape) * each
