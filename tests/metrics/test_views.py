from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_topk.imbalance import class_groups
from lightning_topk.metrics import (
    GroupTopKAccuracy,
    MacroTopKAccuracy,
    TopKAccuracy,
    class_topk_accuracy_from_histogram,
    group_topk_accuracy,
    group_topk_accuracy_from_histogram,
    macro_topk_accuracy,
    macro_topk_accuracy_from_histogram,
    rank_histogram,
    topk_accuracy,
    topk_accuracy_from_histogram,
)
from metrics.slow_metrics import NAN, slow_class_accuracy, slow_macro, slow_micro

COUNTS = [500, 120, 100, 60, 20, 19, 3]
FEW = {5, 6}
VIEWS = {
    "micro": (topk_accuracy, TopKAccuracy, slow_micro, {}),
    "macro": (macro_topk_accuracy, MacroTopKAccuracy, slow_macro, {}),
    "few": (
        group_topk_accuracy,
        GroupTopKAccuracy,
        lambda logits, targets, k: slow_macro(logits, targets, k, FEW),
        {"group": "few", "class_counts": COUNTS},
    ),
}


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest) -> tuple[Callable, type, Callable, dict[str, Any]]:
    return VIEWS[request.param]


def batch(n: int = 60, c: int = 7) -> tuple[Tensor, Tensor]:
    return torch.randn(n, c).round(decimals=1), torch.randint(c, (n,))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_function_and_metric_are_the_slow_loop(view, k: int) -> None:
    function, metric_class, slow, extra = view
    logits, targets = batch()
    expected = pytest.approx(slow(logits, targets, k), abs=1e-6)
    assert function(logits, targets, k, **extra).item() == expected
    metric = metric_class(7, k, **extra)
    for part in zip(logits.split(13), targets.split(13), strict=True):
        metric.update(*part)
    assert metric.compute().item() == expected


def test_forward_gives_the_value_of_the_batch(view) -> None:
    function, metric_class, _, extra = view
    metric = metric_class(7, 2, **extra)
    for _ in range(2):
        logits, targets = batch()
        assert metric(logits, targets) == function(logits, targets, 2, **extra)


def test_micro_and_macro_by_hand() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(6, 4)
    targets = torch.tensor([0, 0, 0, 0, 2, 1])  # classes 0, 1 and 2 are present: hit, hit, miss at K = 2
    assert topk_accuracy(logits, targets, 2).item() == pytest.approx(5 / 6)
    assert macro_topk_accuracy(logits, targets, 2).item() == pytest.approx(2 / 3)


def test_groups_by_hand() -> None:
    histogram = torch.tensor([[1, 1], [0, 2], [3, 0], [0, 0]])
    groups = class_groups([101, 100, 20, 19])
    values = {name: group_topk_accuracy_from_histogram(histogram, 1, mask).item() for name, mask in groups.items()}
    assert values["many"] == 0.5
    assert values["medium"] == 0.5
    assert math.isnan(values["few"])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=30))
def test_views_of_any_histogram(cells: list[tuple[int, int]]) -> None:
    histogram = torch.zeros(6, 7, dtype=torch.int64)
    for cell in cells:
        histogram[cell] += 1
    for of_histogram in (topk_accuracy_from_histogram, macro_topk_accuracy_from_histogram):
        values = [of_histogram(histogram, k).item() for k in range(1, 7)]
        if not cells:
            assert all(map(math.isnan, values))
            continue
        assert all(0 <= low <= high <= 1 + 1e-6 for low, high in pairwise(values))
    by_class = class_topk_accuracy_from_histogram(histogram, 3)
    assert by_class.isnan().tolist() == (histogram.sum(1) == 0).tolist()
    one_group = group_topk_accuracy_from_histogram(histogram, 3, torch.ones(6, dtype=torch.bool))
    assert torch.equal(one_group.nan_to_num(-1), macro_topk_accuracy_from_histogram(histogram, 3).nan_to_num(-1))


@given(st.permutations(range(7)))
def test_order_of_classes_does_not_show(order: list[int]) -> None:
    logits, targets = batch()
    place = torch.tensor(order).argsort()
    for function in (topk_accuracy, macro_topk_accuracy):
        torch.testing.assert_close(function(logits[:, order], place[targets], 3), function(logits, targets, 3))
    counts = torch.tensor(COUNTS)
    torch.testing.assert_close(
        group_topk_accuracy(logits[:, order], place[targets], 3, class_counts=counts[order]),
        group_topk_accuracy(logits, targets, 3, class_counts=counts),
    )


def test_class_accuracies_are_those_of_a_loop() -> None:
    logits, targets = batch(12)
    values = class_topk_accuracy_from_histogram(rank_histogram(logits, targets, max_k=4), 2)
    slow = slow_class_accuracy(logits, targets, 2)
    torch.testing.assert_close(values, torch.tensor([slow.get(c, NAN) for c in range(7)]), equal_nan=True)


