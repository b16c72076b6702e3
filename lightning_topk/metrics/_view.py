"""The base of the metrics that are one scalar read off the rank histogram."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_topk._checks import check_logits, check_num_classes
from lightning_topk.metrics._histogram import RankHistogram, check_k, rank_histogram


def hits_and_support(histogram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the hits at ``k`` and the number of samples of each class, both int64 [C]."""
    if not isinstance(histogram, Tensor) or histogram.ndim != 2 or histogram.shape[1] < 2:
        found = list(histogram.shape) if isinstance(histogram, Tensor) else type(histogram).__name__
        raise ValueError(f"Argument `histogram` should be a tensor of shape [C, max_k + 1]. Found {found}.")
    max_k = histogram.shape[1] - 1
    if check_k("k", k, None) > max_k:
        raise ValueError(f"Parameter `k` should be in [1, max_k]. Found `k = {k}` with `max_k = {max_k}`.")
    return histogram[:, :k].sum(1), histogram.sum(1)


def histogram_at(logits: Tensor, targets: Tensor, k: int, ignore_index: int | None) -> Tensor:
    """Return the rank histogram with the columns that one K needs, after a check that names ``k``."""
    check_logits(logits)
    check_k("k", k, logits.shape[-1])
    return rank_histogram(logits, targets, max_k=k, ignore_index=ignore_index)


class TopKView(RankHistogram):
    """A scalar view of the rank histogram at one K; subclasses say which in ``compute``.

    The state does not depend on K but on ``max_k``: metrics of several K with one ``max_k`` share one update in a
    ``MetricCollection``, and metrics of different ``max_k`` are kept apart by the shape of the state.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        num_classes: int | None = None,
        k: int = 5,
        *,
        max_k: int | None = None,
        ignore_index: int | None = None,
        sample_limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_k("k", k, None if num_classes is None else check_num_classes(num_classes))
        max_k = k if max_k is None else max_k
        super().__init__(num_classes, max_k, ignore_index, sample_limit=sample_limit, **kwargs)
        if self.max_k < k:
            raise ValueError(f"Parameter `max_k` should be >= `k`. Found `max_k = {max_k}` with `k = {k}`.")
        self.k = int(k)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Draw one value, or several values in the order given.

        Args:
            val: A value of ``compute`` or ``forward``, or a list of them; computed when not given.
            ax: Matplotlib axes to draw on; a new figure when not given.

        Returns:
            The figure and the axes.
        """
        return self._plot(val, ax)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"k={self.k}, {super().extra_repr()}"
