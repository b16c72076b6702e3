from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_topk.metrics import (
    GroupTopKAccuracy,
    MacroTopKAccuracy,
    RankHistogram,
    TopKAccuracy,
    topk_metrics,
)
from metrics.slow_metrics import slow_macro, slow_micro

COUNTS = [500, 120, 100, 60, 20, 19, 3]
GROUPS = {"many": {0, 1}, "medium": {2, 3, 4}, "few": {5, 6}}


def batch(n: int = 60, c: int = 7) -> tuple[Tensor, Tensor]:
    return torch.randn(n, c), torch.randint(c, (n,))


def expected(logits: Tensor, targets: Tensor, ks: tuple[int, ...]) -> dict[str, float]:
    values = {}
    for k in ks:
        values[f"val_macro_top{k}"] = slow_macro(logits, targets, k)
        values[f"val_top{k}"] = slow_micro(logits, targets, k)
        values |= {f"val_{name}_top{k}": slow_macro(logits, targets, k, group) for name, group in GROUPS.items()}
    return values


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


@pytest.mark.parametrize("num_classes", [7, None])
def test_collection_has_every_value(num_classes: int | None) -> None:
    metrics = topk_metrics(num_classes, (5, 1, 3), class_counts=COUNTS)
    logits, targets = batch()
    for _ in range(2):
        for part in zip(logits.split(13), targets.split(13), strict=True):
            metrics.update(*part)
        assert numbers(metrics.compute()) == pytest.approx(expected(logits, targets, (1, 3, 5)), abs=1e-6)
        metrics.reset()


def test_one_update_serves_all_after_the_first_batch() -> None:
    metrics = topk_metrics(7, (1, 3, 5), class_counts=COUNTS)
    metrics.update(*batch())
    assert [len(group) for group in metrics.compute_groups.values()] == [15]
    with mock.patch("lightning_topk.metrics._histogram.target_ranks", wraps=_ranks()) as ranks:
        for _ in range(4):
            metrics.update(*batch())
        metrics.reset()
        metrics.update(*batch())
    assert ranks.call_count == 5


def _ranks():
    from lightning_topk.metrics import target_ranks

    return target_ranks


def test_a_first_batch_without_differences_leads_nobody_astray() -> None:
    first = torch.eye(4)[[0, 1, 2]], torch.tensor([0, 1, 2])  # hits at every K
    second = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 3), torch.tensor([1, 2, 3])
    metrics = MetricCollection({f"top{k}": TopKAccuracy(4, k, max_k=3) for k in (1, 2, 3)})
    metrics.update(*first)
    metrics.update(*second)
    assert numbers(metrics.compute()) == pytest.approx({"top1": 3 / 6, "top2": 4 / 6, "top3": 5 / 6})


def test_metrics_of_different_reach_are_kept_apart() -> None:
    first = torch.eye(4)[[0, 1, 2]], torch.tensor([0, 1, 2])
    second = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 3), torch.tensor([1, 2, 3])
    metrics = MetricCollection({f"top{k}": TopKAccuracy(4, k) for k in (1, 2, 3)})
    metrics.update(*first)
    metrics.update(*second)
    assert len(metrics.compute_groups) == 3
    assert numbers(metrics.compute()) == pytest.approx({"top1": 3 / 6, "top2": 4 / 6, "top3": 5 / 6})


def test_metrics_that_ignore_other_targets_are_kept_apart() -> None:
    logits = torch.eye(3)
    metrics = MetricCollection({"all": TopKAccuracy(3, 1), "some": TopKAccuracy(3, 1, ignore_index=2)})
    metrics.update(logits[:2], torch.tensor([0, 1]))  # both see the same here
    metrics.update(logits[:1], torch.tensor([2]))
    assert numbers(metrics.compute()) == pytest.approx({"all": 2 / 3, "some": 1.0})


def test_forward_gives_the_batch_and_keeps_the_sum() -> None:
    metrics = topk_metrics(7, (1, 3), class_counts=COUNTS)
    batches = [batch(), batch()]
    for one in batches:
        assert numbers(metrics(*one)) == pytest.approx(expected(*one, (1, 3)), abs=1e-6)
    logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert numbers(metrics.compute()) == pytest.approx(expected(logits, targets, (1, 3)), abs=1e-6)


@pytest.mark.parametrize("call", ["update", "forward"])
def test_sample_limit_of_the_collection(call: str) -> None:
    metrics = topk_metrics(7, (1, 3), class_counts=COUNTS)
    assert metrics.sample_limit is None
    metrics.sample_limit = 33
    assert metrics.sample_limit == 33
    logits, targets = batch()
    for _ in range(2):
        for part in zip(logits.split(12), targets.split(12), strict=True):
            getattr(metrics, call)(*part)
        assert numbers(metrics.compute()) == pytest.approx(expected(logits[:33], targets[:33], (1, 3)), abs=1e-6)
        metrics.reset()


def test_counts_are_bound_through_the_collection() -> None:
    metrics = topk_metrics(7, (1,), groups=True, prefix="test_")
    metrics.update(*batch())
    with pytest.raises(ValueError, match="Found none for the group 'few'"):
        metrics.compute()
    metrics.bind_class_counts(COUNTS)
    assert set(metrics.compute()) == {
        "test_few_top1", "test_macro_top1", "test_many_top1", "test_medium_top1", "test_top1"
    }  # fmt: skip


def test_keys_and_members() -> None:
    metrics = topk_metrics(10, (5, 1, 5), prefix=None, postfix="_ema")
    assert set(metrics.keys()) == {"macro_top1_ema", "top1_ema", "macro_top5_ema", "top5_ema"}
    assert set(topk_metrics(10).clone(prefix="test_").keys()) >= {"test_macro_top5", "test_top3"}
    kinds = {type(metric) for metric in topk_metrics(10, groups=True).values()}
    assert kinds == {MacroTopKAccuracy, TopKAccuracy, GroupTopKAccuracy}


def test_copies_go_on_by_themselves() -> None:
    metrics = topk_metrics(7, (1, 3), class_counts=COUNTS)
    metrics.update(*batch())
    before = numbers(metrics.compute())
    for twin in (copy.deepcopy(metrics), pickle.loads(pickle.dumps(metrics)), metrics.clone()):
        assert numbers(twin.compute()) == before
        twin.update(*batch())
        assert numbers(metrics.compute()) == before
    assert not metrics.state_dict()


def test_collection_holds_a_histogram_beside_its_views() -> None:
    metrics = MetricCollection({"histogram": RankHistogram(7, 3), "top3": TopKAccuracy(7, 3)})
    for _ in range(2):
        metrics.update(*batch())
    values = metrics.compute()
    assert len(metrics.compute_groups) == 1
    assert values["histogram"].sum() == 120
    torch.testing.assert_close(values["top3"], values["histogram"][:, :3].sum() / 120)


def test_plot() -> None:
    metrics = topk_metrics(7, (1, 3))
    metrics.update(*batch())
    assert len(metrics.plot()) == 4


@pytest.mark.parametrize(
    ("ks", "error", "message"),
    [
        ((), ValueError, "at least one K"),
        ((1, 0), ValueError, "`ks` should be an integer >= 1"),
        ((1, 2.5), TypeError, "`ks` should be an integer"),
        ((1, 5), ValueError, r"should be in \[1, C\]\. Found `max_k = 5` with `C = 3`"),
    ],
)
def test_wrong_ks_are_named(ks: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        topk_metrics(3, ks)
