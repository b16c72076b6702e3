"""The classes near enough to the threshold to have a part in it, where these are few."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._gaussian_tail import Tail, write_shares

# With fewer classes, or more than this share of them in reach, a pass over all costs less than picking them.
_CLASSES = 4096
_SHARE = 1 / 6
# Entries of a block that is converted to float32.
_BLOCK = 1 << 18


class Reach(NamedTuple):
    """Some classes of each row, filled up to the same number for all."""

    scores: Tensor  # [N, W], -inf where a row has fewer
    classes: Tensor | None  # int32, [N, W]; None if they are all classes
    just_below: Tensor | None  # [N]: how many more, with what fills up the rows, lie little below the cut


def within_reach(scores: Tensor, cut: Tensor, little: float, spare: Tensor) -> Reach:
    """Pick the classes of scores above a cut.

    Args:
        scores: Shape [N, C].
        cut: Shape [N].
        little: Depth below the cut to which other classes are counted.
        spare: A class of each row that is written later on, shape [N]; it fills up the rows.

    Returns:
        The classes picked, or all of them without a copy where they are not few.
    """
    num_classes = scores.shape[1]
    if num_classes < _CLASSES:
        return Reach(scores, None, None)
    values, classes, counts = [], [], []
    bound = int(num_classes * _SHARE)
    step = max(1, _BLOCK // num_classes)
    limits = cut.float().numpy()
    for top in range(0, len(scores), step):
        for row, limit in zip(scores[top : top + step].float().numpy(), limits[top : top + step], strict=True):
            above = row > limit
            if np.count_nonzero(above) > bound:
                return Reach(scores, None, None)
            chosen = np.flatnonzero(above)
            classes.append(chosen)
            values.append(row[chosen])
            counts.append(np.count_nonzero(row > limit - little))
    width = max(1, max(map(len, classes)))
    picked = np.full((len(scores), width), -np.inf, np.float32)
    index = np.repeat(spare.numpy()[:, None].astype(np.int32), width, 1)
    for place, (row, chosen) in enumerate(zip(values, classes, strict=True)):
        picked[place, : len(row)] = row
        index[place, : len(row)] = chosen
    more = [width + count - 2 * len(chosen) for count, chosen in zip(counts, classes, strict=True)]
    return Reach(torch.from_numpy(picked), torch.from_numpy(index), torch.tensor(more, dtype=torch.float64))


def write_reach(scores: Tensor, classes: Tensor, tail: Tail, shares: Tensor, out: Tensor) -> None:
    """Write what the points of a tail have, per unit of weight, to some classes, and nothing to all others.

    Args:
        scores: Shape [N, C].
        classes: Shape [N, W], from :func:`within_reach`.
        tail: The points that stand for them.
        shares: Shape [d + 1, N].
        out: Zeros of shape [N, C].
    """
    index = classes.long()
    picked = scores.gather(1, index)
    values = torch.empty(picked.shape, dtype=out.dtype)
    write_shares(picked, tail, shares, values)
    out.scatter_(1, index, values)
