"""Sparse top-k mask by a regularised linear program on the capped simplex (Sander et al. 2023)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_topk._checks import check_float, readable
from lightning_topk.ops._largest import largest_others
from lightning_topk.ops._soft_operator import SoftTopKOperator, check_mask

# Halvings of an interval of length 1: to float32. Two Newton steps then reach float64.
_HALVINGS = 26


@dataclass(frozen=True)
class SparseTopK(SoftTopKOperator):
    r"""Soft top-k mask that is exactly 0 and 1 away from the threshold.

    .. math::
        y = \operatorname*{argmax}_{0 \le y \le 1,\ \sum_i y_i = k} \langle y, s\rangle - \frac\alpha p \|y\|_p^p,
        \qquad y_i = \operatorname{clip}\Bigl(\frac{s_i - \theta}\alpha, 0, 1\Bigr)^{1 / (p - 1)}

    with the :math:`\theta` for which the sum is k. For p = 2 it is the Euclidean projection of :math:`s / \alpha` onto
    the capped simplex, piecewise linear in s; for p = 4/3 its derivative is continuous where entries reach 0.

    With scores in units of alpha, :math:`\theta` lies within 1 below the k-th largest score. Bisection there and two
    Newton steps find it to rounding; the steps are part of the graph, so that first and second derivatives are exact.
    O(C), no sort. The gradient touches the entries strictly between 0 and 1, and is 0 once the k-th and (k+1)-th
    largest scores are alpha apart. Permuting the scores permutes the mask.

    Args:
        alpha: Strength of the regularisation > 0, in units of the scores; the smaller, the sparser.
        p: Exponent in (1, 2]. Sander et al.: 2 and 4/3.

    Shape:
        scores [..., C]; returns a mask [..., C] of sum k.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, or C <= k.

    References:
        Sander, Puigcerver, Djolonga, Peyre, Blondel, "Fast, differentiable and sparse top-k: a convex analysis
        perspective", ICML 2023; alpha is their lambda. They solve it as isotonic regression.

    Example:
        >>> SparseTopK(alpha=2.0)(torch.tensor([4.0, -1.5, 2.5, 1.0]), 2)
        tensor([1.0000, 0.0000, 0.8750, 0.1250])
    """

    alpha: float = 1.0
    p: float = 2.0

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, 0.0, low_open=True)
        check_float("p", self.p, 1.0, 2.0, low_open=True)

    def __call__(self, scores: Tensor, k: int) -> Tensor:
        check_mask(scores, k)
        return self._solve(scores / self.alpha, k)[0]

    def at(self, scores: Tensor, index: Tensor, k: int) -> Tensor:
        check_mask(scores, k)
        count = max(2 * k, 32)
        if scores.shape[-1] > 4 * count and scores.device.type == "cpu" and readable(scores) and readable(index):
            picked = scores.gather(-1, largest_others(scores, index, count))
            mask, spare = self._solve(picked / self.alpha, k)
            # Where the last candidate is not above the threshold, no class beyond it is.
            if bool((spare[..., -2] <= 0).all()):
                return mask[..., -1:]
        return self(scores, k).gather(-1, index)

    def _solve(self, units: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the mask, and by how much the scores are above the threshold."""
        power = 1.0 / (self.p - 1.0)
        units = units - units.detach().topk(k, -1).values[..., -1:]
        theta = _bisect(units.detach(), k, power)
        for _ in range(2):
            mask, slopes = _mask(units, theta, power)
            # The entries inside sum to at least 1 unless there are none; then so do their slopes.
            theta = theta + (mask.sum(-1, keepdim=True) - k) / slopes.sum(-1, keepdim=True).clamp(min=1.0)
        return _mask(units, theta, power)[0], units.detach() - theta.detach()


def _bisect(units: Tensor, k: int, power: float) -> Tensor:
    """Largest point of a fine grid on [-1, 0] where the sum of the mask is still at least k, shape [..., 1]."""
    theta = torch.full_like(units[..., :1], -1.0)
    for halving in range(1, _HALVINGS + 1):
        middle = theta + 2.0**-halving
        total = (units - middle).clamp(0.0, 1.0).pow(power).sum(-1, keepdim=True)
        theta = torch.where(total >= k, middle, theta)
    return theta


def _mask(units: Tensor, theta: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Mask and its derivative in the scores."""
    offsets = units - theta
    inside = (offsets > 0) & (offsets < 1)
    # A number inside stands for the others: powers of 0 have infinite derivatives.
    offsets = torch.where(inside, offsets, 0.5)
    mask = torch.where(inside, offsets**power, (units >= theta + 1.0).to(units.dtype))
    return mask, torch.where(inside, power * offsets ** (power - 1.0), 0.0)
