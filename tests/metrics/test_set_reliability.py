"""Coverage and average-K agree with slow loops over all probabilities, on any number of processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddp import run_ranks
from lightning_topk.metrics._set_reliability import BINS, LEVELS, LEVELS_PER_UNIT, SetReliability, counted_levels

C, KS = 9, [1, 3, 9]


def batch(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores that know something, and labels of which some are not counted."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, C, (n,), generator=generator)
    scores = 2 * torch.randn(n, C, generator=generator)
    scores[torch.arange(n), labels.clamp(min=0)] += 2.0
    return scores, labels


def counted(scores: Tensor, labels: Tensor, size: int = 32) -> SetReliability:
    counts = SetReliability(KS)
    for part in zip(scores.split(size), labels.split(size), strict=True):
        counts.update(*part)
    return counts


def slow_rows(scores: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    """Probabilities and label of each counted sample."""
    shares = scores.double().softmax(1).tolist()
    return [(row, label) for row, label in zip(shares, labels.tolist(), strict=True) if label >= 0]


def test_coverage_is_that_of_a_slow_loop() -> None:
    scores, labels = batch()
    counts, rows = counted(scores, labels), slow_rows(scores, labels)
    assert int(counts.samples) == len(rows)
    for k in KS:
        bins: dict[int, list[tuple[bool, float]]] = {}
        for row, label in rows:
            share = math.fsum(sorted(row)[-k:])
            hit = sum(other >= row[label] for c, other in enumerate(row) if c != label) < k
            bins.setdefault(min(int(share * BINS), BINS - 1), []).append((hit, share))
        found = counts.coverage(k)
        assert len(found) == len(bins)
        for (samples, hits, nominal), place in zip(found, sorted(bins), strict=True):
            own = bins[place]
            assert (samples, hits) == (len(own), sum(hit for hit, _ in own))
            assert nominal == pytest.approx(math.fsum(share for _, share in own) / len(own), abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_average_k_is_that_of_sorting_all_probabilities(k: int) -> None:
    scores, labels = batch()
    rows = slow_rows(scores, labels)
    found = counted(scores, labels).average_k(k)
    everything = sorted((share for row, _ in rows for share in row), reverse=True)
    # The exact threshold lies between two neighbours; those that are tried are a factor exp(1 / 256) apart.
    last, next_one = everything[k * len(rows) - 1], everything[k * len(rows)]
    assert next_one * math.exp(-1e-4) <= found.threshold <= last * math.exp(1.001 / LEVELS_PER_UNIT)
    sets = [[c for c, share in enumerate(row) if share >= found.threshold] for row, _ in rows]
    assert found.size == pytest.approx(sum(map(len, sets)) / len(rows), abs=1e-12)
    assert k - 0.2 < found.size <= k
    hits = sum(label in own for own, (_, label) in zip(sets, rows, strict=True))
    assert found.accuracy == pytest.approx(hits / len(rows), abs=1e-12)


def test_a_threshold_of_other_samples_is_taken_as_it_is() -> None:
    level = counted(*batch(seed=1)).average_k(3).level
    scores, labels = batch()
    found = counted(scores, labels).average_k(3, level)
    rows = slow_rows(scores, labels)
    sizes = [sum(share >= found.threshold for share in row) for row, _ in rows]
    assert found.size == pytest.approx(sum(sizes) / len(rows), abs=1e-12)
    assert found.size != 3.0


def test_batches_and_block_size_do_not_matter() -> None:
    one, many = counted(*batch(), size=400), counted(*batch(), size=7)
    assert torch.equal(one.sets, many.sets)
    assert torch.equal(one.levels, many.levels)


def test_a_scatter_counts_what_the_histogram_does() -> None:
    scores, _ = batch()
    distance = torch.cat([-scores.log_softmax(1).flatten(), torch.tensor([math.nan, math.inf, 1e3, 0.0, -1e-9])])
    one, other = counted_levels(distance.clone(), scatter=False), counted_levels(distance.clone(), scatter=True)
    assert int(one.sum()) == int(other.sum()) == scores.numel() + 2
    assert int((one.cumsum(0) - other.cumsum(0)).abs().max()) <= 3  # values on the edge of a level
    assert len(one) == LEVELS


def test_constant_scores_count_against_the_label() -> None:
    counts = counted(torch.zeros(20, C), torch.arange(20) % C)
    assert counts.coverage(3) == [(20, 0, pytest.approx(3 / C, abs=1e-6))]
    assert counts.coverage(9)[0][:2] == (20, 20)
    assert counts.average_k(3).size == 0.0  # no threshold tells the classes apart
    assert counts.average_k(9).size == C


def test_rows_with_a_nan_are_in_no_set() -> None:
    scores, labels = batch(50)
    labels = labels.clamp(min=0)
    scores[7] = math.nan
    counts = counted(scores, labels)
    assert int(counts.samples) == 50
    assert int(counts.levels[1].sum()) == 49
    assert sum(samples for samples, _, _ in counts.coverage(1)) == 50


def test_fewer_classes_than_k() -> None:
    counts = SetReliability([1, 5])
    counts.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert [row[:2] for row in counts.coverage(5)] == [(2, 2)]
    assert counts.average_k(5).accuracy == 1.0


def test_nothing_seen() -> None:
    counts = SetReliability([1])
    assert counts.coverage(1) == []
    assert (counts.average_k(1).size, counts.average_k(1).accuracy) == (0.0, 0.0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("shares", [(250, 150), (0, 400)])
def test_two_processes_give_the_sum(shares: tuple[int, int]) -> None:
    def work(rank: int) -> tuple[Tensor, Tensor, int]:
        scores, labels = (part.split(shares)[rank] for part in batch())
        counts = SetReliability(KS)
        if len(labels):
            counts.update(scores, labels)
        counts.sync(torch.device("cpu"))
        return counts.sets, counts.levels, int(counts.samples)

    whole = counted(*batch())
    for sets, levels, samples in run_ranks(work):
        assert torch.equal(sets, whole.sets)
        assert torch.equal(levels, whole.levels)
        assert samples == int(whole.samples)
