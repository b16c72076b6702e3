r"""The exactly smoothed k-th largest score in a few passes over the scores, on the CPU.

The work is cut in three. Few classes all enter the law of the count one by one. Of many, the M best ones do
(:mod:`lightning_topk.ops._candidates`), and all others are replaced by a few points with weights
(:mod:`lightning_topk.ops._gaussian_tail`), none is left out.
The law of the k-th largest of these few tens of points (:mod:`lightning_topk.ops._gaussian_law`) is integrated by the
midpoint rule, whose error falls exponentially with the number of nodes, between bounds that leave a known probability
outside.

Every row is checked afterwards: the distribution function at the first and the last node says how much was left
outside, and the sum over every other node, whose error is about the square root of that of all of them or larger, says
whether the nodes were close enough. Rows in doubt are computed again with more of the best classes and more nodes, and
by the plain way of :mod:`lightning_topk.ops._gaussian_quadrature` if that does not help; a row of NaN ends there too.

The law is computed in float64, and the passes over the scores in float32. Forward keeps some ten numbers for each of
the best classes; the gradient is written once, in the backward pass, with the slope of each row and the label in it.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._candidates import best_classes
from lightning_topk.ops._gaussian_interval import SAMPLE, from_sample, guess, left_out, lowest, nodes
from lightning_topk.ops._gaussian_law import kth_bounds, kth_law, quantile
from lightning_topk.ops._gaussian_quadrature import Plan, smoothed_kth
from lightning_topk.ops._gaussian_reach import Reach, within_reach, write_reach
from lightning_topk.ops._gaussian_tail import Tail, fit_tail, write_shares
from lightning_topk.ops._zeroed import zeros

# Largest product of the half-widths of the law and of the tail for each degree of the polynomials.
_WIDTHS = {4: 2.0, 6: 2.5, 8: 6.0, 14: 6.0}
# Entries (rows x classes) of a block that the plain way computes.
_PLAIN = 1 << 18
# Standard deviations of the noise below the lowest threshold at which a class has no part.
_DEEP = 6.5
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
    all_of: int  # number of classes up to which all are treated one by one
    far: float  # distance of the threshold from the centre of the polynomials from which they are fitted again

    @classmethod
    def of(cls, tolerance: float, k: int) -> "Accuracy":
        if tolerance >= 1e-3:
            return cls(13 + k // 4, 8, 5e-5, 0.03, 2e-3, 12, k <= _SINGLE, 160, 1.0)
        return cls(28 + k // 4, 14, 5e-7, 0.001, 1e-5, 40, False, 160, 0.8)

    def again(self, finer: bool) -> "Accuracy":
        """Sizes for the rows for which these were not enough. A degree above 14 would only add rounding of float32."""
        nodes = 3 * self.nodes if finer else 3 * self.nodes // 2
        return self._replace(nodes=nodes, degree=14, more=self.more + 64, single=False)


class Law(NamedTuple):
    """What the backward pass needs of a block of rows."""

    best: Tensor  # [n, M]
    shares: Tensor  # the probability that each of them, and of the points of the tail or all classes, is the k-th
    tail: Tail | None
    reach: Reach | None  # classes that the tail stands for, unless it is all
    finite: bool  # whether the sum of all scores is
    doubtful: Tensor  # [n]: whether the plain way computes a row
    others: "list[tuple[Tensor, Law]]"  # rows that were computed again, with their own law


def smoothed_block(
    scores: Tensor,
    k: int,
    epsilon: float,
    tolerance: float,
    known: tuple[Tensor, Tensor] | None = None,
    finer: bool = False,
) -> tuple[Tensor, Law]:
    """Value [n], float32, and law of a block of scores [n, C].

    Args:
        scores: Shape [n, C].
        k: Rank.
        epsilon: Standard deviation of the noise.
        tolerance: Bound on the error of the value, in units of epsilon.
        known: About where the k-th largest noised score is, and a lower bound on it, shapes [n]; guessed when None.
        finer: Whether known rows need more nodes.
    """
    accuracy = Accuracy.of(tolerance, k)
    if known is not None:
        accuracy = accuracy.again(finer)
    num_classes = scores.shape[1]
    tail, reach, weights = None, None, torch.empty(0, len(scores), dtype=torch.float64)
    if num_classes <= accuracy.all_of:
        kth, best, points, finite = _every_class(scores, k, epsilon)
    else:
        values, best, finite = best_classes(scores, 2 * k + accuracy.more if k > 1 else 20 + accuracy.more)
        kth = values[:, k - 1 : k]
        head = _standardised(values, kth, epsilon)
        centre, start = guess(head, k, num_classes, accuracy.outside) if known is None else known
        low = torch.minimum(lowest(head, start, k, num_classes, tolerance), head[-1] - 0.5)
        reach = within_reach(scores, kth.squeeze(1) + epsilon * low, epsilon, best[:, 0])
        degree = accuracy.degree
        if reach is None:
            if known is None and num_classes > SAMPLE:
                bounds = from_sample(
                    scores, head, values[:, -1:], kth, epsilon, k, low, centre, degree, accuracy.outside
                )
                # Classes that count at the lower bound alone have no weight in the value, which is checked below.
                centre, start = (bounds[0] + bounds[1]) / 2, bounds[0] + 0.5
                degree = _degree(accuracy, bounds, low, head[-1])
            # What is further below has no part in the k-th largest.
            low = torch.minimum(start - quantile(0.3 * tolerance / num_classes), head[-1] - 0.5)
        counted = scores if reach is None else reach.scores
        tail = fit_tail(counted, len(head), kth, epsilon, low, head[-1], centre, degree)
        points, weights = torch.cat([head, tail.points]), tail.weights
    bounds = kth_bounds(points, weights, k, num_classes, accuracy.outside)
    if known is not None:
        bounds = bounds[0] - 0.3, bounds[1] + 0.3
    deepest = bounds[0] - _DEEP
    # Held there, as numbers next to nothing would be slow.
    held = torch.maximum(points, deepest) if tail is None else points
    value, shares, sure, law = _integrate(held, weights, *bounds, k, accuracy.nodes, accuracy)
    if tail is None:
        shares = torch.where(points < deepest, 0.0, shares)
    result = (kth.squeeze(1) + epsilon * value).to(kth.dtype)
    again = ~sure
    if tail is not None and known is None:
        again |= (bounds[0] + bounds[1] - 2 * centre).abs() > 2 * accuracy.far
        again |= left_out(law, low, None if reach is None else reach.just_below, *bounds, num_classes) > 0.3 * tolerance
    if tail is not None and (reach is None or tolerance < 1e-3):
        # Polynomials of a lower degree were chosen for a law about the centre.
        about = centre if degree < accuracy.degree else None
        again |= _width(bounds, low, head[-1], about) > _WIDTHS[degree]
    if known is None and again.any():
        others = []
        for finer, rows in ((False, again & sure), (True, ~sure)):
            for few in _few(rows, num_classes, _AGAIN):
                better = (bounds[0] + bounds[1])[few] / 2, bounds[0][few]
                result[few], of_these = smoothed_block(scores[few], k, epsilon, tolerance, better, finer)
                others.append((few, of_these))
        return result, Law(best, shares, tail, reach, finite, torch.zeros_like(again), others)
    plan = Plan.make(k, num_classes, tolerance)
    for few in _few(again, num_classes, _PLAIN):
        result[few] = smoothed_kth(scores[few].to(result.dtype), k, epsilon, plan)[0]
    return result, Law(best, shares, tail, reach, finite, again, [])


def write_gradient(
    scores: Tensor, law: Law, slope: Tensor, k: int, epsilon: float, tolerance: float, out: Tensor
) -> None:
    """Write the gradient [n, C] of a block of rows, times the slope [n] of each, into ``out``."""
    count = law.best.shape[1]
    shares = law.shares * slope.double()
    if law.tail is not None and law.reach is not None:
        write_reach(law.reach, law.tail, law.shares[count:], slope, out)
    elif law.tail is not None:
        write_shares(scores, law.tail, law.shares[count:], slope, out)
        if not law.finite:  # what is far below the interval was counted at its end
            out.masked_fill_(scores == -math.inf, 0)
    elif count < len(shares):
        out.copy_(shares[count:].T)
    out.scatter_(1, law.best, shares[:count].T.to(out.dtype))
    for rows, other in law.others:
        part = zeros(scores[: len(rows)].shape, scores)
        write_gradient(scores[rows], other, slope[rows], k, epsilon, tolerance, part)
        out[rows] = part
    plan = Plan.make(k, scores.shape[1], tolerance)
    for rows in _few(law.doubtful, scores.shape[1], _PLAIN):
        full = smoothed_kth(scores[rows].float(), k, epsilon, plan)[1]
        out[rows] = (full * slope[rows].unsqueeze(1)).to(out.dtype)


def shares_at(law: Law, labels: Tensor) -> Tensor:
    """Gradient in float64 at labels [n, 1] that are among the best or computed one by one, NaN at all others."""
    count = law.best.shape[1]
    found = law.best == labels
    share = torch.where(found, law.shares[:count].T, 0.0).sum(1, keepdim=True)
    if law.tail is not None:
        share[~found.any(1)] = math.nan
    elif count < len(law.shares):
        share += law.shares[count:].T.gather(1, labels)
    for rows, other in law.others:
        share[rows] = shares_at(other, labels[rows])
    share[law.doubtful] = math.nan
    return share


def _standardised(scores: Tensor, kth: Tensor, epsilon: float) -> Tensor:
    """Scores [n, P] in standard deviations of the noise from the k-th [n, 1], float64, shape [P, n].

    40 of these away a class is above or below every threshold.
    """
    return ((scores - kth) / epsilon).clamp_(-40.0, 40.0).double().T.contiguous()


def _every_class(scores: Tensor, k: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The k-th largest scores [n, 1], the k - 1 best classes, and points: these, then all classes without them.

    Last whether the sum of all scores is finite.
    """
    full = scores.float()
    values, best = torch.topk(full, k)
    kth, best = values[:, k - 1 :], best[:, : k - 1]
    points = _standardised(full, kth, epsilon)
    points = torch.cat([points.gather(0, best.T), points.scatter(0, best.T, -40.0)])
    return kth, best, points, math.isfinite(float(full.sum()))


