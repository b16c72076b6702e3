"""Figures of lines: accuracy against K, and the course of a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_topk.report._console import LABELS
from lightning_topk.report._history import history_columns
from lightning_topk.report._style import GROUP_STYLES, INK, K_COLORS, legend_beside, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def accuracy_by_k(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> "Figure":
    """Draw the top-K accuracy against K for all classes, macro and micro, and for each group.

    Args:
        rows: Rows of :func:`~lightning_topk.report.accuracy_table`, best made with all K from 1 to the largest.
        title: Title of the figure.

    Returns:
        A figure that no window system knows of; ``figure.savefig(path)`` writes it.

    Example:
        >>> import torch
        >>> from lightning_topk.report import accuracy_table
        >>> figure = accuracy_by_k(accuracy_table(torch.tensor([[3, 1, 0], [1, 0, 1]]), ks=[1, 2]))
        >>> [line.get_label() for line in figure.axes[0].get_lines()]
        ['all, macro', 'all, micro']
    """
    figure, (axes,) = new_figure(1, title)
    ks = sorted(int(name[3:]) for name in rows[0] if name.startswith("top"))
    for row in rows:
        values = [row[f"top{k}"] for k in ks]
        if values[0] is not None:
            color, marker, style = GROUP_STYLES[row["group"]]
            width = 2.4 if row["group"] == "macro" else 1.6
            axes.plot(
                ks,
                [100 * value for value in values],
                color=color,
                marker=marker if len(ks) <= 20 else None,
                linestyle=style,
                linewidth=width,
                markersize=5,
                clip_on=False,
                label=LABELS[row["group"]],
            )
    axes.set(xlabel="K (number of guesses)", ylabel="top-K accuracy (%)", ylim=(0, 100))
    axes.xaxis.get_major_locator().set_params(integer=True)
    tidy(axes)
    legend_beside(axes)
    return figure


def learning_curves(rows: Sequence[Mapping[str, Any]], ks: Sequence[int], *, suffix: str = "") -> "Figure":
    """Draw losses and accuracies over the epochs, or over the steps where an epoch has several validations.

    Args:
        rows: Rows of the history with ``epoch``, ``step``, ``train_loss``, ``val_loss``, ``val_macro_top{K}`` and
            ``val_top{K}`` as far as they are known.
        ks: The K that are drawn.
        suffix: End of the names of the accuracies, such as ``"/dataloader_idx_0"``.

    Returns:
        A figure of two panels; ``figure.savefig(path)`` writes it.

    Example:
        >>> rows = [{"epoch": 0, "step": 9, "train_loss": 2.0, "val_macro_top1": 0.1}]
        >>> [axes.get_xlabel() for axes in learning_curves(rows, ks=[1]).axes]
        ['epoch', 'epoch']
    """
    columns = history_columns(rows)
    unit = "epoch" if len(set(columns["epoch"])) == len(rows) else "step"
    figure, (left, right) = new_figure(2, "")
    few = len(rows) <= 30

    def line(axes: Any, name: str, label: str, color: str, style: str = "-", factor: float = 1.0) -> None:
        if name in columns:
            values = factor * np.array(columns[name], dtype=float)
            shape = {"marker": "o", "markersize": 4} if few and style != ":" else {}
            axes.plot(columns[unit], values, style, color=color, linewidth=1.8, label=label, **shape)

    line(left, "train_loss", "training", INK, "--")
    for name in (f"val_loss{suffix}", "val_loss"):
        if name in columns:
            line(left, name, "validation", K_COLORS[0])
            break
    for k, color in zip(ks, K_COLORS * len(ks), strict=False):
        line(right, f"val_macro_top{k}{suffix}", f"top-{k}, macro", color, "-", 100.0)
        line(right, f"val_top{k}{suffix}", f"top-{k}, micro", color, ":", 100.0)
    left.set(xlabel=unit, ylabel="loss")
    right.set(xlabel=unit, ylabel="validation accuracy (%)", ylim=(0, 100))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes)
        legend_beside(axes)
    return figure
