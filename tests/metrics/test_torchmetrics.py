"""Agreement with torchmetrics where it follows the same law, and the cases in which it does not."""

from __future__ import annotations

import pytest
import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import multiclass_accuracy

from lightning_topk.metrics import MacroTopKAccuracy, macro_topk_accuracy, topk_accuracy

NAN = float("nan")
on_1_9 = pytest.mark.skipif(
    not torchmetrics.__version__.startswith("1.9."), reason="the figures on the other side are those of 1.9"
)


@pytest.mark.parametrize("k", [1, 2, 5, 10])
@pytest.mark.parametrize("ignore_index", [None, -100])
def test_micro_agrees_without_ties(k: int, ignore_index: int | None) -> None:
    logits, targets = torch.randn(200, 20), torch.randint(20, (200,))
    if ignore_index is not None:
        targets[::3] = ignore_index
    theirs = multiclass_accuracy(logits, targets, 20, top_k=k, average="micro", ignore_index=ignore_index)
    torch.testing.assert_close(topk_accuracy(logits, targets, k, ignore_index=ignore_index), theirs)


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize("samples", [200, 15])  # 15 leave classes out of the targets
def test_macro_agrees_without_ties_beyond_the_first_place(k: int, samples: int) -> None:
    logits, targets = torch.randn(samples, 20), torch.randint(20, (samples,))
    torch.testing.assert_close(
        macro_topk_accuracy(logits, targets, k), multiclass_accuracy(logits, targets, 20, top_k=k, average="macro")
    )


def test_macro_top1_agrees_when_every_class_is_present() -> None:
    logits, targets = torch.randn(200, 20), torch.arange(20).repeat(10)
    torch.testing.assert_close(
        macro_topk_accuracy(logits, targets, 1), multiclass_accuracy(logits, targets, 20, top_k=1, average="macro")
    )


@on_1_9
def test_a_class_that_was_only_predicted_does_not_count() -> None:
    logits, targets = torch.eye(3)[[1, 1, 0]], torch.tensor([0, 0, 0])
    assert macro_topk_accuracy(logits, targets, 1).item() == pytest.approx(1 / 3)
    assert multiclass_accuracy(logits, targets, 3, top_k=1, average="macro").item() == pytest.approx(1 / 6)


@on_1_9
def test_nan_scores_are_no_hits() -> None:
    logits, targets = torch.full((4, 4), NAN), torch.arange(4)
    assert topk_accuracy(logits, targets, 1) == 0
    assert multiclass_accuracy(logits, targets, 4, top_k=1, average="micro") == 0.25


@on_1_9
def test_constant_scores_are_no_hits() -> None:
    logits, targets = torch.zeros(4, 4), torch.arange(4)
    assert topk_accuracy(logits, targets, 2) == 0
    assert multiclass_accuracy(logits, targets, 4, top_k=2, average="micro") == 0.5


@on_1_9
def test_several_k_in_one_collection_keep_their_values() -> None:
    batches = [
        (torch.eye(4)[[0, 1, 2]], torch.tensor([0, 1, 2])),  # hits at every K
        (torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 3), torch.tensor([1, 2, 3])),
    ]
    ours = MetricCollection({str(k): MacroTopKAccuracy(4, k, max_k=3) for k in (1, 3)})
    theirs = MetricCollection({str(k): MulticlassAccuracy(4, top_k=k, average="macro") for k in (1, 3)})
    for one in batches:
        ours.update(*one)
        theirs.update(*one)
    assert [value.item() for value in ours.compute().values()] == pytest.approx([2 / 4, 3 / 4])
    assert [value.item() for value in theirs.compute().values()] == pytest.approx([2 / 4, 2 / 4])
