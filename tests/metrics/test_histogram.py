from __future__ import annotations

import copy
import pickle

import pytest
import torch

from lightning_topk.metrics import RankHistogram, rank_histogram, topk_accuracy
from metrics.slow_metrics import slow_ranks


def batch(n: int = 40, c: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, c).round(decimals=1), torch.randint(c, (n,))


@pytest.mark.parametrize("max_k", [1, 3, 7])
def test_histogram_counts_ranks_per_class(max_k: int) -> None:
    logits, targets = batch()
    expected = torch.zeros(7, max_k + 1, dtype=torch.int64)
    for rank, label in zip(slow_ranks(logits, targets), targets.tolist(), strict=True):
        expected[label, min(rank, max_k)] += 1
    assert torch.equal(rank_histogram(logits, targets, max_k=max_k), expected)


def test_ignored_targets_are_not_counted() -> None:
    logits, targets = batch()
    kept = targets != 2
    histogram = rank_histogram(logits, targets, max_k=3, ignore_index=2)
    assert torch.equal(histogram, rank_histogram(logits[kept], targets[kept], max_k=3))
    assert histogram[2].sum() == 0


def test_empty_batch_counts_nothing() -> None:
    assert torch.equal(rank_histogram(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), max_k=2), torch.zeros(4, 3))


@pytest.mark.parametrize("sizes", [(40,), (1, 39), (13, 0, 27)])
@pytest.mark.parametrize("num_classes", [7, None])
def test_metric_sums_over_batches(sizes: tuple[int, ...], num_classes: int | None) -> None:
    logits, targets = batch()
    metric = RankHistogram(num_classes, max_k=3)
    for part in zip(logits.split(sizes), targets.split(sizes), strict=True):
        metric.update(*part)
    assert torch.equal(metric.compute(), rank_histogram(logits, targets, max_k=3))
    assert metric.compute().dtype == torch.int64


@pytest.mark.parametrize("num_classes", [7, None])
def test_forward_gives_the_batch_and_keeps_the_sum(num_classes: int | None) -> None:
    metric, (logits, targets) = RankHistogram(num_classes, max_k=2), batch()
    for rows in (slice(0, 15), slice(15, 40)):
        assert torch.equal(metric(logits[rows], targets[rows]), rank_histogram(logits[rows], targets[rows], max_k=2))
    assert torch.equal(metric.compute(), rank_histogram(logits, targets, max_k=2))


@pytest.mark.parametrize("num_classes", [7, None])
def test_reset_starts_anew(num_classes: int | None) -> None:
    metric = RankHistogram(num_classes, max_k=2)
    metric.update(*batch())
    metric.reset()
    logits, targets = batch()
    metric.update(logits, targets)
    assert torch.equal(metric.compute(), rank_histogram(logits, targets, max_k=2))


def test_unsized_metric_takes_another_number_of_classes_after_reset() -> None:
    metric = RankHistogram(max_k=2)
    metric.update(*batch(c=7))
    with pytest.raises(ValueError, match=r"`num_classes = 7` scores in the last dimension\. Found shape \[40, 5\]"):
        metric.update(*batch(c=5))
    metric.reset()
    metric.update(*batch(c=5))
    assert metric.compute().shape == (5, 3)


def test_metric_reset_in_inference_mode_is_of_use_outside() -> None:
    metric, (logits, targets) = RankHistogram(7), batch()
    with torch.inference_mode():
        metric.reset()
        metric.update(logits, targets)
    metric.update(logits, targets)
    with torch.inference_mode():
        metric.update(logits, targets)
    assert torch.equal(metric.compute(), 3 * rank_histogram(logits, targets))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.clone()])
@pytest.mark.parametrize("num_classes", [7, None])
def test_copies_go_on_by_themselves(copied, num_classes: int | None) -> None:
    metric, (logits, targets) = RankHistogram(num_classes, max_k=3, sample_limit=60), batch()
    metric.update(logits, targets)
    twin = copied(metric)
    twin.update(logits, targets)
    assert metric.compute().sum() == 40
    assert twin.compute().sum() == 60


def test_state_is_saved_only_when_asked() -> None:
    metric = RankHistogram(7, ignore_index=-100)
    metric.update(*batch())
    assert not metric.state_dict()
    metric.persistent(True)
    other = RankHistogram(7, ignore_index=-100)
    other.persistent(True)
    other.load_state_dict(metric.state_dict())
    other.update(*batch(0))
    assert torch.equal(other.compute(), metric.compute())


def test_metric_keeps_whole_numbers_in_every_precision() -> None:
    metric = RankHistogram(7).half().double()
    logits, targets = batch()
    metric.update(logits.half(), targets)
    assert metric.compute().dtype == torch.int64


@pytest.mark.parametrize("num_classes", [7, None])
def test_nothing_is_read_back_from_a_device(num_classes: int | None) -> None:
    metric = RankHistogram(num_classes, ignore_index=-100, sample_limit=50).to("meta")
    logits, targets = (part.to("meta") for part in batch())
    metric.update(logits, targets)  # a tensor without values cannot be read
    metric(logits, targets)
    assert metric.compute().device.type == "meta"


