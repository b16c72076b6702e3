r"""The law of the k-th largest of few noised scores with weights: bounds, density and shares.

A point x of weight :math:`\omega` stands for :math:`\omega` classes of score x, in units of the noise: the number N(t)
of noised scores above t has the generating function

.. math::
    \prod_i (1 - q_i)^{\omega_i}\,(1 + f_i z)^{\omega_i}, \qquad
    q_i = \Phi(x_i - t), \quad f_i = \frac{q_i}{1 - q_i}

and the density of the k-th largest at t is :math:`\sum_i \omega_i\,\varphi(x_i - t)\,\mathbb P(N_{-i}(t) = k - 1)`.
Weights need not be whole, nor positive: the formulas hold for any, and :mod:`lightning_topk.ops._gaussian_tail` makes
use of it.

The k - 1 best classes, of weight 1, may be nearly certain to be above t, and their polynomials are multiplied one by
one. All others enter through the power sums of their odds f. Newton's identities, which lose digits where one of f
dominates the others, are safe here: the coefficient of degree m is off by at most :math:`u f^{m - 1}`, with u the
rounding of float64, and is multiplied by the chance that m - 1 better classes, of larger odds, are all below, which is
about :math:`f^{1 - m}`. Arrays are laid out [nodes, points, rows].
"""

import math
import threading
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

# Points at which the bounds are looked for.
_GRID = 16
# Entries of memory that is kept.
_KEPT = 1 << 21


def kth_bounds(points: Tensor, weights: Tensor, k: int, num_classes: int, outside: float) -> tuple[Tensor, Tensor]:
    r"""Bounds on the k-th largest noised score that it passes with a probability of about ``outside`` each.

    With j of the best classes taken for certain, the k-th largest is above t if k - j of the others are, j = 0 ... k -
    1. The number of these has a mean below which a Poisson variable is as large with the probability ``outside``, and
    it is so with less: for means below k - j a Poisson count exceeds any Poisson-binomial one (Hoeffding, 1956). The
    smallest such t of all j is taken. At the other end the k-th largest is below t if the count is below k, for which
    the same bound holds, and only if one of the k best is below t. The functions of t are computed at a few points and
    their logarithms interpolated, which is good enough, as the caller checks what is left outside.

    Args:
        points: x, shape [P, N], the k-th score at 0; the k - 1 best first.
        weights: Weights of the last points, shape [V, N]; those before them have weight 1.
        k: Rank, >= 1.
        num_classes: Number C of the classes the points stand for.
        outside: Probability in (0, 1).

    Returns:
        Lower and upper bounds, shapes [N].
    """
    grid = torch.linspace(-quantile(outside / k), quantile(outside / num_classes), _GRID)
    chances = scratch((_GRID, *points.shape), torch.float32)
    torch.sub((grid * math.sqrt(0.5)).view(-1, 1, 1), (points * math.sqrt(0.5)).float(), out=chances)
    # Further away chances would be denormal numbers in float32, which are slow.
    torch.erfc(chances.clamp_(max=8.0), out=chances)
    if len(weights):
        chances[:, len(points) - len(weights) :].mul_(weights)
    means = chances.new_empty(k, _GRID, points.shape[1])
    torch.sum(chances[:, k - 1 :], 1, out=means[k - 1])
    for left_out in reversed(range(k - 1)):
        torch.add(means[left_out + 1], chances[:, left_out], out=means[left_out])
    means.clamp_(min=1e-30).log_()
    bounds = _last_above(torch.cat([means, means[:1]]), _poisson_means(k, outside), grid)
    return bounds[k].double(), bounds[:k].amin(0).double()


