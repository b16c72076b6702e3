"""Values whose gradient touches a few scores of each row and is known beforehand."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_topk.ops._fused import on_huge_pages


def sparse_gradient(values: Tensor, scores: Tensor, index: Tensor, slopes: Tensor) -> Tensor:
    """Give values [N, 1] the gradient in the scores [N, C] that has the slopes [N, P] at the indices [N, P].

    For functions that are linear near almost all scores: the slopes are constants, and the second derivatives 0.
    """
    return _SparseGradient.apply(scores, values, index, slopes)


class _SparseGradient(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, values: Tensor, index: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(index, slopes)
        ctx.like = scores.shape, scores.dtype
        return values.to(scores.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        index, slopes = ctx.saved_tensors
        shape, dtype = ctx.like
        part = (slopes * grad).to(dtype)
        gradient = on_huge_pages(torch.empty(shape, dtype=dtype, device=grad.device)).zero_()
        return gradient.scatter_add_(-1, index, part), None, None, None
