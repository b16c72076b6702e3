"""The top-K cross-entropy of a differentiable sort (Petersen et al. 2022)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_topk._checks import check_choice, check_floats, check_int, check_logits
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss, checked_scalar
from lightning_topk.losses._build import build_operator
from lightning_topk.ops import NeuralSort, SoftSortOperator
from lightning_topk.ops._largest import largest_others

TOP1 = ("softmax", "sort")


def sorting_topk_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    operator: SoftSortOperator = NeuralSort(),  # noqa: B008 - immutable
    p_k: Sequence[float] | None = None,
    num_candidates: int | None = 16,
    top1: str = "softmax",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of the relaxed probability that the label is among the first ranks.

    .. math::
        \ell(s, y) = -\log \sum_{j=1}^K P_K(j) \sum_{r=1}^j P_{r,y}

    where P is the relaxed permutation matrix of an operator (:class:`~lightning_topk.ops.NeuralSort`,
    :class:`~lightning_topk.ops.SoftSort`, :class:`~lightning_topk.ops.SortingNetwork`) and :math:`P_K` a distribution
    over the number of guesses. Only the label's score and the ``num_candidates - 1`` largest of the others enter, in
    that order; the gradient touches these entries alone. All is computed in logarithms.

    The rows of NeuralSort and SoftSort sum to 1, their columns do not, so that the inner sum may exceed 1 by a few
    percent and the loss may fall a little below 0; a sorting network is doubly stochastic.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C]. Each label has candidates of its own:
            soft labels cost O(C) times as much as class indices; keep ``num_candidates`` small there.
        k: Number of guesses K in [1, C).
        operator: The relaxed sort.
        p_k: Distribution over 1, ..., K: K numbers >= 0 of sum 1. All on K when None. Petersen et al.:
            [0.5, 0, 0, 0, 0.5] on ImageNet.
        num_candidates: Number of scores that are sorted, > K, or None for all. Petersen et al.: 16 for 1,000 classes
            and 50 for 21,000. Of fewer classes all are taken.
        top1: What stands for the probability of rank 1 in the term of j = 1: ``"softmax"`` of the candidates, which the
            authors find more stable, or ``"sort"``, the operator's :math:`P_{1,y}`.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Petersen, Kuehne, Borgelt, Deussen, "Differentiable top-k classification learning", ICML 2022 [abstract and
        the authors' package; the sections were not read].

    Example:
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]])
        >>> sorting_topk_loss(logits, torch.tensor([2]), k=2, p_k=[0.5, 0.5])
        tensor(0.6461)
    """
    check_logits(logits)
    k = check_int("k", k, 1)
    if k >= logits.shape[-1]:
        raise ValueError(
            f"Parameter `k` should be in [1, C), as the label is always among C guesses. "
            f"Found `k = {k}` with `C = {logits.shape[-1]}`."
        )
    operator = _sort_operator("operator", operator)
    shares = _check_p_k(p_k, k)
    check_choice("top1", top1, TOP1)
    size = logits.shape[-1]
    if _check_candidates(num_candidates, k) is not None:
        size = min(size, num_candidates)  # type: ignore[type-var,assignment]
    first = shares[0] if top1 == "softmax" else 0.0
    # The r-th row counts for every j >= r.
    rows = [sum(shares[r:]) - (first if r == 0 else 0.0) for r in range(k)]
    rows = [share for share in rows if share > 0.0]

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
        candidates = _label_first(scores, labels, size)
        terms = []
        if rows:
            log_ranks = operator(candidates, len(rows))[..., 0]
            terms += [log_ranks[..., r] + math.log(share) for r, share in enumerate(rows)]
        if first > 0.0:
            terms.append(torch.log_softmax(candidates, -1)[..., 0] + math.log(first))
        return -torch.logsumexp(torch.stack(terms, -1), -1)

    return reduce_labels(label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction)


