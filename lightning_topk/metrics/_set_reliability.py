"""Whether sets of classes hold the label as often as their probabilities say, and sets of K classes on average."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_topk.metrics._pair_counts import sum_over_processes

BINS = 20
LEVELS_PER_UNIT = 256  # of -log p: neighbouring thresholds differ by a factor of 1.004
LEVELS = 64 * LEVELS_PER_UNIT  # below exp(-64) probabilities are not told apart
_FIXED_POINT = 2**24  # sums of probabilities are whole numbers, so that their order does not matter
_BLOCK = 2**18  # probabilities at a time, which bounds the temporaries and keeps them in the cache


@dataclass(frozen=True)
class AverageK:
    r"""What sets of K classes on average give.

    Attributes:
        k: K.
        level: The threshold: classes with :math:`\lfloor -256 \log p \rfloor` up to this level are in the set.
        size: Classes in a set, on average.
        accuracy: Share of the samples whose label is in its set.
    """

    k: int
    level: int
    size: float
    accuracy: float

    @property
    def threshold(self) -> float:
        """The least probability of a class in the set."""
        return float(torch.tensor(-(self.level + 1) / LEVELS_PER_UNIT, dtype=torch.float64).exp())


class SetReliability:
    r"""Count what the reliability of prediction sets needs, in whole numbers, so that sums over processes are exact.

    With the probabilities :math:`p`, it counts for each K in bins of the probability of the K best classes,
    :math:`P_K = \sum_{j \le K} p_{(j)}`, the samples, those whose label is among the K best (ties count against the
    label) and the sum of :math:`P_K`; and, over the levels :math:`\lfloor -256 \log p_j \rfloor`, all classes of all
    samples and their labels alone, from which follows every threshold on the probability.

    Args:
        ks: The K, ascending, each >= 1.

    References:
        Average-K: Lorieul, Joly, Shasha, "Classification Under Ambiguity: When Is Average-K Better Than Top-K?",
        arXiv:2112.08851, 2021, section 2.

    Example:
        >>> counts = SetReliability([1])
        >>> counts.update(torch.tensor([[0.50, 0.3, 0.20], [0.54, 0.3, 0.16]]).log(), torch.tensor([0, 1]))
        >>> counts.coverage(1)
        [(2, 1, 0.52)]
        >>> counts.average_k(1).accuracy
        0.5
    """

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks = list(ks)
        self.sets = torch.zeros(3, len(self.ks), BINS, dtype=torch.int64)
        self.levels = torch.zeros(2, LEVELS, dtype=torch.int64)
        self.samples = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self, scores: Tensor, labels: Tensor, largest: Tensor | None = None) -> None:
        """Count scores [N, C], whose softmax are the probabilities, and labels [N], below 0 for one not counted.

        Args:
            scores: Scores, shape [N, C], float32 or float64.
            labels: Class indices, shape [N].
            largest: The min(C, max(ks) + 1) largest scores of each sample in descending order, when they are known.
        """
        if self.sets.device != scores.device:
            self.sets, self.levels = self.sets.to(scores.device), self.levels.to(scores.device)
            self.samples = self.samples.to(scores.device)
        real = labels >= 0
        own = scores.gather(1, labels.clamp(min=0).long()[:, None])
        if largest is None:
            largest = scores.topk(min(scores.shape[1], self.ks[-1] + 1)).values
        # A distance of NaN counts nothing, neither of a sample that is not counted nor of one with a NaN.
        normalizer = scores.logsumexp(1, keepdim=True)
        self._count_sets((largest - normalizer).exp().cumsum(1), own > largest, real)
        normalizer = normalizer.masked_fill(~real[:, None], torch.nan)
        self.samples += real.sum()
        self.levels[1] += counted_levels(normalizer - own)
        rows = max(1, _BLOCK // scores.shape[1])
        for start in range(0, len(scores), rows):
            self.levels[0] += counted_levels(normalizer[start : start + rows] - scores[start : start + rows])

    def sync(self, device: torch.device) -> None:
        """Sum over all processes, each of which has to call this, also one that has seen nothing."""
        for name in ("sets", "levels", "samples"):
            setattr(self, name, sum_over_processes(getattr(self, name).to(device)).cpu())

    def _count_sets(self, shares: Tensor, above: Tensor, real: Tensor) -> None:
        """Count shares [N, K] of the best classes, and whether the label is above the (K+1)-th largest score."""
        for place, k in enumerate(self.ks):
            share = shares[:, min(k, shares.shape[1]) - 1].nan_to_num(0.0).clamp(0.0, 1.0)
            hit = above[:, k] if k < above.shape[1] else torch.ones_like(real)
            bins = (share * BINS).long().clamp(max=BINS - 1)
            for row, values in zip(self.sets, (real, hit & real, (share * _FIXED_POINT).round() * real), strict=True):
                row[place].scatter_add_(0, bins, values.long())

    def coverage(self, k: int) -> list[tuple[int, int, float]]:
        """Return (samples, samples whose label is in the set, mean probability) of each bin that is not empty."""
        numbers, hits, shares = self.sets[:, self.ks.index(k)].tolist()
        return [(n, h, round(s / n / _FIXED_POINT, 7)) for n, h, s in zip(numbers, hits, shares, strict=True) if n]

    def average_k(self, k: int, level: int | None = None) -> AverageK:
        """Return the sets of at most ``k`` classes on average that are the largest, or those of a level.

        Args:
            k: K.
            level: A level from other samples; chosen on these when not given.
        """
        classes, labels = self.levels.cpu().cumsum(1)
        samples = int(self.samples)
        if level is None:
            level = int((classes <= k * samples).sum()) - 1
        if level < 0 or not samples:
            return AverageK(k, level, 0.0, 0.0)
        return AverageK(k, level, int(classes[level]) / samples, int(labels[level]) / samples)


def counted_levels(distance: Tensor, *, scatter: bool | None = None) -> Tensor:
    """Count the levels of -log p, shape [LEVELS]; what is NaN or beyond the last level counts nothing.

    Args:
        distance: The values of -log p; they are changed.
        scatter: Whether they are counted by a scatter, by default on all devices but the CPU. There the histogram is
            three times as fast; elsewhere it is not among the deterministic operations.
    """
    if not (distance.device.type != "cpu" if scatter is None else scatter):
        return distance.clamp_(min=0.0).histc(LEVELS, 0, LEVELS / LEVELS_PER_UNIT).long()
    cells = (distance * LEVELS_PER_UNIT).nan_to_num(LEVELS, LEVELS, 0.0).clamp(0, LEVELS).long().reshape(-1)
    counts = torch.zeros(LEVELS + 1, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(0, cells, cells.new_ones(1).expand_as(cells))[:LEVELS]
