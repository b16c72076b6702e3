"""Lazy noise, first part: the best-scored classes of each row, and upper bounds of the scores of all others."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_topk.ops._candidates import largest_places, put_group_maxima
from lightning_topk.ops._precision import at_least_float32

Array = NDArray[np.floating]
Index = NDArray[np.int64]

# Blocks are counted in eights, as their rates are added up in two steps.
BLOCKS_ADDED = 8


class Split(NamedTuple):
    """The classes of each row in two parts: candidates, and blocks of other classes under a common bound.

    Scores are counted from the k-th largest one, so that nothing is lost where epsilon is small beside them. The
    blocks are groups of classes ``g, g + G, g + 2 G, ...``, followed by single classes, the members of the groups that
    were opened to look for candidates, and a few empty ones. The bound of a block that is empty or whose classes stand
    elsewhere, an opened group or a candidate, is ``-inf``.
    """

    origin: Array  # the k-th largest score, [N, 1]
    classes: Index  # candidates, [N, M]
    levels: Array  # their scores in units of epsilon, [N, M]
    singles: Index  # members of the groups that were opened for candidates, [N, L]
    bounds: Array  # largest score of each block, [N, G + L + ...]
    highest: Array  # the largest of them in units of epsilon, [N]
    log_sizes: Tensor  # logarithm of the number of classes of each block, [G + L + ...]
    inverse: float  # 1 / epsilon
    finite: bool  # whether all scores were seen to be finite
    num_groups: int  # G
    group_size: int

    def rows(self, chosen: Index) -> "Split":
        """Return the same for some of the rows."""
        names = ("origin", "classes", "levels", "singles", "bounds", "highest")
        return self._replace(**{name: getattr(self, name)[chosen] for name in names})


def split_classes(scores: Tensor, k: int, epsilon: float, num_candidates: int, group_size: int) -> Split:
    """Split the classes of scores [N, C]; NaN and infinite scores give origins or bounds that are not finite.

    The groups with the largest maxima are opened, as many as there are candidates, so that these are the best-scored
    classes of all.
    """
    num_rows, num_classes = scores.shape
    num_groups = -(-num_classes // group_size)
    num_opened = min(num_groups, num_candidates)
    used = num_groups + num_opened * group_size
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    bounds = torch.empty(num_rows, -(-used // BLOCKS_ADDED) * BLOCKS_ADDED, dtype=dtype)
    maxima, rest = bounds[:, :num_groups], bounds[:, num_groups:]
    finite = put_group_maxima(scores, maxima)
    opened = torch.from_numpy(largest_places(maxima.numpy(), num_opened))
    members = (opened.unsqueeze(1) + num_groups * torch.arange(group_size).unsqueeze(1)).flatten(1)
    outside = members >= num_classes if num_groups * group_size > num_classes else None
    if outside is not None:
        members.masked_fill_(outside, 0)
    found = at_least_float32(scores.gather(1, members))
    if outside is not None:
        found.masked_fill_(outside, -torch.inf)
    best = torch.from_numpy(largest_places(found.numpy(), num_candidates))
    levels = found.gather(1, best)
    origin = torch.from_numpy(np.partition(levels.numpy(), num_candidates - k, -1)[:, num_candidates - k, None])
    maxima.scatter_(1, opened, -torch.inf)
    rest[:, : found.shape[1]] = found.scatter_(1, best, -torch.inf)
    rest[:, found.shape[1] :] = -torch.inf
    bounds.sub_(origin)
    log_sizes = torch.zeros(bounds.shape[1], dtype=dtype)
    log_sizes[:num_groups] = math.log(group_size)
    return Split(
        origin=origin.numpy(),
        classes=members.gather(1, best).numpy(),
        levels=levels.sub_(origin).mul_(1 / epsilon).numpy(),
        singles=members.numpy(),
        bounds=bounds.numpy(),
        highest=bounds.amax(-1).mul_(1 / epsilon).numpy(),
        log_sizes=log_sizes,
        inverse=1 / epsilon,
        finite=finite,
        num_groups=num_groups,
        group_size=group_size,
    )