def _label_first(scores: Tensor, labels: Tensor, size: int) -> Tensor:
    """Score of each label, then the ``size - 1`` largest others in decreasing order; shape [N, L, size]."""
    if labels.shape[-1] == 1:
        picked = largest_others(scores, labels, size - 1)
        return scores.gather(-1, picked.roll(1, -1)).unsqueeze(-2)
    largest, classes = scores.topk(size, -1)
    found = classes.unsqueeze(-2) == labels.unsqueeze(-1)
    # Those before the label keep their place, those after it move up; without the label the last one falls out.
    after = found.cumsum(-1)[..., :-1] > 0
    place = torch.arange(size - 1, device=scores.device) + after
    others = largest.unsqueeze(-2).expand(found.shape).gather(-1, place)
    return torch.cat([scores.gather(-1, labels).unsqueeze(-1), others], -1)


def _check_p_k(p_k: Sequence[float] | None, k: int) -> list[float]:
    if p_k is None:
        return [0.0] * (k - 1) + [1.0]
    values = check_floats("p_k", p_k, 0.0, 1.0)
    if len(values) != k or abs(sum(values) - 1.0) > 1e-4:
        raise ValueError(f"Parameter `p_k` should hold k = {k} numbers >= 0 of sum 1. Found {values}.")
    return values


def _check_candidates(num_candidates: int | None, k: int) -> int | None:
    if num_candidates is None:
        return None
    check_int("num_candidates", num_candidates, 1)
    if num_candidates <= k:
        raise ValueError(
            "Parameter `num_candidates` should be above k, or None for all classes. "
            f"Found `num_candidates = {num_candidates}` with `k = {k}`."
        )
    return num_candidates


def _sort_operator(name: str, value: Any) -> SoftSortOperator:
    return build_operator(name, value, SoftSortOperator)


class SortingTopKLoss(TopKLoss):
    r"""Top-K cross-entropy of a differentiable sort.

    .. math:: \ell(s, y) = -\log \sum_j P_K(j) \sum_{r \le j} P_{r,y}

    See :func:`~lightning_topk.losses.sorting_topk_loss`.

    Args:
        k: Number of guesses K in [1, C).
        operator: The relaxed sort: :class:`~lightning_topk.ops.NeuralSort`, :class:`~lightning_topk.ops.SoftSort`,
            :class:`~lightning_topk.ops.SortingNetwork`, or ``{"class_path": ..., "init_args": {...}}``. May be
            exchanged at any time.
        p_k: Distribution over 1, ..., K: K numbers >= 0 of sum 1; all on K when None.
        num_candidates: Number of scores that are sorted, > K, or None for all. Petersen et al.: 16.
        top1: ``"softmax"`` or ``"sort"`` for the term of one guess.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Petersen, Kuehne, Borgelt, Deussen, ICML 2022.

    Example:
        >>> from lightning_topk.ops import SoftSort
        >>> loss = SortingTopKLoss(k=2, operator=SoftSort(tau=1.0), p_k=[0.5, 0.5])
        >>> loss
        SortingTopKLoss(k=2, operator=SoftSort(tau=1.0), p_k=[0.5, 0.5])
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([2]))
        tensor(0.6614)
    """

    operator = checked_scalar("operator", _sort_operator, "The relaxed sort; may be exchanged.")
    _always_shown: ClassVar[tuple[str, ...]] = ("k", "operator")

    def __init__(
        self,
        k: int = 5,
        *,
        operator: SoftSortOperator = NeuralSort(),  # noqa: B008 - immutable
        p_k: Sequence[float] | None = None,
        num_candidates: int | None = 16,
        top1: str = "softmax",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.k = check_int("k", k, 1)
        self.operator = operator
        self.p_k = None if p_k is None else _check_p_k(p_k, k)
        self.num_candidates = _check_candidates(num_candidates, k)
        self.top1 = check_choice("top1", top1, TOP1)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return sorting_topk_loss(
            logits,
            targets,
            k=self.k,
            operator=self.operator,
            p_k=self.p_k,
            num_candidates=self.num_candidates,
            top1=self.top1,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
