"""Power sums of all scores but some picked ones."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_topk.ops._fused import fusable

# Rows are worked on in blocks of about this many scores, so that temporaries stay in the cache.
_BLOCK = 1 << 16


def split(scores: Tensor, picked: Tensor, threshold: Tensor, rate: float, order: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Picked scores, and the power sums of all others.

    .. math:: p_m = \sum_{j \text{ not picked}} y_j^m, \qquad y_j = e^{r (s_j - t)}, \qquad m = 1, \dots, K

    Differentiable twice and more in the scores; memory beside the logits and their gradient: the y of all classes.

    Args:
        scores: Scores s, shape [..., C].
        picked: Different indices, shape [..., P], among them all classes with a score above the threshold.
        threshold: Threshold t, shape [..., 1]; a constant.
        rate: Factor r.
        order: Number of power sums K.

    Returns:
        The picked scores [..., P], the power sums [..., K], and y [..., C] (zero where picked; a constant).
    """
    if torch.compiler.is_compiling() or fusable(scores, picked):
        return _Split.apply(scores, picked, threshold, rate, order)
    y = _odds(scores, picked, threshold, rate)
    powers = [y]
    for _ in range(1, order):
        powers.append(powers[-1] * y)
    return scores.gather(-1, picked), torch.stack([power.sum(-1) for power in powers], -1), y.detach()


def split_off(scores: Tensor, index: Tensor, next_best: Tensor) -> tuple[Tensor, Tensor]:
    """Picked scores [..., P] and the log-sum-exp [..., 1] of all others; ``next_best`` [..., 1] is the best of them."""
    if scores.numel() <= _BLOCK:  # what is small is dearest by the number of operations
        rest = scores.scatter(-1, index, torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
        return scores.gather(-1, index), rest
    threshold = scores.detach().gather(-1, next_best)
    picked, sums, _ = split(scores, index, threshold, 1.0, 1)
    return picked, threshold + sums.log()


def merge(
    scores: Tensor, values: Tensor, coefficients: Tensor, picked: Tensor, threshold: Tensor, rate: float, y: Tensor
) -> Tensor:
    r"""Adjoint of :func:`split`: the given values where picked, :math:`\sum_m c_m y_j^m` elsewhere; shape [..., C]."""
    return _Merge.apply(scores, values, coefficients, picked, threshold, rate, y)


def _odds(scores: Tensor, picked: Tensor, threshold: Tensor, rate: float) -> Tensor:
    """The y of :func:`split`, differentiable in the scores."""
    shifted = (scores - threshold).scatter(-1, picked, 0.0)
    return (shifted * rate).exp().scatter(-1, picked, 0.0)


def _blocks(scores: Tensor) -> list[slice]:
    """Blocks of rows; one alone where a compiler does the blocking."""
    rows = scores.shape[0]
    step = rows if torch.compiler.is_compiling() else max(1, _BLOCK // scores.shape[1])
    return [slice(first, first + step) for first in range(0, rows, max(1, step))]


def _leading(size: int, in_dims: Any, inputs: Any) -> list[Any]:
    """Make the mapped dimension the first one of every tensor."""
    return [
        x if not isinstance(x, Tensor) else x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(inputs, in_dims, strict=True)
    ]


class _Split(Function):
    @staticmethod
    def forward(scores: Tensor, picked: Tensor, threshold: Tensor, rate: float, order: int) -> Any:
        shape = scores.shape
        flat, index, level = (x.reshape(-1, x.shape[-1]) for x in (scores, picked, threshold))
        y = torch.empty_like(flat)
        sums = flat.new_empty(flat.shape[0], order)
        for rows in _blocks(flat):
            block = y[rows]
            # Scores above the threshold may overflow here; they are among the picked.
            torch.sub(flat[rows], level[rows], out=block).mul_(rate).exp_().scatter_(-1, index[rows], 0.0)
            sums[rows, 0] = block.sum(-1)
            power = block
            for m in range(1, order):
                power = power * block if m == 1 else power.mul_(block)
                sums[rows, m] = power.sum(-1)
        return scores.gather(-1, picked), sums.reshape(*shape[:-1], order), y.reshape(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        scores, picked, threshold, ctx.rate, ctx.order = inputs
        y = output[2]
        ctx.mark_non_differentiable(y)
        ctx.set_materialize_grads(False)  # a gradient of y would be zeros of the size of the logits
        ctx.save_for_backward(scores, picked, threshold, y)

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor | None, grad_sums: Tensor | None, _: Tensor | None) -> Any:
        scores, picked, threshold, y = ctx.saved_tensors
        if grad_values is None:
            grad_values = torch.zeros_like(picked, dtype=y.dtype)
        if grad_sums is None:
            grad_sums = y.new_zeros(*y.shape[:-1], ctx.order)
        degrees = torch.arange(1, ctx.order + 1, device=y.device, dtype=y.dtype)
        grad = merge(scores, grad_values, ctx.rate * degrees * grad_sums, picked, threshold, ctx.rate, y)
        return grad, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _Split.apply(*_leading(info.batch_size, in_dims, inputs)), (0, 0, 0)


class _Merge(Function):
    @staticmethod
    def forward(
        scores: Tensor,
        values: Tensor,
        coefficients: Tensor,
        picked: Tensor,
        threshold: Tensor,
        rate: float,
        y: Tensor,
    ) -> Tensor:
        shape = y.shape
        order = coefficients.shape[-1]
        y, values, coefficients, picked = (x.reshape(-1, x.shape[-1]) for x in (y, values, coefficients, picked))
        merged = torch.empty_like(y)
        for rows in _blocks(y):
            block, factors, total = y[rows], coefficients[rows], merged[rows]
            torch.mul(block, factors[:, order - 1 :], out=total)
            for m in range(order - 2, -1, -1):
                total.add_(factors[:, m : m + 1]).mul_(block)
            total.scatter_(-1, picked[rows], values[rows])
        return merged.reshape(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        scores, _, coefficients, picked, threshold, ctx.rate, _ = inputs
        ctx.save_for_backward(scores, coefficients, picked, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        scores, coefficients, picked, threshold = ctx.saved_tensors
        y = _odds(scores, picked, threshold, ctx.rate)
        sums, slope, power = [], torch.zeros_like(y), y
        for m in range(coefficients.shape[-1]):
            sums.append((grad * power).sum(-1))
            slope = slope + (m + 1) * coefficients[..., m : m + 1] * power
            power = power * y
        return ctx.rate * grad * slope, grad.gather(-1, picked), torch.stack(sums, -1), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _Merge.apply(*_leading(info.batch_size, in_dims, inputs)), 0
