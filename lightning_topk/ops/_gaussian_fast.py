r"""The exactly smoothed k-th largest score in a few passes over the scores, on the CPU.

The work is cut in three. The M best classes (:mod:`lightning_topk.ops._candidates`) enter the law of the count one by
one. All others are replaced by a few points with weights (:mod:`lightning_topk.ops._gaussian_tail`), none is left out.
The law of the k-th largest of these few tens of points (:mod:`lightning_topk.ops._gaussian_law`) is integrated by the
midpoint rule, whose error falls exponentially with the number of nodes, between bounds that leave a known probability
outside.

Every row is checked afterwards: the distribution function at the first and the last node says how much was left
outside, and the sum over every other node, whose error is about the square root of that of all of them or larger, says
whether the nodes were close enough. Rows in doubt are integrated again with four times the nodes, and by the plain way
of :mod:`lightning_topk.ops._gaussian_quadrature` if that does not help; a row of NaN ends there too.

The law is computed in float64, and the passes over the scores in float32. Forward keeps some ten numbers for each of
the best classes; the gradient is written once, in the backward pass, with the slope of each row and the label in it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_topk.ops._candidates import best_classes
from lightning_topk.ops._gaussian_law import kth_bounds, kth_law, quantile
from lightning_topk.ops._gaussian_quadrature import Plan, smoothed_kth
from lightning_topk.ops._gaussian_reach import within_reach, write_reach
from lightning_topk.ops._gaussian_tail import Tail, fit_tail, write_shares

# Entries (rows x classes) of a block that the plain way computes.
_PLAIN = 1 << 18
# Entries of a block of rows that are computed again, which are copied.
_AGAIN = 1 << 20
# Rank up to which powers of the odds are finite in float32.
_SINGLE = 6


class Accuracy(NamedTuple):
    """Sizes that keep a tolerance. The tests hold the error to it, and the docs state what is left."""

    nodes: int
    degree: int  # of the polynomials that stand for the classes below the best
    outside: float  # probability beyond either bound of t
    doubt: float  # largest difference to the sum over every other node, in standard deviations of the noise
    ends: float  # largest probability left outside, times the distance of the bounds
    more: int  # best classes that are treated one by one beside 2 k
    single: bool  # float32 is enough for them
    far: float  # distance of the threshold from the centre of the polynomials from which they are fitted again

    @classmethod
    def of(cls, tolerance: float, k: int) -> "Accuracy":
        if tolerance >= 1e-3:
            return cls(13 + k // 4, 8, 5e-5, 0.03, 2e-3, 12, k <= _SINGLE, 1.0)
        return cls(28 + k // 4, 14, 5e-7, 0.001, 1e-5, 40, False, 0.8)

    def doubled(self) -> "Accuracy":
        """Sizes for the rows for which these were not enough. A degree above 14 would only add rounding of float32."""
        return self._replace(nodes=3 * self.nodes, degree=14, single=False)


class Law(NamedTuple):
    """What the backward pass needs of a block of rows."""

    best: Tensor  # [n, M]
    shares: Tensor  # [M + d + 1, n]: the probability that each of them, and of the points of the tail, is the k-th
    tail: Tail | None
    reach: Tensor | None  # classes [n, W] that the tail stands for, unless it is all
    doubtful: Tensor  # rows that the plain way computes
    others: "list[tuple[Tensor, Law]]"  # rows that were computed again, with their own law


def smoothed_block(
    scores: Tensor, k: int, epsilon: float, tolerance: float, known: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Law]:
    """Value [n] and law of a block of scores [n, C].

    Args:
        scores: Shape [n, C].
        k: Rank.
        epsilon: Standard deviation of the noise.
        tolerance: Bound on the error of the value, in units of epsilon.
        known: About where the k-th largest noised score is, and a lower bound on it, shapes [n]; guessed when None.
    """
    accuracy = Accuracy.of(tolerance, k)
    if known is not None:
        accuracy = accuracy.doubled()
    num_classes = scores.shape[1]
    values, best = best_classes(scores, _head_size(k, num_classes, accuracy))
    values, order = values.sort(1, descending=True)
    best = best.gather(1, order)
    kth = values[:, k - 1 : k]
    # 40 standard deviations away a class is above or below every threshold.
    head = ((values - kth) / epsilon).clamp(-40.0, 40.0).double().T
    tail, reach, points, weights = None, None, head, head.new_empty(0, len(scores))
    if len(head) < num_classes:
        centre, low = _guess(head, k, num_classes) if known is None else known
        # What is further below has no part in the k-th largest.
        low = torch.minimum(low - quantile(0.3 * tolerance / num_classes), head[-1] - 0.5)
        chosen = within_reach(scores, kth.squeeze(1) + epsilon * low, best[:, 0])
        tail = fit_tail(chosen.scores, len(head), kth, epsilon, low, head[-1], centre, accuracy.degree)
        reach, points, weights = chosen.classes, torch.cat([head, tail.points]), tail.weights
    bounds = kth_bounds(points, weights, k, num_classes, accuracy.outside)
    if known is not None:
        bounds = bounds[0] - 0.3, bounds[1] + 0.3
    value, shares, sure, law = _integrate(points, weights, *bounds, k, accuracy.nodes, accuracy)
    result = (kth.squeeze(1) + epsilon * value).to(kth.dtype)
    again = ~sure
    if tail is not None and known is None:
        again |= (bounds[0] + bounds[1] - 2 * centre).abs() > 2 * accuracy.far
        again |= _left_out(law, low, *bounds, num_classes) > 0.3 * tolerance
    rows = again.nonzero().squeeze(1)
    if known is None and len(rows):
        others = []
        for few in rows.split(max(1, _AGAIN // num_classes)):
            better = (bounds[0] + bounds[1])[few] / 2, bounds[0][few]
            result[few], of_these = smoothed_block(scores[few], k, epsilon, tolerance, better)
            others.append((few, of_these))
        return result.to(scores.dtype), Law(best, shares, tail, reach, rows[:0], others)
    plan = Plan.make(k, num_classes, tolerance)
    for few in _few(rows, num_classes):
        result[few] = smoothed_kth(scores[few].to(result.dtype), k, epsilon, plan)[0]
    return result.to(scores.dtype), Law(best, shares, tail, reach, rows, [])


def write_gradient(
    scores: Tensor, law: Law, slope: Tensor, k: int, epsilon: float, tolerance: float, out: Tensor
) -> None:
    """Write the gradient [n, C] of a block of rows, times the slope [n] of each, into ``out``."""
    shares = law.shares * slope.double()
    count = law.best.shape[1]
    if law.tail is not None and law.reach is not None:
        write_reach(scores, law.reach, law.tail, shares[count:], out)
    elif law.tail is not None:
        write_shares(scores, law.tail, shares[count:], out)
    out.scatter_(1, law.best, shares[:count].T.to(out.dtype))
    for rows, other in law.others:
        part = torch.empty_like(scores[: len(rows)])
        write_gradient(scores[rows], other, slope[rows], k, epsilon, tolerance, part)
        out[rows] = part
    plan = Plan.make(k, scores.shape[1], tolerance)
    for rows in _few(law.doubtful, scores.shape[1]):
        full = smoothed_kth(scores[rows].float(), k, epsilon, plan)[1]
        out[rows] = (full * slope[rows].unsqueeze(1)).to(out.dtype)


def _head_size(k: int, num_classes: int, accuracy: Accuracy) -> int:
    """Number of classes that are treated one by one; the chance of any other to be above t is well below 1 / 2."""
    size = 2 * k + accuracy.more if k > 1 else 20 + accuracy.more
    return num_classes if num_classes <= size + accuracy.degree + 8 else size


def _guess(head: Tensor, k: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Guess where the k-th largest noised score is, and a lower bound on it, by how fast the scores fall."""
    reach = max(0.5, quantile(k / num_classes))
    rate = math.log(len(head) / k) / (-head[-1]).clamp(min=1e-3)
    depth = reach * reach / rate
    centre = (depth * depth + reach * reach).sqrt() - depth
    return centre, centre - 2.5 / (1 + 0.7 * k * rate.clamp(max=reach).square()).sqrt()


