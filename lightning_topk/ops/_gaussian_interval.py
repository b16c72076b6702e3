"""Where the law of the k-th largest noised score is, and how deep the classes are that have a part in it."""

import math

import torch
from torch import Tensor

from lightning_topk.ops._gaussian_law import kth_bounds, quantile
from lightning_topk.ops._gaussian_tail import fit_tail

# About the number of classes that are looked at first where all count.
SAMPLE = 2048
# Neighbours that are looked at together, as they come from memory together.
_RUN = 16
# Depth of the last of the best classes from which on the law is about that of the best classes alone.
_ALONE = -5.0


def guess(head: Tensor, k: int, num_classes: int, outside: float) -> tuple[Tensor, Tensor]:
    """Guess where the k-th largest noised score is, and a lower bound on it, from the best scores [M, n].

    By how fast these fall, or from them alone where all others are further down.
    """
    reach = max(0.5, quantile(k / num_classes))
    rate = math.log(len(head) / k) / (-head[-1]).clamp(min=1e-3)
    depth = reach * reach / rate
    centre = (depth * depth + reach * reach).sqrt() - depth
    start = centre - 2.5 / (1 + 0.7 * k * rate.clamp(max=reach).square()).sqrt()
    alone = (head[-1] < _ALONE).nonzero().squeeze(1)
    if len(alone):
        low, high = kth_bounds(head[:, alone], head[:0, alone], k, num_classes, outside)
        centre[alone], start[alone] = (low + high) / 2, low
    return centre, start


def lowest(head: Tensor, start: Tensor, k: int, num_classes: int, tolerance: float) -> Tensor:
    """Guess a depth below which all classes together change the value by little, if they go on as the best fall."""
    rate = math.log(len(head) / k) / (-head[-1]).clamp(min=1e-3)
    low = start - 5
    for _ in range(3):
        count = k * (-rate * low).clamp(0, math.log(num_classes / k)).exp()
        low = start + torch.special.ndtri(2 * tolerance / count)
    return low


def from_sample(
    scores: Tensor,
    head: Tensor,
    last: Tensor,
    kth: Tensor,
    epsilon: float,
    k: int,
    low: Tensor,
    centre: Tensor,
    degree: int,
    outside: float,
) -> tuple[Tensor, Tensor]:
    """Bounds on the k-th largest noised score from the best classes, and a sample of the others."""
    runs = SAMPLE // _RUN
    step = scores.shape[1] // runs
    sample = scores[:, : runs * step].unflatten(1, (runs, step))[:, :, :_RUN].flatten(1)
    counted = (sample > last).sum(1, keepdim=True)
    tail = fit_tail(sample, counted, kth, epsilon, low, head[-1], centre, degree)
    points = torch.cat([head, tail.points])
    low, high = kth_bounds(points, step / _RUN * tail.weights, k, scores.shape[1], outside)
    return low - 0.1, high + 0.1


def left_out(law: Tensor, low: Tensor, below: Tensor | None, start: Tensor, end: Tensor, num_classes: int) -> Tensor:
    """Bound [n] on what the value lacks if all classes were just below the interval of the tail.

    Of classes that were counted, ``below`` of them are within one standard deviation of the noise, and others deeper.
    One more class of chance q(t) to be above t raises the value by the integral of q(t) times the probability that
    k - 1 others are above t, which is at most the distribution function of the k-th largest.
    """
    places = nodes(start, end, len(law))
    chance = torch.special.ndtr(low - places)
    if below is None:
        chance *= num_classes
    else:
        chance = below * chance + num_classes * torch.special.ndtr(low - 1 - places)
    return (chance * law.clamp(0, 1)).sum(0) * (end - start) / len(law)


def nodes(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Nodes [Q, n] of the midpoint rule."""
    return low + (high - low) / count * (torch.arange(count, dtype=low.dtype).unsqueeze(1) + 0.5)
