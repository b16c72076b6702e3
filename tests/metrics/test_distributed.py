"""The metrics in two and three real processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from ddp import RankError, run_ranks
from lightning_topk.metrics import (
    GroupTopKAccuracy,
    MacroTopKAccuracy,
    RankHistogram,
    TopKAccuracy,
    rank_histogram,
    topk_metrics,
    unpadded_size,
)

pytestmark = pytest.mark.timeout(60)
COUNTS = [500, 120, 100, 60, 20, 19, 3]


def batch(n: int = 61, c: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, c, generator=generator), torch.randint(c, (n,), generator=generator)


@pytest.mark.parametrize("num_classes", [7, None])
@pytest.mark.parametrize("shares", [(40, 21), (61, 0), (0, 61), (0, 0)])
def test_shares_of_any_size_give_the_sum(num_classes: int | None, shares: tuple[int, int]) -> None:
    def work(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        metric = RankHistogram(num_classes, max_k=3)
        logits, targets = (part.split(shares)[rank] for part in batch(sum(shares)))
        for part in zip(logits.split(9), targets.split(9), strict=True):
            if len(logits):  # split gives one empty batch for none; here a rank without samples makes no call
                metric.update(*part)
        local = metric.histogram.clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics warns of a value before any update
            value = metric.compute()
        metric.update(torch.eye(7), torch.arange(7))  # goes on with the local counts after the sum
        return local, value, metric.compute()

    results = run_ranks(work)
    expected = rank_histogram(*batch(sum(shares)), max_k=3)
    for local, value, later in results:
        assert torch.equal(value, expected) or (num_classes is None and shares == (0, 0) and value.shape == (0, 4))
        assert local.sum() <= 61
        assert torch.equal(later, expected + 2 * rank_histogram(torch.eye(7), torch.arange(7), max_k=3))


def test_sync_by_hand_uses_the_same_sum() -> None:
    def work(rank: int) -> tuple[int, int]:
        metric = RankHistogram(max_k=3)
        if rank == 0:
            metric.update(*batch())
        metric.sync()
        synced = int(metric.histogram.sum())
        metric.unsync()
        return synced, int(metric.histogram.sum())

    assert run_ranks(work) == [(61, 61), (61, 0)]


def test_other_numbers_of_classes_on_another_rank_are_an_error() -> None:
    def work(rank: int) -> str:
        metric = RankHistogram(max_k=3)
        metric.update(*batch(c=5 + rank))
        with pytest.raises(ValueError, match="one number of classes") as caught:
            metric.compute()
        return str(caught.value)

    assert all("Found [5, 6]" in message for message in run_ranks(work))


@pytest.mark.parametrize(
    "build",
    [
        lambda: TopKAccuracy(7, 3),
        lambda: MacroTopKAccuracy(7, 3),
        lambda: GroupTopKAccuracy(7, 3, "few", COUNTS),
        lambda: MacroTopKAccuracy(None, 3, ignore_index=0),
        lambda: MacroTopKAccuracy(7, 3, dist_sync_on_step=True),
    ],
)
@pytest.mark.parametrize("call", ["update", "forward"])
def test_views_are_equal_on_one_and_two_ranks(build: Callable, call: str) -> None:
    def work(rank: int) -> float:
        metric = build()
        logits, targets = (part[rank::2] for part in batch(60))
        for part in zip(logits.split(7), targets.split(7), strict=True):
            getattr(metric, call)(*part)
        return metric.compute().item()

    single = build()
    single.update(*batch(60))
    assert run_ranks(work) == [single.compute().item()] * 2


@pytest.mark.parametrize(("n", "world_size"), [(61, 2), (2, 3)])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("call", ["update", "forward"])
def test_padding_of_the_sampler_is_left_out(n: int, world_size: int, shuffle: bool, call: str) -> None:
    def work(rank: int) -> list[float]:
        logits, targets = batch(n)
        sampler = DistributedSampler(range(n), world_size, rank, shuffle=shuffle)
        metrics = topk_metrics(7, (1, 3), class_counts=COUNTS)
        metrics.sample_limit = unpadded_size(sampler)
        values = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            for rows in torch.tensor(list(sampler)).split(8):
                getattr(metrics, call)(logits[rows], targets[rows])
            values += [value.item() for value in metrics.compute().values()]
            metrics.reset()
        return values

    single = topk_metrics(7, (1, 3), class_counts=COUNTS)
    single.update(*batch(n))
    expected = [value.item() for value in single.compute().values()] * 2
    for values in run_ranks(work, world_size):
        assert values == pytest.approx(expected, abs=0, nan_ok=True)


def test_the_pool_returns_in_order_of_ranks_and_passes_arguments() -> None:
    def work(rank: int, factor: int) -> Tensor:
        value = torch.tensor(factor * rank)
        torch.distributed.all_reduce(value)
        return value + rank

    assert run_ranks(work, 3, 30, 10) == [30, 31, 32]


def test_the_pool_raises_the_first_error_and_waits_for_nobody() -> None:
    def work(rank: int) -> None:
        if rank == 1:
            raise ValueError("the reason")
        torch.distributed.barrier()

    with pytest.raises(RankError, match=r"Rank 1 of 2 failed\.[\s\S]*in work[\s\S]*ValueError: the reason"):
        run_ranks(work)


def test_the_pool_ends_what_hangs_or_dies() -> None:
    import os
    import time

    with pytest.raises(RankError, match=r"Ranks \[1\] did not finish within 2 s"):
        run_ranks(lambda rank: time.sleep(100 * rank), 2, 2)
    with pytest.raises(RankError, match=r"Rank 0 of 2 failed\.\nIt died without a word"):
        run_ranks(lambda rank: os._exit(3) if rank == 0 else time.sleep(100), 2, 20)
