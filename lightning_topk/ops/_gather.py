"""Few entries of scores of low precision, without a copy of all of them in float32."""

from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import readable

# From so many entries of a row on, those that are equal are added up in a buffer of the size of the scores.
_FEW = 64


def gather_float32(scores: Tensor, indices: Tensor) -> Tensor:
    """Gather along the last dimension, as :meth:`torch.Tensor.gather` does, in float32 where the scores are of less.

    The gradient is that of a copy in float32, rounded once: what falls on the same entry is added in float32.
    """
    if scores.dtype not in (torch.float16, torch.bfloat16):
        return scores.gather(-1, indices)
    if not readable(scores):
        return scores.float().gather(-1, indices)
    found: Tensor = _Gather.apply(scores, indices)
    return found


class _Gather(torch.autograd.Function):
    """Gather of scores [N, C] of low precision at indices [N, X], in float32."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.shape, ctx.dtype = scores.shape, scores.dtype
        return scores.gather(-1, indices).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        if indices.shape[-1] > _FEW:
            return grad.new_zeros(ctx.shape).scatter_add_(-1, indices, grad).to(ctx.dtype), None
        # Equal indices write the same sum, so that it does not matter which of them comes last.
        equal = indices.unsqueeze(-1) == indices.unsqueeze(-2)
        sums = (equal * grad.unsqueeze(-2)).sum(-1).to(ctx.dtype)
        # By position in memory: scatter_ makes copies in float32 on the CPU.
        rows = torch.arange(0, ctx.shape.numel(), ctx.shape[-1], device=indices.device).view(*ctx.shape[:-1], 1)
        return sums.new_zeros(ctx.shape.numel()).index_put_((rows + indices,), sums).view(ctx.shape), None
