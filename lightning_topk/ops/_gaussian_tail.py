r"""Many classes below the best ones, as a few points with weights.

What the classes below the best ones contribute to the law of the k-th largest is sums over them of smooth functions g
of their score u, such as the odds of being above a threshold t. With :math:`e(u) = e^{-(u - c)^2 / 2}`, which falls
about as fast as these odds, :math:`g / e` is nearly a polynomial on the interval where the sum counts. Interpolation at
Chebyshev nodes :math:`x_0 \dots x_d` with the Lagrange polynomials :math:`\ell_r` gives

.. math::
    \sum_j g(u_j) \approx \sum_r \omega_r\, g(x_r), \qquad \omega_r = \frac1{e(x_r)} \sum_j e(u_j)\, \ell_r(u_j)

so that the classes are replaced by d + 1 points with weights, which follow from the d + 1 moments :math:`\sum_j
e(u_j)\, T_r(v_j)` of Chebyshev polynomials. The part :math:`h(u_j)` of the gradient that belongs to a class is
interpolated in the same way, :math:`e(u_j) \sum_r \ell_r(u_j)\, h(x_r) / e(x_r)`, which makes it the derivative of the
value up to the same error. Both are a few passes over blocks of scores that stay in the cache; no class is left out, no
array of the size of all scores is made, and the cost does not depend on where the scores are.

With thresholds in c +- a and scores in an interval of half-width b, :math:`g / e` is about :math:`e^{a u}`, and the
interpolation is off by :math:`(a b)^{d + 1} / (2^d (d + 1)!)` of it: 5e-6 for d = 8 and a b = 2.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_topk.ops._gaussian_blocks import Map, affine, bell, blocks, to_interval

# Largest size of the k-th score, in standard deviations of the noise, up to which the scores are near 0.
_NEAR = 8.0
# Degree up to which the logarithm of the shares is interpolated in place of their ratio to e.
_DIRECT = 6


class Tail(NamedTuple):
    """Points and weights of the classes below the best ones, and the map of their scores."""

    places: Map
    points: Tensor  # [d + 1, N], in standard deviations of the noise, the k-th score at 0
    weights: Tensor  # [d + 1, N]

    def of(self, rows: slice) -> "Tail":
        """The tail of some rows."""
        return Tail(self.places.of(rows), self.points[:, rows], self.weights[:, rows])


def fit_tail(
    scores: Tensor,
    best: int | Tensor,
    kth: Tensor,
    epsilon: float,
    low: Tensor,
    high: Tensor,
    centre: Tensor,
    degree: int,
) -> Tail:
    """Replace all classes but the best ones by points.

    Args:
        scores: Shape [N, C].
        best: Number M of the best classes of a row, which are left out; shape [N, 1] where rows differ.
        kth: The k-th largest scores, shape [N, 1]; u is counted from there.
        epsilon: Standard deviation of the noise.
        low: Lower end of the interval of u, float64, shape [N]. Classes below it count nothing.
        high: Upper end, that of the last of the best classes.
        centre: c, shape [N].
        degree: d, even and >= 2.

    Returns:
        The points with their weights.
    """
    middle, half = (high + low) / 2, (high - low) / 2
    scale = (1 / (epsilon * half)).float().double()
    # Near 0 the difference of two scores needs no operation of its own: its rounding is next to nothing.
    near = float(kth.abs().max()) <= _NEAR * epsilon
    start = kth.squeeze(1).double() if near else torch.zeros_like(middle)
    offset = -middle / half - start * scale
    parts = (scale, offset, -0.5 * half.square(), half * (centre - middle))
    scale, offset, square, linear = torch.stack(parts).float().unsqueeze(-1)
    places = Map(None if near else kth, scale, offset, square, linear)
    sums = torch.zeros(len(scores), degree // 2 + 1, 2, dtype=torch.float64)
    for block, part, (total,), memory in blocks(scores, degree // 2, places, sums):
        weights = bell(to_interval(block, part, memory), part, memory)
        before, last = memory.base[:2]
        for order, higher in enumerate(memory.base[2:]):
            # With these signs T_(m + 1) = 2 v T_m - T_(m - 1) is one operation.
            value = 2 if order % 2 else -2
            before, last = last, torch.addcmul(before, memory.base[1], last, value=value, out=higher)
        torch.mul(last, weights, out=memory.product[1])
        total.add_(memory.sums())
    # The best classes were held at v = 1, where every polynomial is 1. They are taken away again: what this loses in
    # digits is 1e-6 of one class beside M of them at the same place.
    square, linear = square.double(), linear.double()
    signs = _signs(degree // 2 + 1).unsqueeze(1)
    sums = sums * torch.cat([signs, signs * signs[-1:]], 1)
    sums = sums - (best * (square + linear).exp()).unsqueeze(-1)
    # T_(h + a) = 2 T_h T_a - T_(h - a)
    moments = torch.cat([sums[..., 0], 2 * sums[:, 1:, 1] - sums[:, :-1, 0].flip(1)], 1)
    nodes, lagrange = _interpolation(degree)
    weights = (moments @ lagrange) / places.bell(nodes)
    points = ((nodes - offset.double()) / scale.double() - start.unsqueeze(1)) / epsilon
    return Tail(places, points.T, weights.T)


def write_shares(scores: Tensor, tail: Tail, shares: Tensor, slope: Tensor, out: Tensor) -> None:
    """Write what the points have, per unit of weight, times a factor to the classes they stand for.

    Args:
        scores: Shape [N, C].
        tail: What :func:`fit_tail` returned.
        shares: Shape [d + 1, N].
        slope: Factor of each row, shape [N].
        out: Shape [N, C]. The best classes get numbers of no meaning.
    """
    degree = len(shares) - 1
    nodes, lagrange = _interpolation(degree)
    # If the law is narrow, the logarithm of the shares is a polynomial as well, and takes fewer operations.
    direct = degree <= _DIRECT
    values = shares.clamp(min=1e-37).log().T if direct else shares.T / tail.places.bell(nodes)
    factors = (values @ lagrange.T @ _powers(degree)).float()
    columns = slope.float().unsqueeze(1), *factors.split(1, 1)
    for block, part, (factor, *lower, last, target), memory in blocks(scores, 1, tail.places, *columns, out):
        v, series = to_interval(block, part, memory), memory.product[1]
        weights = factor if direct else bell(v, part, memory).mul_(factor)
        affine(v, last, lower.pop(), out=series)
        while lower:
            torch.addcmul(lower.pop(), series, v, out=series)
        # Written by a product, as exponentials are slow to write to new memory.
        torch.mul(series.exp_() if direct else series, weights, out=target)


@cache
def _interpolation(degree: int) -> tuple[Tensor, Tensor]:
    """Chebyshev nodes [d + 1], and coefficients [order, node] of the Lagrange polynomials of each node."""
    angles = math.pi * (torch.arange(degree + 1, dtype=torch.float64) + 0.5) / (degree + 1)
    orders = torch.arange(degree + 1, dtype=torch.float64)
    lagrange = 2 * torch.cos(orders.unsqueeze(1) * angles) / (degree + 1)
    lagrange[0] /= 2
    return torch.cos(angles), lagrange


@cache
def _powers(degree: int) -> Tensor:
    """Coefficients [order, power] of Chebyshev polynomials."""
    table = torch.zeros(degree + 1, degree + 1, dtype=torch.float64)
    table[0, 0] = table[1, 1] = 1
    for order in range(2, degree + 1):
        table[order, 1:] = 2 * table[order - 1, :-1]
        table[order] -= table[order - 2]
    return table


@cache
def _signs(count: int) -> Tensor:
    """Signs 1, 1, -1, -1, 1, ... of so many polynomials, shape [count]."""
    return torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).repeat(count // 4 + 1)[:count]
