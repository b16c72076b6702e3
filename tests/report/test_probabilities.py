"""Which losses make probabilities of their scores, and the figures that are drawn of them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from lightning_topk.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    FocalLoss,
    ImbalancedNoisedTopKLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    NoisedTopKLoss,
    PriorAdjustedLoss,
    TopKHingeLoss,
    VSLoss,
)
from lightning_topk.report._probabilities import sharpness, softmax_factor
from lightning_topk.report._reliability import average_k_accuracy, coverage_of_sets


@pytest.mark.parametrize(
    ("loss", "factor", "sharp"),
    [
        (CrossEntropyLoss(), 1.0, 1.0),
        (nn.CrossEntropyLoss(), 1.0, 1.0),
        (FocalLoss(), 1.0, 1.0),
        (LogitAdjustedLoss(), 1.0, 1.0),
        (BalancedSoftmaxLoss(), 1.0, 1.0),
        (VSLoss(), 1.0, 1.0),
        (LDAMLoss(scale=20.0), 20.0, 20.0),
        (PriorAdjustedLoss(LDAMLoss(scale=20.0)), 20.0, 20.0),
        (PriorAdjustedLoss(NoisedTopKLoss(k=2)), None, 1.0),
        (NoisedTopKLoss(k=2, scale=7.0), None, 7.0),
        (ImbalancedNoisedTopKLoss(k=2, scale=50.0), None, 50.0),
        (TopKHingeLoss(k=2), None, 1.0),
        (nn.MultiMarginLoss(), None, 1.0),
        (None, None, 1.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_losses_that_make_probabilities(loss: Any, factor: float | None, sharp: float) -> None:
    assert softmax_factor(loss) == factor
    assert sharpness(loss) == sharp


def test_coverage_is_drawn_against_the_diagonal() -> None:
    axes = coverage_of_sets({1: [(10, 4, 0.55), (20, 19, 0.97)], 5: []}).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["K = 1"].get_xdata()) == pytest.approx([55, 97])
    assert list(lines["K = 1"].get_ydata()) == pytest.approx([40, 95])
    assert list(lines["as nominal"].get_ydata()) == [0, 100]


def test_average_k_is_drawn_at_the_sizes_that_were_found() -> None:
    rows = [{"k": k, "mean_set_size": k - 0.1, "average_k_accuracy": 0.6, "topk_accuracy": 0.5} for k in (1, 2)]
    axes = average_k_accuracy(rows).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["average-K"].get_xdata()) == pytest.approx([0.9, 1.9])
    assert list(lines["top-K"].get_xdata()) == [1, 2]
