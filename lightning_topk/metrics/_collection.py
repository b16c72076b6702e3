"""One collection for several K, classes as a whole and by group, at the cost of one update."""

from collections.abc import Sequence
from typing import Any

from torchmetrics import Metric, MetricCollection

from lightning_topk._checks import check_ints
from lightning_topk.metrics._group import GROUPS, GroupTopKAccuracy
from lightning_topk.metrics._histogram import RankHistogram
from lightning_topk.metrics._macro import MacroTopKAccuracy
from lightning_topk.metrics._micro import TopKAccuracy


class TopKMetricCollection(MetricCollection):
    """A ``MetricCollection`` that hands class counts and the sample limit on to its members.

    Made by :func:`~lightning_topk.metrics.topk_metrics`.

    Example:
        >>> metrics = TopKMetricCollection([GroupTopKAccuracy(3, 1, "few"), MacroTopKAccuracy(3, 1)])
        >>> metrics.bind_class_counts([500, 40, 3])
        >>> metrics.sample_limit = 31
    """

    def bind_class_counts(self, counts: Any) -> None:
        """Give the training samples of each class, shape [C], to every metric of a group."""
        for metric in self.values(copy_state=False):
            if isinstance(metric, GroupTopKAccuracy):
                metric.bind_class_counts(counts)

    @property
    def sample_limit(self) -> int | None:
        """Samples that are counted from one reset to the next, see :class:`~lightning_topk.metrics.RankHistogram`."""
        return next((m.sample_limit for m in self.values(copy_state=False) if isinstance(m, RankHistogram)), None)

    @sample_limit.setter
    def sample_limit(self, value: int | None) -> None:
        for metric in self.values(copy_state=False):
            if isinstance(metric, RankHistogram):
                metric.sample_limit = value


def topk_metrics(
    num_classes: int | None = None,
    ks: Sequence[int] = (1, 3, 5),
    *,
    groups: bool = False,
    class_counts: Any = None,
    many: int = 100,
    few: int = 20,
    ignore_index: int | None = None,
    sample_limit: int | None = None,
    prefix: str | None = "val_",
    postfix: str | None = None,
) -> TopKMetricCollection:
    """Build a collection of macro, micro and group top-K accuracies that share one rank histogram.

    All metrics have the same ``max_k`` and hence the same state, so that after the first batch the collection updates
    one histogram for all of them. Log it with ``self.log_dict(collection)``.

    Args:
        num_classes: Number of classes C; None takes it from the first logits.
        ks: The K, each in [1, C].
        groups: Whether to add the many-, medium- and few-shot groups; implied by ``class_counts``. Without counts bind
            them with ``bind_class_counts`` before the first ``compute``.
        class_counts: Training samples of each class, shape [C].
        many: Upper edge of the medium group.
        few: Lower edge of the medium group.
        ignore_index: Target value whose samples are not counted.
        sample_limit: Samples that are counted from one reset to the next.
        prefix: Put before each name.
        postfix: Put after each name.

    Returns:
        A ``MetricCollection`` with the keys ``val_macro_top5``, ``val_top5``, and with groups ``val_many_top5``,
        ``val_medium_top5`` and ``val_few_top5``, for every K. It has ``bind_class_counts(counts)`` and a settable
        ``sample_limit``.

    Raises:
        TypeError: A K that is no integer.
        ValueError: No K, a K out of range, or counts that are none.

    Example:
        >>> list(topk_metrics(10, ks=(1, 5), class_counts=[200] * 5 + [3] * 5, prefix="test_").keys())[:4]
        ['test_few_top1', 'test_few_top5', 'test_macro_top1', 'test_macro_top5']
    """
    ks = sorted(set(check_ints("ks", ks, 1)))
    if not ks:
        raise ValueError("Parameter `ks` should hold at least one K. Found none.")
    shared: dict[str, Any] = {"max_k": ks[-1], "ignore_index": ignore_index, "sample_limit": sample_limit}
    metrics: dict[str, Metric | MetricCollection] = {}
    for k in ks:
        metrics[f"macro_top{k}"] = MacroTopKAccuracy(num_classes, k, **shared)
        metrics[f"top{k}"] = TopKAccuracy(num_classes, k, **shared)
        if groups or class_counts is not None:
            for group in GROUPS:
                metrics[f"{group}_top{k}"] = GroupTopKAccuracy(num_classes, k, group, class_counts, many, few, **shared)
    return TopKMetricCollection(metrics, prefix=prefix, postfix=postfix)
