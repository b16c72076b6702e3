"""Differentiable operators on scores of shape [..., C], and nothing of losses, labels or Lightning.

Example:
    >>> import torch
    >>> from lightning_topk.ops import noised_topk
    >>> noised_topk(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), k=3, epsilon=0.0)
    tensor([1.])
"""

from lightning_topk.ops._noised_topk import noised_topk

__all__ = ["noised_topk"]
