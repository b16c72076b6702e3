"""The largest scores of each row, in order, and that of a label, on the CPU."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_topk.ops._candidates import best_in_float64
from lightning_topk.ops._largest import largest, largest_others


def best_others(scores: Tensor, labels: Tensor, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ``count`` largest scores beside the label's in descending order, then the label's; with their indices.

    Args:
        scores: Shape [N, C], on the CPU.
        labels: Class indices, shape [N, 1].
        count: Number M in [1, C).

    Returns:
        Indices [N, M + 1] and scores [N, M + 1] in float64.
    """
    return _best_and_own(scores, labels, count, with_label=False, look=False)[:2]


def best_and_own(
    scores: Tensor, labels: Tensor, count: int, *, with_label: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64], bool]:
    """:func:`best_others`, and whether the sum of all scores was seen to be finite.

    With the label, the largest are those of all classes, and the label's comes once more at the end.
    """
    return _best_and_own(scores, labels, count, with_label=with_label, look=True)


def _best_and_own(
    scores: Tensor, labels: Tensor, count: int, *, with_label: bool, look: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64], bool]:
    own = labels.numpy()
    if scores.dtype == torch.float64:
        index = torch.cat([largest(scores, count), labels], 1) if with_label else largest_others(scores, labels, count)
        return index.numpy(), scores.gather(1, index).numpy(), look and math.isfinite(float(scores.sum()))
    values, classes, finite = best_in_float64(scores, count, None if with_label else own, look=look)
    height = scores.gather(1, labels).double().numpy()
    return np.concatenate([classes, own], 1), np.concatenate([values, height], 1), finite