def test_repr_is_a_line() -> None:
    assert repr(RankHistogram(7, 3, 255)) == "RankHistogram(num_classes=7, max_k=3, ignore_index=255)"


@pytest.mark.parametrize(("left", "right"), [(7, 7), (None, None), (7, None)])
@pytest.mark.parametrize("seen", [(True, True), (True, False), (False, True), (False, False)])
def test_merge_adds(left: int | None, right: int | None, seen: tuple[bool, bool]) -> None:
    logits, targets = batch()
    metrics = RankHistogram(left), RankHistogram(right)
    for metric, used in zip(metrics, seen, strict=True):
        if used:
            metric.update(logits, targets)
    metrics[0].merge_state(metrics[1])
    assert metrics[0].histogram.sum() == 40 * sum(seen)


def test_merge_refuses_other_classes() -> None:
    with pytest.raises(ValueError, match=r"one number of classes\. Found \[5, 7\]"):
        RankHistogram(7).merge_state(RankHistogram(5))


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize("num_classes", [7, None])
@pytest.mark.parametrize("limit", [0, 1, 12, 20, 33, 40, 99])
def test_sample_limit_leaves_out_what_comes_later(call: str, num_classes: int | None, limit: int) -> None:
    metric, (logits, targets) = RankHistogram(num_classes, max_k=3, sample_limit=limit), batch()
    for _ in range(2):
        for part in zip(logits.split(12), targets.split(12), strict=True):
            getattr(metric, call)(*part)
        assert torch.equal(metric.compute(), rank_histogram(logits[:limit], targets[:limit], max_k=3))
        metric.reset()


def test_forward_of_a_batch_beyond_the_limit_is_nothing() -> None:
    metric, (logits, targets) = RankHistogram(7, sample_limit=3), batch()
    assert [int(metric(logits[i : i + 2], targets[i : i + 2]).sum()) for i in (0, 2, 4)] == [2, 1, 0]


def test_sample_limit_counts_entries_of_the_first_dimension() -> None:
    metric = RankHistogram(5, sample_limit=3)
    for _ in range(2):
        metric.update(torch.randn(2, 4, 4, 5), torch.randint(5, (2, 4, 4)))
    assert metric.compute().sum() == 3 * 16


def test_sample_limit_counts_a_single_sample() -> None:
    metric = RankHistogram(5, sample_limit=1)
    for label in (3, 4):
        metric.update(torch.randn(5), torch.tensor(label))
    assert metric.compute().sum(1).tolist() == [0, 0, 0, 1, 0]


def test_sample_limit_hides_no_wrong_shape() -> None:
    with pytest.raises(ValueError, match="should have the shape of the logits"):
        RankHistogram(7, sample_limit=3).update(torch.randn(9, 7), torch.zeros(8, dtype=torch.int64))


def test_plot_draws_accuracy_against_k() -> None:
    metric, (logits, targets) = RankHistogram(7, max_k=3), batch()
    metric.update(logits, targets)
    figure, axes = metric.plot()
    assert axes.get_figure() is figure
    assert axes.lines[0].get_ydata()[1] == pytest.approx(topk_accuracy(logits, targets, 2).item())
    assert metric.plot(metric.compute(), ax=axes)[1] is axes


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "`num_classes` should be an integer >= 1"),
        ({"num_classes": 5.0}, TypeError, "`num_classes` should be an integer"),
        ({"max_k": 0}, ValueError, "`max_k` should be an integer >= 1"),
        ({"num_classes": 3}, ValueError, r"`max_k` should be in \[1, C\]\. Found `max_k = 5` with `C = 3`"),
        ({"sample_limit": -1}, ValueError, "`sample_limit` should be an integer >= 0"),
        ({"sync": True}, ValueError, "Unexpected keyword arguments"),
    ],
)
def test_wrong_parameters_are_named(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RankHistogram(**arguments)


@pytest.mark.parametrize("call", ["update", "forward"])
def test_k_beyond_the_classes_is_an_error_at_the_first_batch(call: str) -> None:
    with pytest.raises(ValueError, match=r"`max_k` should be in \[1, C\]\. Found `max_k = 5` with `C = 3`"):
        getattr(RankHistogram(), call)(torch.randn(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize("num_classes", [3, None])
def test_wrong_batches_are_named(call: str, num_classes: int | None) -> None:
    metric = RankHistogram(num_classes, max_k=2)
    with pytest.raises(TypeError, match="floating point dtype"):
        getattr(metric, call)(torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"at least one class"):
        getattr(metric, call)(torch.tensor(1.0), torch.tensor(0))
    with pytest.raises(ValueError, match=r"Found 3 with `C = 3`"):
        getattr(metric, call)(torch.ones(2, 3), torch.tensor([0, 3]))