def _degree(accuracy: Accuracy, bounds: tuple[Tensor, Tensor], low: Tensor, high: Tensor) -> int:
    """Lower degree where the law and the tail of all rows are narrow enough."""
    widest = float(_width(bounds, low, high).max())
    lower = [degree for degree in ((4, 6) if accuracy.single else ()) if widest <= _WIDTHS[degree]]
    return lower[0] if lower else accuracy.degree


def _width(bounds: tuple[Tensor, Tensor], low: Tensor, high: Tensor, centre: Tensor | None = None) -> Tensor:
    """Product [n] of the half-widths of the law and of the tail, on which the error of the polynomials depends.

    That of the law is the larger distance to its centre, if this is given.
    """
    half = (bounds[1] - bounds[0]) / 2 if centre is None else torch.maximum(bounds[1] - centre, centre - bounds[0])
    return half * (high - low) / 2


def _integrate(
    points: Tensor, weights: Tensor, low: Tensor, high: Tensor, k: int, count: int, accuracy: Accuracy
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value [n], shares of the points [P, n], whether each row passes the checks, and the distribution function."""
    places = nodes(low, high, count)
    head, tail = points[: len(points) - len(weights)], points[len(points) - len(weights) :]
    with np.errstate(all="ignore"):  # rows of NaN, which are found below
        density, shares, law = kth_law(head, tail, weights, places, k, accuracy.single)
    moments = density * places
    # Division by the mass makes the shares sum to 1, and so the value follow a shift of the scores.
    mass = density.sum(0)
    value = moments.sum(0) / mass
    coarse = moments[::2].sum(0) / density[::2].sum(0)
    outside = torch.maximum(law[0].abs(), (1 - law[-1]).abs())
    sure = ((value - coarse).abs() <= accuracy.doubt) & (outside * (high - low) <= accuracy.ends)
    return value, shares / mass, sure, law


def _few(rows: Tensor, num_classes: int, entries: int) -> tuple[Tensor, ...]:
    """Indices of the rows [n] for which this holds, in blocks of so many entries."""
    return rows.nonzero().squeeze(1).split(max(1, entries // num_classes)) if rows.any() else ()
