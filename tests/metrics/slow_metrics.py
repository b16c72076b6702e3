"""The metrics as slow, obvious loops over Python numbers."""

from __future__ import annotations

import math
from collections import defaultdict

from torch import Tensor

NAN = float("nan")


def slow_rank(scores: list[float], label: int) -> int:
    own = scores[label]
    if math.isnan(own):
        return len(scores)
    return sum(1 for j, score in enumerate(scores) if j != label and not score < own)


def slow_ranks(logits: Tensor, targets: Tensor) -> list[int]:
    rows = logits.reshape(-1, logits.shape[-1]).tolist()
    return [slow_rank(row, label) for row, label in zip(rows, targets.flatten().tolist(), strict=True)]


def slow_class_accuracy(logits: Tensor, targets: Tensor, k: int) -> dict[int, float]:
    hits = defaultdict(list)
    for rank, label in zip(slow_ranks(logits, targets), targets.flatten().tolist(), strict=True):
        hits[label].append(rank < k)
    return {label: sum(found) / len(found) for label, found in hits.items()}


def slow_micro(logits: Tensor, targets: Tensor, k: int) -> float:
    ranks = slow_ranks(logits, targets)
    return sum(rank < k for rank in ranks) / len(ranks) if ranks else NAN


def slow_macro(logits: Tensor, targets: Tensor, k: int, classes: set[int] | None = None) -> float:
    accuracy = slow_class_accuracy(logits, targets, k)
    kept = [value for label, value in accuracy.items() if classes is None or label in classes]
    return sum(kept) / len(kept) if kept else NAN
