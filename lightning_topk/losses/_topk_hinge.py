"""The top-K hinge losses psi_1 to psi_5 of the literature, as one family."""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_topk._checks import check_choice, check_float, check_int, check_logits, check_per_class
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative
from lightning_topk.ops._best_others import best_and_own
from lightning_topk.ops._fused import fusable
from lightning_topk.ops._largest import largest
from lightning_topk.ops._places import places
from lightning_topk.ops._precision import at_least_float32, working_dtype
from lightning_topk.ops._sparse_gradient import sparse_gradient


class _Pool(NamedTuple):
    """Which of the sorted violations are summed: those from ``first`` on, at least ``least``, at most ``last``."""

    first: int
    least: int
    last: int
    with_label: bool = False


VARIANTS: dict[str, Callable[[int], _Pool]] = {
    "psi1": lambda k: _Pool(k, k, k),
    "psi2": lambda k: _Pool(1, k - 1, k),
    "psi3": lambda k: _Pool(1, 0, k),
    "psi4": lambda k: _Pool(1, k, k),
    "psi5": lambda k: _Pool(k + 1, k + 1, k + 1, with_label=True),
}


def topk_hinge_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    variant: str = "psi5",
    margin: float | Tensor = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Top-K hinge loss in one of five forms.

    With the violations :math:`v_j = m_y + s_j - s_y` of the other classes in descending order,
    :math:`v_{(1)} \ge v_{(2)} \ge \dots`, every form is the hinge of a mean over a run of ranks:

    .. math::
        \ell(s, y) = \frac{1}{b - a + 1} \Bigl( \sum_{i=a}^{n} v_{(i)} \Bigr)_+, \qquad
        n = \min(\max(\#\{i : v_{(i)} > 0\},\, c),\, b)

    ======== ======= ======= ======= ==================================================================
    variant  a       c       b       the same
    ======== ======= ======= ======= ==================================================================
    psi1     K       K       K       :math:`(v_{(K)})_+`, the K-th other class
    psi2     1       K - 1   K       hinge of the mean of the K largest of :math:`s + m (1 - e_y) - s_y`
    psi3     1       0       K       mean of the hinges of the same K, :math:`\frac1K \sum_{i \le K} (v_{(i)})_+`
    psi4     1       K       K       :math:`(\frac1K \sum_{i \le K} v_{(i)})_+`, K other classes
    psi5     K + 1   K + 1   K + 1   :math:`(m + s_{(K+1)} - s_y)_+`, with the label in the list
    ======== ======= ======= ======= ==================================================================

    psi5 ranks all classes, so that the label's own violation m is in its list; the others rank the other classes.
    psi2 and psi3 are the top-K SVM losses alpha and beta, psi5 is the calibrated hinge. For the same row and K,
    psi5 <= psi1 <= psi4 <= psi2 <= psi3. psi2, psi3 and psi4 are convex in s, psi1 and psi5 are not. psi5 has a
    plateau: where the label is exactly the (K+1)-th, the loss is m and its gradient 0. The gradient of an active row
    sums to 0 and touches at most 2 classes (psi1, psi5) or K + 1 (the others).

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        k: Number of guesses K; in [1, C] for psi2 and psi3, whose lists have C entries, and in [1, C) for the others.
        variant: ``"psi1"`` to ``"psi5"``.
        margin: Margin m >= 0, one number for all classes, or a tensor of shape [C]. 1 in the literature.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, too few classes, shapes that do not fit, or a class index outside [0, C).

    References:
        Lapin, Hein, Schiele, "Top-k multiclass SVM", NIPS 2015 (psi2, psi3). Yang, Koyejo, "On the consistency of
        top-k surrogate losses", ICML 2020 (psi5). The numbering follows the open code of Wang et al., "Optimizing
        partial area under the top-k curve", TPAMI 2023; it was not compared with the text of Yang and Koyejo.

    Example:
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]])
        >>> [float(topk_hinge_loss(logits, torch.tensor([3]), k=2, variant=name)) for name in VARIANTS]
        [2.5, 3.25, 3.25, 3.25, 1.0]
    """
    check_logits(logits)
    pool = VARIANTS[check_choice("variant", variant, VARIANTS)](check_int("k", k, 1))
    num_classes = logits.shape[-1]
    ranked = num_classes if pool.with_label else num_classes - 1
    if pool.least > ranked or k > num_classes:
        allowed = "[1, C]" if pool.least < k else "[1, C)"
        raise ValueError(
            f'Parameter `k` should be in {allowed} for `variant = "{variant}"`. '
            f"Found `k = {k}` with `C = {num_classes}`."
        )
    if isinstance(margin, Tensor):
        check_per_class("margin", margin, logits)
    else:
        check_float("margin", margin, 0.0)

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, bool]:
        least = margin.to(scores.device, working_dtype(scores))[labels] if isinstance(margin, Tensor) else margin
        by_hand = fusable(scores, labels, least) and labels.shape[-1] == 1
        if by_hand and scores.device.type == "cpu" and num_classes > 1:
            return _by_hand(scores, labels, least, pool)
        scores = scores if by_hand else at_least_float32(scores)
        order = largest(scores, min(pool.last + (not pool.with_label), num_classes))
        place = places(order, labels, num_classes)
        if labels.shape[-1] > 1:
            return _of_all_labels(scores, order, place, least, pool, ranked)
        if pool.with_label:
            heads = order[..., -1:]
        else:  # what stands behind the label moves up
            ranks = torch.arange(pool.first - 1, min(pool.last, ranked), device=order.device)
            heads = order.gather(-1, ranks + (place <= ranks))
        index = torch.cat([heads, labels], -1)
        # In one gather, whose gradient is one tensor of the size of the scores; in float64, where the differences of
        # large scores add up without a visible error.
        picked = (scores.detach() if by_hand else scores).gather(-1, index).double()
        violations = picked[..., :-1] - picked[..., -1:] + least
        always, size = pool.least - pool.first + 1, pool.last - pool.first + 1
        taken = torch.ones_like(violations)
        if always < heads.shape[-1]:
            ahead = torch.arange(heads.shape[-1], device=order.device) < always
            taken = ((violations.detach() > 0) | ahead).to(violations.dtype)
        total = (violations * taken).sum(-1, keepdim=True)
        value = total.relu() / size
        if not by_hand:
            return value.to(scores.dtype)
        slopes = taken * ((total > 0).to(taken.dtype) / size)
        return sparse_gradient(value, scores, index, torch.cat([slopes, -slopes.sum(-1, keepdim=True)], -1))

    return reduce_labels(
        label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction, upcast=False
    )


def _by_hand(scores: Tensor, labels: Tensor, margin: Tensor | float, pool: _Pool) -> tuple[Tensor, bool]:
    """The losses of one label a row [N, 1], in NumPy; and whether all scores were seen to be finite."""
    count = min(pool.last, scores.shape[-1] - (not pool.with_label))
    index, picked, finite = best_and_own(scores.detach(), labels, count, with_label=pool.with_label)
    index, picked = index[:, pool.first - 1 :], picked[:, pool.first - 1 :]
    least = margin.numpy() if isinstance(margin, Tensor) else margin
    always, size = pool.least - pool.first + 1, pool.last - pool.first + 1
    slopes = np.empty_like(picked)
    with np.errstate(invalid="ignore"):  # a row with an infinite score becomes NaN without a warning
        violations = picked[:, :-1] - picked[:, -1:] + least
        taken = np.ones_like(violations)
        if always < violations.shape[1]:
            taken[:, always:] = violations[:, always:] > 0
            violations = np.where(taken > 0, violations, 0.0)
        total = violations.sum(1, keepdims=True)
        np.multiply(taken, (total > 0) / size, out=slopes[:, :-1])
        slopes[:, -1] = -slopes[:, :-1].sum(1)
        value = np.maximum(total, 0.0) / size
    found = sparse_gradient(torch.from_numpy(value), scores, torch.from_numpy(index), torch.from_numpy(slopes))
    return found, finite


def _of_all_labels(
    scores: Tensor, order: Tensor, place: Tensor, margin: Tensor | float, pool: _Pool, ranked: int
) -> Tensor:
    """The losses of all labels [N, C] by prefix sums of the largest scores, at the indices ``order``."""
    top = scores.gather(-1, order)
    if pool.with_label:
        return (top[..., -1:] - scores + margin).relu()
    # In float64 the sum of a run is a difference of two sums without a visible error.
    sums = torch.nn.functional.pad(top.double().cumsum(-1), (1, 0))
    own = scores.double()
    lift = margin - own
    positive = torch.searchsorted(-top.detach().double(), lift.detach().contiguous())
    positive = positive - (place < positive).long()
    count = positive.clamp(pool.least, min(pool.last, ranked))

    def largest_others(n: Tensor) -> Tensor:
        """Sum of the n largest scores of the other classes: one more of all where the label is among them."""
        before = place < n
        return sums.gather(-1, n + before) - torch.where(before, own, 0.0)

    below = torch.full_like(count, pool.first - 1)
    total = largest_others(count) - largest_others(below) + (count - below) * lift
    return (total.relu() / (pool.last - pool.first + 1)).to(scores.dtype)


class TopKHingeLoss(TopKLoss):
    r"""Top-K hinge loss, psi_1 to psi_5; by default the top-K calibrated hinge.

    .. math:: \ell_5(s, y) = (m + s_{(K+1)} - s_y)_+

    with the (K+1)-th largest score of all classes, the label included. The other forms and what they have in common:
    :func:`~lightning_topk.losses.topk_hinge_loss`. Noise turns psi5 into
    :class:`~lightning_topk.losses.NoisedTopKLoss`, smoothing psi4 and psi3 into
    :class:`~lightning_topk.losses.TopKSVMLoss`.

    Args:
        k: Number of guesses K; in [1, C] for psi2 and psi3, in [1, C) for the others.
        variant: ``"psi1"`` (K-th other class), ``"psi2"`` (hinge of the mean of K, alpha), ``"psi3"`` (mean of K
            hinges, beta), ``"psi4"`` (hinge of the mean of K other classes) or ``"psi5"`` (calibrated).
        margin: Margin m >= 0, in units of the logits. May be set at any time.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, too few classes, shapes that do not fit, or a class index outside [0, C).

    References:
        See :func:`~lightning_topk.losses.topk_hinge_loss`.

    Example:
        >>> loss = TopKHingeLoss(k=2, variant="psi2")
        >>> loss
        TopKHingeLoss(k=2, variant='psi2')
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([2]))
        tensor(1.2500)
    """

    margin = checked_scalar("margin", non_negative, "Margin, >= 0; may be scheduled.")
    _always_shown: ClassVar[tuple[str, ...]] = ("k", "variant")

    def __init__(
        self,
        k: int = 5,
        *,
        variant: str = "psi5",
        margin: float = 1.0,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.k = check_int("k", k, 1)
        self.variant = check_choice("variant", variant, VARIANTS)
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return topk_hinge_loss(
            logits,
            targets,
            k=self.k,
            variant=self.variant,
            margin=self.margin,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
