"""Log-odds of classes under a softmax, without cancellation."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_topk._checks import check_indices, check_logits
from lightning_topk.ops._fused import (
    block_like,
    fusable,
    gradient_like,
    gradient_of,
    kept_gradient,
    row_blocks,
)
from lightning_topk.ops._precision import at_least_float32, working_dtype


def log_odds(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Log-odds of one label or of all, :math:`\log \frac{p_c}{1 - p_c} = s_c - \log \sum_{j \ne c} e^{s_j}`.

    With o the log-odds, cross-entropy is :math:`-\log \sigma(o)`, and the probability of the class and of all others
    are :math:`\sigma(o)` and :math:`\sigma(-o)`. All keep their relative accuracy for labels that are nearly certain,
    where :math:`1 - p_c` itself has none, and for large scores.

    It takes time O(C) a row in both cases. One label per row needs no memory of the size of the scores beside their
    gradient. For all labels at once,
    :math:`\log \sum_{j \ne c} e^{s_j} = \log \sum_j e^{s_j} + \log(1 - p_c)` is used where :math:`p_c \le 1/2`; only
    the best class can have more, and its sum is taken directly.

    Args:
        scores: Scores s, shape [N, C], float32 or float64.
        labels: Classes c, shape [N, 1]; or [N, C] with the row 0, 1, ..., C - 1 in each.

    Returns:
        Log-odds, shape of ``labels``; a large number, and flat, when there is no other class.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: Shapes that do not fit.

    Example:
        >>> log_odds(torch.tensor([[1.0, 1.0, 2.0]]).log(), torch.tensor([[0, 1, 2]])).exp()
        tensor([[0.3333, 0.3333, 1.0000]])
    """
    check_logits(scores)
    check_indices("labels", labels, scores)
    if labels.shape[-1] not in (1, scores.shape[-1]):
        raise ValueError(
            f"Argument `labels` should hold one or all classes, shape [N, 1] or [N, {scores.shape[-1]}]. "
            f"Found {list(labels.shape)}."
        )
    return affine_log_odds(scores, labels)