@pytest.mark.parametrize("num_classes", [7, None])
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")  # asked for on purpose
def test_nothing_seen_is_nan(view, num_classes: int | None) -> None:
    function, metric_class, _, extra = view
    assert function(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), 2, **extra).isnan()
    metric = metric_class(num_classes, 2, **extra)
    assert metric.compute().isnan()
    metric.update(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    assert metric.compute().isnan()


def test_nan_and_constant_logits_are_misses(view) -> None:
    function, _, _, extra = view
    targets = torch.arange(7).repeat(3)
    assert function(torch.full((21, 7), NAN), targets, 6, **extra) == 0
    assert function(torch.full((21, 7), NAN), targets, 7, **extra) == 0
    assert function(torch.zeros(21, 7), targets, 6, **extra) == 0
    assert function(torch.zeros(21, 7), targets, 7, **extra) == 1


def test_ignored_targets_do_not_count(view) -> None:
    function, metric_class, slow, extra = view
    logits, targets = batch()
    targets[::4] = -100
    kept = targets != -100
    expected = pytest.approx(slow(logits[kept], targets[kept], 2), abs=1e-6)
    assert function(logits, targets, 2, ignore_index=-100, **extra).item() == expected
    metric = metric_class(7, 2, ignore_index=-100, **extra)
    metric.update(logits, targets)
    assert metric.compute().item() == expected


def test_copies_and_state(view) -> None:
    _, metric_class, _, extra = view
    metric = metric_class(7, 2, max_k=3, **extra)
    metric.update(*batch())
    assert not metric.state_dict()
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert twin.compute() == metric.compute()
        twin.update(*batch())
        assert twin.histogram.sum() == 120
    assert metric.to("meta").histogram.device.type == "meta"


def test_what_torchmetrics_and_loggers_ask(view) -> None:
    _, metric_class, _, extra = view
    metric = metric_class(7, 2, **extra)
    assert metric.higher_is_better
    assert metric.full_state_update is False
    assert metric.is_differentiable is False
    assert repr(metric).startswith(f"{metric_class.__name__}(k=2, num_classes=7, max_k=2")
    logits, targets = batch()
    metric.update(logits.half(), targets)
    value = metric.compute()
    assert value.shape == ()
    assert value.dtype == torch.float32
    figure, axes = metric.plot()
    assert axes.get_figure() is figure
    figure, axes = metric.plot([metric(*batch()) for _ in range(3)], ax=axes)
    assert axes.get_ylim() == pytest.approx((0, 1), abs=0.2)


def test_groups_are_bound_later() -> None:
    metric = GroupTopKAccuracy(7, 2, "medium").to("cpu")
    logits, targets = batch()
    metric.update(logits, targets)
    with pytest.raises(ValueError, match=r"by `bind_class_counts\(counts\)` before.*Found none for the group 'medium'"):
        metric.compute()
    metric.bind_class_counts(COUNTS)
    assert metric.compute().item() == pytest.approx(slow_macro(logits, targets, 2, {2, 3, 4}))
    metric.bind_class_counts(torch.tensor(COUNTS).flip(0))
    assert metric.compute().item() == pytest.approx(slow_macro(logits, targets, 2, {2, 3, 4}))
    metric.bind_class_counts([50] * 6 + [1])
    assert metric.compute().item() == pytest.approx(slow_macro(logits, targets, 2, {0, 1, 2, 3, 4, 5}))


def test_counts_of_another_length_are_named_when_the_classes_become_known() -> None:
    metric = GroupTopKAccuracy(k=2, class_counts=COUNTS)
    metric.update(*batch(c=5))
    with pytest.raises(ValueError, match="Found 7 counts for 5 classes"):
        metric.compute()


def test_group_edges_can_be_set() -> None:
    logits, targets = batch()
    metric = GroupTopKAccuracy(7, 2, "many", COUNTS, 50, 10)
    metric.update(logits, targets)
    assert metric.compute().item() == pytest.approx(slow_macro(logits, targets, 2, {0, 1, 2, 3}))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: TopKAccuracy(3), ValueError, r"`k` should be in \[1, C\]\. Found `k = 5` with `C = 3`"),
        (lambda: TopKAccuracy(3, 0), ValueError, "`k` should be an integer >= 1"),
        (lambda: MacroTopKAccuracy(9, 2.0), TypeError, "`k` should be an integer"),
        (
            lambda: MacroTopKAccuracy(9, 4, max_k=3),
            ValueError,
            "`max_k` should be >= `k`. Found `max_k = 3` with `k = 4`",
        ),
        (lambda: MacroTopKAccuracy(9, 4, max_k=10), ValueError, r"`max_k` should be in \[1, C\]"),
        (lambda: GroupTopKAccuracy(9, group="rare"), ValueError, "`group` should be one of 'many', 'medium', 'few'"),
        (lambda: GroupTopKAccuracy(9, few=200), ValueError, "`few` should be at most"),
        (lambda: GroupTopKAccuracy(9, class_counts=COUNTS), ValueError, "Found 7 counts for 9 classes"),
        (lambda: topk_accuracy(torch.ones(2, 3), torch.tensor([0, 1])), ValueError, r"Found `k = 5` with `C = 3`"),
        (lambda: topk_accuracy_from_histogram(torch.ones(3), 1), ValueError, r"shape \[C, max_k \+ 1\]\. Found \[3\]"),
        (lambda: topk_accuracy_from_histogram([[1, 2]], 1), ValueError, r"Found list"),
        (lambda: topk_accuracy_from_histogram(torch.ones(3, 4), 4), ValueError, r"in \[1, max_k\]\. Found `k = 4`"),
        (
            lambda: group_topk_accuracy_from_histogram(torch.ones(3, 4), 1, torch.ones(3)),
            ValueError,
            r"bool tensor of shape \[3\]\. Found torch.float32 \[3\]",
        ),
        (lambda: group_topk_accuracy_from_histogram(torch.ones(3, 4), 1, [True] * 3), ValueError, "Found list"),
    ],
)
def test_wrong_parameters_are_named(build: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_k_beyond_the_classes_is_an_error_at_the_first_batch() -> None:
    with pytest.raises(ValueError, match=r"should be in \[1, C\]\. Found `max_k = 5` with `C = 3`"):
        TopKAccuracy().update(torch.ones(2, 3), torch.tensor([0, 1]))
