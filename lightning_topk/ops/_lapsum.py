"""LapSum, a soft top-k mask by Laplace distribution functions with a threshold in closed form (Struski et al. 2025)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_topk._checks import check_float
from lightning_topk.ops._largest import largest, without
from lightning_topk.ops._power_sums import split
from lightning_topk.ops._soft_operator import LogSoftTopKOperator, check_mask

# Stands for the logarithm of an empty sum: finite, so that derivatives are.
_NOTHING = -1e30
# From an interval of length below 100 to one below 0.1.
_HALVINGS = 10


@dataclass(frozen=True)
class LapSum(LogSoftTopKOperator):
    r"""Soft top-k mask that is nowhere 0 or 1.

    .. math::
        p_i = F\Bigl(\frac{s_i - b}{\alpha}\Bigr), \qquad
        F(x) = \begin{cases} \tfrac12 e^x & x < 0 \\ 1 - \tfrac12 e^{-x} & x \ge 0 \end{cases}

    with the threshold b for which :math:`\sum_i p_i = k`. When n scores are above b, with
    :math:`A = \sum_{i \le n} e^{-s_{(i)}/\alpha}` over them and :math:`B = \sum_{i > n} e^{s_{(i)}/\alpha}` over the
    others,

    .. math:: \frac b\alpha = \frac{\log B - \log A}2 + \operatorname{arsinh} \frac{n - k}{\sqrt{A B}} .

    Bisection tells which scores are above b, and the closed form is then a function of the scores of which all
    derivatives are exact. O(C), no sort; all in the dtype of the scores and in logarithms. Permuting the scores
    permutes the mask.

    Args:
        alpha: Scale of the Laplace distribution > 0, in units of the scores. 0 would be the hard top-k.

    Shape:
        scores [..., C]; returns a mask [..., C] of sum k.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, or C <= k.

    References:
        Struski, Bednarczyk, Podolak, Tabor, "LapSum: one method to differentiate them all: ranking, sorting and top-k
        selection", ICML 2025. The form of b above is derived here.

    Example:
        >>> LapSum(alpha=1.0)(torch.tensor([4.0, -1.5, 2.5, 1.0]), 2)
        tensor([0.9504, 0.0206, 0.7779, 0.2511])
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, 0.0, low_open=True)

    def __call__(self, scores: Tensor, k: int) -> Tensor:
        return _mask(self._offsets(scores, k))

    def log(self, scores: Tensor, k: int) -> Tensor:
        return _log_mask(self._offsets(scores, k))

    def at(self, scores: Tensor, index: Tensor, k: int) -> Tensor:
        return _mask(self._offset_at(scores, index, k))

    def log_at(self, scores: Tensor, index: Tensor, k: int) -> Tensor:
        return _log_mask(self._offset_at(scores, index, k))

    def threshold(self, scores: Tensor, k: int) -> Tensor:
        """Return the threshold b, shape [...]."""
        units, centre, gap = self._units(scores, k)
        return self.alpha * (centre + _threshold(units, gap, k)).squeeze(-1)

    def _offsets(self, scores: Tensor, k: int) -> Tensor:
        units, _, gap = self._units(scores, k)
        return units - _threshold(units, gap, k)

    def _offset_at(self, scores: Tensor, index: Tensor, k: int) -> Tensor:
        """Distance of one score of each row to the threshold in units of alpha, [..., 1].

        Were the threshold below the 2k-th largest score, the entries above it would sum to more than k already. So all
        others are below it, and enter through the sum of their exponentials.
        """
        check_mask(scores, k)
        head = 2 * k + 1
        if scores.shape[-1] <= head + 1:
            return self._offsets(scores, k).gather(-1, index)
        top = largest(scores, head)
        centre = scores.detach().gather(-1, top[..., k - 1 : k + 1])
        gap = (centre[..., :1] - centre[..., 1:]) / self.alpha
        picks = without(top, index)
        threshold = scores.detach().gather(-1, picks[..., -2:-1])
        picked, sums, _ = split(scores, picks, threshold, 1.0 / self.alpha, 1)
        units = (picked - centre[..., :1]) / self.alpha
        # Where all others are so far below that their sum underflows they have no share in the mask.
        rest = (threshold - centre[..., :1]) / self.alpha + sums.clamp(min=torch.finfo(sums.dtype).tiny).log()
        return units[..., -1:] - _threshold(units, gap, k, num_classes=scores.shape[-1], rest=rest)

    def _units(self, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores in units of alpha from the k-th largest, which they count from, and how far the next one is."""
        check_mask(scores, k)
        units = scores / self.alpha
        largest = units.detach().topk(k + 1, -1).values
        centre = largest[..., -2:-1]
        return units - centre, centre, centre - largest[..., -1:]


def _mask(offsets: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-offsets.abs())
    return torch.where(offsets < 0, tail, 1.0 - tail)


def _log_mask(offsets: Tensor) -> Tensor:
    above = torch.log1p(-0.5 * torch.exp(-offsets.clamp(min=0.0)))
    return torch.where(offsets < 0, offsets - math.log(2.0), above)


def _threshold(
    units: Tensor, gap: Tensor, k: int, *, num_classes: int | None = None, rest: Tensor | None = None
) -> Tensor:
    """Threshold for the scale 1, shape [..., 1]; ``rest`` is the log-sum-exp of classes that are not in ``units``."""
    fixed, fixed_rest = units.detach(), None if rest is None else rest.detach()
    threshold = _bisect(fixed, gap, k, num_classes or units.shape[-1], fixed_rest)
    # The slope of F is the same on both sides of 0, so that a score on the wrong side of a threshold that is off by d
    # moves the next one by less than d squared: from 0.1 to 1e-8, and to 1e-16 at last.
    for _ in range(3):
        threshold = _closed_form(fixed, fixed > threshold, k, fixed_rest)
    return _closed_form(units, fixed > threshold, k, rest)


def _closed_form(units: Tensor, above: Tensor, k: int, rest: Tensor | None) -> Tensor:
    """Threshold given which scores are above it."""
    excess = above.to(units.dtype).sum(-1, keepdim=True) - k
    log_above = torch.logsumexp(torch.where(above, -units, _NOTHING), -1, keepdim=True)
    below = torch.where(above, _NOTHING, units)
    log_below = torch.logsumexp(below if rest is None else torch.cat([below, rest], -1), -1, keepdim=True)
    middle = (log_below - log_above) / 2
    # arsinh as a logarithm on the side where nothing cancels or overflows; 1 where the other branch is taken.
    distance = torch.where(excess == 0, 1.0, excess.abs())
    product = torch.exp(log_above + log_below)
    shift = torch.log(distance + torch.sqrt(distance.square() + product))
    return torch.where(excess == 0, middle, torch.where(excess > 0, shift - log_above, log_below - shift))


def _bisect(units: Tensor, gap: Tensor, k: int, num_classes: int, rest: Tensor | None) -> Tensor:
    """Lower bound of the threshold, to 0.1."""
    # With k + 1 scores log((k + 1) / 2) above it the threshold is too low, with all others log((C - k + 1) / 2) below
    # it too high. Within a wide gap any place tells the same scores apart.
    wide = 2.0 * math.log(num_classes) + 2.0
    low = -torch.where(gap > wide, wide, gap + math.log((k + 1) / 2))
    high = torch.full_like(low, math.log((num_classes - k + 1) / 2))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        offsets = units - middle
        # Twice F on either side of 0, without cancellation.
        twice = torch.exp(offsets.clamp(max=0.0)) - torch.expm1(-offsets.clamp(min=0.0))
        total = twice.sum(-1, keepdim=True) / 2
        if rest is not None:
            total = total + (rest - middle).clamp(max=80.0).exp() / 2
        enough = total >= k
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low
