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
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

# Entries of all arrays for a block of scores, which stay in the cache.
_CACHE = 1 << 19


class Tail(NamedTuple):
    """Points and weights of the classes below the best ones, and the map from scores to v in [-1, 1]."""

    shift: Tensor  # [N, 1] in the dtype of the scores: that of the k-th class
    scale: Tensor  # [N, 1], as the next ones: v = (score - shift) * scale + offset, held in [-1, 1]
    offset: Tensor
    square: Tensor  # e = exp((square * v + linear) * v)
    linear: Tensor
    points: Tensor  # [d + 1, N], in standard deviations of the noise, the k-th score at 0
    weights: Tensor  # [d + 1, N]


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
        degree: d, even and >= 4.

    Returns:
        The points with their weights.
    """
    middle, half = (high + low) / 2, (high - low) / 2
    parts = (1 / (epsilon * half), -middle / half, -0.5 * half.square(), half * (centre - middle))
    scale, offset, square, linear = torch.stack(parts).float().unsqueeze(-1)
    tail = Tail(kth, scale, offset, square, linear, high, high)
    sums = torch.zeros(len(scores), degree // 2 + 1, 2)
    for block, part, memory in _blocks(scores, degree, tail, sums):
        _fill(block, part, memory, memory.products[0])
        torch.mul(memory.bases[:, 1:], memory.product[:, :1], out=memory.product[:, 1:])
        part[-1].baddbmm_(memory.product, memory.ends)
    # The best classes were held at v = 1, where every polynomial is 1. They are taken away again: what this loses in
    # digits is 1e-6 of one class beside M of them at the same place.
    square, linear = square.double(), linear.double()
    sums = sums.double() - (best * (square + linear).exp()).unsqueeze(-1)
    # T_(h + a) = 2 T_h T_a - T_(h - a)
    moments = torch.cat([sums[..., 0], 2 * sums[:, 1:, 1] - sums[:, :-1, 0].flip(1)], 1)
    nodes, lagrange = _interpolation(degree)
    weights = (moments @ lagrange) / ((square * nodes + linear) * nodes).exp()
    points = (nodes - offset.double()) / (scale.double() * epsilon)
    return tail._replace(points=points.T, weights=weights.T)


def write_shares(scores: Tensor, tail: Tail, shares: Tensor, out: Tensor) -> None:
    """Write what the points have, per unit of weight, to the classes they stand for.

    Args:
        scores: Shape [N, C].
        tail: What :func:`fit_tail` returned.
        shares: Shape [d + 1, N].
        out: Shape [N, C]. The best classes get numbers of no meaning.
    """
    degree = len(shares) - 1
    half = degree // 2
    nodes, lagrange = _interpolation(degree)
    values = shares.T / ((tail.square.double() * nodes + tail.linear.double()) * nodes).exp()
    series = values @ lagrange.T
    first, second = series.clone()[:, : half + 1], torch.zeros_like(series[:, : half + 1])
    first[:, :half] -= series[:, half + 1 :].flip(1)
    second[:, 1:] = 2 * series[:, half + 1 :]
    coefficients = torch.stack([first, second], 1).float()
    for block, part, memory in _blocks(scores, degree, tail, coefficients, out):
        target, bell = part[-1], memory.products[2]
        _fill(block, part, memory, bell)
        torch.bmm(part[-2], memory.bases, out=memory.product[:, :2])
        first, second = memory.products[:2]
        torch.mul(first.addcmul_(second, memory.base[-1]), bell, out=target)


class _Memory:
    """Memory for the arrays of one block [n, m], used again for the next of its shape."""

    def __init__(self, rows: int, columns: int, half: int) -> None:
        self.bases, self.product = torch.ones(2, rows, half + 1, columns)
        self.base, self.products = self.bases.unbind(1), self.product.unbind(1)
        self.ends = self.bases[:, ::half].transpose(1, 2)
        self.twice = torch.empty(rows, columns)


def _blocks(
    scores: Tensor, degree: int, tail: Tail, *arrays: Tensor
) -> Iterator[tuple[Tensor, tuple[Tensor, ...], _Memory]]:
    """Cut scores into blocks, with the rows of the tail and of other arrays, and memory that stays in the cache.

    An array of the shape of the scores is cut like them.
    """
    columns, half = scores.shape[1], degree // 2
    size = _CACHE // (2 * half + 3)
    width = -(-columns // -(-columns // size))
    height = max(1, size // width)
    memories: dict[torch.Size, _Memory] = {}
    parts = (scores, tail.shift, tail.scale, tail.offset, tail.square, tail.linear, *arrays)
    for rows in zip(*(part.split(height) for part in parts), strict=True):
        pieces = [part.split(width, 1) if part.shape[1] == columns else None for part in rows]
        for place in range(len(rows[0].split(width, 1))):
            block, *others = (row if piece is None else piece[place] for row, piece in zip(rows, pieces, strict=True))
            if block.shape not in memories:
                memories[block.shape] = _Memory(block.shape[0], block.shape[1], half)
            yield block, tuple(others), memories[block.shape]


def _fill(block: Tensor, part: tuple[Tensor, ...], memory: _Memory, bell: Tensor) -> None:
    """Write Chebyshev polynomials of v up to half the degree into memory, and e of v."""
    shift, scale, offset, square, linear = part[:5]
    one, v, *higher = memory.base
    torch.sub(block, shift, out=v).mul_(scale).add_(offset).clamp_(-1, 1)
    torch.mul(v, square, out=bell).add_(linear).mul_(v).exp_()
    twice = torch.add(v, v, out=memory.twice)
    before, last = one, v
    for next_one in higher:
        before, last = last, torch.mul(twice, last, out=next_one).sub_(before)


@cache
def _interpolation(degree: int) -> tuple[Tensor, Tensor]:
    """Chebyshev nodes [d + 1], and coefficients [order, node] of the Lagrange polynomials of each node."""
    angles = math.pi * (torch.arange(degree + 1, dtype=torch.float64) + 0.5) / (degree + 1)
    orders = torch.arange(degree + 1, dtype=torch.float64)
    lagrange = 2 * torch.cos(orders.unsqueeze(1) * angles) / (degree + 1)
    lagrange[0] /= 2
    return torch.cos(angles), lagrange
