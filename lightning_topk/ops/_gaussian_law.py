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
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

# Points at which the bounds are looked for.
_GRID = 20


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
    chances = torch.erfc((grid * math.sqrt(0.5)).view(-1, 1, 1) - (points * math.sqrt(0.5)).float())
    if len(weights):
        chances[:, len(points) - len(weights) :].mul_(weights)
    means = chances.new_empty(k, _GRID, points.shape[1])
    torch.sum(chances[:, k - 1 :], 1, out=means[k - 1])
    for left_out in reversed(range(k - 1)):
        torch.add(means[left_out + 1], chances[:, left_out], out=means[left_out])
    means.clamp_(min=1e-30).log_()
    few, many = _poisson_means(k, outside)
    high = _last_above(means, few + math.log(2), grid).amin(0)
    low = _last_above(means[:1], many + math.log(2), grid)[0]
    return low.double(), high.double()


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
    dtype = torch.float32 if single else torch.float64
    twice, density = _twice_chance(head.to(dtype), nodes.to(dtype), above if single else None)
    twice_miss = 2 - twice
    odds = twice[:, above:] / twice_miss[:, above:]
    zero = (0.5 * twice_miss[:, above:]).prod(1).double()
    sums, power = [odds.sum(1).double()], odds
    for order in range(2, k):
        power = power * odds if order == 2 else power.mul_(odds)
        sums.append(power.sum(1).double())
    if len(tail):
        tail_twice, tail_density = _twice_chance(tail, nodes)
        tail_miss = 2 - tail_twice
        tail_odds = tail_twice / tail_miss
        zero *= ((0.5 * tail_miss).log_() * weights).sum(1).exp_()
        power = tail_odds * weights
        for order in range(1, k):
            sums[order - 1] += power.sum(1)
            power.mul_(tail_odds)
    law = _coefficients(zero, sums, k)
    chance, miss = 0.5 * twice[:, :above].double(), 0.5 * twice_miss[:, :above].double()
    # Suffix products of the best classes with all others, and prefix products without: one class is left out between.
    before = [law]
    for i in reversed(range(above)):
        more = before[-1] * miss[:, i]
        more[1:].addcmul_(before[-1][:-1], chance[:, i])
        before.append(more)
    whole = before.pop()
    parts = torch.empty_like(twice)
    after = torch.ones_like(whole[:1])
    for i in range(above):
        parts[:, i] = (after * before.pop()[k - 1 - i :].flip(0)).sum(0)
        longer = whole.new_zeros(i + 2, *whole.shape[1:])
        torch.mul(after, miss[:, i], out=longer[:-1])
        longer[1:].addcmul_(after, chance[:, i])
        after = longer
    torch.div(_without(whole.to(dtype), odds), 0.5 * twice_miss[:, above:], out=parts[:, above:])
    parts.mul_(density)
    total, shares = parts.sum(1).double(), parts.sum(0).double()
    if len(tail):
        tail_parts = _without(whole, tail_odds).div_(tail_miss.mul_(0.5)).mul_(tail_density)
        total += (tail_parts * weights).sum(1)
        shares = torch.cat([shares, tail_parts.sum(0)])
    return total, shares, whole.sum(0)


def _twice_chance(points: Tensor, nodes: Tensor, above: int | None = None) -> tuple[Tensor, Tensor]:
    """Twice the chance of each point to be above each node, and exp(-(x - t)^2 / 2); shapes [Q, P, N].

    With ``above``, points after so many are held within 4 standard deviations above a node: in float32 their chance to
    be below, and powers of their odds, would not be finite.
    """
    distance = nodes.unsqueeze(1) * math.sqrt(0.5) - points * math.sqrt(0.5)
    density = (distance * distance).neg_().exp_()
    if above is not None:
        distance[:, above:].clamp_(min=-4 * math.sqrt(0.5))
    return torch.erfc(distance, out=distance), density


def _coefficients(zero: Tensor, sums: list[Tensor], k: int) -> Tensor:
    """Coefficients [k, Q, N] of a product from the first of them and the power sums, by Newton's identities."""
    coefficients = [zero]
    for order in range(1, k):
        total = sums[0] * coefficients[-1]
        for back in range(1, order):
            total.addcmul_(sums[back], coefficients[order - 1 - back], value=-1 if back % 2 else 1)
        coefficients.append(total.div_(order))
    return torch.stack(coefficients)


def _without(whole: Tensor, odds: Tensor) -> Tensor:
    """Highest coefficient of a product [k, Q, N] divided by 1 + f z for each of the odds f [Q, P, N].

    The division is stable, as the coefficients fall as fast as the powers of the odds grow.
    """
    quotient, other = whole[0].unsqueeze(1).expand_as(odds).clone(), torch.empty_like(odds)
    for coefficient in whole[1:]:
        torch.addcmul(coefficient.unsqueeze(1), odds, quotient, value=-1, out=other)
        quotient, other = other, quotient
    return quotient


def _last_above(values: Tensor, levels: Tensor, grid: Tensor) -> Tensor:
    """Where functions of the grid, values [J, G, N], pass below their levels [J, 1, 1] for the last time; [J, N]."""
    last = ((values > levels) * torch.arange(1, _GRID + 1).unsqueeze(1)).amax(1, keepdim=True)
    after = last.clamp(1, _GRID - 1)
    left, right = values.gather(1, after - 1), values.gather(1, after)
    share = ((left - levels) / (left - right).clamp_(min=1e-9)).clamp_(0, 1)
    return (grid[0] + (grid[1] - grid[0]) * (after - 1 + share)).squeeze(1)


@cache
def _poisson_means(k: int, outside: float) -> tuple[Tensor, Tensor]:
    """Log-means at which a Poisson count is >= k, k - 1, ... 1, and < k, with the probability ``outside``."""

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
    return torch.tensor(few).log().view(-1, 1, 1), torch.tensor([math.log(many)]).view(-1, 1, 1)


@cache
def quantile(probability: float) -> float:
    """Where a standard normal variable is above with this probability."""
    return _falling(lambda x: 0.5 * math.erfc(x / math.sqrt(2)) - probability, -40.0, 40.0)


def _falling(function: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low
