r"""Top-K accuracies: views of one integer histogram of ranks.

The rank :math:`r_i` of a sample counts the classes that are not scored below its label; a label is among the top K
when :math:`r_i < K`. A metric stores only

.. math:: H_{cj} = \#\{i : y_i = c,\; r_i = j\}, \qquad j < K_{\max}

and, in a last column, the samples of each class beyond :math:`K_{\max}`. Every accuracy is a view of this matrix:

.. math::
    \text{top-}K = \frac{\sum_c \sum_{j < K} H_{cj}}{\sum_c n_c}, \qquad
    \text{macro top-}K = \frac{1}{|\{c : n_c > 0\}|} \sum_{c : n_c > 0} \frac{\sum_{j < K} H_{cj}}{n_c}, \qquad
    n_c = \sum_j H_{cj}

and the group accuracy is the macro mean over the many-, medium- or few-shot classes by training count.

The law, the same for all of them:

* The mean is over the classes present in the targets; a class that was only predicted does not count.
* Ties and NaN are pessimistic: constant logits are no hit, a NaN elsewhere counts as a better score, and a label whose
  own score is NaN is a miss at every K.
* With nothing seen, or no class of a group seen, the value is NaN.
* Counts are int64 and are summed over processes, so one and two processes give the same numbers.

Example:
    >>> import torch
    >>> from lightning_topk.metrics import topk_metrics
    >>> metrics = topk_metrics(num_classes=3, ks=(1, 2))
    >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    >>> metrics.update(logits, torch.tensor([0, 0, 1, 0]))
    >>> {name: round(value.item(), 4) for name, value in metrics.compute().items()}
    {'val_macro_top1': 0.3333, 'val_macro_top2': 0.8333, 'val_top1': 0.5, 'val_top2': 0.75}
"""

from lightning_topk.metrics._collection import TopKMetricCollection, topk_metrics
from lightning_topk.metrics._group import GroupTopKAccuracy, group_topk_accuracy, group_topk_accuracy_from_histogram
from lightning_topk.metrics._histogram import RankHistogram, rank_histogram
from lightning_topk.metrics._macro import (
    MacroTopKAccuracy,
    class_topk_accuracy_from_histogram,
    macro_topk_accuracy,
    macro_topk_accuracy_from_histogram,
)
from lightning_topk.metrics._micro import TopKAccuracy, topk_accuracy, topk_accuracy_from_histogram
from lightning_topk.metrics._padding import unpadded_size
from lightning_topk.metrics._ranks import target_ranks

__all__ = [
    "GroupTopKAccuracy",
    "MacroTopKAccuracy",
    "RankHistogram",
    "TopKAccuracy",
    "TopKMetricCollection",
    "class_topk_accuracy_from_histogram",
    "group_topk_accuracy",
    "group_topk_accuracy_from_histogram",
    "macro_topk_accuracy",
    "macro_topk_accuracy_from_histogram",
    "rank_histogram",
    "target_ranks",
    "topk_accuracy",
    "topk_accuracy_from_histogram",
    "topk_metrics",
    "unpadded_size",
]
