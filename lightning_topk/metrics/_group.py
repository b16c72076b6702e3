"""Top-K accuracy averaged over the many-, medium- or few-shot classes."""

from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import check_choice
from lightning_topk._constants import Constants
from lightning_topk.imbalance import check_counts, class_groups
from lightning_topk.metrics._macro import class_topk_accuracy_from_histogram
from lightning_topk.metrics._view import TopKView, histogram_at

GROUPS = ("many", "medium", "few")


def group_topk_accuracy_from_histogram(histogram: Tensor, k: int, mask: Tensor) -> Tensor:
    """Mean of the classes' top-K accuracies over the classes of a group that are present in the targets.

    Args:
        histogram: Rank histogram, shape [C, max_k + 1].
        k: K, in [1, max_k].
        mask: True for the classes of the group, dtype bool, shape [C], as from
            :func:`~lightning_topk.imbalance.class_groups`.

    Returns:
        The accuracy, a scalar in [0, 1]; NaN when no class of the group was counted.

    Raises:
        ValueError: A histogram or mask of another shape, a mask that is not bool, or ``k`` out of range.

    Example:
        >>> histogram = torch.tensor([[2, 1, 1], [0, 0, 4], [0, 0, 0]])
        >>> group_topk_accuracy_from_histogram(histogram, 2, torch.tensor([True, False, True]))
        tensor(0.7500)
    """
    accuracy = class_topk_accuracy_from_histogram(histogram, k)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != accuracy.shape:
        found = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"Argument `mask` should be a bool tensor of shape {list(accuracy.shape)}. Found {found}.")
    return accuracy.masked_fill(~mask.to(accuracy.device), float("nan")).nanmean()


def group_topk_accuracy(
    logits: Tensor,
    targets: Tensor,
    k: int = 5,
    *,
    class_counts: Any,
    group: str = "few",
    many: int = 100,
    few: int = 20,
    ignore_index: int | None = None,
) -> Tensor:
    """Mean of the classes' top-K accuracies over the classes of a group that are present in the targets.

    Args:
        logits: Scores, shape [..., C], floating point.
        targets: Class indices, shape [...].
        k: K, in [1, C].
        class_counts: Training samples of each class, shape [C].
        group: ``"many"`` (more than ``many`` training samples), ``"medium"`` or ``"few"`` (fewer than ``few``).
        many: Upper edge of the medium group.
        few: Lower edge of the medium group.
        ignore_index: Target value whose samples are not counted.

    Returns:
        The accuracy, a scalar in [0, 1]; NaN when no class of the group is in the targets.

    Raises:
        TypeError: Dtypes as in :func:`~lightning_topk.metrics.target_ranks`.
        ValueError: Shapes that do not fit, values out of range, or counts that are none.

    Example:
        >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> group_topk_accuracy(logits, torch.tensor([0, 1, 2]), k=2, class_counts=[500, 19, 5])
        tensor(0.5000)
    """
    histogram = histogram_at(logits, targets, k, ignore_index)
    check_choice("group", group, GROUPS)
    mask = class_groups(check_counts(class_counts, len(histogram)), many=many, few=few)[group]
    return group_topk_accuracy_from_histogram(histogram, k, mask)


class GroupTopKAccuracy(Constants, TopKView):
    """Macro top-K accuracy of the many-, medium- or few-shot classes by training count.

    See :func:`~lightning_topk.metrics.group_topk_accuracy_from_histogram`. The counts can be given later, but before
    ``compute``, by :meth:`bind_class_counts`. They are not saved in checkpoints.

    Args:
        num_classes: Number of classes C; None takes it from the first logits.
        k: K, in [1, C].
        group: ``"many"`` (more than ``many`` training samples), ``"medium"`` or ``"few"`` (fewer than ``few``).
        class_counts: Training samples of each class, shape [C]: list, array or tensor.
        many: Upper edge of the medium group.
        few: Lower edge of the medium group.
        max_k: Columns of the histogram, >= ``k``. Give all metrics of a collection the same to share one update.
        ignore_index: Target value whose samples are not counted.
        sample_limit: Samples that are counted from one reset to the next, see
            :class:`~lightning_topk.metrics.RankHistogram`.
        kwargs: Keyword arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: A parameter, logits or targets of the wrong type.
        ValueError: A parameter out of range, logits of another number of classes, targets out of range, or no counts
            when the value is computed.

    Example:
        >>> metric = GroupTopKAccuracy(num_classes=3, k=2, group="few", class_counts=[500, 19, 5])
        >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> metric.update(logits, torch.tensor([0, 1, 2]))
        >>> metric.compute()
        tensor(0.5000)
    """

    group_mask: Tensor | None
    _constants = ("group_mask",)

    def __init__(
        self,
        num_classes: int | None = None,
        k: int = 5,
        group: str = "few",
        class_counts: Any = None,
        many: int = 100,
        few: int = 20,
        *,
        max_k: int | None = None,
        ignore_index: int | None = None,
        sample_limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, k, max_k=max_k, ignore_index=ignore_index, sample_limit=sample_limit, **kwargs)
        self.group = check_choice("group", group, GROUPS)
        class_groups([1], many=many, few=few)  # raises on wrong edges now rather than when counts are bound
        self.many, self.few = many, few
        self.group_mask = None
        if class_counts is not None:
            self.bind_class_counts(class_counts)

    def bind_class_counts(self, counts: Any) -> None:
        """Set the group's classes from the training samples of each class, shape [C]."""
        groups = class_groups(check_counts(counts, self.num_classes), many=self.many, few=self.few)
        self.group_mask = groups[self.group].to(self.device)
        self._computed = None

    def compute(self) -> Tensor:
        """Return the mean over the group's classes seen in the targets, NaN when there were none."""
        if self.group_mask is None:
            raise ValueError(
                "Class counts should be given as `class_counts` or by `bind_class_counts(counts)` before the accuracy "
                f"of a group is computed. Found none for the group {self.group!r}."
            )
        if not len(self.histogram):  # a size that nobody has set yet, as nothing was seen
            return torch.tensor(float("nan"), device=self.device)
        if len(self.histogram) != len(self.group_mask):
            raise ValueError(
                "Class counts should be one per class. "
                f"Found {len(self.group_mask)} counts for {len(self.histogram)} classes."
            )
        return group_topk_accuracy_from_histogram(self.histogram, self.k, self.group_mask)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, group={self.group!r}, many={self.many}, few={self.few}"
