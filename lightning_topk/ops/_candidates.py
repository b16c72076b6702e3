"""Choice of the best classes of each row in two stages, on the CPU."""

import math

import numpy as np
import torch
from torch import Tensor

# Rows with fewer classes are partitioned at once: a second stage would cost more than it saves.
_TWO_STAGES = 2048
# Entries of a block of rows; a block and the maxima of its groups stay in the cache.
_BLOCK = 1 << 18


def best_classes(scores: Tensor, count: int) -> tuple[Tensor, Tensor, bool]:
    """Return the ``count`` largest scores of each row, in no order, and their classes.

    A row is dealt out to groups like cards, class j to group j modulo the number of groups. At least ``count`` scores
    reach the smallest of the ``count`` largest group maxima, so that a group whose maximum is not among these holds
    none of the best scores, up to ties, which are broken anyhow. Only the members of ``count`` groups are compared
    then. The cost is one pass over the scores, and two partitions of about sqrt(count C) entries. NaN counts as the
    largest.

    Args:
        scores: Shape [N, C], on the CPU. float16 and bfloat16 are read block by block, without a copy of them all.
        count: Number M in [1, C].

    Returns:
        Scores [N, M] in the dtype of ``scores``, float32 at least, classes [N, M], and whether the sum of all scores is
        finite, and they are; looked at while a few rows are in the cache.
    """
    rows = max(1, _BLOCK // scores.shape[1])
    parts, total = [], 0.0
    for block in scores.detach().split(rows):
        block = block.float() if block.dtype.itemsize < 4 else block
        parts.append(_best(block.numpy(), count))
        total += float(block.sum())
    index = torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, count, dtype=torch.long)
    values = scores.detach().gather(1, index)
    return values.float() if values.dtype.itemsize < 4 else values, index, math.isfinite(total)


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Classes of the best scores of a block of rows, shape [n, M]."""
    num_classes = scores.shape[1]
    groups = int((count * num_classes) ** 0.5)
    members = num_classes // groups
    if num_classes < _TWO_STAGES or members < 4:
        return largest_places(scores, count)
    dealt = scores[:, : members * groups].reshape(len(scores), members, groups)
    best = largest_places(dealt.max(axis=1), count)
    classes = (np.arange(members)[:, None] * groups + best[:, None, :]).reshape(len(scores), members * count)
    # The few classes that are left over from dealing compete without a group.
    left = np.broadcast_to(np.arange(members * groups, num_classes), (len(scores), num_classes - members * groups))
    classes = np.concatenate([classes, left], axis=1)
    chosen = largest_places(np.take_along_axis(scores, classes, 1), count)
    return np.take_along_axis(classes, chosen, 1)


def largest_places(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the ``count`` largest entries of each row, in no order."""
    return np.argpartition(values, values.shape[1] - count, axis=1)[:, values.shape[1] - count :]
