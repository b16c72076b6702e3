from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, SequentialSampler

from lightning_topk.metrics import unpadded_size


@given(st.integers(1, 30), st.integers(1, 7), st.booleans())
def test_leading_positions_of_all_ranks_are_every_sample_once(n: int, world_size: int, shuffle: bool) -> None:
    samplers = [DistributedSampler(range(n), world_size, rank, shuffle=shuffle) for rank in range(world_size)]
    real = [index for sampler in samplers for index in list(sampler)[: unpadded_size(sampler)]]
    assert sorted(real) == list(range(n))


@pytest.mark.parametrize(
    ("n", "world_size", "sizes"), [(61, 2, [31, 30]), (2, 3, [1, 1, 0]), (62, 2, [31, 31]), (5, 1, [5])]
)
def test_sizes(n: int, world_size: int, sizes: list[int]) -> None:
    samplers = [DistributedSampler(range(n), world_size, rank) for rank in range(world_size)]
    assert [unpadded_size(sampler) for sampler in samplers] == sizes


def test_samplers_that_repeat_nothing() -> None:
    from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler

    sequential = SequentialSampler(range(9))
    others = [
        None,
        sequential,
        RandomSampler(range(9)),
        BatchSampler(sequential, 2, drop_last=False),
        DistributedSampler(range(9), 2, 0, drop_last=True),
        UnrepeatedDistributedSampler(range(9), 2, 0),
    ]
    assert [unpadded_size(sampler) for sampler in others] == [None] * 6


def test_lightning_wraps_other_samplers_in_one_that_pads() -> None:
    from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

    samplers = [DistributedSamplerWrapper(SequentialSampler(range(5)), 2, rank, shuffle=False) for rank in (0, 1)]
    assert [list(sampler)[: unpadded_size(sampler)] for sampler in samplers] == [[0, 2, 4], [1, 3]]
