"""Log-odds that a label is not in a random set of k classes, with the gradient by hand; on the CPU.

The formulas are those of :mod:`lightning_topk.ops._head_and_tail`. A dozen numbers a row make many small operations, so
that these are done in NumPy; the scores are read twice, in blocks, and nothing of their size is kept for the gradient.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from lightning_topk.ops._fused import block_like, gradient_of, row_blocks

Plain = Callable[..., Tensor]  # (scores [N, C], picked=..., k=..., temperature=...) -> log-odds [N, 1]


class ExclusionOdds(Function):
    """Log-odds [N, 1] in float64 of the labels [N, 1], from scores [N, C] and the indices [N, P + 1] of the largest."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, top: Tensor, labels: Tensor, k: int, temperature: float, plain: Plain) -> Any:
        index = torch.from_numpy(others_and_label(top.numpy(), labels.numpy()))
        picked = scores.gather(-1, index)
        sums = None
        if index.shape[-1] < scores.shape[-1]:
            sums = _power_sums(scores, index, picked[:, -2:-1], 1.0 / temperature, k).double().numpy()
        with np.errstate(all="ignore"):  # a row with a NaN becomes NaN without a warning
            odds, slopes, factors = _odds_and_slopes(picked.double().numpy(), sums, k, temperature)
        ctx.rate, ctx.k, ctx.temperature, ctx.plain = 1.0 / temperature, k, temperature, plain
        kept = None if sums is None else torch.from_numpy(factors)
        ctx.save_for_backward(scores, index, picked[:, -2:-1], torch.from_numpy(slopes), kept)
        return torch.from_numpy(odds)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        scores, index, threshold, slopes, factors = ctx.saved_tensors
        if torch.is_grad_enabled():
            odds = partial(ctx.plain, picked=index, k=ctx.k, temperature=ctx.temperature)
            return gradient_of(odds, scores, grad), None, None, None, None, None
        values = (slopes * grad).to(scores.dtype)
        if factors is None:
            return torch.zeros_like(scores).scatter_(-1, index, values), None, None, None, None, None
        factors = (factors * grad).to(scores.dtype)
        gradient = torch.empty_like(scores)
        blocks = row_blocks(scores)
        memory = block_like(scores, blocks)
        order = factors.shape[-1]
        for rows in blocks:
            part, weights, total = scores[rows], factors[rows], gradient[rows]
            y = _relative(part, threshold[rows], ctx.rate, out=memory[: part.shape[0]])
            for m in range(order - 1, 0, -1):
                last = weights[:, m : m + 1] if m == order - 1 else total
                torch.addcmul(weights[:, m - 1 : m], last, y, out=total)
            if order == 1:
                torch.mul(y, weights, out=total)
            else:
                total.mul_(y)
            total.scatter_(-1, index[rows], values[rows])
        return gradient, None, None, None, None, None


