"""The top-k entropy losses of Lapin, Hein and Schiele (2016)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_topk._checks import check_classes_exceed_k, check_int, check_logits
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss
from lightning_topk.ops import capped_logsumexp
from lightning_topk.ops._capped_logsumexp import capped_others
from lightning_topk.ops._largest import largest_others
from lightning_topk.ops._places import places
from lightning_topk.ops._power_sums import split_off

# Where log(1 + e^x) is x to the last bit of float64; torch's own threshold is 20.
_LINEAR = 50.0


def topk_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Top-k entropy loss.

    .. math::
        \ell(s, y) = \max_x \Bigl\{ \sum_{j \ne y} x_j (s_j - s_y - \log x_j) - (1 - t) \log(1 - t) :
        0 \le x_j \le \tfrac tK,\ t = \sum_{j \ne y} x_j \le 1 \Bigr\}

    With x = t q the shares q do not depend on t, and :math:`\ell = \log(1 + e^{V_K(s \backslash y) - s_y})` with the
    capped log-sum-exp :math:`V_K` of the other classes (:func:`lightning_topk.ops.capped_logsumexp`): value and
    gradient are exact without iterations. The gradient is x on the other classes and -t on the label: dense, sum 0, no
    other class above t/K. K = 1 is cross-entropy. Convex and smooth.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        k: Number of guesses K in [1, C).
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Lapin, Hein, Schiele, "Loss functions for top-k error: Analysis and insights", CVPR 2016. The definition is
        that of the authors' code; it was not compared with the text.

    Example:
        >>> topk_entropy_loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([2]), k=2)
        tensor(1.1251)
    """
    check_logits(logits)
    k = check_int("k", k, 1)
    check_classes_exceed_k(k, logits.shape[-1])

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
        if labels.shape[-1] == 1:
            own, others = capped_others(scores, labels, k)
            return softplus(others - own, threshold=_LINEAR)
        return softplus(capped_logsumexp(scores, labels, k) - scores, threshold=_LINEAR)

    return reduce_labels(label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction)


def truncated_topk_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Truncated top-k entropy loss: cross-entropy without the K - 1 best-scored other classes.

    .. math:: \ell(s, y) = \log\Bigl(1 + \sum_{j \in J} e^{s_j - s_y}\Bigr)

    with J the C - K smallest of the other classes. K = 1 is cross-entropy. Not convex; the gradient is dense on J, zero
    on the classes that are left out, and jumps where J changes.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        k: Number of guesses K in [1, C).
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Lapin, Hein, Schiele, CVPR 2016. The definition was not compared with the text.

    Example:
        >>> truncated_topk_entropy_loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([2]), k=2)
        tensor(0.2163)
    """
    check_logits(logits)
    k = check_int("k", k, 1)
    check_classes_exceed_k(k, logits.shape[-1])

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
        if labels.shape[-1] == 1:
            best = largest_others(scores, labels, k)
            picked, rest = split_off(scores, torch.cat([best[..., : k - 1], labels], -1), best[..., k - 1 : k])
            return softplus(rest - picked[..., -1:], threshold=_LINEAR)
        top, order = scores.topk(k)
        rest = scores.scatter(-1, order, torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
        # A label among the K best leaves the other K - 1 of them out; for any other label the K-th best stays in.
        among = places(order, labels, scores.shape[-1]) < k
        ahead = torch.where(among, 0.0, top[..., -1:] - scores)
        return softplus(rest - torch.where(among, scores, top[..., -1:]), threshold=_LINEAR) + ahead

    return reduce_labels(label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction)


class TopKEntropyLoss(TopKLoss):
    r"""Top-k entropy loss.

    .. math:: \ell(s, y) = \log(1 + e^{V_K(s \backslash y) - s_y})

    with :math:`V_K` the log-sum-exp of the other classes under the condition that none has a share above 1/K
    (:func:`lightning_topk.ops.capped_logsumexp`). See :func:`~lightning_topk.losses.topk_entropy_loss`. K = 1 is
    cross-entropy. Convex and smooth; dense gradient.

    Args:
        k: Number of guesses K in [1, C).
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Lapin, Hein, Schiele, CVPR 2016.

    Example:
        >>> loss = TopKEntropyLoss(k=2)
        >>> loss
        TopKEntropyLoss(k=2)
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([3]))
        tensor(3.0031)
    """

    def __init__(
        self,
        k: int = 5,
        *,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.k = check_int("k", k, 1)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return topk_entropy_loss(
            logits,
            targets,
            k=self.k,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class TruncatedTopKEntropyLoss(TopKLoss):
    r"""Truncated top-k entropy loss.

    .. math:: \ell(s, y) = \log\Bigl(1 + \sum_{j \in J} e^{s_j - s_y}\Bigr)

    with J the C - K smallest of the other classes: cross-entropy without the K - 1 best-scored other classes. See
    :func:`~lightning_topk.losses.truncated_topk_entropy_loss`. K = 1 is cross-entropy. Not convex.

    Args:
        k: Number of guesses K in [1, C).
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Lapin, Hein, Schiele, CVPR 2016.

    Example:
        >>> loss = TruncatedTopKEntropyLoss(k=2)
        >>> loss
        TruncatedTopKEntropyLoss(k=2)
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([3]))
        tensor(1.7163)
    """

    def __init__(
        self,
        k: int = 5,
        *,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.k = check_int("k", k, 1)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return truncated_topk_entropy_loss(
            logits,
            targets,
            k=self.k,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
