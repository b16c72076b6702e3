"""The largest scores of each row beside that of a label, in order, on the CPU."""

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._largest import largest_others

# A number of float32, held in float64, leaves these bits free: they take its index.
_INDEX = (1 << 29) - 1
# In the place of minus infinity, whose free bits would make it no number.
_LOWEST = -(2.0**1000)
# Classes that are compared with all others; of more, groups of so many are, by their maxima.
_FEW, _GROUP = 384, 8
# Classes from which on several stages pay.
_MANY = 1 << 12


def best_others(scores: Tensor, labels: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``count`` largest scores beside the label's in descending order, then the label's; with their indices.

    A float32 score is packed into a float64 with its index, so that one vectorised partition gives both.

    Args:
        scores: Shape [N, C], on the CPU.
        labels: Class indices, shape [N, 1].
        count: Number M in [1, C).

    Returns:
        Indices [N, M + 1] and scores [N, M + 1] in float64.
    """
    num_classes = scores.shape[1]
    if scores.dtype != torch.float32 or num_classes >= max(_MANY, 4 * _GROUP * count):
        index = largest_others(scores, labels, count)
        return index.numpy(), scores.gather(1, index).double().numpy()
    own = labels.numpy()
    if num_classes <= max(_FEW, 2 * _GROUP * count):
        keys = _packed(scores)
        keys[np.arange(len(keys)), own[:, 0]] = -np.inf
        best, found = _unpacked(_last(keys, count))
    else:
        groups = num_classes // _GROUP
        maxima = scores[:, : groups * _GROUP].unflatten(1, (_GROUP, groups)).amax(1)
        # One group more, as the label's is among them and may count for nothing.
        _, chosen = _unpacked(_last(_packed(maxima), count + 1))
        members = chosen[:, None, :] + np.arange(0, groups * _GROUP, groups)[:, None]
        classes = members.reshape(len(chosen), (count + 1) * _GROUP)
        left = np.arange(groups * _GROUP, num_classes)
        if len(left):
            classes = np.concatenate([classes, np.broadcast_to(left, (len(classes), len(left)))], 1)
        keys = _packed(scores.gather(1, torch.from_numpy(classes)))
        keys[classes == own] = -np.inf
        best, places = _unpacked(_last(keys, count))
        found = np.take_along_axis(classes, places, 1)
    return np.concatenate([found, own], 1), np.concatenate([best, scores.gather(1, labels).numpy()], 1)


def _packed(scores: Tensor) -> np.ndarray:
    """Scores in float64 with their places in the bits that are free."""
    keys = scores.numpy().astype(np.float64)
    np.maximum(keys, _LOWEST, out=keys)
    bits = keys.view(np.int64)
    bits ^= np.arange(keys.shape[1])
    return keys


def _last(keys: np.ndarray, count: int) -> np.ndarray:
    """The largest keys of each row, descending; no number counts as the largest."""
    best = np.partition(keys, keys.shape[1] - count, axis=1)[:, keys.shape[1] - count :]
    best.sort(axis=1)
    return best[:, ::-1]


def _unpacked(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores and the places that were packed."""
    bits = np.ascontiguousarray(keys).view(np.int64)
    return (bits & ~_INDEX).view(np.float64), bits & _INDEX