def others_and_label(top: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices of the best others than the label, then the label: what stands behind the label moves up."""
    index = top.copy()
    moved = np.logical_or.accumulate(top == labels, 1)[:, :-1]
    np.copyto(index[:, :-1], top[:, 1:], where=moved)
    index[:, -1:] = labels
    return index


def _relative(part: Tensor, threshold: Tensor, rate: float, *, out: Tensor) -> Tensor:
    """Put e^(rate (s - threshold)) into ``out``; 0 below 1e-30 (float32), as tiny numbers slow the processor down."""
    lowest = 0.8 * math.log(torch.finfo(part.dtype).tiny)
    torch.sub(part, threshold, out=out)
    if rate != 1.0:
        out.mul_(rate)
    return torch.nn.functional.threshold(out, lowest, -math.inf, inplace=True).exp_()


def _power_sums(scores: Tensor, index: Tensor, threshold: Tensor, rate: float, order: int) -> Tensor:
    """Sums of the 1st to K-th powers of e^(rate (s - threshold)) over all classes but the picked ones; [N, K]."""
    tiny = torch.finfo(scores.dtype).tiny
    sums = scores.new_empty(scores.shape[0], order)
    blocks = row_blocks(scores)
    memory, powers = block_like(scores, blocks), block_like(scores, blocks)
    for rows in blocks:
        part = scores[rows]
        y = _relative(part, threshold[rows], rate, out=memory[: part.shape[0]]).scatter_(-1, index[rows], 0.0)
        torch.sum(y, -1, out=sums[rows, 0])
        power, end = powers[: part.shape[0]], 1
        for m in range(2, order + 1):
            if m > end:
                # No power up to the end is so small that it slows the processor down. What is added by that is below
                # 1e-14 of the largest score for each class, as the end is at most 2.5 times the first power.
                end = min(order, int(2.5 * m))
                least = (100 * tiny) ** (1 / end)
                y.clamp_(min=least)
                if m > 2:
                    power.clamp_(min=least ** (m - 1))
            torch.mul(y if m == 2 else power, y, out=power)
            torch.sum(power, -1, out=sums[rows, m - 1])
    return sums


def _odds_and_slopes(
    picked: np.ndarray, sums: np.ndarray | None, k: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds [N, 1], their derivatives in the picked scores [N, P + 1], and the factors of the y^m in the others'."""
    rate = 1.0 / temperature
    picked = np.ascontiguousarray(picked.T)  # rows last: sums over the few run over whole vectors
    heights = (picked - picked[k - 1]) * rate
    own, head = heights[-1], heights[:-1]
    steps = head[:k]
    if sums is not None:
        degrees = np.arange(1, k + 1)[:, None]
        sums = np.ascontiguousarray(sums.T)
        sigma = np.maximum(sums[0] / k, 1.0)
        level = head[-1] + np.log(sigma)
        steps = np.maximum(steps, level)
        units = np.where(degrees % 2, 1.0, -1.0) / sigma**degrees
        scaled = sums * units
        terms = np.ones((k + 1, len(own)))
        for i in range(1, k + 1):
            terms[i] = (scaled[:i] * terms[i - 1 :: -1]).sum(0) / i
    row = np.ones((len(head) + 1, len(own)))
    parts, products, ratios = [], [], [row[-1]]
    for j in range(k):
        parts.append(np.exp(head[j:] - steps[j]))
        products.append(parts[j] * row[:-1])
        row = products[j].cumsum(0)
        ratios.append(row[-1])
    heads = np.stack(ratios)
    # The derivatives of log e_k - log e_(k-1) in the polynomials of the head and of the tail.
    by_head, totals = np.zeros_like(heads), []
    if sums is None:
        totals = [heads[k - 1], heads[k]]
        by_head[k - 1], by_head[k] = -1.0 / totals[0], 1.0 / totals[1]
    else:
        by_tail, logs = np.zeros_like(heads), np.zeros_like(heads)
        np.cumsum(steps - level, 0, out=logs[1:])
        for degree, sign in ((k - 1, -1.0), (k, 1.0)):
            weights = np.exp(logs[: degree + 1] - logs[degree])
            tail, front = weights * terms[degree::-1], weights * heads[: degree + 1]
            totals.append((tail * heads[: degree + 1]).sum(0))
            by_head[: degree + 1] += tail * (sign / totals[-1])
            by_tail[: degree + 1] += front[::-1] * (sign / totals[-1])
    odds = steps[k - 1] - own + np.log(totals[1] / totals[0])
    slopes = np.zeros_like(picked)
    slopes[-1] = -rate
    grad = by_head[k:]
    for j in range(k - 1, -1, -1):
        # The reverse of a cumulative sum; at first only its last entry has a gradient.
        flow = grad[::-1].cumsum(0)[::-1] if j < k - 1 else grad
        slopes[j:-1] += rate * flow * products[j]
        grad = np.concatenate([flow * parts[j], by_head[j : j + 1]])
    factors = np.empty((k, len(own)))
    if sums is not None:
        for m in range(1, k + 1):
            # d e_i / d p_m = (-1)^(m-1) e_(i-m) / m, and y^m has the derivative m y^m.
            factors[m - 1] = (by_tail[m:] * terms[: k + 1 - m]).sum(0)
        factors *= rate * units
    return odds[:, None], np.ascontiguousarray(slopes.T), np.ascontiguousarray(factors.T)
