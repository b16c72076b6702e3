from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_topk.metrics import _ranks, target_ranks
from metrics.slow_metrics import slow_ranks

NAN, INF = float("nan"), float("inf")


@st.composite
def batches(draw: st.DrawFn, scores: tuple[float, ...] = (-INF, -1.0, 0.0, 1.0, INF, NAN)) -> tuple[Tensor, Tensor]:
    """Few distinct scores, so that ties, infinities and NaN are the rule."""
    n, c = draw(st.integers(0, 8)), draw(st.integers(1, 6))
    row = st.lists(st.sampled_from(scores), min_size=c, max_size=c)
    logits = torch.tensor(draw(st.lists(row, min_size=n, max_size=n)), dtype=torch.float32).reshape(n, c)
    targets = torch.tensor(draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)), dtype=torch.int64)
    return logits, targets


@given(batches())
def test_ranks_are_those_of_a_loop(batch: tuple[Tensor, Tensor]) -> None:
    logits, targets = batch
    assert target_ranks(logits, targets).tolist() == slow_ranks(logits, targets)


@given(batches())
def test_ranks_are_one_pessimistic_comparison_where_the_label_is_a_number(batch: tuple[Tensor, Tensor]) -> None:
    logits, targets = batch
    own = logits.gather(1, targets[:, None])
    expected = (~(logits < own)).sum(-1) - 1 + own.isnan().squeeze(1)
    assert torch.equal(target_ranks(logits, targets), expected)


@given(batches(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_classes(batch: tuple[Tensor, Tensor], random) -> None:
    logits, targets = batch
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    place = torch.tensor(order).argsort()
    assert torch.equal(target_ranks(logits[:, order], place[targets]), target_ranks(logits, targets))


def test_ties_count_against_the_label() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).expand(4, 4)
    assert target_ranks(logits, torch.arange(4)).tolist() == [2, 2, 2, 3]


def test_a_nan_label_is_beyond_every_k() -> None:
    assert target_ranks(torch.tensor([[NAN, 0.0, 1.0], [NAN, NAN, NAN]]), torch.tensor([0, 2])).tolist() == [3, 3]


def test_a_nan_elsewhere_counts_as_a_better_score() -> None:
    assert target_ranks(torch.tensor([[5.0, NAN, NAN], [5.0, 1.0, NAN]]), torch.tensor([0, 0])).tolist() == [2, 1]


def test_infinite_scores_are_ordinary() -> None:
    logits = torch.tensor([[INF, 0.0, -INF], [INF, INF, 0.0], [-INF, -INF, 0.0], [INF, 0.0, -INF]])
    assert target_ranks(logits, torch.tensor([0, 0, 0, 2])).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("block", [1, 7, 40, 10**6])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    logits, targets = torch.randn(13, 10).round(decimals=1), torch.randint(10, (13,))
    monkeypatch.setattr(_ranks, "CPU_BLOCK", block)
    assert target_ranks(logits, targets).tolist() == slow_ranks(logits, targets)


@pytest.mark.parametrize("block", [1, 25, 10**6])
@pytest.mark.parametrize("rows", [0, 1, 13])
def test_other_devices_count_the_same(monkeypatch: pytest.MonkeyPatch, block: int, rows: int) -> None:
    logits, own = torch.randn(rows, 10).round(decimals=1), torch.zeros(rows, 1)
    monkeypatch.setattr(_ranks, "DEVICE_BLOCK", block)
    assert torch.equal(_ranks._count_in_blocks(logits, own), _ranks._count_in_cache(logits, own))


def test_temporaries_are_a_block_and_not_the_size_of_the_logits() -> None:
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if (
                isinstance(result, Tensor)
                and result.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr()
            ):
                sizes.append(result.untyped_storage().nbytes())
            return result

    logits, targets = torch.randn(100, 10_000), torch.randint(10_000, (100,))
    with Watch():
        target_ranks(logits, targets)
    assert max(sizes) <= 4 * _ranks.CPU_BLOCK < logits.nbytes / 7


def test_counting_beyond_float32_is_done_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ranks, "FLOAT32_EXACT", 4)
    logits, targets = torch.randn(5, 10), torch.randint(10, (5,))
    assert target_ranks(logits, targets).tolist() == slow_ranks(logits, targets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ranks_are_taken_in_the_dtype_of_the_logits(dtype: torch.dtype) -> None:
    logits, targets = torch.randn(50, 30).to(dtype), torch.randint(30, (50,))
    assert target_ranks(logits, targets).tolist() == slow_ranks(logits, targets)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_dtype_of_targets(dtype: torch.dtype) -> None:
    logits, targets = torch.randn(20, 5), torch.randint(5, (20,))
    ranks = target_ranks(logits, targets.to(dtype))
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == slow_ranks(logits, targets)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 4), (0,), (2, 0)])
def test_leading_dimensions_are_kept(shape: tuple[int, ...]) -> None:
    logits, targets = torch.randn(*shape, 5), torch.randint(5, shape)
    ranks = target_ranks(logits, targets)
    assert ranks.shape == shape
    assert ranks.flatten().tolist() == slow_ranks(logits, targets)


def test_strided_logits() -> None:
    logits, targets = torch.randn(2, 5, 3).movedim(1, -1), torch.randint(5, (2, 3))
    assert target_ranks(logits, targets).flatten().tolist() == slow_ranks(logits, targets)


def test_logits_of_a_graph_are_read_without_it() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    assert not target_ranks(logits * 2, torch.tensor([0, 1, 2, 3])).requires_grad


@pytest.mark.parametrize("ignore_index", [-100, 255, 1])
def test_ignored_targets_have_the_rank_minus_one(ignore_index: int) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(3, 3)
    ranks = target_ranks(logits, torch.tensor([2, ignore_index, 0]), ignore_index=ignore_index)
    assert ranks.tolist() == [0, -1, 2]


WRONG = {
    "integer logits": (torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 1]), TypeError, "floating point dtype"),
    "no class dimension": (torch.tensor(1.0), torch.tensor(0), ValueError, r"shape \[\.\.\., C\]"),
    "no classes": (torch.ones(2, 0), torch.tensor([0, 1]), ValueError, r"at least one class.*Found \[2, 0\]"),
    "list of logits": ([[1.0, 2.0]], torch.tensor([0]), TypeError, "should be a tensor"),
    "list of targets": (torch.ones(1, 2), [0], TypeError, "should be a tensor"),
    "one-hot targets": (torch.ones(2, 3), torch.eye(3)[:2], TypeError, r"indices by `targets\.argmax\(-1\)`"),
    "bool targets": (torch.ones(2, 3), torch.tensor([True, False]), TypeError, "Found torch.bool"),
    "other shape": (torch.ones(2, 3), torch.tensor([0, 1, 2]), ValueError, r"\[2\]\. Found \[3\]"),
    "too large": (torch.ones(2, 3), torch.tensor([0, 3]), ValueError, r"in \[0, C\).*Found 3 with `C = 3`"),
    "negative": (torch.ones(2, 3), torch.tensor([-1, 0]), ValueError, r"in \[0, C\).*Found -1 with `C = 3`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case: str) -> None:
    logits, targets, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        target_ranks(logits, targets)
