"""Value and gradient of the smoothed k-th largest score by quadrature over the threshold."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_topk.ops._poisson_binomial import leave_one_out, multiply, power_product, product_tree, without_one

# Entries (rows x nodes x classes) of a block of rows; a block needs a few dozen times this in memory. On the CPU at
# most this share of the scores too, for at most 6 times their memory; small blocks take up to twice the time of large.
_BLOCK, _SHARE, _SMALL_BLOCK = 1 << 18, 1 / 5, 25_000
# Distance of the points of the grid that stands for the many lower classes, in standard deviations of the noise.
_SPACING = 1 / 16


class Plan(NamedTuple):
    """Sizes that keep the tolerance. They follow from k, C and the tolerance, and not from the scores."""

    exponent: float  # at most exp(-exponent) lies beyond either bound of t
    nodes: int
    head: int  # number of best classes that are treated one by one
    window: float  # depth of the grid below the last of them; deeper classes are never among the k best
    taps: int  # number of grid points over which a class is spread
    lanes: int  # copies of the grid, so that few classes are added up in one entry

    @classmethod
    def make(cls, k: int, num_classes: int, tolerance: float) -> "Plan":
        """Plan for the k-th of C scores."""
        digits = -math.log10(tolerance)
        exponent = math.log(10.0) * (digits + 0.5)
        # Above this mean a count is at least k, up to exp(-exponent): Chernoff's bound solved by iteration.
        mean = k + exponent
        for _ in range(50 if k > 1 else 0):
            mean = k - 1 + exponent + (k - 1) * math.log(mean / (k - 1))
        # At the lower bound of t a class below the head then has a chance of less than 1 / 2.
        head = 8 * math.ceil(mean / 4)
        return cls(
            exponent,
            nodes=math.ceil(8 + digits * (5 + 0.2 * math.log2(k))),
            head=num_classes if num_classes <= 2 * head else head,
            window=5.5 + 0.25 * digits,
            taps=2 * math.ceil(0.5 + 0.5 * digits),
            lanes=1 + num_classes // 512,
        )

    def blocks(self, scores: Tensor) -> tuple[Tensor, ...]:
        """Split [N, C] into blocks of rows of bounded memory; a compiler gets one, and fuses what would be large."""
        if torch.compiler.is_compiling():
            return (scores,)
        entries = _BLOCK
        if scores.device.type == "cpu":
            entries = min(_BLOCK, max(_SMALL_BLOCK, int(_SHARE * scores.numel())))
        return scores.split(max(1, entries // max(self.nodes * self.head, scores.shape[-1])))


def smoothed_kth(scores: Tensor, k: int, epsilon: float, plan: Plan) -> tuple[Tensor, Tensor]:
    """Value [N] and gradient [N, C] for one block of scores [N, C]; the gradient is differentiable."""
    best = torch.topk(scores.detach(), plan.head)
    shift = best.values[:, k - 1 : k]
    # Differences to the k-th score are free of rounding where it matters. 40 standard deviations away a class is
    # above or below every threshold: the bounds keep a tiny epsilon and scores of -inf finite.
    u = ((scores - shift) / epsilon).clamp(-40.0, 40.0)
    head = u.gather(1, best.indices)
    rest = None
    if plan.head < scores.shape[-1]:
        rest = _Rest(u.scatter(1, best.indices, -40.0), head[:, -1:].detach() - plan.window, plan)
    start, step = (bound.to(u) for bound in _bounds(head.detach(), rest, k, scores.shape[-1], plan))
    nodes = start + step * (torch.arange(plan.nodes, device=u.device, dtype=u.dtype) + 0.5)  # [N, Q]
    distance = head.T.unsqueeze(-1) - nodes  # [M, N, Q]
    levels = product_tree(_cdf(distance), k)
    outside = torch.ones_like(nodes).unsqueeze(0) if rest is None else rest.law(nodes, k)
    law = multiply(levels[-1].squeeze(1), outside, k)
    value = start.squeeze(1) + step.squeeze(1) * (1 - law.sum(0)).sum(1)
    gradient = (_density(distance) * leave_one_out(levels, outside, k)).sum(-1).T
    others = torch.zeros_like(u) if rest is None else rest.gradient(law)
    gradient = others.scatter(1, best.indices, gradient)
    # The sum is 1 up to the tolerance; making it so keeps the invariance under a shift exact.
    return shift.squeeze(1) + epsilon * value, gradient / gradient.sum(1, keepdim=True)


class _Rest:
    """The classes below the head, as weighted classes at the points of a grid.

    What they contribute is a sum of one smooth function of the score over them. Interpolating it between the points
    of a grid makes it a weighted sum over the points; the gradient, a smooth function of the score too, is
    interpolated from the points to the classes by the same coefficients.
    """

    def __init__(self, u: Tensor, low: Tensor, plan: Plan) -> None:
        self.cells = math.ceil(plan.window / _SPACING) + 1
        first = 1 - plan.taps // 2
        position = (u - low) / _SPACING
        self.cell = position.detach().long().clamp(0, self.cells - 1)
        seen = (position >= 0).to(u.dtype)
        self.coefficients, self.scales = _lagrange(position - self.cell, range(first, first + plan.taps), seen)
        index = torch.arange(first, first + self.cells + plan.taps - 1, device=u.device)
        self.points = low + _SPACING * index  # [N, G]
        # Rounding: each class is added to one of several copies of the grid, which are then added up.
        place = self.cell + torch.arange(u.shape[-1], device=u.device) % plan.lanes * self.cells
        self.weights = torch.zeros_like(self.points)
        for tap, (coefficient, scale) in enumerate(zip(self.coefficients, self.scales, strict=True)):
            copies = u.new_zeros(len(u), plan.lanes * self.cells).scatter_add(1, place, coefficient)
            total = copies.unflatten(1, (plan.lanes, self.cells)).sum(1) / scale
            self.weights = self.weights + pad(total, [tap, plan.taps - 1 - tap])

    def law(self, nodes: Tensor, k: int) -> Tensor:
        """Coefficients of the product over all these classes, shape [k, N, Q]."""
        self.distance = self.points.unsqueeze(1) - nodes.unsqueeze(-1)  # [N, Q, G]
        chance = _cdf(self.distance)
        self.odds = chance / (1 - chance)
        weights = self.weights.unsqueeze(-1)
        log_zero = torch.log1p(-chance) @ weights
        sums = [self.odds @ weights] if k > 1 else []
        power = self.odds
        for _ in range(k - 2):
            power = power * self.odds
            sums.append(power @ weights)
        return power_product([total.squeeze(-1) for total in sums], log_zero.squeeze(-1))

    def gradient(self, law: Tensor) -> Tensor:
        """Share of each of these classes in being the k-th, shape [N, C]; after :meth:`law`."""
        density = _density(self.distance) * (1 + self.odds)
        shares = (density * without_one(law.unsqueeze(-1), self.odds)).sum(1)
        total = torch.zeros_like(self.coefficients[0])
        for tap, (coefficient, scale) in enumerate(zip(self.coefficients, self.scales, strict=True)):
            total = total.addcmul(coefficient, (shares[:, tap : tap + self.cells] / scale).gather(1, self.cell))
        return total


def _lagrange(fraction: Tensor, offsets: range, factor: Tensor) -> tuple[list[Tensor], list[int]]:
    """Numerators and denominators of the interpolation at ``fraction`` between values at the integers ``offsets``."""
    factors = [fraction - offset for offset in offsets]
    before, after = [factor], [torch.ones_like(fraction)]
    for left, right in zip(factors[:-1], factors[:0:-1], strict=True):
        before.append(before[-1] * left)
        after.append(after[-1] * right)
    last = len(offsets) - 1
    scales = [(-1) ** (last - tap) * math.factorial(tap) * math.factorial(last - tap) for tap in range(last + 1)]
    return [left * right for left, right in zip(before, after[::-1], strict=True)], scales


def _bounds(head: Tensor, rest: _Rest | None, k: int, num_classes: int, plan: Plan) -> tuple[Tensor, Tensor]:
    """Start [N, 1] and step [N, 1] of the nodes, between a lower and an upper bound on the k-th largest score.

    Beyond either bound lies at most exp(-exponent), by the best of Chernoff's bound for a binomial count of the same
    mean, which holds for a Poisson-binomial one (Hoeffding 1956) and is good for many unlikely classes, Bernstein's
    bound, which is good beside classes that are certain, and the union of the events that would be needed, which is
    good for few classes. Bisection and then interpolation: the nodes move continuously with the scores.
    """
    head = head.double().unsqueeze(1)
    weights, points = (None, None) if rest is None else (rest.weights.detach().double(), rest.points.double())
    hits = head.new_tensor([k - 1.0, k])  # the count is at most, at least this when the k-th is below, above t
    misses = num_classes - hits

    def exponents(t: Tensor) -> Tensor:
        """Falling from above ``exponent`` in the first, to below ``-exponent`` in the second column of t [N, 2]."""
        t = t.unsqueeze(-1)
        chances = _cdf(head - t)
        mean, variance = chances.sum(-1), (chances * (1 - chances)).sum(-1)
        above = chances[:, 1, k - 1 :].sum(-1)
        if weights is not None and points is not None:
            chances = _cdf(points.unsqueeze(1) - t)
            others, spread = (torch.stack([chances, chances * (1 - chances)]) @ weights.unsqueeze(-1)).squeeze(-1)
            mean, variance, above = mean + others, variance + spread, above + others[:, 1]
        mean = mean.clamp(1e-300, num_classes * (1 - 1e-16))
        distance = (mean - hits).abs()
        chernoff = torch.special.xlogy(hits, hits / mean) + torch.special.xlogy(misses, misses / (num_classes - mean))
        bernstein = distance.square() / (2 * variance.clamp(min=0.0) + 2 / 3 * distance).clamp(min=1e-300)
        signed = torch.maximum(chernoff, bernstein) * torch.sign(mean - hits)
        below = _cdf(t[:, 0] - head[:, 0, :k]).sum(-1)
        return torch.stack(
            [
                torch.maximum(signed[:, 0], -below.log()),
                torch.minimum(signed[:, 1], above.clamp(min=1e-300).log()),
            ],
            1,
        )

    target = head.new_tensor([plan.exponent, -plan.exponent])
    # k classes are at 0 or above and all but k - 1 at 0 or below: the k-th largest is between these, whatever C and k.
    low, high = head.new_full((len(head), 2), -9.0), head.new_full((len(head), 2), 16.0)
    for _ in range(8):
        middle = (low + high) / 2
        falls_later = exponents(middle) > target
        low, high = torch.where(falls_later, middle, low), torch.where(falls_later, high, middle)
    before, after = exponents(low), exponents(high)
    bounds = low + (high - low) * ((before - target) / (before - after)).clamp(0.0, 1.0)
    start, end = bounds.split(1, 1)
    return start, (end - start) / plan.nodes


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
