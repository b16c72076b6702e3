"""Lazy noise, third part: the noised scores above a threshold, of all classes that are no candidates."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_topk.ops._lazy_noise_split import BLOCKS_ADDED, Array, Index, Split
from lightning_topk.ops._precision import at_least_float32

_DENSITY_AT_ZERO = 1 / math.sqrt(2 * math.pi)
# The least distance, in units of epsilon, of a threshold from every class that is no candidate.
LEAST_GAP = 0.25
# Larger noise has a probability below 1e-37 and is beyond what generators of float32 give.
_LARGEST_NOISE = 12.9


class Events(NamedTuple):
    """Noised scores above the threshold of their cell (row, draw), at most one of a class and cell, sorted by cell."""

    cells: Index  # row * B + draw, [E]
    classes: Index  # [E]
    values: Array  # noised scores in units of epsilon, [E]
    noise: Array  # [E]


def rates(split: Split, threshold: Array) -> Tensor:
    """Rate of dominating points above the lowest noise of interest in each block, shape [N, A].

    The mean number of points on a block in each draw is the rate times :func:`domination`.
    """
    lowest = torch.add(torch.from_numpy(threshold)[:, None], torch.from_numpy(split.bounds), alpha=-split.inverse)
    # Beyond that rates would be denormal numbers, which are slow; what falls on such blocks is never kept.
    lowest.clamp_(max=_LARGEST_NOISE)
    return torch.addcmul(split.log_sizes, lowest, lowest, value=-0.5).exp_().div_(lowest)


def domination(lowest: float) -> float:
    r"""Return a c with :math:`c\,(z/a)\,e^{-z^2/2} \ge \varphi(z) / \Phi(z)` for all z >= a >= ``lowest`` > 0."""
    return _DENSITY_AT_ZERO / (0.5 * math.erfc(-lowest / math.sqrt(2)))


def draw_events(
    scores: Tensor,
    split: Split,
    threshold: Array,
    rate: Tensor,
    needed: Array,
    generator: torch.Generator | None,
) -> Events:
    r"""Draw what the classes that are no candidates have above the threshold of their cell, exactly in law.

    Standard normal noise is the largest point of a Poisson process on the line whose mean number of points above z is
    :math:`\Lambda(z) = -\log\Phi(z)`, as :math:`P(Z \le z) = e^{-\Lambda(z)}` is the probability of none. The
    processes of all classes and draws together are one Poisson process. Its points above a threshold are found by
    thinning: above a > 0 the density :math:`\varphi(z) / \Phi(z)` lies below :math:`c\,(z / a)\,e^{-z^2/2}`, of which
    :math:`(c / a)\,e^{-a^2/2}` points are expected, and whose points are :math:`\sqrt{a^2 + 2E}` with E exponential.
    So the number of dominating points over the batch is one Poisson number; each falls on a block of classes in
    proportion to its rate, on a member of the block and a draw with equal chance; and it stays, with the probability
    by which the true density is smaller, where the score of its class carries it above the threshold.

    Args:
        scores: Shape [N, C].
        split: Candidates and blocks.
        threshold: Of each row, at least ``LEAST_GAP`` above all bounds; shape [N].
        rate: Of each block under this threshold, by :func:`rates`.
        needed: Threshold of each cell, at least that of its row; shape [N, B].
        generator: Source of the noise.
    """
    num_classes, num_draws, num_groups = scores.shape[1], needed.shape[1], split.num_groups
    constant = domination(float((threshold - split.highest).min()))
    blocks = _choose_blocks(rate, constant * num_draws, generator)
    count, width = blocks.size, rate.shape[1]
    rows = blocks // width
    inverse = threshold.dtype.type(split.inverse)
    start = threshold[rows] - split.bounds.reshape(-1)[blocks] * inverse
    blocks -= rows * width
    slots = torch.randint(split.group_size * num_draws, (count,), generator=generator).numpy()
    members = slots // num_draws
    draws = slots - members * num_draws
    classes = blocks + members * num_groups
    single = np.flatnonzero(blocks >= num_groups)
    # A point may fall on an empty block by rounding, and is not kept then.
    place = np.minimum(blocks[single] - num_groups, split.singles.shape[1] - 1)
    classes[single] = split.singles[rows[single], place]
    # 1 - u lies in (0, 1], so that its logarithm is finite.
    fall = np.log1p(-torch.rand(count, dtype=torch.from_numpy(start).dtype, generator=generator).numpy())
    noise = np.sqrt(start * start - 2 * fall)
    outside = classes >= num_classes
    classes[outside] = 0
    own = at_least_float32(scores[torch.from_numpy(rows), torch.from_numpy(classes)]).numpy()
    values = (own - split.origin[rows, 0]) * inverse + noise
    kept = np.flatnonzero((values > needed[rows, draws]) & ~outside & (start < _LARGEST_NOISE))
    noise, start, values = noise[kept], start[kept], values[kept]
    share = _DENSITY_AT_ZERO * start / (constant * noise * _phi(noise))
    passed = np.flatnonzero(torch.rand(kept.size, generator=generator).numpy() < share)
    kept = kept[passed]
    cells = rows[kept] * num_draws + draws[kept]
    return _largest_of_each(cells, classes[kept], values[passed], noise[passed], num_classes)


def _choose_blocks(rate: Tensor, factor: float, generator: torch.Generator | None) -> Index:
    """Draw points on blocks, a Poisson number on each with its rate times the factor as the mean; places in ``rate``.

    Points are placed on the sums of eight blocks first, so that only sums are accumulated.
    """
    num_rows, width = rate.shape
    num_sums = width // BLOCKS_ADDED
    sums = rate.view(num_rows, BLOCKS_ADDED, num_sums).sum(1)
    steps = torch.cumsum(sums.view(-1), 0, dtype=torch.float64)
    count = int(torch.poisson(steps[-1] * factor, generator=generator))
    places = torch.rand(count, dtype=torch.float64, generator=generator).mul_(steps[-1]).numpy()
    places.sort()
    at = np.minimum(np.searchsorted(steps.numpy(), places, side="right"), steps.numel() - 1)
    places -= steps.numpy()[at] - sums.numpy().reshape(-1)[at]
    rows = at // num_sums
    blocks = at + rows * (width - num_sums)
    step = np.zeros(count, dtype=np.int64)
    flat = rate.numpy().reshape(-1)
    for part in range(BLOCKS_ADDED - 1):
        places -= flat[blocks + part * num_sums]
        step += places >= 0
    return blocks + num_sums * step


def _largest_of_each(cells: Index, classes: Index, values: Array, noise: Array, num_classes: int) -> Events:
    """Sort by cell and keep, of several points on one class in one cell, the largest: it is the noise of the class."""
    key = cells * num_classes + classes
    order = np.argsort(key)
    key, values = key[order], values[order]
    while (same := np.flatnonzero(key[1:] == key[:-1])).size:
        kept = np.ones(key.size, dtype=bool)
        kept[np.where(values[same] < values[same + 1], same, same + 1)] = False
        order, key, values = order[kept], key[kept], values[kept]
    return Events(cells[order], classes[order], values, noise[order])


def _phi(z: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distribution function of the standard normal law."""
    return torch.special.ndtr(torch.as_tensor(z, dtype=torch.float64)).numpy()
