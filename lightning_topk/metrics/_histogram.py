"""The rank histogram, as a function and as the metric on which all others stand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_topk._checks import MOST_CLASSES, check_ignore_index, check_int, check_num_classes, check_scores
from lightning_topk.metrics._ranks import target_ranks

_PLAIN = frozenset({"histogram", "_computed", "_update_count"})


def rank_histogram(logits: Tensor, targets: Tensor, *, max_k: int = 5, ignore_index: int | None = None) -> Tensor:
    r"""Count the ranks of the labels per class.

    .. math:: H_{cj} = \#\{i : y_i = c,\; \min(r_i, K_{\max}) = j\}

    with :math:`r` the :func:`~lightning_topk.metrics.target_ranks`.

    Args:
        logits: Scores, shape [..., C], floating point.
        targets: Class indices, shape [...].
        max_k: The largest K that the histogram can answer, in [1, C].
        ignore_index: Target value whose samples are not counted.

    Returns:
        Counts, dtype int64, shape [C, max_k + 1]; the last column holds what came later than rank ``max_k - 1``.

    Raises:
        TypeError: Dtypes as in :func:`~lightning_topk.metrics.target_ranks`.
        ValueError: Shapes that do not fit, targets out of range, or ``max_k`` outside [1, C].

    Example:
        >>> logits = torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2], [0.1, 0.7, 0.2]])
        >>> rank_histogram(logits, torch.tensor([1, 2, 0]), max_k=2)
        tensor([[0, 0, 1],
                [1, 0, 0],
                [0, 1, 0]])
    """
    ranks = target_ranks(logits, targets, ignore_index=ignore_index)
    num_classes = logits.shape[-1]
    check_k("max_k", max_k, num_classes)
    histogram = torch.zeros(num_classes, max_k + 1, dtype=torch.int64, device=logits.device)
    _add_ranks(histogram, ranks, targets, ignore_index)
    return histogram


def check_k(name: str, value: Any, num_classes: int | None) -> int:
    """Return ``value`` as an int, or raise when it is no integer in [1, C]."""
    k = check_int(name, value, 1)
    if k > (MOST_CLASSES if num_classes is None else num_classes):
        raise ValueError(f"Parameter `{name}` should be in [1, C]. Found `{name} = {k}` with `C = {num_classes}`.")
    return k


def _add_ranks(histogram: Tensor, ranks: Tensor, targets: Tensor, ignore_index: int | None) -> None:
    """Count ranks into the histogram in place; the cost does not depend on its size, nothing is read back."""
    columns = histogram.shape[1]
    cells = targets.reshape(-1).long() * columns + ranks.reshape(-1).clamp(max=columns - 1)
    counted = torch.ones_like(cells)
    if ignore_index is not None:
        ignored = ranks.reshape(-1) < 0
        cells, counted = cells.masked_fill(ignored, 0), counted.masked_fill(ignored, 0)
    histogram.view(-1).scatter_add_(0, cells, counted)


class RankHistogram(Metric):
    r"""Histogram of the labels' ranks per class, from which every top-K accuracy follows.

    The state is one int64 tensor ``histogram`` of shape [C, max_k + 1], summed over processes and not saved in
    checkpoints. See :func:`~lightning_topk.metrics.rank_histogram` for its meaning and
    :func:`~lightning_topk.metrics.topk_accuracy_from_histogram`,
    :func:`~lightning_topk.metrics.macro_topk_accuracy_from_histogram` and
    :func:`~lightning_topk.metrics.group_topk_accuracy_from_histogram` for its views.

    Args:
        num_classes: Number of classes C. With None it is taken from the first logits after each reset; a process that
            has seen no logits then counts as zeros.
        max_k: The largest K that the histogram can answer, in [1, C].
        ignore_index: Target value whose samples are not counted.
        sample_limit: Samples (entries of the first dimension of the targets) that are counted from one reset to the
            next; what comes later is left out. Set it to :func:`~lightning_topk.metrics.unpadded_size` of the sampler
            to leave out what a ``DistributedSampler`` repeats. Can be set at any time; None counts all.
        kwargs: Keyword arguments of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: A parameter, logits or targets of the wrong type.
        ValueError: A parameter out of range, logits of another number of classes, or targets out of range.

    Example:
        >>> metric = RankHistogram(num_classes=3, max_k=1)
        >>> metric.update(torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.2, 0.7]]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor([[0, 0],
                [1, 1],
                [0, 0]])
    """

    is_differentiable = False
    full_state_update = False
    histogram: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        max_k: int = 5,
        ignore_index: int | None = None,
        *,
        sample_limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dist_sync_fn": _gather_sized, **kwargs})
        self.num_classes = None if num_classes is None else check_num_classes(num_classes)
        self.max_k = check_k("max_k", max_k, self.num_classes)
        self.ignore_index = None if ignore_index is None else check_ignore_index(ignore_index)
        self.sample_limit = sample_limit
        self._seen = 0
        self.add_state("histogram", torch.zeros(self.num_classes or 0, self.max_k + 1, dtype=torch.int64), "sum")
        if ignore_index is not None:
            # An empty list state costs no communication. Its name keeps MetricCollection from merging metrics that
            # ignore different targets but agree on the first batch.
            self.add_state(f"ignoring_{ignore_index}", [])

    @property
    def sample_limit(self) -> int | None:
        """Number of samples that are counted from one reset to the next; None counts all."""
        return self._sample_limit

    @sample_limit.setter
    def sample_limit(self, value: int | None) -> None:
        self._sample_limit = None if value is None else check_int("sample_limit", value, 0)

    def __setattr__(self, name: str, value: Any) -> None:
        # A collection sets these on each of its metrics at every update. They are no parameters, modules or buffers,
        # and to look for those takes longer than to count.
        if name in _PLAIN:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch of logits [..., C] and targets [...]."""
        ranks = target_ranks(logits, targets, ignore_index=self.ignore_index)
        self._fit_state(logits)
        if self.sample_limit is not None:
            room = max(0, self.sample_limit - self._seen)
            ranks, targets = torch.atleast_1d(ranks), torch.atleast_1d(targets)
            self._seen += len(targets)
            ranks, targets = ranks[:room], targets[:room]
        if self.histogram.is_inference() and not torch.is_inference_mode_enabled():
            self.histogram = self.histogram.clone()  # a reset in inference mode leaves a tensor that cannot be changed
        _add_ranks(self.histogram, ranks, targets, self.ignore_index)

    def forward(self, logits: Tensor, targets: Tensor) -> Any:
        """Count a batch and return the value of this batch alone."""
        if not len(self.histogram):
            check_scores(logits, targets, ignore_index=self.ignore_index, soft=False)
            self._fit_state(logits)
        limit, seen = self.sample_limit, self._seen
        if limit is not None:  # the rest is the limit of this batch, as the base class resets before it updates
            self.sample_limit, self._seen = max(0, limit - seen), 0
        try:
            return super().forward(logits, targets)
        finally:
            self.sample_limit, self._seen = limit, seen + self._seen

    def compute(self) -> Tensor:
        """Return the histogram, summed over processes, shape [C, max_k + 1]."""
        return self.histogram

    def reset(self) -> None:
        """Set the histogram to zero and start the count of ``sample_limit`` anew."""
        super().reset()
        self._seen = 0

    def sync(self, dist_sync_fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> None:
        """Sum the histograms of all processes, by ``dist_sync_fn`` or the one given to the constructor."""
        super().sync(dist_sync_fn or self.dist_sync_fn, *args, **kwargs)

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add the histogram of another metric; one that has seen no logits yet counts as zeros."""
        state: dict[str, Any] = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        self.histogram, incoming = _same_size([self.histogram, state["histogram"].to(self.histogram.device)])
        super().merge_state({**state, "histogram": incoming})
        self._computed = None

    def extra_repr(self) -> str:
        """Name the settings."""
        ignored = "" if self.ignore_index is None else f", ignore_index={self.ignore_index}"
        return f"num_classes={self.num_classes}, max_k={self.max_k}{ignored}"

    def plot(self, val: Tensor | None = None, ax: Any = None) -> Any:
        """Draw the micro and macro top-K accuracy against K.

        Args:
            val: A histogram from ``compute``; computed when not given.
            ax: Matplotlib axes to draw on; a new figure when not given.

        Returns:
            The figure and the axes.
        """
        import matplotlib.pyplot as plt

        from lightning_topk.metrics._macro import macro_topk_accuracy_from_histogram
        from lightning_topk.metrics._micro import topk_accuracy_from_histogram

        histogram = (self.compute() if val is None else val).cpu()
        ax = ax if ax is not None else plt.subplots()[1]
        ks = range(1, histogram.shape[1])
        for label, view in (("micro", topk_accuracy_from_histogram), ("macro", macro_topk_accuracy_from_histogram)):
            ax.plot(ks, [view(histogram, k).item() for k in ks], marker="o", label=label)
        ax.set(xlabel="K", ylabel="top-K accuracy", xticks=ks, ylim=(0, 1))
        ax.legend()
        return ax.get_figure(), ax

    def _fit_state(self, logits: Tensor) -> None:
        """Size the histogram by the first logits, and hold later ones to this size."""
        num_classes = logits.shape[-1]
        if self.num_classes is None and not len(self.histogram):
            check_k("max_k", self.max_k, num_classes)
            self.histogram = self.histogram.new_zeros(num_classes, self.max_k + 1)
        if num_classes != len(self.histogram):
            raise ValueError(
                f"Argument `logits` should have `num_classes = {len(self.histogram)}` scores in the last dimension. "
                f"Found shape {list(logits.shape)}."
            )


def _same_size(histograms: list[Tensor]) -> list[Tensor]:
    """Give histograms that have seen nothing, of shape [0, K + 1], the size of the others."""
    sizes = sorted({len(histogram) for histogram in histograms} - {0})
    if len(sizes) > 1:
        raise ValueError(f"Histograms that are summed should have one number of classes. Found {sizes}.")
    return [h if len(h) or not sizes else h.new_zeros(sizes[0], h.shape[1]) for h in histograms]


def _gather_sized(state: Tensor, group: Any = None) -> list[Tensor]:
    """Gather a state from all processes, some of which may not have been sized yet."""
    return _same_size(gather_all_tensors(state, group))
