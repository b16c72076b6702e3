"""Hold out a share of every class."""

import numpy as np
import torch
from torch import Tensor

from lightning_topk._checks import check_float, check_int


def split_by_class(labels: Tensor, fraction: float, *, seed: int, stream: int = 0) -> tuple[Tensor, Tensor]:
    r"""Split samples in two, class by class, such that every class keeps at least one.

    Of a class with n samples, :math:`\min(n - 1, \max(1, \lfloor n f + 1/2 \rfloor))` are held out, so that a class
    of two or more samples is on both sides.

    Args:
        labels: Class indices, shape [N].
        fraction: Share f to hold out, in [0, 1); 0 holds out nothing.
        seed: Seed of the choice.
        stream: Distinguishes several splits under one seed.

    Returns:
        Ascending positions of the kept and of the held-out samples, int64.

    Example:
        >>> kept, held = split_by_class(torch.tensor([0, 0, 0, 0, 1]), 0.25, seed=0)
        >>> len(kept), len(held)
        (4, 1)
    """
    check_int("seed", seed, 0)
    check_float("fraction", fraction, 0.0, 1.0)
    held = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng([seed, 2, stream])
    values = labels.numpy()
    for label in np.unique(values) if fraction else []:
        members = np.flatnonzero(values == label)
        count = min(len(members) - 1, max(1, int(len(members) * fraction + 0.5)))
        held[generator.permutation(members)[:count]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
