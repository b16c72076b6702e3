"""Cross-entropy, the loss that all others are measured against, in the common interface."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss
from lightning_topk.ops._log_odds import log_odds_and_finite


def cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Softmax cross-entropy.

    .. math:: \ell(s, y) = \log \sum_c e^{s_c} - s_y

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype.
        ValueError: Shapes that do not fit, or a class index outside [0, C).

    Example:
        >>> cross_entropy_loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([3]))
        tensor(3.2445)
    """

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, bool]:
        if labels.shape[-1] == 1:
            odds, finite = log_odds_and_finite(scores, labels)
            return -logsigmoid(odds), finite
        return torch.logsumexp(scores, -1, keepdim=True) - scores

    return reduce_labels(
        label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction, upcast=False
    )


class CrossEntropyLoss(TopKLoss):
    r"""Softmax cross-entropy, :math:`\ell(s, y) = \log \sum_c e^{s_c} - s_y`.

    The same values as :class:`torch.nn.CrossEntropyLoss` with class indices, in the interface of this package: classes
    in the last dimension, float32 inside, a defined value for an empty batch, NaN for a row with a NaN or infinite
    logit. With soft labels and class weights the mean divides by the sum of the weights, so that one-hot labels and
    class indices agree (torch divides by the number of samples there).

    Args:
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype.
        ValueError: Shapes that do not fit, or a class index outside [0, C).

    Example:
        >>> loss = CrossEntropyLoss()
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([0]))
        tensor(0.2445)
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy_loss(
            logits, targets, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )
