"""Tables of accuracies over groups of classes and for each class."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_topk.imbalance import check_counts, class_groups
from lightning_topk.metrics import (
    class_topk_accuracy_from_histogram,
    group_topk_accuracy_from_histogram,
    topk_accuracy_from_histogram,
)


def accuracy_table(histogram: Tensor, ks: Iterable[int], class_counts: Any = None) -> list[dict[str, Any]]:
    """Return the top-K accuracies of all classes and of the groups by training count, one row for each.

    The rows are ``"macro"`` (mean over classes), ``"micro"`` (mean over samples) and, when counts are known, the macro
    means within the groups ``"many"``, ``"medium"`` and ``"few"``
    (:func:`~lightning_topk.imbalance.class_groups`).

    Args:
        histogram: Rank histogram, shape [C, max_k + 1].
        ks: The K, each in [1, max_k].
        class_counts: Training samples of each class, shape [C].

    Returns:
        Rows with the keys ``group``, ``classes``, ``classes_seen`` (those present in the targets),
        ``training_samples`` (``None`` without counts), ``samples`` (evaluated ones), and ``top{K}``: an accuracy in
        [0, 1], ``None`` when no class of the group was seen.

    Raises:
        ValueError: A histogram of another shape, K out of range, or counts that are none.

    Example:
        >>> rows = accuracy_table(torch.tensor([[3, 1, 0], [1, 0, 1]]), ks=[1])
        >>> rows[0]["group"], rows[0]["top1"], rows[1]["group"], rows[1]["top1"]
        ('macro', 0.625, 'micro', 0.6666666666666666)
    """
    exact = histogram.double()
    support = histogram.sum(1)
    counts = None if class_counts is None else check_counts(class_counts, len(histogram)).to(histogram.device)
    everything = torch.ones(len(histogram), dtype=torch.bool, device=histogram.device)
    masks = {"macro": everything, "micro": everything}
    if counts is not None:
        masks.update(class_groups(counts))
    rows = []
    for group, mask in masks.items():
        own = mask.to(histogram.device)
        row = {
            "group": group,
            "classes": int(own.sum()),
            "classes_seen": int((support[own] > 0).sum()),
            "training_samples": None if counts is None else int(counts[own].sum()),
            "samples": int(support[own].sum()),
        }
        for k in ks:
            if group == "micro":
                value = topk_accuracy_from_histogram(exact, k)
            else:
                value = group_topk_accuracy_from_histogram(exact, k, own)
            row[f"top{k}"] = _or_none(value.item())
        rows.append(row)
    return rows


def class_table(
    histogram: Tensor, ks: Iterable[int], class_counts: Any = None, names: Sequence[str] | None = None
) -> dict[str, list[Any]]:
    """Return the top-K accuracies of each class, as columns.

    Args:
        histogram: Rank histogram, shape [C, max_k + 1].
        ks: The K, each in [1, max_k].
        class_counts: Training samples of each class, shape [C].
        names: Names of the classes.

    Returns:
        Columns of C values: ``class``, ``name``, ``training_samples``, ``samples`` and ``top{K}``. What is not known,
        and the accuracy of a class that was not seen, is ``None``.

    Raises:
        ValueError: A histogram of another shape, K out of range, or counts that are none.

    Example:
        >>> class_table(torch.tensor([[3, 1, 0], [0, 0, 0]]), ks=[1], class_counts=[9, 8])["top1"]
        [0.75, None]
    """
    size = len(histogram)
    known = names is not None and len(names) == size
    columns: dict[str, list[Any]] = {
        "class": list(range(size)),
        "name": list(names or ()) if known else [None] * size,
        "training_samples": [None] * size if class_counts is None else check_counts(class_counts, size).tolist(),
        "samples": histogram.sum(1).tolist(),
    }
    exact = histogram.double()
    for k in ks:
        columns[f"top{k}"] = [_or_none(value) for value in class_topk_accuracy_from_histogram(exact, k).tolist()]
    return columns


def counts_summary(class_counts: Any) -> dict[str, Any]:
    """Summarise the training counts of the classes by primitives.

    Args:
        class_counts: Training samples of each class, shape [C].

    Returns:
        ``classes``, ``samples``, ``largest``, ``smallest`` and ``imbalance_factor`` (``None`` with an empty class).

    Example:
        >>> counts_summary([500, 50, 5])
        {'classes': 3, 'samples': 555, 'largest': 500, 'smallest': 5, 'imbalance_factor': 100.0}
    """
    counts = check_counts(class_counts)
    largest, smallest = int(counts.max()), int(counts.min())
    return {
        "classes": len(counts),
        "samples": int(counts.sum()),
        "largest": largest,
        "smallest": smallest,
        "imbalance_factor": largest / smallest if smallest else None,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
