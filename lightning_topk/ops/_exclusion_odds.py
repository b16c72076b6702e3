"""Log-odds that a label is not in a random set of k classes, with the gradient by hand; on the CPU.

The scores are read in blocks of rows that stay in the cache: for the largest of them, for the power sums of all others,
and for the gradient, which is a polynomial of their exponentials. Powers whose part is below the rounding are left out.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from lightning_topk.ops._best_others import best_others
from lightning_topk.ops._fused import gradient_like, gradient_of, kept_gradient
from lightning_topk.ops._odds_of_few import odds_and_slopes
from lightning_topk.ops._precision import at_least_float32, working_dtype
from lightning_topk.ops._scaled_softplus import ScaledSoftplus
from lightning_topk.ops._sums_of_powers import SumsOfPowers

# Scores in a block of rows, of which up to three are held: its temporaries stay in the cache.
_BLOCK = 1 << 16
# Largest multiple of the rate up to which a product and a sum in one operation have no visible error, fused or not.
_NEAR = 4.0

Plain = Callable[..., Tensor]  # (scores [N, C], picked=..., k=..., temperature=...) -> log-odds [N, 1]


class ExclusionOdds(Function):
    """Log-odds [N, 1] of the labels [N, 1] from scores [N, C], in float64; and whether all scores are finite.

    Or a loss of them, of float32 at least, in the same operation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        labels: Tensor,
        k: int,
        temperature: float,
        plain: Plain,
        loss: ScaledSoftplus | None,
    ) -> Any:
        num_classes, dtype = scores.shape[1], working_dtype(scores)
        rate = 1.0 / temperature
        indices, picked = best_others(scores, labels, min(2 * k, num_classes - 1))
        index = torch.from_numpy(indices)
        ctx.rate, ctx.plain = rate, partial(_value, plain, loss, k=k, temperature=temperature)
        ctx.powers = sums = None
        finite = bool(np.isfinite(picked).all())
        base, level = picked[:, -2], None
        if index.shape[1] < num_classes:
            exact = np.float64 if dtype == torch.float64 else np.float32
            ctx.near = rate == 1.0 or float(np.abs(base).max(initial=0.0)) * rate <= _NEAR
            heights = (base * -rate if ctx.near else base).astype(exact)
            if ctx.near:
                base = heights.astype(np.float64) / -float(exact(rate))
            level = torch.from_numpy(heights[:, None])
            # The gradient is made of these powers, in the same memory.
            ctx.powers = kept_gradient(scores, ctx.needs_input_grad[0])
            sums, finite_tail = _power_sums(scores, indices, level, rate, ctx.near, k, ctx.powers)
            finite = finite and finite_tail
        with np.errstate(all="ignore"):  # a row with a NaN becomes NaN without a warning
            odds, slopes, factors = odds_and_slopes(picked, sums, base, k, temperature)
            ctx.degrees = None if sums is None else _degrees(factors, sums, rate, dtype)
            if loss is not None:
                odds, slope = loss.with_slope(odds)
                slopes *= slope
                factors *= slope
        ctx.save_for_backward(scores, index, level, torch.from_numpy(slopes), torch.from_numpy(factors))
        values = torch.from_numpy(odds)
        return values if loss is None else values.to(dtype), finite

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> Any:
        scores, index, level, slopes, factors = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradient = gradient_of(partial(ctx.plain, picked=index), scores, grad)
            return gradient, None, None, None, None, None
        dtype = working_dtype(scores)
        values = (slopes * grad).to(dtype)
        if ctx.degrees is None:
            gradient = torch.zeros_like(scores, dtype=dtype).scatter_(-1, index, values)
            return gradient.to(scores.dtype), None, None, None, None, None
        powers, ctx.powers = ctx.powers, None
        gradient = gradient_like(scores) if powers is None else powers
        rows, memory = _rows(scores), _memory(scores)
        rounded = _memory(scores) if scores.dtype != dtype else None
        degrees = np.maximum.reduceat(ctx.degrees, np.arange(0, len(scores), rows)).tolist()
        columns = (factors * grad).to(dtype)[:, : max(degrees, default=0)].split(1, 1)
        for degree, part, y, height, picked, slope, *weights in zip(
            degrees, *_split(rows, scores, gradient, level, index, values, *columns), strict=True
        ):
            total = y if rounded is None else _head(rounded, y)
            if powers is None:  # they were not kept, or the graph is used for the second time
                _relative(part, height, ctx.rate, ctx.near, out=total, view=total.numpy())
            _polynomial(total, weights[:degree], _head(memory, y))
            if rounded is not None:
                y.copy_(total.scatter_(-1, picked, slope))
        if rounded is None:
            gradient.scatter_(-1, index, values)
        return gradient, None, None, None, None, None


