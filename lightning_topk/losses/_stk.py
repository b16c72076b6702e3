"""The average of the largest losses of a batch by a trainable threshold, plain (MATk) and smoothed (STk)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_topk._checks import check_float
from lightning_topk.losses._aggregates import Aggregate
from lightning_topk.losses._base import checked_scalar, positive
from lightning_topk.losses._build import LossLike
from lightning_topk.ops import smoothed_relu


class MATkLoss(Aggregate):
    r"""Average of the largest individual losses of a batch by a trainable threshold in place of sorting (MATk).

    .. math::
        L = \frac1n \sum_i (\ell_i - \lambda)_+ + \text{fraction} \cdot \lambda

    over the n individual losses of the batch. Over :math:`\lambda`, the trainable parameter ``lambda_``, its minimum is
    fraction times :class:`AverageTopKLoss` of the same fraction, and is attained where :math:`\lambda` is the k-th
    largest loss, k = fraction n: **loss and gradients are smaller than those of AverageTopKLoss by that factor**, to be
    made up for by the learning rate where the fraction is small. Rows, ``eval()``, ignored targets and class weights
    are as there; "top-k" are hard examples, not classes.

    The parameter needs an optimizer. Under :class:`~lightning_topk.TopKMixin` it is added to yours, without weight
    decay; elsewhere pass ``loss.parameters()`` on. It starts at ``initial_lambda``, by default at 0, where every
    example counts with weight 1 / n as in the mean, and rises by at most (1 - fraction) times the learning rate a step
    of plain gradient descent. Start it near the expected k-th largest loss when the fraction is small. There is one
    :math:`\lambda` for all batches, saved with the checkpoint and equal on all ranks.

    Losses that are not negative have their threshold at :math:`\lambda \ge 0`, which is not enforced: below 0 the
    gradient is fraction - 1 and leads back, whereas a clamp would have none. So losses that may be negative work too.
    ``fraction=1`` leaves nothing to choose, and with it the loss is the mean.

    Args:
        loss: The individual loss, see :class:`AverageTopKLoss`.
        fraction: k / n in (0, 1]. Xia et al.: 0.9 and 0.96. May be set at any time.
        initial_lambda: Where :math:`\lambda` starts.
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
        Xia, Liu, Mao, "STk: A Scalable Module for Solving Top-k Problems", NeurIPS 2024; Fan et al., NIPS 2017.

    Example:
        >>> logits, targets = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])
        >>> round(MATkLoss(fraction=0.5, initial_lambda=1.0)(logits, targets).item(), 4)  # half of the largest, 4.0181
        2.0091
    """

    fraction = checked_scalar(
        "fraction",
        lambda name, value: check_float(name, value, 0.0, 1.0, low_open=True),
        "k / n, in (0, 1]; may be scheduled.",
    )

    def __init__(
        self,
        loss: LossLike | None = None,
        *,
        fraction: float = 0.9,
        initial_lambda: float = 0.0,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(loss, fraction, weight, ignore_index, reduction)
        self.initial_lambda = check_float("initial_lambda", initial_lambda)
        # Of one dimension, as FSDP refuses parameters without.
        self.lambda_ = nn.Parameter(torch.tensor([self.initial_lambda]))

    def _pooled(self, each: Tensor, losses: Tensor, weights: Tensor | None) -> Tensor:
        threshold = self.lambda_.to(each).squeeze(0)
        if not self.training:
            # In the graph all the same: DDP raises on a parameter that a training step leaves out.
            return losses + 0 * threshold
        pooled = self._excess(each - threshold) + self.fraction * threshold
        return pooled if weights is None else weights * pooled

    def _excess(self, excess: Tensor) -> Tensor:
        return torch.relu(excess)


class STkLoss(MATkLoss):
    r"""Average of the largest individual losses of a batch by a smoothed threshold (STk).

    .. math::
        L = \frac1n \sum_i \mathrm{SReLU}_\delta(\ell_i - \lambda) + \text{fraction} \cdot \lambda

    :class:`MATkLoss` with the smoothed ReLU (:func:`lightning_topk.ops.smoothed_relu`): lower by at most
    :math:`\delta / 2`, with a gradient 1 / (2 n) at the threshold itself. At the minimum :math:`\lambda` lies between
    the (k+1)-th and the k-th largest loss. All that is said there holds here: the trainable ``lambda_`` and where it
    starts, the **factor fraction on loss and gradients**, and the mean of the individual losses in ``eval()``. With
    ``fraction=1`` :math:`\lambda` sinks slowly without end and the loss is the mean less :math:`\delta / 2` at most.

    Args:
        loss: The individual loss, see :class:`AverageTopKLoss`.
        fraction: k / n in (0, 1]. Xia et al.: 0.9 for images, 0.96 for translation. May be set at any time.
        delta: Width of the kink, > 0, in units of the loss. Xia et al.: 0.01. May be set at any time.
        initial_lambda: Where :math:`\lambda` starts.
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
        Xia, Liu, Mao, "STk: A Scalable Module for Solving Top-k Problems", NeurIPS 2024.

    Example:
        >>> STkLoss({"class_path": "NoisedTopKLoss", "init_args": {"k": 3}}, fraction=0.5)
        STkLoss(loss=NoisedTopKLoss(k=3, epsilon=1.0, num_samples=5, reduction='none'), fraction=0.5, delta=0.01)
    """

    delta = checked_scalar("delta", positive, "Width of the kink, > 0; may be scheduled.")
    _always_shown: ClassVar[tuple[str, ...]] = ("loss", "fraction", "delta")

    def __init__(
        self,
        loss: LossLike | None = None,
        *,
        fraction: float = 0.9,
        delta: float = 0.01,
        initial_lambda: float = 0.0,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            loss,
            fraction=fraction,
            initial_lambda=initial_lambda,
            weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
        )
        self.delta = delta

    def _excess(self, excess: Tensor) -> Tensor:
        return smoothed_relu(excess, self.delta)
