r"""The k-th largest noised score with the noise of few classes drawn, in the law of drawing it for all.

Only classes near the k-th largest noised score matter. For each row,

1. the best-scored classes, the candidates, have their noise drawn for every draw b; with k of them noised, the k-th
   largest is a lower bound :math:`T_b` of the answer;
2. any other class j matters only where its noise exceeds :math:`(T_b - s_j) / \epsilon`. Which classes do, and how
   far, is drawn for the whole batch at once as the points of a Poisson process above a threshold
   (``_lazy_noise_events.py``), which upper bounds of groups of scores make cheap;
3. both together are ordered, and the k-th largest is read off.

The threshold of a row may be raised above :math:`T_b` to what its scores alone promise, so that nearly equal scores do
not make many classes matter. Where then less than k noised scores lie above it, the rest of the noise of that cell
(row and draw) is drawn too, under the condition of lying below it. Candidates and thresholds move work about and never
change the law, as long as they are functions of the scores and of noise that is kept.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._candidates import at_places
from lightning_topk.ops._lazy_noise_events import Events, draw_events
from lightning_topk.ops._lazy_noise_split import Array, Index, Split
from lightning_topk.ops._precision import at_least_float32


class Cells(NamedTuple):
    """What the candidates say of each cell, in units of epsilon."""

    noise: Array  # of the candidates, [N, B, M]
    noised: Array  # their noised scores, [N, B, M]
    kth: Array  # the k-th largest of these, [N, B]

    def rows(self, chosen: Index) -> "Cells":
        """Return the same for some of the rows."""
        return Cells(*(array[chosen] for array in self))


def noise_candidates(split: Split, k: int, num_samples: int, generator: torch.Generator | None) -> Cells:
    """Draw the noise of the candidates, at least k of them, in each of the draws."""
    levels = torch.from_numpy(split.levels).unsqueeze(1)
    shape = (levels.shape[0], num_samples, levels.shape[2])
    noise = torch.randn(shape, dtype=levels.dtype, generator=generator)
    noised = (levels + noise).numpy()
    return Cells(noise.numpy(), noised, np.partition(noised, -k, -1)[..., -k])


def lazy_draws(
    scores: Tensor,
    split: Split,
    cells: Cells,
    threshold: Array,
    rate: Tensor,
    k: int,
    epsilon: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Class and added noise of the k-th largest noised score for each row and draw.

    Args:
        scores: Shape [N, C], on the CPU, detached.
        split: Of the same scores.
        cells: The candidates' noise.
        threshold: Shape [N], finite, at least ``LEAST_GAP`` above all bounds, and the least of ``cells.kth``.
        rate: Of each block under this threshold.
        k: Rank.
        epsilon: Standard deviation of the noise.
        generator: Source of the noise of all classes that are no candidates.

    Returns:
        Classes, int64, and added noise, both of shape [N, B].
    """
    num_rows, num_samples, width = cells.noise.shape
    at = (cells.noised == cells.kth[..., None]).argmax(-1)
    classes = at_places(split.classes, at).reshape(-1)
    noise = at_places(cells.noise.reshape(-1, width), at.reshape(-1, 1))[:, 0]
    needed = np.maximum(threshold[:, None], cells.kth)
    events = draw_events(scores, split, threshold, rate, needed, generator)
    short = cells.kth < needed
    if events.cells.size:
        hit, kth, hit_classes, hit_noise = _order(k, split, cells, events)
        classes[hit], noise[hit] = hit_classes, hit_noise
        short.reshape(-1)[hit] = kth < needed.reshape(-1)[hit]
    for cell in np.flatnonzero(short):
        row, mine = cell // num_samples, events.cells == cell
        known = np.concatenate((split.classes[row], events.classes[mine]))
        drawn = np.concatenate((cells.noise.reshape(-1, width)[cell], events.noise[mine]))
        levels = (at_least_float32(scores[row]) - float(split.origin[row, 0])) * split.inverse
        classes[cell], noise[cell] = _complete(k, levels, float(threshold[row]), known, drawn, generator)
    shape = (num_rows, num_samples)
    return torch.from_numpy(classes).view(shape), epsilon * torch.from_numpy(noise).view(shape)


def _order(k: int, split: Split, cells: Cells, events: Events) -> tuple[Index, Array, Index, Array]:
    """Order candidates and events together.

    Returns:
        The cells that have events, and for each of them the k-th largest noised score, its class and its noise.
    """
    num_samples, width = cells.noise.shape[1:]
    size = events.cells.size
    edges = np.concatenate(([0], np.flatnonzero(events.cells[1:] != events.cells[:-1]) + 1, [size]))
    first, counts = edges[:-1], edges[1:] - edges[:-1]
    hit = events.cells[first]
    together = np.full((hit.size, width + int(counts.max())), -np.inf, cells.noised.dtype)
    together[:, :width] = cells.noised.reshape(-1, width)[hit]
    place = np.arange(size) - np.repeat(first, counts)
    together[np.repeat(np.arange(hit.size), counts), width + place] = events.values
    kth = np.partition(together, -k, -1)[:, -k]
    at = (together == kth[:, None]).argmax(-1)
    classes, noise = np.empty_like(hit), np.empty_like(kth)
    own = np.flatnonzero(at < width)
    classes[own] = split.classes[hit[own] // num_samples, at[own]]
    noise[own] = cells.noise.reshape(-1, width)[hit[own], at[own]]
    other = np.flatnonzero(at >= width)
    source = first[other] + at[other] - width
    classes[other], noise[other] = events.classes[source], events.noise[source]
    return hit, kth, classes, noise


def _complete(
    k: int, levels: Tensor, threshold: float, known: Index, drawn: Array, generator: torch.Generator | None
) -> tuple[int, float]:
    """Draw the noise of one cell for all classes but the known ones, below the threshold, and find the k-th largest.

    Noise that would carry its class above the threshold is drawn again: what was found above it is all there is.
    """
    noise = torch.randn(levels.shape, dtype=levels.dtype, generator=generator)
    at = torch.from_numpy(known)
    noise[at] = torch.from_numpy(drawn)
    noised = levels + noise
    free = noised > threshold
    free[at] = False
    again = free.nonzero().squeeze(-1)
    while again.numel():
        noise[again] = torch.randn(again.shape, dtype=levels.dtype, generator=generator)
        noised[again] = levels[again] + noise[again]
        again = again[noised[again] > threshold]
    index = int(torch.topk(noised, k).indices[-1])
    return index, float(noise[index])
