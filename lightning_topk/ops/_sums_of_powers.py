"""Sums of the powers of many small numbers, block by block, with as few passes over them as the rounding allows."""

import math

import numpy as np
import torch
from torch import Tensor

# Rows of a block from which on it costs more to ask whether a power matters than to compute it.
_FEW_ROWS = 32
# Products that are added up in the precision of the numbers; their sums are added up in float64.
_CHUNK = 4096


class SumsOfPowers:
    """Sums of the 1st to K-th powers of numbers in [0, 1], for N rows.

    Args:
        order: Number of power sums K.
        count: Number of rows N.
        dtype: That of the numbers.
        kept: Whether the numbers should stay as they are; they are clamped else where that is faster.
    """

    def __init__(self, order: int, count: int, dtype: torch.dtype, *, kept: bool) -> None:
        self._sums, self._known = np.zeros((order, count)), np.full(count, order)
        self._fewest, self._kept = order, kept
        self._tiny, self._epsilon = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
        self._power = self._clamped = torch.empty(0)

    def add(self, y: Tensor, values: np.ndarray, low: float, rows: slice) -> None:
        """Take in the numbers of some rows.

        Args:
            y: The numbers, shape [n, C].
            values: The same for NumPy.
            low: At most log y where y > 0.
            rows: Which rows these are.
        """
        sums, (order, count) = self._sums[:, rows], (len(self._sums), len(values))
        sums[0] = y.sum(-1).numpy()
        end, power, product = 1, y, values
        for m in range(2, order + 1):
            if m > 2 and count <= _FEW_ROWS and _negligible(sums, m, self._epsilon):
                self._known[rows] = m - 1
                self._fewest = min(self._fewest, m - 1)
                break
            if m > end:
                # No power up to the end is so small that it slows the processor down. What is added by that is below
                # 1e-14 of the largest score for each class, as the end is at most 2.5 times the first power.
                end = min(order, int(2.5 * m))
                least = (100 * self._tiny) ** (1 / end)
                if not low >= math.log(least):
                    if self._kept:
                        self._clamped = out = _like(y, self._clamped)
                        y = torch.clamp(y, min=least, out=out)
                        values = y.numpy()
                    else:
                        y.clamp_(min=least)
                    if m == 2:
                        power, product = y, values
                    else:
                        power.clamp_(min=least ** (m - 1))
            if m == 3:
                self._power = _like(y, self._power)
                power = torch.mul(y, y, out=self._power[:count])
                product = power.numpy()
            elif m > 3:
                power.mul_(y)
            sums[m - 1] = _dots(product, values)

    def all(self) -> np.ndarray:
        """The power sums, float64 [K, N].

        Those that were left out are extrapolated: a power sum over the one before it is a factor that rises.
        """
        sums = self._sums
        for m in range(self._fewest + 1, len(sums) + 1):
            factor = np.minimum(sums[m - 2] / np.maximum(sums[m - 3], self._tiny), 1.0)
            sums[m - 1] = np.where(self._known < m, sums[m - 2] * factor, sums[m - 1])
        return sums


def _like(y: Tensor, memory: Tensor) -> Tensor:
    """Memory for as many numbers, the same as before if there are no more."""
    return memory[: y.shape[0]] if y.shape[0] <= memory.shape[0] else torch.empty_like(y)


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products of the rows of [n, C] and [n, C]."""
    count, width = a.shape
    chunks = width // _CHUNK
    whole = chunks * _CHUNK
    if not chunks:
        return np.matmul(a[:, None], b[:, :, None])[:, 0, 0]
    left, right = (x[:, :whole].reshape(count, chunks, 1, _CHUNK) for x in (a, b))
    sums = np.matmul(left, right.swapaxes(2, 3))[:, :, 0, 0].sum(1, dtype=np.float64)
    if whole < width:
        sums += np.matmul(a[:, None, whole:], b[:, whole:, None])[:, 0, 0]
    return sums


def _negligible(sums: np.ndarray, m: int, epsilon: float) -> bool:
    r"""Tell whether the m-th of the power sums [K, n] may be extrapolated, where those before it are known.

    Relative to the polynomials of all scores, its part is at most :math:`r^m p_m / m` with r = K / (K + 1 + p_1), and
    :math:`p_{m-1}^2 / p_{m-2} \le p_m \le p_{m-1}`, as no y is above 1.
    """
    order, count = sums.shape
    # Of one row without a reduction, which takes longer than the rest.
    first, before = (sums[0, 0], sums[m - 2, 0]) if count == 1 else (sums[0].min(), sums[m - 2].max())
    return bool((order / (order + 1.0 + first)) ** m * before <= m * epsilon)