def kth_law(
    head: Tensor, tail: Tensor, weights: Tensor, nodes: Tensor, k: int, single: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Density and shares of the k-th largest noised score at nodes, all times the square root of 2 pi.

    Args:
        head: Points of weight 1, shape [M, N] with M >= k, float64; the k - 1 best first.
        tail: Points with weights, shape [V, N].
        weights: Their weights, shape [V, N].
        nodes: t, shape [Q, N].
        k: Rank, >= 1.
        single: Whether float32 is enough for the head. The weights of the tail may alternate, and lose digits.

    Returns:
        Density [Q, N], its parts per unit of weight summed over the nodes [M + V, N], and the distribution function
        [Q, N].
    """
    above = k - 1
    points, at = head[above:], nodes
    if single:
        points, at = points.float(), at.float()
    odds, density, miss, *spare = scratch((5, len(nodes), *points.shape), points.dtype)
    _fill_chance(points, at, odds, density, single)
    torch.sub(1, odds, out=miss)
    odds.div_(miss)
    density.div_(miss)
    zero = miss.prod(1).double()
    power, sums = odds, []
    for order in range(1, k):
        power = torch.mul(power, odds, out=spare[0]) if order > 1 else odds
        sums.append(power.sum(1).double())
    if len(tail):
        tail_chance, tail_density = (torch.empty(len(nodes), *tail.shape, dtype=tail.dtype) for _ in range(2))
        _fill_chance(tail, nodes, tail_chance, tail_density)
        tail_miss = 1 - tail_chance
        tail_odds = tail_chance.div_(tail_miss)
        zero *= (tail_miss.log() * weights).sum(1).exp_()
        power = tail_odds * weights
        for order in range(1, k):
            sums[order - 1] += power.sum(1)
            power.mul_(tail_odds)
    best_chance, best_density = (torch.empty(len(nodes), *head[:above].shape, dtype=head.dtype) for _ in range(2))
    _fill_chance(head[:above], nodes, best_chance, best_density)
    law = _coefficients(zero.numpy(), [total.numpy() for total in sums])
    best, whole = _with_best(law, best_chance.numpy())
    if single:
        # What is next to nothing, also times any odds to the power of k - 1, would be denormal numbers, which are slow.
        whole[whole < 1e-31] = 0
    best_parts = torch.from_numpy(best).mul_(best_density)
    parts = _without(torch.from_numpy(whole).to(odds.dtype), odds, spare).mul_(density)
    total = best_parts.sum(1).add_(parts.sum(1))
    shares = [best_parts.sum(0), parts.sum(0).double()]
    if len(tail):
        spare = [power, torch.empty_like(power)]
        tail_parts = _without(torch.from_numpy(whole), tail_odds, spare).div_(tail_miss).mul_(tail_density)
        total += (tail_parts * weights).sum(1)
        shares.append(tail_parts.sum(0))
    return total, torch.cat(shares), torch.from_numpy(whole.sum(0))


def _fill_chance(points: Tensor, nodes: Tensor, chance: Tensor, density: Tensor, held: bool = False) -> None:
    """Write the chance of each point to be above each node, and exp(-(x - t)^2 / 2); shapes [Q, P, N].

    With ``held`` the chance is that of a point within 4 standard deviations above and 5.2 below a node: in float32 the
    chance to be below, and powers of the odds, would be infinite or denormal numbers, which are slow.
    """
    distance = torch.sub((nodes * math.sqrt(0.5)).unsqueeze(1), points * math.sqrt(0.5), out=chance)
    torch.mul(distance, distance, out=density).neg_().exp_()
    if held:
        distance.clamp_(-4 * math.sqrt(0.5), 5.2 * math.sqrt(0.5))
    torch.erfc(distance, out=chance).mul_(0.5)


def _coefficients(zero: Array, sums: list[Array]) -> Array:
    """Coefficients [k, Q, N] of a product from the first of them and the power sums, by Newton's identities."""
    coefficients = np.empty((len(sums) + 1, *zero.shape))
    coefficients[0] = zero
    for order in range(1, len(coefficients)):
        total = sums[0] * coefficients[order - 1]
        for back in range(1, order):
            product = sums[back] * coefficients[order - 1 - back]
            total = total - product if back % 2 else total + product
        np.multiply(total, 1 / order, out=coefficients[order])
    return coefficients


def _with_best(law: Array, chance: Array) -> tuple[Array, Array]:
    """Multiply a law [k, Q, N] with the best classes of chances [Q, k - 1, N].

    Returns:
        The probability that k - 1 are above without each of the best, shape [Q, k - 1, N], and the product [k, Q, N].
    """
    k, above = len(law), chance.shape[1]
    miss = 1 - chance
    # Suffix products of the best classes with all others, and prefix products without: one class is left out between.
    before = [law]
    for i in reversed(range(above)):
        more = before[-1] * miss[:, i]
        more[1:] += before[-1][:-1] * chance[:, i]
        before.append(more)
    whole = before.pop()
    parts = np.empty_like(chance)
    after = np.ones_like(whole[:1])
    for i in range(above):
        np.add.reduce(after * before.pop()[k - 1 - i :][::-1], 0, out=parts[:, i])
        longer = np.empty((i + 2, *whole.shape[1:]))
        np.multiply(after, miss[:, i], out=longer[:-1])
        longer[-1] = 0
        longer[1:] += after * chance[:, i]
        after = longer
    return parts, whole


def _without(whole: Tensor, odds: Tensor, memory: list[Tensor]) -> Tensor:
    """Highest coefficient of a product [k, Q, N] divided by 1 + f z for each of the odds f [Q, P, N].

    The division is stable, as the coefficients fall as fast as the powers of the odds grow. It takes two tensors of
    memory of the shape of the odds, and returns one of them.
    """
    quotient, other = whole[0].unsqueeze(1), memory[0]
    for order, coefficient in enumerate(whole[1:]):
        torch.addcmul(coefficient.unsqueeze(1), odds, quotient, value=-1, out=other)
        quotient, other = other, memory[1 - order % 2]
    return quotient if len(whole) > 1 else memory[0].copy_(quotient)


class _Scratch(threading.local):
    """Memory of each thread that is kept: new memory of this size would cost as much as what is done with it."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.float32)


_SCRATCH = _Scratch()


def scratch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory with anything in it, until the next call in this thread."""
    size = math.prod(shape) * dtype.itemsize // 4
    if size > _KEPT:
        return torch.empty(shape, dtype=dtype)
    if len(_SCRATCH.memory) < size:
        _SCRATCH.memory = torch.empty(size, dtype=torch.float32)
    return _SCRATCH.memory[:size].view(dtype).view(shape)


def _last_above(values: Tensor, levels: Tensor, grid: Tensor) -> Tensor:
    """Where functions of the grid, values [J, G, N], pass below their levels [J, 1, 1] for the last time; [J, N]."""
    last = ((values > levels) * torch.arange(1, _GRID + 1).unsqueeze(1)).amax(1, keepdim=True)
    after = last.clamp(1, _GRID - 1)
    left, right = values.gather(1, after - 1), values.gather(1, after)
    share = ((left - levels) / (left - right).clamp_(min=1e-9)).clamp_(0, 1)
    return (grid[0] + (grid[1] - grid[0]) * (after - 1 + share)).squeeze(1)


@cache
def _poisson_means(k: int, outside: float) -> Tensor:
    """Log-means at which a Poisson count is >= k, k - 1, ... 1, and then < k, with a probability; shape [k + 1, 1, 1].

    They are those of twice the counts, as the complementary error function is twice a probability.
    """

    def below(mean: float, count: int) -> float:
        term = total = math.exp(-mean)
        for i in range(1, count):
            term *= mean / i
            total += term
        return total

    def above(count: int, mean: float) -> float:
        return below(mean, count) - (1 - outside)

    few = [_falling(partial(above, k - j), 0.0, float(k)) for j in range(k)]
    many = _falling(lambda m: below(m, k) - outside, float(k), 4.0 * k + 60.0)
    return (2 * torch.tensor([*few, many])).log().view(-1, 1, 1)


@cache
def quantile(probability: float) -> float:
    """Where a standard normal variable is above with this probability."""
    return _falling(lambda x: 0.5 * math.erfc(x / math.sqrt(2)) - probability, -40.0, 40.0)


def _falling(function: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low
