"""Values whose gradient touches a few scores of each row and is known beforehand."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_topk.ops._gather import add_at
from lightning_topk.ops._precision import working_dtype


def sparse_gradient(values: Tensor, scores: Tensor, index: Tensor, slopes: Tensor) -> Tensor:
    """Give values [N, 1] the gradient in the scores [N, C] that has the slopes [N, P] at the indices [N, P].

    For functions that are linear near almost all scores: the slopes are constants, and the second derivatives 0. The
    values are returned in float32 at least; the gradient of scores of less is added up in float32 and rounded once.
    """
    return _SparseGradient.apply(scores, values, index, slopes)


class _SparseGradient(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, values: Tensor, index: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(scores, index, slopes)
        return values.to(working_dtype(scores), copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        scores, index, slopes = ctx.saved_tensors
        gradient = add_at(scores.shape, scores.dtype, index, (slopes * grad).to(grad.dtype))
        if torch.is_grad_enabled():  # a derivative of 0 for those who ask for the second one
            gradient = gradient + torch.where(torch.zeros((), dtype=torch.bool, device=scores.device), scores, 0.0)
        return gradient, None, None, None