def _value(plain: Plain, loss: ScaledSoftplus | None, scores: Tensor, **arguments: Any) -> Tensor:
    """The plain formula for what the operator returns."""
    odds = plain(at_least_float32(scores), **arguments)
    return odds if loss is None else loss(odds).to(working_dtype(scores))


def _rows(scores: Tensor) -> int:
    """Rows in a block."""
    return max(1, _BLOCK // scores.shape[1])


def _memory(scores: Tensor) -> Tensor:
    """Memory for one block."""
    return scores.new_empty(min(_rows(scores), len(scores)), scores.shape[1], dtype=working_dtype(scores))


def _split(rows: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The blocks of some tensors, in one operation each or none."""
    count = len(tensors[0])
    return [(tensor,) if 0 < count <= rows else tensor.split(rows) if count else () for tensor in tensors]


def _head(memory: Tensor, like: Tensor) -> Tensor:
    """As many rows of the memory for a block as another tensor has; a slice costs as much as a small operation."""
    count = like.shape[0]
    return memory if memory.shape[0] == count else memory[:count]


def _relative(part: Tensor, level: Tensor, rate: float, near: bool, *, out: Tensor, view: np.ndarray) -> float:
    """Put e^(rate (s - base)) into ``out``; return the lowest exponent. The level is -rate base if near, or the base.

    The view is ``out`` as an array of NumPy. What is below 1e-30 (float32) becomes 0, as tiny numbers slow the
    processor down.
    """
    if part.dtype != out.dtype:
        part = out.copy_(part)
    if near:
        torch.add(level, part, alpha=rate, out=out)
    else:
        torch.sub(part, level, out=out).mul_(rate)
    lowest = float(view.min())
    least = 0.8 * math.log(torch.finfo(out.dtype).tiny)
    if not lowest >= least:
        torch.nn.functional.threshold(out, least, -math.inf, inplace=True)
    out.exp_()
    return lowest


def _power_sums(
    scores: Tensor, index: np.ndarray, level: Tensor, rate: float, near: bool, order: int, powers: Tensor | None
) -> tuple[np.ndarray, bool]:
    """Sums of the 1st to K-th powers of y = e^(rate (s - base)) over all classes but the picked ones; [K, N].

    Also whether all exponents are finite. The y are put into ``powers`` [N, C], if there is such memory.
    """
    rows, width, finite = _rows(scores), scores.shape[1], True
    blocks = SumsOfPowers(order, len(scores), working_dtype(scores), kept=powers is not None)
    memory = _memory(scores) if powers is None else powers
    view, starts = memory.numpy(), range(0, len(scores), rows)
    flat = view.reshape(-1)
    # Where the picked ones lie in the memory, which has all rows or those of a block.
    places = index + np.arange(0, index.shape[0] * width, width)[:, None] % max(1, memory.numel())
    parts = _split(rows, scores, level, scores if powers is None else powers)
    for first, part, height, out in zip(starts, *parts, strict=True):
        here = slice(first, first + rows)
        y, values = (_head(memory, part), view[: part.shape[0]]) if powers is None else (out, view[here])
        low = _relative(part, height, rate, near, out=y, view=values)
        finite = finite and math.isfinite(low)
        flat[places[here]] = 0.0
        blocks.add(y, values, low, here)
    return blocks.all(), finite


def _degrees(factors: np.ndarray, sums: np.ndarray, rate: float, dtype: torch.dtype) -> np.ndarray:
    """How many of the powers are needed in the gradient of each row, to a rounding error of its L1 norm; [N]."""
    rest = (np.abs(factors.T) * sums)[::-1].cumsum(0)
    return np.maximum((rest > 0.25 * torch.finfo(dtype).eps * rate).sum(0), 1)


def _polynomial(y: Tensor, factors: list[Tensor], memory: Tensor) -> None:
    """Put the polynomial of y with factors [n, 1] of the powers 1, 2, ... in the place of y."""
    *factors, last = factors
    if not factors:
        y.mul_(last)
        return
    if y.shape[0] == 1:  # a number is multiplied and added in one operation
        torch.add(factors.pop(), y, alpha=float(last), out=memory)
    else:
        torch.mul(y, last, out=memory).add_(factors.pop())
    while factors:
        memory.mul_(y).add_(factors.pop())
    y.mul_(memory)
