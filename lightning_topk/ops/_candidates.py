"""The best classes of each row on the CPU, by NumPy's vectorised partition."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_topk.ops._largest import largest
from lightning_topk.ops._precision import at_least_float32

# A number of float32, held in float64, leaves these bits free: they take its index.
_INDEX = (1 << 29) - 1
# In the place of minus infinity, whose free bits would make it no number.
_LOWEST = -(2.0**1000)
# Classes that are compared with all others; of more, groups of so many are, by their maxima.
_FEW, _GROUP = 384, 8
# Entries of the rows that are read at a time, which stay in the cache of a core.
_CACHED = 1 << 18


def best_classes(scores: Tensor, count: int) -> tuple[Tensor, Tensor, bool]:
    """Return the ``count`` largest scores of each row in descending order, and their classes.

    The largest are members of the ``count`` groups of classes with the largest maxima: a selection among the maxima,
    made in the same way, and one among the members of the groups found replace a slow one among all. The cost is one
    pass over the scores. Ties are broken anyhow, and NaN counts as the largest.

    Args:
        scores: Shape [N, C], on the CPU. float16 and bfloat16 are read block by block, without a copy of them all.
        count: Number M in [1, C].

    Returns:
        Scores [N, M] in the dtype of ``scores``, float32 at least, classes [N, M], and whether the sum of all scores is
        finite, and they are; looked at while a few rows are in the cache.
    """
    scores = scores.detach()
    if scores.dtype == torch.float64:
        index = largest(scores, count)
        return scores.gather(1, index), index, math.isfinite(float(scores.sum()))
    values, classes, finite = best_in_float64(scores, count)
    return torch.from_numpy(values).float(), torch.from_numpy(classes), finite


def best_in_float64(
    scores: Tensor, count: int, labels: NDArray[np.int64] | None = None, *, look: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.int64], bool]:
    """:func:`best_classes` of float32 or less, without the labels [N, 1] where given; the scores in float64.

    Unless told to ``look`` at the sum of all scores, it is not known to be finite.
    """
    num_classes = scores.shape[1]
    wanted = count if labels is None else count + 1  # the label's group is among them and may count for nothing
    if num_classes <= max(_FEW, 2 * _GROUP * wanted):
        scores = at_least_float32(scores)
        finite = look and math.isfinite(float(scores.sum()))
        keys = _packed(scores.numpy())
        if labels is not None:
            keys[np.arange(len(keys)), labels[:, 0]] = -np.inf
        return *_unpacked(_last(keys, count)), finite
    groups = -(-num_classes // _GROUP)
    maxima = torch.empty(len(scores), groups)
    finite = put_group_maxima(scores, maxima, look=look)
    opened = _best_groups(maxima, wanted)
    members = (opened[:, None] + np.arange(0, groups * _GROUP, groups)[:, None]).reshape(-1, wanted * _GROUP)
    outside = members >= num_classes if groups * _GROUP > num_classes else None
    if outside is not None:
        members[outside] = 0
    keys = _packed(at_least_float32(scores.gather(1, torch.from_numpy(members))).numpy())
    if outside is not None:
        keys[outside] = -np.inf
    if labels is not None:
        keys[members == labels] = -np.inf
    values, places = _unpacked(_last(keys, count))
    return values, at_places(members, places), finite


def _best_groups(maxima: Tensor, count: int) -> NDArray[np.int64]:
    if maxima.shape[1] <= max(_FEW, 2 * _GROUP * count):
        return largest_places(maxima.numpy(), count)
    return best_in_float64(maxima, count, look=False)[1]


def put_group_maxima(scores: Tensor, out: Tensor, *, look: bool = True) -> bool:
    """Write the largest score of each of G groups of classes g, g + G, g + 2 G, ... to ``out``, shape [N, G].

    Returns:
        Whether the sum of all scores is finite, and they are; looked at while a few rows are in the cache. False unless
        told to look.
    """
    num_groups = out.shape[1]
    whole = scores.shape[1] // num_groups
    # One operation for all rows is the fastest, where there is nothing else to do with a few of them.
    rows = max(1, _CACHED // scores.shape[1] if look or scores.dtype != out.dtype else len(scores))
    total = 0.0
    for part, block in zip(out.split(rows), scores.split(rows), strict=True):
        block = block.to(out.dtype)
        torch.amax(block[:, : whole * num_groups].unflatten(1, (whole, num_groups)), 1, out=part)
        left = block[:, whole * num_groups :]
        if left.shape[1]:
            part = part[:, : left.shape[1]]
            torch.maximum(part, left, out=part)
        if look:
            total += float(block.sum())
    return look and math.isfinite(total)


def largest_places(values: np.ndarray, count: int) -> NDArray[np.int64]:
    """Places of the ``count`` largest entries of each row, in no order."""
    if values.dtype == np.float32 and values.shape[1] <= _FEW:
        keys = _packed(values)
        keys.partition(values.shape[1] - count, axis=1)
        return keys[:, values.shape[1] - count :].view(np.int64) & _INDEX
    return np.argpartition(values, values.shape[1] - count, axis=1)[:, values.shape[1] - count :]


def at_places(values: np.ndarray, places: NDArray[np.int64]) -> np.ndarray:
    """Entries [N, M] of the rows [N, X] at places [N, M]; in fewer steps than NumPy's own function."""
    return values.reshape(-1)[places + np.arange(0, values.size, values.shape[1])[:, None]]


def _packed(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores in float64, with their places in the bits that are free."""
    keys = scores.astype(np.float64)
    np.maximum(keys, _LOWEST, out=keys)
    bits = keys.view(np.int64)
    bits ^= np.arange(keys.shape[1])
    return keys


def _last(keys: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The largest keys of each row, descending; no number counts as the largest."""
    keys.partition(keys.shape[1] - count, axis=1)
    best = keys[:, keys.shape[1] - count :]
    best.sort(axis=1)
    return best[:, ::-1]


def _unpacked(keys: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The scores and the places that were packed."""
    bits = np.ascontiguousarray(keys).view(np.int64)
    values = (bits & ~_INDEX).view(np.float64)
    values[values == _LOWEST] = -np.inf
    return values, bits & _INDEX
