"""Focal loss in its softmax form."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_topk._checks import check_float
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative
from lightning_topk.ops._log_odds import log_odds_and_finite


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Softmax focal loss.

    .. math:: \ell(s, y) = -(1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(s)

    Class weights multiply the loss and stay outside of p: a weighted cross-entropy in place of :math:`-\log p_y`, as in
    much published code, would turn p into :math:`p^{w}`. Value and gradient keep their relative accuracy as
    :math:`p_y \to 1`, and are finite for every gamma.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        gamma: Exponent >= 0; 0 gives cross-entropy.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, shapes that do not fit, or a class index outside [0, C).

    References:
        Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", ICCV 2017: the sigmoid form, of which
        this is the one for exclusive classes.

    Example:
        >>> focal_loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([3]), gamma=1.0)
        tensor(3.1180)
    """
    check_float("gamma", gamma, 0.0)

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, bool]:
        odds, finite = log_odds_and_finite(scores, labels)
        return -torch.exp(gamma * logsigmoid(-odds)) * logsigmoid(odds), finite

    return reduce_labels(
        label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction, upcast=False
    )


class FocalLoss(TopKLoss):
    r"""Softmax focal loss, :math:`\ell(s, y) = -(1 - p_y)^\gamma \log p_y`: well classified samples count less.

    See :func:`~lightning_topk.losses.focal_loss`.

    Args:
        gamma: Exponent >= 0; 0 gives cross-entropy. Lin et al. and Garcin et al. (Pl@ntNet-300K): 2, Cao et al.: 1.
            May be set at any time.
        weight: Class weights, one number >= 0 per class; they stay outside of :math:`p`. The alpha of Lin et al.
            is such a weight.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, shapes that do not fit, or a class index outside [0, C).

    References:
        Lin, Goyal, Girshick, He, Dollar, ICCV 2017.

    Example:
        >>> loss = FocalLoss(gamma=2.0)
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([3]))
        tensor(2.9965)
    """

    gamma = checked_scalar("gamma", non_negative, "Exponent, >= 0; may be scheduled.")

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return focal_loss(
            logits,
            targets,
            gamma=self.gamma,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
