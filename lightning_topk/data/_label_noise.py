"""Label noise within groups of classes, as in the experiments on noisy CIFAR-100."""

import numpy as np
import torch
from torch import Tensor


def noisy_labels(labels: Tensor, groups: Tensor, fraction: float, *, seed: int) -> Tensor:
    r"""Replace labels at random by labels of the same group.

    With probability p a label becomes one of the g classes of its group, each with probability 1 / g and itself among
    them: the share of wrong labels is :math:`p (g - 1) / g`. What becomes of a sample depends on the seed and its
    position alone.

    Args:
        labels: Class indices, shape [N].
        groups: Group of each class, shape [C].
        fraction: Probability p in [0, 1].
        seed: Seed of the choice.

    Returns:
        Labels, int64, shape [N].

    Example:
        >>> groups = torch.tensor([0, 0, 1, 1])
        >>> noisy = noisy_labels(torch.tensor([0] * 6 + [3] * 6), groups, 1.0, seed=0)
        >>> groups[noisy].tolist()
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    """
    generator = np.random.default_rng([seed, 3])
    chosen, place = generator.random((2, len(labels)))
    by_group = np.argsort(groups.numpy(), kind="stable")
    sizes = np.bincount(groups.numpy())
    starts = np.cumsum(sizes) - sizes
    group = groups.numpy()[labels.numpy()]
    drawn = by_group[starts[group] + (place * sizes[group]).astype(np.int64)]
    return torch.from_numpy(np.where(chosen < fraction, drawn, labels.numpy()))
