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


def within_reach(scores: Tensor, cut: Tensor, spare: Tensor) -> Reach:
    """Pick the classes of scores above a cut.

    Args:
        scores: Shape [N, C].
        cut: Shape [N].
        spare: A class of each row that is written later on, shape [N]; it fills up the rows.

    Returns:
        The classes picked, or all of them without a copy where they are not few.
    """
    num_classes = scores.shape[1]
    if num_classes < _CLASSES:
        return Reach(scores, None)
    values, classes = [], []
    width, bound = 0, int(num_classes * _SHARE)
    step = max(1, _BLOCK // num_classes)
    limits = cut.float().numpy()
    for top in range(0, len(scores), step):
        for row, limit in zip(scores[top : top + step].float().numpy(), limits[top : top + step], strict=True):
            chosen = np.flatnonzero(row > limit)
            if len(chosen) > bound:
                return Reach(scores, None)
            classes.append(chosen)
            values.append(row[chosen])
            width = max(width, len(chosen))
    picked = np.full((len(scores), max(width, 1)), -np.inf, np.float32)
    index = np.repeat(spare.numpy()[:, None].astype(np.int32), max(width, 1), 1)
    for place, (row, chosen) in enumerate(zip(values, classes, strict=True)):
        picked[place, : len(row)] = row
        index[place, : len(row)] = chosen
    return Reach(torch.from_numpy(picked), torch.from_numpy(index))


def write_reach(scores: Tensor, classes: Tensor, tail: Tail, shares: Tensor, out: Tensor) -> None:
    """Write what the points of a tail have, per unit of weight, to some classes, and 0 to all others.

    Args:
        scores: Shape [N, C].
        classes: Shape [N, W], from :func:`within_reach`.
        tail: The points that stand for them.
        shares: Shape [d + 1, N].
        out: Shape [N, C].
    """
    picked = scores.gather(1, classes.long())
    values = torch.empty(picked.shape, dtype=out.dtype)
    write_shares(picked, tail, shares, values)
    step = max(1, _BLOCK // out.shape[1])
    for top in range(0, len(out), step):
        rows = slice(top, top + step)
        out[rows].zero_().scatter_(1, classes[rows].long(), values[rows])
