"""Few entries of the scores of each row, and the gradient that touches no others."""

from typing import Any

import torch
from torch import Tensor

from lightning_topk.ops._fused import fusable
from lightning_topk.ops._precision import at_least_float32
from lightning_topk.ops._zeroed import LARGE, zeros

# From so many entries of a row on, those that are equal are added up in a buffer of the size of the scores.
_FEW = 64


def gather_float32(scores: Tensor, indices: Tensor) -> Tensor:
    """Gather along the last dimension, as :meth:`torch.Tensor.gather` does, in float32 where the scores are of less.

    The gradient is that of a copy in float32, rounded once: what falls on the same entry is added in float32.
    """
    low = scores.dtype in (torch.float16, torch.bfloat16)
    if not fusable(scores):
        return (scores.float() if low else scores).gather(-1, indices)
    # For a small gradient torch's own function takes less time than this one.
    if scores.requires_grad and (low or scores.nbytes >= LARGE):
        found: Tensor = _Gather.apply(scores, indices)
        return found
    return at_least_float32(scores.gather(-1, indices))


def mean_hinge(scores: Tensor, classes: Tensor, labels: Tensor, added: Tensor, scale: float) -> Tensor:
    r"""Return :math:`(\lambda\,(a + \frac1B \sum_b s_{c_b} - s_y))_+` for each row, of at least float32.

    By one look-up, so that the backward pass writes one gradient and adds none; with few classes, every operator that
    is saved counts.

    Args:
        scores: Scores s, shape [N, C].
        classes: Classes c, shape [N, B].
        labels: Labels y, shape [N, 1].
        added: Numbers a, shape [N, 1], of at least float32.
        scale: Factor lambda.

    Returns:
        Shape [N, 1].
    """
    draws = classes.shape[-1]
    found = gather_float32(scores, torch.cat((classes, labels), -1))
    excess = added + (found * found.new_tensor([1 / draws] * draws + [-1.0])).sum(-1, keepdim=True)
    return torch.relu(excess if scale == 1.0 else scale * excess)


def add_at(shape: torch.Size, dtype: torch.dtype, indices: Tensor, values: Tensor) -> Tensor:
    """Zeros [..., C] with values [..., X] added at indices [..., X] of the last dimension, in the values' precision.

    They are rounded to the dtype once.
    """
    if values.dtype == dtype:
        return zeros(shape, values).scatter_add_(-1, indices, values)
    if indices.shape[-1] > _FEW:
        return values.new_zeros(shape).scatter_add_(-1, indices, values).to(dtype)
    # Equal indices write the same sum, so that it does not matter which of them comes last.
    equal = indices.unsqueeze(-1) == indices.unsqueeze(-2)
    sums = (equal * values.unsqueeze(-2)).sum(-1).to(dtype)
    # By position in memory: scatter_ makes copies in float32 on the CPU.
    rows = torch.arange(0, shape.numel(), shape[-1], device=indices.device).view(*shape[:-1], 1)
    return zeros((shape.numel(),), values, dtype).index_put_((rows + indices,), sums).view(shape)


class _Gather(torch.autograd.Function):
    """Gather of scores [..., C] at indices [..., X], in float32 where they are of less."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.shape, ctx.dtype = scores.shape, scores.dtype
        return at_least_float32(scores.gather(-1, indices))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return add_at(ctx.shape, ctx.dtype, ctx.saved_tensors[0], grad), None
