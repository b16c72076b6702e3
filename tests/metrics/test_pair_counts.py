"""Counts of pairs: exact where they are said to be, bounded where not, and summed over processes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from ddp import run_ranks
from lightning_topk.metrics._pair_counts import PairCounts

C, K = 12, 3


def batch(n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels, some of them not counted, and best classes, of which some are far more frequent than others."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, C, (n,), generator=generator)
    scores = torch.randn(n, C, generator=generator) + torch.linspace(0, 2, C)
    return labels, scores.topk(K).indices


def slow_counts(labels: Tensor, best: Tensor) -> Counter[tuple[int, int]]:
    return Counter(
        (label, other)
        for label, row in zip(labels.tolist(), best.tolist(), strict=True)
        for other in row
        if label >= 0 and other != label
    )


def slow_largest(counts: Counter[tuple[int, int]], number: int) -> list[tuple[int, int, int, int]]:
    pairs = {tuple(sorted(pair)) for pair in counts}
    rows = [(a, b, counts[a, b], counts[b, a]) for a, b in pairs]
    return sorted(rows, key=lambda row: (-row[2] - row[3], row[:2]))[:number]


@pytest.mark.parametrize("dense_classes", [C, C - 1], ids=["matrix", "list"])
@pytest.mark.parametrize("most_pairs", [2**22, 200])
def test_the_largest_pairs_are_those_of_a_slow_loop(dense_classes: int, most_pairs: int) -> None:
    pairs = PairCounts(C, dense_classes=dense_classes, most_pairs=most_pairs)
    labels, best = batch()
    for part in zip(labels.split(32), best.split(32), strict=True):
        pairs.update(*part)
    pairs.sync(torch.device("cpu"))  # without a process group there is nothing to sum
    assert pairs.largest(20) == slow_largest(slow_counts(labels, best), 20)
    assert pairs.missed == 0
    assert pairs.largest(10_000) == slow_largest(slow_counts(labels, best), 10_000)


def test_a_list_that_is_too_short_tells_how_much_a_count_may_lack() -> None:
    pairs = PairCounts(C, dense_classes=0, most_pairs=30)
    labels, best = batch(2000)
    for part in zip(labels.split(32), best.split(32), strict=True):
        pairs.update(*part)
    found, exact = pairs.largest(1000), slow_counts(labels, best)
    assert pairs.missed > 0
    assert 0 < len(found) <= 30
    for a, b, forth, back in found:
        assert exact[a, b] - pairs.missed <= forth <= exact[a, b]
        assert exact[b, a] - pairs.missed <= back <= exact[b, a]


def test_nothing_seen() -> None:
    assert PairCounts(C).largest(5) == []
    assert PairCounts(10**6).largest(5) == []
    only_ignored = PairCounts(C)
    only_ignored.update(torch.full((4,), -1), torch.zeros(4, K, dtype=torch.int64))
    assert only_ignored.largest(5) == []


def test_a_million_classes_need_no_matrix() -> None:
    pairs = PairCounts(10**6)
    pairs.update(torch.tensor([999_999, 999_999, 5]), torch.tensor([[5, 7], [5, 8], [999_999, 5]]))
    assert pairs.largest(1) == [(5, 999_999, 1, 2)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("dense_classes", [C, 0], ids=["matrix", "list"])
@pytest.mark.parametrize("shares", [(200, 100), (300, 0)])
def test_two_processes_give_the_sum(dense_classes: int, shares: tuple[int, int]) -> None:
    def work(rank: int) -> tuple[list[tuple[int, int, int, int]], int]:
        pairs = PairCounts(C, dense_classes=dense_classes)
        labels, best = (part.split(shares)[rank] for part in batch())
        if len(labels):
            pairs.update(labels, best)
        pairs.sync(torch.device("cpu"))
        return pairs.largest(20), pairs.missed

    assert run_ranks(work) == [(slow_largest(slow_counts(*batch()), 20), 0)] * 2
