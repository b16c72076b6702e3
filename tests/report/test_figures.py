"""Figures show what they are given, and change nothing of the user's matplotlib."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import image

from lightning_topk.report import accuracy_by_count, accuracy_by_k, accuracy_table, learning_curves, png_of
from lightning_topk.report._scatter import BANDWIDTH, running_mean

HISTOGRAM = torch.tensor([[3, 1, 0], [1, 0, 1], [0, 1, 2], [0, 0, 0]])
ROWS = [
    {"epoch": e, "step": 10 * e, "train_loss": 2.0 - e, "val_loss": 2.5 - e, "val_macro_top1": e / 4, "val_top1": e / 5}
    for e in range(3)
]


def lines_of(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.get_lines()}


@pytest.mark.parametrize(
    "figure",
    [
        accuracy_by_count([500, 101, 100, 3], [0.75, 0.5, 0.0, None], k=1, title="Test"),
        accuracy_by_k(accuracy_table(HISTOGRAM, [1, 2], [500, 101, 100, 3]), title="Test"),
        learning_curves(ROWS, [1]),
        accuracy_by_count([0, 4], [0.5, None], k=1),
        accuracy_by_k(accuracy_table(torch.zeros(3, 2, dtype=torch.int64), [1])),
        learning_curves([{"epoch": 0, "step": 3}], [1, 5]),
        accuracy_by_count([7], [1.0], k=1),
    ],
    ids=["count", "k", "curves", "count_empty", "k_empty", "curves_empty", "one_class"],
)
def test_each_figure_is_a_png(figure: Any) -> None:
    picture = image.imread(io.BytesIO(png_of(figure)))
    height, width = picture.shape[:2]
    assert width > 800
    assert height > 400
    assert picture[..., :3].std() > 0.01
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert "(%)" in axes.get_ylabel() or axes.get_ylabel() == "loss"


def test_the_running_mean_is_the_weighted_one() -> None:
    counts, accuracy = [5, 5, 40, 300], [0.2, 0.4, 0.6, 0.9]
    line = lines_of(accuracy_by_count(counts, accuracy, k=5).axes[0])["running mean"]
    assert line.get_xdata().tolist() == [5, 40, 300]
    for count, mean in zip(line.get_xdata(), line.get_ydata(), strict=True):
        weights = [np.exp(-0.5 * ((np.log10(n) - np.log10(count)) / BANDWIDTH) ** 2) for n in counts]
        assert mean == pytest.approx(100 * np.dot(weights, accuracy) / sum(weights), rel=1e-12)


def test_dots_are_the_classes_by_group() -> None:
    axes = accuracy_by_count([500, 101, 100, 20, 19, 0], [0.75, 0.5, 0.25, None, 0.1, 0.3], k=5).axes[0]
    shown = {dots.get_label().partition("\n")[0]: dots.get_offsets().tolist() for dots in axes.collections}
    assert shown == {
        "many-shot": [[500, 75], [101, 50]],
        "medium-shot": [[100, 25]],
        "few-shot": [[19, 10]],
    }


def test_curves_of_k() -> None:
    lines = lines_of(accuracy_by_k(accuracy_table(HISTOGRAM, [1, 2], [500, 101, 100, 3])).axes[0])
    assert list(lines) == ["all, macro", "all, micro", "many (> 100)", "medium (20-100)"]
    assert list(lines["all, micro"].get_xdata()) == [1, 2]
    assert list(lines["all, micro"].get_ydata()) == pytest.approx([400 / 9, 600 / 9])


def test_learning_curves_are_over_steps_where_an_epoch_has_several_rows() -> None:
    left, right = learning_curves(ROWS, [1]).axes
    assert (left.get_xlabel(), list(lines_of(left)["training"].get_xdata())) == ("epoch", [0, 1, 2])
    assert list(lines_of(right)["top-1, macro"].get_ydata()) == [0, 25, 50]
    left, _ = learning_curves([*ROWS, {**ROWS[-1], "step": 25}], [1]).axes
    assert (left.get_xlabel(), list(lines_of(left)["validation"].get_xdata())) == ("step", [0, 10, 20, 25])


def test_no_global_state_changes() -> None:
    before = dict(mpl.rcParams)
    png_of(accuracy_by_count([500, 5], [0.7, 0.5], k=1))
    assert dict(mpl.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_a_hundred_thousand_classes_give_a_small_file_quickly() -> None:
    counts, accuracy = torch.randint(1, 3000, (100_000,)), torch.rand(100_000)
    start = time.perf_counter()
    png = png_of(accuracy_by_count(counts, accuracy, k=5))
    assert time.perf_counter() - start < 10
    assert len(png) < 500_000


def test_the_band_is_that_of_the_weighted_mean() -> None:
    counts, accuracy = [30, 30, 30, 30, 3000], [0.2, 0.4, 0.6, 0.8, 0.9]
    grid, mean, error = running_mean(np.array(counts, dtype=float), np.array(accuracy))
    assert (grid.tolist(), mean.tolist()) == ([30, 3000], pytest.approx([0.5, 0.9]))
    assert error[0] == pytest.approx(np.std(accuracy[:4], ddof=1) / 2, rel=1e-6)  # equal weights: the usual one
    assert error[1] == 0.0  # one class tells nothing of its spread
    axes = accuracy_by_count(counts, accuracy, k=1).axes[0]
    (band,) = axes.patches
    assert band.get_label() == "its 95 % band"
    low, high = 100 * (mean[0] - 1.96 * error[0]), 100 * (mean[0] + 1.96 * error[0])
    assert {round(y, 6) for x, y in band.get_xy() if x == 30} == {round(low, 6), round(high, 6)}
