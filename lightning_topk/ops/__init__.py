"""Differentiable operators on scores of shape [..., C], and nothing of losses, labels or Lightning.

Example:
    >>> import torch
    >>> from lightning_topk.ops import noised_topk
    >>> noised_topk(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), k=3, epsilon=0.0)
    tensor([1.])
"""

from lightning_topk.ops._capped_logsumexp import capped_logsumexp
from lightning_topk.ops._gaussian_topk import gaussian_topk
from lightning_topk.ops._lapsum import LapSum
from lightning_topk.ops._log_odds import log_odds
from lightning_topk.ops._neural_sort import NeuralSort
from lightning_topk.ops._noised_topk import noised_topk
from lightning_topk.ops._smoothed_relu import STk, smoothed_relu, smoothed_topk
from lightning_topk.ops._soft_operator import LogSoftTopKOperator, SoftSortOperator, SoftTopKOperator
from lightning_topk.ops._soft_sort import SoftSort
from lightning_topk.ops._sorting_network import SortingNetwork
from lightning_topk.ops._sparse_topk import SparseTopK
from lightning_topk.ops._symmetric import exclusion_log_odds, log_symmetric
from lightning_topk.ops._topk_simplex import topk_simplex_maximum

__all__ = [
    "LapSum",
    "LogSoftTopKOperator",
    "NeuralSort",
    "STk",
    "SoftSort",
    "SoftSortOperator",
    "SoftTopKOperator",
    "SortingNetwork",
    "SparseTopK",
    "capped_logsumexp",
    "exclusion_log_odds",
    "gaussian_topk",
    "log_odds",
    "log_symmetric",
    "noised_topk",
    "smoothed_relu",
    "smoothed_topk",
    "topk_simplex_maximum",
]
