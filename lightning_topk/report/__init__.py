"""From a rank histogram to what people read: tables, files and figures.

Everything here is a pure function of numbers, apart from :func:`write_atomically` and :func:`replacing`, which put a
file in its place in one step. :class:`~lightning_topk.callbacks.TopKReport` calls them in a run; they serve as well on
a histogram that was computed by hand. Accuracies are fractions in [0, 1], and ``None`` where nothing was seen.

Example:
    >>> import torch
    >>> from lightning_topk.report import accuracy_table
    >>> histogram = torch.tensor([[3, 1, 0], [1, 0, 1], [0, 1, 1]])
    >>> for row in accuracy_table(histogram, ks=(1, 2), class_counts=[500, 50, 5]):
    ...     print(row["group"], row["classes"], row["training_samples"], row["top1"], row["top2"])
    macro 3 555 0.4166666666666667 0.6666666666666666
    micro 3 555 0.5 0.75
    many 1 500 0.75 1.0
    medium 1 50 0.5 0.5
    few 1 5 0.0 0.5
"""

from lightning_topk.report._console import console_table
from lightning_topk.report._curves import accuracy_by_k, learning_curves
from lightning_topk.report._files import csv_text, json_text, replacing, unwritable, write_atomically
from lightning_topk.report._history import history_columns, rows_up_to
from lightning_topk.report._scatter import accuracy_by_count
from lightning_topk.report._style import png_of
from lightning_topk.report._tables import accuracy_table, class_table, counts_summary

__all__ = [
    "accuracy_by_count",
    "accuracy_by_k",
    "accuracy_table",
    "class_table",
    "console_table",
    "counts_summary",
    "csv_text",
    "history_columns",
    "json_text",
    "learning_curves",
    "png_of",
    "replacing",
    "rows_up_to",
    "unwritable",
    "write_atomically",
]
