"""Top-K accuracy averaged over classes."""

from torch import Tensor

from lightning_topk.metrics._view import TopKView, histogram_at, hits_and_support


def class_topk_accuracy_from_histogram(histogram: Tensor, k: int) -> Tensor:
    r"""Top-K accuracy of each class.

    .. math:: a_c = \frac{\sum_{j < K} H_{cj}}{\sum_j H_{cj}}

    Args:
        histogram: Rank histogram H, shape [C, max_k + 1].
        k: K, in [1, max_k].

    Returns:
        Accuracies, shape [C]; NaN for a class absent from the targets.

    Raises:
        ValueError: A histogram of another shape, or ``k`` out of range.

    Example:
        >>> import torch
        >>> class_topk_accuracy_from_histogram(torch.tensor([[2, 1, 1], [0, 0, 4], [0, 0, 0]]), k=2)
        tensor([0.7500, 0.0000,    nan])
    """
    hits, support = hits_and_support(histogram, k)
    return hits / support


def macro_topk_accuracy_from_histogram(histogram: Tensor, k: int) -> Tensor:
    """Mean of the classes' top-K accuracies over the classes present in the targets.

    Args:
        histogram: Rank histogram, shape [C, max_k + 1].
        k: K, in [1, max_k].

    Returns:
        The accuracy, a scalar in [0, 1]; NaN when nothing was counted.

    Raises:
        ValueError: A histogram of another shape, or ``k`` out of range.

    Example:
        >>> import torch
        >>> macro_topk_accuracy_from_histogram(torch.tensor([[2, 1, 1], [0, 0, 4], [0, 0, 0]]), k=2)
        tensor(0.3750)
    """
    return class_topk_accuracy_from_histogram(histogram, k).nanmean()


def macro_topk_accuracy(logits: Tensor, targets: Tensor, k: int = 5, *, ignore_index: int | None = None) -> Tensor:
    """Mean of the classes' top-K accuracies over the classes present in the targets.

    Args:
        logits: Scores, shape [..., C], floating point.
        targets: Class indices, shape [...].
        k: K, in [1, C].
        ignore_index: Target value whose samples are not counted.

    Returns:
        The accuracy, a scalar in [0, 1]; NaN for an empty batch.

    Raises:
        TypeError: Dtypes as in :func:`~lightning_topk.metrics.target_ranks`.
        ValueError: Shapes that do not fit, targets out of range, or ``k`` outside [1, C].

    Example:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> macro_topk_accuracy(logits, torch.tensor([0, 0, 2]), k=2)
        tensor(0.5000)
    """
    return macro_topk_accuracy_from_histogram(histogram_at(logits, targets, k, ignore_index), k)


class MacroTopKAccuracy(TopKView):
    """Mean of the classes' top-K accuracies, see :func:`~lightning_topk.metrics.macro_topk_accuracy_from_histogram`.

    Args:
        num_classes: Number of classes C; None takes it from the first logits.
        k: K, in [1, C].
        max_k: Columns of the histogram, >= ``k``. Give all metrics of a collection the same to share one update.
        ignore_index: Target value whose samples are not counted.
        sample_limit: Samples that are counted from one reset to the next, see
            :class:`~lightning_topk.metrics.RankHistogram`.
        kwargs: Keyword arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: A parameter, logits or targets of the wrong type.
        ValueError: A parameter out of range, logits of another number of classes, or targets out of range.

    Example:
        >>> import torch
        >>> metric = MacroTopKAccuracy(num_classes=3, k=2)
        >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> metric.update(logits, torch.tensor([0, 0, 2]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """Return the mean over the classes seen in the targets, NaN when there were none."""
        return macro_topk_accuracy_from_histogram(self.histogram, self.k)