def _left_out(law: Tensor, low: Tensor, start: Tensor, end: Tensor, num_classes: int) -> Tensor:
    """Bound [n] on what the value lacks if all classes were just below the interval of the tail.

    One more class of chance q(t) to be above t raises the value by the integral of q(t) times the probability that
    k - 1 others are above t, which is at most the distribution function of the k-th largest.
    """
    nodes = _nodes(start, end, len(law))
    chance = torch.special.ndtr(low - nodes)
    return num_classes * (chance * law.clamp(0, 1)).sum(0) * (end - start) / len(law)


def _integrate(
    points: Tensor, weights: Tensor, low: Tensor, high: Tensor, k: int, count: int, accuracy: Accuracy
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value [n], shares of the points [P, n], whether each row passes the checks, and the distribution function."""
    nodes = _nodes(low, high, count)
    head, tail = points[: len(points) - len(weights)], points[len(points) - len(weights) :]
    density, shares, law = kth_law(head, tail, weights, nodes, k, accuracy.single)
    moments = density * nodes
    # Division by the mass makes the shares sum to 1, and so the value follow a shift of the scores.
    mass = density.sum(0)
    value = moments.sum(0) / mass
    coarse = moments[::2].sum(0) / density[::2].sum(0)
    outside = torch.maximum(law[0].abs(), (1 - law[-1]).abs())
    sure = ((value - coarse).abs() <= accuracy.doubt) & (outside * (high - low) <= accuracy.ends)
    return value, shares / mass, sure, law


def _nodes(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Nodes [Q, n] of the midpoint rule."""
    return low + (high - low) / count * (torch.arange(count, dtype=low.dtype).unsqueeze(1) + 0.5)


def _few(rows: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Split rows into blocks for the plain way."""
    return rows.split(max(1, _PLAIN // num_classes)) if len(rows) else ()
