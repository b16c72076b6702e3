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
from lightning_topk.ops._fused import block_like, gradient_like, gradient_of, row_blocks
from lightning_topk.ops._odds_of_few import odds_and_slopes

# Rows of a block from which on it costs more to ask whether a power matters than to compute it.
_FEW_ROWS = 32
# Largest multiple of the rate up to which a product and a sum in one operation have no visible error, fused or not.
_NEAR = 4.0

Plain = Callable[..., Tensor]  # (scores [N, C], picked=..., k=..., temperature=...) -> log-odds [N, 1]


class ExclusionOdds(Function):
    """Log-odds [N, 1] of the labels [N, 1] from scores [N, C], in float64; and whether all scores are finite."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor, k: int, temperature: float, plain: Plain) -> Any:
        num_classes = scores.shape[1]
        rate = 1.0 / temperature
        indices, picked = best_others(scores, labels, min(2 * k, num_classes - 1))
        index = torch.from_numpy(indices)
        ctx.rate, ctx.k, ctx.temperature, ctx.plain = rate, k, temperature, plain
        ctx.powers = sums = None
        finite = bool(np.isfinite(picked).all())
        base, level = picked[:, -2], None
        if index.shape[1] < num_classes:
            exact = np.float32 if scores.dtype == torch.float32 else np.float64
            ctx.near = rate == 1.0 or float(np.abs(base).max(initial=0.0)) * rate <= _NEAR
            heights = (base * -rate if ctx.near else base).astype(exact)
            if ctx.near:
                base = heights.astype(np.float64) / -float(exact(rate))
            level = torch.from_numpy(heights[:, None])
            # The gradient is made of these powers, in the same memory.
            ctx.powers = gradient_like(scores) if ctx.needs_input_grad[0] else None
            sums, finite_tail = _power_sums(scores, index, level, rate, ctx.near, k, ctx.powers)
            finite = finite and finite_tail
        with np.errstate(all="ignore"):  # a row with a NaN becomes NaN without a warning
            odds, slopes, factors = odds_and_slopes(picked, sums, base, k, temperature)
            ctx.degrees = None if sums is None else _degrees(factors, sums, rate, scores.dtype)
        ctx.save_for_backward(scores, index, level, torch.from_numpy(slopes), torch.from_numpy(factors))
        return torch.from_numpy(odds), finite

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> Any:
        scores, index, level, slopes, factors = ctx.saved_tensors
        if torch.is_grad_enabled():
            odds = partial(ctx.plain, picked=index, k=ctx.k, temperature=ctx.temperature)
            return gradient_of(odds, scores, grad), None, None, None, None
        values = (slopes * grad).to(scores.dtype)
        if ctx.degrees is None:
            return torch.zeros_like(scores).scatter_(-1, index, values), None, None, None, None
        columns = (factors * grad).to(scores.dtype).split(1, 1)
        powers, ctx.powers = ctx.powers, None
        gradient = gradient_like(scores) if powers is None else powers
        blocks = row_blocks(scores)
        memory = block_like(scores, blocks)
        parts = _in_blocks(blocks, scores, gradient, level, index, values, *columns)
        for rows, part, y, height, picked, slope, *weights in zip(blocks, *parts, strict=True):
            if powers is None:  # the graph is used for the second time
                _relative(part, height, ctx.rate, ctx.near, out=y)
            _polynomial(y, weights[: int(ctx.degrees[rows].max())], memory[: len(part)])
            y.scatter_(-1, picked, slope)
        return gradient, None, None, None, None


def _relative(part: Tensor, level: Tensor, rate: float, near: bool, *, out: Tensor) -> float:
    """Put e^(rate (s - base)) into ``out``; return the lowest exponent. The level is -rate base if near, or the base.

    What is below 1e-30 (float32) becomes 0, as tiny numbers slow the processor down.
    """
    if near:
        torch.add(level, part, alpha=rate, out=out)
    else:
        torch.sub(part, level, out=out).mul_(rate)
    lowest = float(out.numpy().min())
    least = 0.8 * math.log(torch.finfo(part.dtype).tiny)
    if not lowest >= least:
        torch.nn.functional.threshold(out, least, -math.inf, inplace=True)
    out.exp_()
    return lowest


def _power_sums(
    scores: Tensor, index: Tensor, level: Tensor, rate: float, near: bool, order: int, powers: Tensor | None
) -> tuple[np.ndarray, bool]:
    """Sums of the 1st to K-th powers of y = e^(rate (s - base)) over all classes but the picked ones; [K, N].

    Also whether all exponents are finite. The y are put into ``powers`` [N, C], if there is such memory.
    """
    tiny, epsilon = torch.finfo(scores.dtype).tiny, torch.finfo(scores.dtype).eps
    sums, known, finite = np.zeros((order, len(scores))), np.full(len(scores), order), True
    blocks = row_blocks(scores)
    products, clamped = block_like(scores, blocks), None
    memory = torch.empty_like(products) if powers is None else powers
    outputs = [memory] * len(blocks) if powers is None else _in_blocks(blocks, powers)[0]
    for rows, out, part, height, picked in zip(blocks, outputs, *_in_blocks(blocks, scores, level, index), strict=True):
        y, power = out[: len(part)], products[: len(part)]
        low = _relative(part, height, rate, near, out=y)
        finite = finite and math.isfinite(low)
        y.scatter_(-1, picked, 0.0)
        sums[0, rows] = y.sum(-1).numpy()
        end = 1
        for m in range(2, order + 1):
            if m > 2 and len(part) <= _FEW_ROWS and _negligible(sums[:, rows], m, epsilon):
                known[rows] = m - 1
                break
            if m > end:
                # No power up to the end is so small that it slows the processor down. What is added by that is below
                # 1e-14 of the largest score for each class, as the end is at most 2.5 times the first power.
                end = min(order, int(2.5 * m))
                least = (100 * tiny) ** (1 / end)
                if not low >= math.log(least):
                    clamped = torch.empty_like(products) if clamped is None else clamped
                    y = torch.clamp(y, min=least, out=clamped[: len(part)])
                    if m > 2:
                        power.clamp_(min=least ** (m - 1))
            torch.mul(y if m == 2 else power, y, out=power)
            sums[m - 1, rows] = power.sum(-1).numpy()
    for m in range(3, order + 1):  # the sums fall by a factor that rises
        if (missing := known < m).any():
            factor = np.minimum(sums[m - 2] / np.maximum(sums[m - 3], tiny), 1.0)
            sums[m - 1] = np.where(missing, sums[m - 2] * factor, sums[m - 1])
    return sums, finite


def _in_blocks(blocks: list[slice], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The rows of the tensors by blocks, in one operation each or none."""
    if len(blocks) == 1:
        return [(tensor,) for tensor in tensors]
    return [tensor.split(blocks[0].stop) if blocks else () for tensor in tensors]


def _negligible(sums: np.ndarray, m: int, epsilon: float) -> bool:
    r"""Tell whether the m-th of the power sums [K, n] may be extrapolated, where those before it are known.

    Relative to the polynomials of all scores, its part is at most :math:`r^m p_m / m` with r = K / (K + 1 + p_1), and
    :math:`p_{m-1}^2 / p_{m-2} \le p_m \le p_{m-1}`, as no y is above 1.
    """
    order = len(sums)
    ratio = order / (order + 1.0 + sums[0].min())
    return bool(ratio**m * sums[m - 2].max() <= m * epsilon)


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
    if len(y) == 1:  # a number is multiplied and added in one operation
        torch.add(factors.pop(), y, alpha=float(last), out=memory)
    else:
        torch.mul(y, last, out=memory).add_(factors.pop())
    while factors:
        memory.mul_(y).add_(factors.pop())
    y.mul_(memory)
