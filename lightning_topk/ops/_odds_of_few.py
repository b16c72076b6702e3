"""Log-odds of the random set of k classes and their derivatives, from a few scores and power sums a row; in NumPy.

The formulas are those of :mod:`lightning_topk.ops._head_and_tail`. Arrays have the rows last, so that every operation
on a dozen numbers a row runs over whole vectors.
"""

import numpy as np

# Rows are worked on in pieces whose tables have so many numbers and stay in the cache.
_TABLE = 1 << 16


def odds_and_slopes(
    picked: np.ndarray, sums: np.ndarray | None, base: np.ndarray, k: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The log-odds that a label is not in the random set, and their derivatives.

    Args:
        picked: Scores of the best others, descending, then the label's, float64 [N, P + 1].
        sums: Sums of the powers 1, ..., k of all others, relative to the base, float64 [k, N]; None without any.
        base: The smallest of the best others, up to rounding, float64 [N].
        k: Number of classes in the set.
        temperature: Temperature of the scores.

    Returns:
        The log-odds [N, 1], their derivatives in the picked scores [N, P + 1], and the factors of the powers in the
        derivatives in all others [N, k], zeros without any.
    """
    step = max(1, _TABLE // (k * picked.shape[1]))
    picked = np.ascontiguousarray(picked.T)
    pieces = [
        _piece(picked[:, part], None if sums is None else sums[:, part], base[part], k, temperature)
        for part in (slice(first, first + step) for first in range(0, max(1, picked.shape[1]), step))
    ]
    odds, slopes, factors = (
        np.concatenate(parts, -1).T if len(parts) > 1 else parts[0].T for parts in zip(*pieces, strict=True)
    )
    return odds, np.ascontiguousarray(slopes), np.ascontiguousarray(factors)


def _piece(
    picked: np.ndarray, sums: np.ndarray | None, base: np.ndarray, k: int, temperature: float
) -> tuple[np.ndarray, ...]:
    """:func:`odds_and_slopes` of some rows, from [P + 1, N] and [k, N]; the rows are last in the results too."""
    rate = 1.0 / temperature
    heights = (picked - picked[k - 1]) * rate
    own, head = heights[-1], heights[:-1]
    steps = head[:k]
    if sums is not None:
        terms, units, log_sigma = _newton(sums, k)
        level = (base - picked[k - 1]) * rate + log_sigma
        steps = np.maximum(steps, level)
    # Entry [i, j]: x_i over the j-th factor of the products that keep all finite; it may overflow for i < j.
    shares = np.exp(head[:, None] - steps)
    rows = _polynomials(shares)
    heads = rows[-1]
    if sums is None:
        totals, by_head = heads[k - 1 :], np.zeros_like(heads)
        by_head[k - 1 :] = -1.0 / totals[0], 1.0 / totals[1]
        factors = np.zeros_like(steps)
    else:
        logs = np.zeros_like(heads)
        np.cumsum(steps - level, 0, out=logs[1:])
        # For the degrees k - 1 and k: products of polynomials of the head and of the tail whose degrees add up to it.
        weights = np.exp(np.minimum(logs - logs[k - 1 :, None], 0.0))
        weights[0, k] = 0.0
        by_heads, by_tails = np.zeros_like(weights), weights * heads
        by_heads[0, :k], by_heads[1] = terms[k - 1 :: -1], terms[::-1]
        by_heads *= weights
        totals = (by_heads * heads).sum(1)
        by_heads /= totals[:, None]
        by_tails /= totals[:, None]
        by_head = by_heads[1] - by_heads[0]
        by_tail = by_tails[1, ::-1].copy()
        by_tail[:k] -= by_tails[0, k - 1 :: -1]
        factors = _by_power_sums(by_tail, terms) * (rate * units)
    odds = steps[k - 1] - own + np.log(totals[1] / totals[0])
    slopes = np.empty_like(picked)
    slopes[-1] = -rate
    slopes[:-1] = rate * _by_scores(by_head, shares, rows)
    return odds[None], slopes, factors


def _newton(sums: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polynomials of the tail over powers of sigma [k + 1, N], the signed inverse powers [k, N], and log sigma [N]."""
    sigma = np.maximum(sums[0] / k, 1.0)
    units = np.empty_like(sums)
    units[0] = 1.0 / sigma
    for i in range(1, k):
        np.multiply(units[i - 1], -units[0], out=units[i])
    scaled = sums * units
    terms = np.ones((k + 1, len(sigma)))
    for i in range(1, k + 1):
        terms[i] = (scaled[:i] * terms[i - 1 :: -1]).sum(0) / i
    return terms, units, np.log(sigma)


def _polynomials(shares: np.ndarray) -> np.ndarray:
    """Polynomials of the first 0, ..., P scores, over the products; shape [P + 1, k + 1, N]."""
    count, k, size = shares.shape
    rows = np.zeros((count + 1, k + 1, size))
    rows[:, 0] = 1.0
    for i in range(count):
        m = min(i + 1, k)
        row, after = rows[i], rows[i + 1, 1 : m + 1]
        np.multiply(shares[i, :m], row[:m], out=after)
        after += row[1 : m + 1]
    return rows


def _by_scores(by_head: np.ndarray, shares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Derivatives in the scores [P, N], from those in the polynomials of all of them [k + 1, N]."""
    count, k, _ = shares.shape
    flows = np.zeros(shares.shape)
    grad = by_head.copy()
    for i in range(count - 1, -1, -1):
        m = min(i + 1, k)
        np.multiply(shares[i, :m], grad[1 : m + 1], out=flows[i, :m])
        grad[:m] += flows[i, :m]
    return np.einsum("ijn,ijn->in", flows, rows[:-1, :k])


def _by_power_sums(by_tail: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Derivatives in the power sums, times their degrees [k, N]: d e_i / d p_m = (-1)^(m-1) e_(i-m) / m."""
    k = len(terms) - 1
    padded = np.concatenate([np.zeros_like(terms[1:]), terms[:k]])
    row, column = padded.strides
    # Entry [m - 1, i]: e_(i - m), 0 for a negative degree.
    shifted = np.ndarray((k, *terms.shape), padded.dtype, padded, (k - 1) * row, (-row, row, column))
    return (shifted * by_tail).sum(1)
