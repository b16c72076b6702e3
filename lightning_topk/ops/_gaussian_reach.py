"""The classes near enough to the threshold to have a part in it, where these are few."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._gaussian_tail import Tail, write_shares

# With fewer classes, or more than this share of them in reach, a pass over all costs less than picking them.
_CLASSES = 4096
_SHARE = 1 / 8
# Entries of a block that is converted to float32.
_BLOCK = 1 << 18
# Rows that are written together.
_ROWS = 32


class Reach(NamedTuple):
    """Some classes of each row, filled up to the same number for all."""

    scores: Tensor  # [N, W], -inf where a row has fewer
    classes: Tensor  # int32, [N, W]
    just_below: Tensor  # [N]: how many more, with what fills up the rows, lie little below the cut


def within_reach(scores: Tensor, cut: Tensor, little: float, spare: Tensor) -> Reach | None:
    """Pick the classes of scores above a cut.

    Args:
        scores: Shape [N, C].
        cut: Shape [N].
        little: Depth below the cut to which other classes are counted.
        spare: A class of each row that is written later on, shape [N]; it fills up the rows.

    Returns:
        The classes picked, None where they are not few.
    """
    num_classes = scores.shape[1]
    if num_classes < _CLASSES:
        return None
    values, classes, counts = [], [], []
    bound = int(num_classes * _SHARE)
    step = max(1, _BLOCK // num_classes)
    limits = cut.float().numpy()
    for top in range(0, len(scores), step):
        for row, limit in zip(scores[top : top + step].float().numpy(), limits[top : top + step], strict=True):
            above = row > limit
            if np.count_nonzero(above) > bound:
                return None
            chosen = np.flatnonzero(above)
            classes.append(chosen.astype(np.int32))
            values.append(row.take(chosen))
            counts.append(np.count_nonzero(row > limit - little))
    width = max(1, max(map(len, classes)))
    picked = np.full((len(scores), width), -np.inf, np.float32)
    index = np.repeat(spare.numpy()[:, None].astype(np.int32), width, 1)
    for place, (row, members) in enumerate(zip(values, classes, strict=True)):
        picked[place, : len(row)] = row
        index[place, : len(row)] = members
    more = [width + count - 2 * len(members) for count, members in zip(counts, classes, strict=True)]
    return Reach(torch.from_numpy(picked), torch.from_numpy(index), torch.tensor(more, dtype=torch.float64))


def write_reach(reach: Reach, tail: Tail, shares: Tensor, slope: Tensor, out: Tensor) -> None:
    """Write what the points of a tail have, per unit of weight, to some classes, and nothing to all others.

    Args:
        reach: Some classes, from :func:`within_reach`.
        tail: The points that stand for them.
        shares: Shape [d + 1, N].
        slope: Factor of each row, shape [N].
        out: Zeros of shape [N, C].
    """
    for first in range(0, len(out), _ROWS):
        rows = slice(first, first + _ROWS)
        values = torch.empty(reach.scores[rows].shape, dtype=out.dtype)
        write_shares(reach.scores[rows], tail.of(rows), shares[:, rows], slope[rows], values)
        out[rows].scatter_(1, reach.classes[rows].long(), values)