def affine_log_odds(
    scores: Tensor, labels: Tensor, *, scale: float | Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Log-odds under the softmax of ``scale * scores + shift``, as :func:`log_odds`; both by class, or one scale."""
    return log_odds_and_finite(scores, labels, scale=scale, shift=shift)[0]


def log_odds_and_finite(
    scores: Tensor, labels: Tensor, *, scale: float | Tensor | None = None, shift: Tensor | None = None
) -> tuple[Tensor, bool]:
    """:func:`affine_log_odds` of scores of any precision, and whether all scores were seen to be finite.

    One label per row needs no float32 copy of all scores of float16 or bfloat16; the odds are of float32 then.
    """
    if scores.ndim == 2 and labels.shape[-1] == 1 and fusable(scores, labels, scale, shift):
        odds, finite = _LabelOdds.apply(scores, labels, scale, shift)
        return odds, finite
    return plain_log_odds(at_least_float32(scores), labels, scale, shift), False


def plain_log_odds(
    scores: Tensor, labels: Tensor, scale: float | Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """:func:`affine_log_odds` in operations that torch differentiates."""
    if scale is not None:
        scores = scores * scale
    # Relative to the best, as the difference of large scores is exact and that of their log-sum-exps is not.
    scores = scores - scores.detach().amax(-1, keepdim=True)
    if shift is not None:
        scores = scores + shift
    # Finite, so that its gradient is 0 and not NaN.
    nothing = torch.finfo(scores.dtype).min
    single = labels.shape[-1] == 1
    left_out = labels if single else scores.argmax(-1, keepdim=True)
    others = torch.logsumexp(scores.scatter(-1, left_out, nothing), -1, keepdim=True)
    if not single:
        total = torch.logsumexp(scores, -1, keepdim=True)
        share = (scores - total).exp().scatter(-1, left_out, 0.0)
        others = (total + torch.log1p(-share)).scatter(-1, left_out, others)
    return (scores.gather(-1, labels) if single else scores) - others


class _LabelOdds(Function):
    """:func:`affine_log_odds` of one label per row, with no memory of the size of the scores but that of the gradient.

    The exponentials of the forward pass are written there, unless the gradient is rounded, and become it in the
    backward pass. On the CPU with whether the sum of all scores is finite, looked at while they are in the cache.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor, scale: float | Tensor | None, shift: Tensor | None) -> Any:
        blocks, dtype = row_blocks(scores), working_dtype(scores)
        ctx.powers = powers = kept_gradient(scores, ctx.needs_input_grad[0])
        memory = block_like(scores, blocks, dtype) if powers is None else powers
        nothing = torch.finfo(dtype).min
        column = memory.new_empty(scores.shape[0], 1)
        best, top, total, own = column, torch.empty_like(column), torch.empty_like(column), torch.empty_like(column)
        by_value = scores.device.type == "cpu"
        sums = 0.0
        for rows in blocks:
            part, label = scores[rows], labels[rows]
            block = memory[: part.shape[0]] if powers is None else powers[rows]
            if part.dtype != dtype or (scale is None and shift is None):
                part = block.copy_(part)
            if by_value:
                sums += float(part.sum())
            if scale is not None or shift is not None:
                best[rows] = _affine(part, scale, shift, None, out=block)
            own[rows] = block.gather(-1, label)
            block.scatter_(-1, label, nothing)
            top[rows] = highest = block.amax(-1, keepdim=True)
            total[rows] = block.sub_(highest).exp_().sum(-1, keepdim=True)
        ctx.scale, ctx.shift = scale, shift
        ctx.save_for_backward(scores, labels, best, top, total)
        return own.sub_(top).sub_(total.log()), by_value and math.isfinite(sums)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> Any:
        scores, labels, best, top, total = ctx.saved_tensors
        scale, shift = ctx.scale, ctx.shift
        if torch.is_grad_enabled():
            plain = partial(plain_log_odds, labels=labels, scale=scale, shift=shift)
            return gradient_of(lambda s: plain(at_least_float32(s)), scores, grad), None, None, None
        powers, ctx.powers = ctx.powers, None
        gradient = gradient_like(scores) if powers is None else powers
        factor = -grad / total
        if isinstance(scale, float):
            factor, grad = factor * scale, grad * scale
        blocks = row_blocks(scores)
        # Where the gradient is of less than float32, it is made here and rounded once.
        memory = block_like(scores, blocks, top.dtype) if scores.dtype != top.dtype else None
        for rows in blocks:
            block = gradient[rows]
            if powers is None:  # they were not kept, or the graph is used for the second time
                part = scores[rows]
                if memory is not None:
                    block = part = memory[: part.shape[0]].copy_(part)
                if scale is None and shift is None:
                    torch.sub(part, top[rows], out=block)
                else:
                    _affine(part, scale, shift, best[rows], out=block)
                    block.sub_(top[rows])
                block.exp_()
            block.mul_(factor[rows]).scatter_(-1, labels[rows], grad[rows])
            if isinstance(scale, Tensor):
                block.mul_(scale)
            if memory is not None:
                gradient[rows] = block
        return gradient, None, None, None


def _affine(
    part: Tensor, scale: float | Tensor | None, shift: Tensor | None, best: Tensor | None, *, out: Tensor
) -> Tensor:
    """Put scale times the scores, less the best of the row, plus the shift into ``out``; return the best."""
    if scale is None:
        best = part.amax(-1, keepdim=True) if best is None else best
        torch.sub(part, best, out=out)
    else:
        torch.mul(part, scale, out=out)
        best = out.amax(-1, keepdim=True) if best is None else best
        out.sub_(best)
    if shift is not None:
        out.add_(shift)
    return best
