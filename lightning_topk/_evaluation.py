"""What one dataloader gives over one epoch of evaluation: ranks and mean loss, without padding."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_topk.imbalance import class_groups
from lightning_topk.metrics import (
    RankHistogram,
    group_topk_accuracy_from_histogram,
    macro_topk_accuracy_from_histogram,
    topk_accuracy_from_histogram,
)


class WeightedMean(Metric):
    """Mean of numbers with weights, over batches and processes, in which a NaN stays visible.

    (With ``nan_strategy="disable"``, torchmetrics 1.9's ``MeanMetric`` leaves the weights out of account.)
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, mean: Tensor, weight: Tensor) -> None:
        """Count the mean of a batch with its weight; a weight of zero counts nothing."""
        self.total += torch.where(weight > 0, mean * weight, 0.0)
        self.weight += weight

    def compute(self) -> Tensor:
        """Return the mean, NaN when nothing was counted."""
        return self.total / self.weight


class Evaluation(nn.Module):
    """Counts of one dataloader over one epoch of evaluation.

    Args:
        num_classes: Number of classes C, or None to take it from the logits.
        max_k: The largest K that is asked for.
        ignore_index: Target value that is not counted.

    Attributes:
        observers: Functions that are called with the scores and class indices of the real rows of each batch.
    """

    def __init__(self, num_classes: int | None, max_k: int, ignore_index: int | None) -> None:
        super().__init__()
        self.histogram = RankHistogram(num_classes, max_k=max_k, ignore_index=ignore_index)
        self.loss = WeightedMean()
        self.observers: list[Callable[[Tensor, Tensor], None]] = []
        self._rows: tuple[int, int] | None = None
        self._counted = True

    def reset(self) -> None:
        """Forget all that was counted."""
        self.histogram.reset()
        self.loss.reset()

    def begin_batch(self, rows: tuple[int, int] | None) -> None:
        """Announce a batch of so many (rows, rows that are no padding), or None where nothing is padded."""
        # Where all is padding nothing is counted, also when a step turns a row into a batch of its own size.
        self._rows, self._counted = rows, rows is not None and rows[1] == 0

    def real(self, tensor: Tensor) -> Tensor:
        """Leave out the rows that a DistributedSampler repeated. Another number of rows than announced stays."""
        if self._rows is not None and tensor.shape[:1] == self._rows[:1]:
            return tensor[: self._rows[1]]
        return tensor

    def update(self, logits: Tensor, targets: Tensor, loss: Tensor, weight: Tensor) -> None:
        """Count the real rows of a batch once: their ranks, and their loss with the weight of its mean."""
        if self._counted:
            return
        self._counted = True
        labels = targets.argmax(-1) if targets.is_floating_point() else targets
        self.histogram.update(logits, labels)
        self.loss.update(loss, weight)
        for observe in self.observers:
            observe(logits, labels)

    def counted(self) -> Tensor:
        """Return the histogram, summed over processes; all have to call this."""
        return _computed(self.histogram)

    def scores(
        self, stage: str, ks: tuple[int, ...], k: int, counts: Tensor | None, *, with_loss: bool
    ) -> dict[str, Tensor]:
        """Return the scalars to log, the same on all processes: none when nothing was counted.

        Groups are for the K of the loss, or for the largest that is asked for; those without a class that was seen are
        left out.
        """
        histogram = self.counted()
        if not histogram.any():
            return {}
        scores = {f"{stage}_loss": _computed(self.loss)} if with_loss else {}
        for each in ks:
            scores[f"{stage}_macro_top{each}"] = macro_topk_accuracy_from_histogram(histogram, each)
            scores[f"{stage}_top{each}"] = topk_accuracy_from_histogram(histogram, each)
        if ks and counts is not None and len(counts) == len(histogram):
            k = k if k in ks else max(ks)
            for group, mask in class_groups(counts).items():
                value = group_topk_accuracy_from_histogram(histogram, k, mask.to(histogram.device))
                if not value.isnan():
                    scores[f"{stage}_{group}_top{k}"] = value
        return scores


def _computed(metric: Metric) -> Tensor:
    with warnings.catch_warnings():
        # A step that does not compute the loss counts nothing, and a share of the data may be empty.
        warnings.filterwarnings("ignore", r"The ``compute`` method of metric \w+ was called before")
        return metric.compute()
