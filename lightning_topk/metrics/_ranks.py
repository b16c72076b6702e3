"""Rank of the label among the scores: the one pass over the logits that gives every K at once."""

import torch
from torch import Tensor

from lightning_topk._checks import check_ignore_index, check_scores

# Numbers of scores compared at a time. On the CPU half a MiB of float32 stays in the second-level cache; on other
# devices the bound only keeps the temporary small.
CPU_BLOCK = 2**17
DEVICE_BLOCK = 2**26

# float32 counts exactly up to here.
FLOAT32_EXACT = 2**24


@torch.no_grad()
def target_ranks(logits: Tensor, targets: Tensor, *, ignore_index: int | None = None) -> Tensor:
    r"""Count the classes that are not scored below the label.

    .. math:: r = \#\{j \ne y : \neg (s_j < s_y)\}

    with :math:`s` the ``logits`` and :math:`y` the ``targets``. Rank 0 is the best, and :math:`r < K` says that the
    label is among the top K. Ties count against the label, and so does a NaN among the other scores. Where the score
    of the label is NaN itself the rank is C, a miss at every K. The comparison is done in the dtype of the logits.

    Args:
        logits: Scores, shape [..., C], floating point.
        targets: Class indices, shape [...], any integer dtype.
        ignore_index: Target value whose samples get the rank -1.

    Returns:
        Ranks in [0, C], dtype int64, shape [...].

    Raises:
        TypeError: Logits of an integer dtype, or targets of a floating point dtype (soft and one-hot labels become
            indices by ``argmax(-1)``).
        ValueError: Shapes that do not fit, or a target outside [0, C). The values are read on the CPU only; on CUDA
            such a target ends in a device-side assertion.

    Example:
        >>> nan = float("nan")
        >>> logits = torch.tensor([[0.1, 0.7, 0.2], [1.0, 1.0, 1.0], [0.5, nan, 0.2], [nan, 0.3, 0.2]])
        >>> target_ranks(logits, torch.tensor([2, 0, 0, 0]))
        tensor([1, 2, 1, 3])
    """
    if ignore_index is not None:
        check_ignore_index(ignore_index)
    check_scores(logits, targets, ignore_index=ignore_index, soft=False)
    num_classes = logits.shape[-1]
    rows, labels = logits.detach().reshape(-1, num_classes), targets.reshape(-1).long()
    if ignore_index is not None:
        ignored = labels == ignore_index
        labels = labels.masked_fill(ignored, 0)
    own = rows.gather(1, labels[:, None])
    below = _count_below(rows, own)
    ranks = num_classes - 1 - below + own.isnan().squeeze(1)
    if ignore_index is not None:
        ranks = ranks.masked_fill(ignored, -1)
    return ranks.reshape(targets.shape)


def _count_below(rows: Tensor, own: Tensor) -> Tensor:
    """Count the scores of each row [N, C] that are less than its own one [N, 1]."""
    return _count_in_cache(rows, own) if rows.device.type == "cpu" else _count_in_blocks(rows, own)


def _count_in_blocks(rows: Tensor, own: Tensor) -> Tensor:
    size = max(1, DEVICE_BLOCK // rows.shape[1])
    starts = range(0, max(1, len(rows)), size)
    return torch.cat([(rows[start : start + size] < own[start : start + size]).sum(1) for start in starts])


def _count_in_cache(rows: Tensor, own: Tensor) -> Tensor:
    # A comparison written as float32 and summed while in cache is several times faster than the sum of a bool tensor.
    num_rows, num_classes = rows.shape
    size = min(max(1, num_rows), max(1, CPU_BLOCK // num_classes))
    dtype = torch.float32 if num_classes <= FLOAT32_EXACT else torch.float64
    less = torch.empty(size, num_classes, dtype=dtype)
    below = torch.empty(num_rows, dtype=dtype)
    for start in range(0, num_rows, size):
        stop = min(start + size, num_rows)
        torch.lt(rows[start:stop], own[start:stop], out=less[: stop - start])
        torch.sum(less[: stop - start], 1, out=below[start:stop])
    return below.long()
