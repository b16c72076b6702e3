"""Cut a long tail from a labelled data set: the exponential and step profiles of the LDAM paper."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lightning_topk._checks import as_numbers, check_choice, check_float, check_int, check_num_classes
from lightning_topk.data._labels import find_labels
from lightning_topk.imbalance import class_counts

PROFILES = ("exp", "step")
ORDERS = ("index", "shuffled")


def long_tail_counts(num_classes: int, max_count: int, imbalance_factor: float, profile: str = "exp") -> list[int]:
    r"""Return the number of samples per class of a long tail, the most frequent class first.

    .. math::
        n_c^{\text{exp}} = \lfloor n_{\max} \rho^{-c / (C - 1)} \rfloor, \qquad
        n_c^{\text{step}} = n_{\max} \text{ for } c < \lfloor C / 2 \rfloor,
        \text{ else } \lfloor n_{\max} / \rho \rfloor

    for :math:`c = 0, \dots, C - 1`, and at least 1. The truncation is that of the paper's code, so that CIFAR-100-LT
    and its kind come out with the published counts.

    Args:
        num_classes: Number of classes C, >= 1.
        max_count: Samples of the most frequent class, :math:`n_{\max}` >= 1.
        imbalance_factor: Ratio :math:`\rho` >= 1 of the largest count to the smallest; 10, 50 and 100 in the paper.
        profile: ``"exp"`` or ``"step"``.

    Returns:
        Counts, length C, non-increasing.

    Raises:
        TypeError: An argument that is no number.
        ValueError: An argument out of range.

    Example:
        >>> long_tail_counts(4, 500, imbalance_factor=100, profile="step")
        [500, 500, 5, 5]

    References:
        Cao, Wei, Gaidon, Arechiga, Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019, section 4 and its code; the exponential profile is that of Cui et al., "Class-Balanced Loss Based
        on Effective Number of Samples", CVPR 2019.
    """
    check_num_classes(num_classes)
    check_int("max_count", max_count, 1)
    check_float("imbalance_factor", imbalance_factor, 1.0)
    check_choice("profile", profile, PROFILES)
    if profile == "step":
        head = num_classes // 2
        counts = [max_count] * head + [int(max_count / imbalance_factor)] * (num_classes - head)
    else:
        last = max(num_classes - 1, 1)
        counts = [int(max_count * (1.0 / imbalance_factor) ** (c / last)) for c in range(num_classes)]
    return [max(1, count) for count in counts]


def long_tail_indices(
    labels: Tensor,
    imbalance_factor: float = 100.0,
    profile: str = "exp",
    *,
    seed: int = 0,
    order: str = "index",
    num_classes: int | None = None,
) -> Tensor:
    r"""Choose the samples of a long tail, without replacement.

    Class c keeps :math:`\min(N_c, n_{\pi(c)})` of its :math:`N_c` samples, with :math:`n` from
    :func:`long_tail_counts` at :math:`n_{\max} = \max_c N_c`, and :math:`\pi` the identity or a permutation. With one
    seed, the samples of a larger imbalance factor are among those of a smaller one.

    Args:
        labels: Class indices, shape [N].
        imbalance_factor: See :func:`long_tail_counts`; 1 keeps every sample.
        profile: See :func:`long_tail_counts`.
        seed: Seed of the choice, and of the order of the classes when it is shuffled.
        order: ``"index"``: class 0 is the most frequent; ``"shuffled"``: a permutation by the seed is.
        num_classes: Number of classes C; the largest label plus one when not given.

    Returns:
        Ascending positions in ``labels``, int64.

    Raises:
        ValueError: Labels that are no class indices, or an argument out of range.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> labels[long_tail_indices(labels, 4)]
        tensor([0, 0, 0, 0, 1])
    """
    check_int("seed", seed, 0)
    check_choice("order", order, ORDERS)
    available = class_counts(labels, num_classes)
    labels = as_numbers(labels, "").flatten()
    targets = np.array(long_tail_counts(len(available), int(available.max()), imbalance_factor, profile))
    if order == "shuffled":
        targets = targets[np.random.default_rng([seed, 1]).permutation(len(targets))]
    # One permutation of all samples, whatever the factor: the first n of a class are nested in the first n + 1.
    shuffled = np.random.default_rng([seed, 0]).permutation(len(labels))
    by_class = shuffled[np.argsort(labels.numpy()[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(available.numpy())[:-1]])
    place_in_class = np.arange(len(labels)) - np.repeat(starts, available.numpy())
    kept = by_class[place_in_class < np.repeat(targets, available.numpy())]
    return torch.from_numpy(np.sort(kept))


class LongTailSubset(Subset[Any]):
    r"""A long-tailed part of any labelled data set, with the counts of the LDAM paper.

    Args:
        dataset: Data set whose labels :func:`~lightning_topk.data.find_labels` finds. Its classes may differ in size:
            a class keeps all its samples where it has fewer than the profile asks for.
        imbalance_factor: Ratio >= 1 of the largest count to the smallest.
        profile: ``"exp"`` (every class rarer than the one before) or ``"step"`` (a frequent and a rare half).
        seed: Seed of the choice of samples.
        order: ``"index"``: class 0 is the most frequent, as in CIFAR-100-LT; ``"shuffled"``: the seed decides which.

    Attributes:
        class_counts: Samples of each class, int64, shape [C].
        targets: Labels of the samples, int64, shape [N].

    Raises:
        ValueError: Labels that cannot be found, or an argument out of range.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> balanced = TensorDataset(torch.zeros(300, 2), torch.arange(300) % 3)
        >>> LongTailSubset(balanced, imbalance_factor=10).class_counts
        tensor([100,  31,  10])
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        imbalance_factor: float = 100.0,
        profile: str = "exp",
        seed: int = 0,
        order: str = "index",
    ) -> None:
        labels = find_labels(dataset, strict=True)
        kept = long_tail_indices(labels, imbalance_factor, profile, seed=seed, order=order)
        super().__init__(dataset, kept.tolist())
        self.targets = labels[kept]
        self.class_counts = class_counts(self.targets, int(labels.max()) + 1)
