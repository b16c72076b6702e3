"""Any batches, in any split and order: the counts of the slow loop, or a message of the list."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_topk.metrics import (
    GroupTopKAccuracy,
    MacroTopKAccuracy,
    RankHistogram,
    TopKAccuracy,
    group_topk_accuracy_from_histogram,
    macro_topk_accuracy_from_histogram,
    rank_histogram,
    target_ranks,
    topk_accuracy_from_histogram,
    topk_metrics,
)
from metrics.slow_metrics import slow_rank
from properties.messages import is_in_the_list
from properties.strategies import Batch, batches, faulty_batches, wild_counts, wild_numbers
from properties.tally import attempt, brief, count

IGNORED = st.sampled_from([None, -100, 0, 2, 255])


def slow_histogram(batch: Batch, columns: int, ignore_index: int | None) -> list[list[int]]:
    """Ranks counted one by one; the last column is for all beyond."""
    rows = batch.logits.reshape(-1, batch.logits.shape[-1]).tolist()
    table = [[0] * columns for _ in range(batch.logits.shape[-1])]
    for scores, label in zip(rows, batch.targets.flatten().long().tolist(), strict=True):
        if ignore_index is None or label != ignore_index:
            table[label][min(slow_rank(scores, label), columns - 1)] += 1
    return table


def some_batches(ignore_index: int | None) -> st.SearchStrategy[Batch]:
    # Without an ignored index there is none to draw: no label is this number.
    return batches(1, -(2**63) if ignore_index is None else ignore_index, soft=False)


@st.composite
def right_batches(draw: st.DrawFn) -> tuple[Batch, int | None]:
    ignore_index = draw(IGNORED)
    batch = draw(some_batches(ignore_index))
    if ignore_index is None and (batch.targets.long() < 0).any():
        batch = Batch(batch.logits, batch.targets.long().clamp(min=0), batch.kind)
    return batch, ignore_index


@brief
@given(case=right_batches(), data=st.data())
def test_any_split_in_any_order_and_any_merge_counts_the_same(
    case: tuple[Batch, int | None], data: st.DataObject
) -> None:
    batch, ignore_index = case
    num_classes = batch.logits.shape[-1]
    max_k = data.draw(st.integers(1, num_classes))
    expected = torch.tensor(slow_histogram(batch, max_k + 1, ignore_index))
    whole = rank_histogram(batch.logits, batch.targets, max_k=max_k, ignore_index=ignore_index)
    assert torch.equal(whole, expected)

    logits, targets = batch.logits.reshape(-1, num_classes), batch.targets.reshape(-1).long()
    owner = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(logits), max_size=len(logits))))
    order = data.draw(st.permutations([0, 1, 2]))
    one = RankHistogram(num_classes if data.draw(st.booleans()) else None, max_k, ignore_index)
    others = [RankHistogram(num_classes, max_k, ignore_index) for _ in range(3)]
    for part in order:
        kept = (owner == part) if len(logits) else slice(0, 0)
        (one.forward if data.draw(st.booleans()) else one.update)(logits[kept], targets[kept])
        others[part].update(logits[kept], targets[kept])
    assert torch.equal(one.compute(), expected)
    merged = others[order[0]]
    for part in order[1:]:
        merged.merge_state(others[part])
    assert torch.equal(merged.compute(), expected)
    count("a histogram of ranks", refused=False)


@brief
@given(case=right_batches(), data=st.data())
def test_accuracies_agree_with_the_slow_loop(case: tuple[Batch, int | None], data: st.DataObject) -> None:
    batch, ignore_index = case
    num_classes = batch.logits.shape[-1]
    k = data.draw(st.integers(1, num_classes))
    counts = data.draw(st.lists(st.integers(0, 200), min_size=num_classes, max_size=num_classes).filter(any))
    group = data.draw(st.sampled_from(["many", "medium", "few"]))
    table = slow_histogram(batch, k + 1, ignore_index)
    inside = {
        "many": [n > 100 for n in counts],
        "medium": [20 <= n <= 100 for n in counts],
        "few": [n < 20 for n in counts],
    }[group]
    each = [sum(row[:k]) / sum(row) for row in table if sum(row)]
    of_group = [sum(row[:k]) / sum(row) for row, is_in in zip(table, inside, strict=True) if sum(row) and is_in]
    total = sum(map(sum, table))
    expected = {
        TopKAccuracy(num_classes, k, ignore_index=ignore_index): sum(sum(row[:k]) for row in table) / (total or 1),
        MacroTopKAccuracy(num_classes, k, ignore_index=ignore_index): sum(each) / (len(each) or 1),
        GroupTopKAccuracy(num_classes, k, group, counts, ignore_index=ignore_index): sum(of_group)
        / (len(of_group) or 1),
    }
    for metric, value in expected.items():
        metric.update(batch.logits, batch.targets)
        seen = of_group if isinstance(metric, GroupTopKAccuracy) else each
        found = float(metric.compute())
        assert math.isclose(found, value, abs_tol=1e-6) if seen else math.isnan(found)
        assert 0 <= found <= 1 or not seen
    count("accuracies", refused=False)


@brief
@given(data=st.data())
def test_a_wrong_batch_is_refused_and_leaves_the_count_alone(data: st.DataObject) -> None:
    ignore_index = data.draw(st.sampled_from([-100, 0, 255]))
    batch = data.draw(faulty_batches(1, ignore_index, soft=False))
    if batch.fault is None:
        return
    metric = TopKAccuracy(None, 1, ignore_index=ignore_index)
    for call in (metric.update, metric, lambda x, y: target_ranks(x, y, ignore_index=ignore_index)):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(batch.logits, batch.targets)
        assert is_in_the_list(caught.value, "logits", "targets"), caught.value
    metric.update(torch.eye(4), torch.arange(4))
    assert metric.compute() == (0.75 if ignore_index == 0 else 1.0) / (0.75 if ignore_index == 0 else 1.0)
    assert int(metric.histogram.sum()) == (3 if ignore_index == 0 else 4)
    count("a metric of wrong input", refused=True)


@brief
@given(data=st.data())
def test_arguments_of_metrics(data: st.DataObject) -> None:
    cls, name = data.draw(
        st.sampled_from(
            [
                *((RankHistogram, name) for name in ("num_classes", "max_k", "ignore_index", "sample_limit")),
                *((MacroTopKAccuracy, name) for name in ("num_classes", "k", "max_k", "ignore_index", "sample_limit")),
                *((GroupTopKAccuracy, name) for name in ("k", "group", "many", "few", "class_counts")),
                *((topk_metrics, name) for name in ("num_classes", "ks", "ignore_index", "many", "few")),
            ]
        )
    )
    value = data.draw(st.integers(1, 5) | wild_numbers())
    if name == "class_counts":
        value = data.draw(wild_counts(5))
    if name == "ks":
        value = data.draw(st.lists(st.integers(-1, 7) | wild_numbers(), max_size=3) | wild_numbers())
    arguments = {"num_classes": 5, "k": 2} if cls is not topk_metrics else {"num_classes": 5}
    arguments = {key: v for key, v in arguments.items() if cls is not RankHistogram or key != "k"}
    if cls in (GroupTopKAccuracy, topk_metrics) and name != "class_counts":
        arguments["class_counts"] = [1, 50, 500, 3, 2]
    if cls is topk_metrics and name != "ks":
        arguments["ks"] = (1, 3)

    def call() -> Any:
        metric = cls(**{**arguments, name: value})
        metric.update(torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0]))
        return metric.compute()

    groups = ("numbers", "number of guesses", "class counts", "logits")
    found = attempt("an argument of a metric", call, *groups)
    if found is not None and cls is not GroupTopKAccuracy and cls is not topk_metrics and name != "sample_limit":
        assert found.isfinite().all()


@brief
@given(
    histogram=st.sampled_from(
        [torch.ones(3, 4, dtype=torch.long), torch.zeros(3, 4), torch.ones(3), torch.ones(3, 1), None, [[1, 2]], "h"]
    ),
    k=st.integers(1, 3) | wild_numbers(),
    mask=st.sampled_from([torch.tensor([True, False, True]), torch.ones(3), torch.tensor([True]), None, [True] * 3]),
)
def test_views_of_a_histogram(histogram: object, k: object, mask: object) -> None:
    views = {
        "micro": lambda: topk_accuracy_from_histogram(histogram, k),
        "macro": lambda: macro_topk_accuracy_from_histogram(histogram, k),
        "group": lambda: group_topk_accuracy_from_histogram(histogram, k, mask),
    }
    for view in views.values():
        value = attempt("a view of a histogram", view, "numbers", "number of guesses", "other tensors")
        assert value is None or value == k / 4 or not histogram.any()
