"""Student's t distribution, for intervals and paired tests over few seeds."""

import math
from collections.abc import Sequence


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    r"""Return the mean of a sample, and half the width of its confidence interval.

    .. math:: \bar x \pm t_{n - 1} \, s / \sqrt{n}

    Args:
        values: The sample of n values.
        confidence: Probability in (0, 1) that the interval covers the mean.

    Returns:
        Mean and half width; ``None`` in place of the latter for a single value.

    Example:
        >>> mean, half = t_interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 4)
        (2.0, 2.4841)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, t_quantile(0.5 + confidence / 2, n - 1) * spread / math.sqrt(n)


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the paired t-test, ``None`` with fewer than two pairs.

    Differences that are all the same have no spread: 1 where they are zero, and 0 elsewhere.

    Example:
        >>> round(paired_p_value([0.5, 0.6, 0.7], [0.4, 0.52, 0.55]), 4)
        0.034
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if len(differences) < 2:
        return None
    mean, half = t_interval(differences)
    scale = max((abs(value) for value in (*first, *second)), default=0.0)
    if half is None or half <= 1e-14 * scale:
        return 1.0 if abs(mean) <= 1e-14 * scale else 0.0
    degrees = len(differences) - 1
    t = mean / (half / t_quantile(0.975, degrees))
    return 2 * t_cdf(-abs(t), degrees)


def t_cdf(t: float, degrees: int) -> float:
    """Return the probability that Student's t with so many degrees of freedom is at most ``t``.

    Example:
        >>> round(t_cdf(2.0, 1), 6)
        0.852416
    """
    square = degrees + t * t
    tail = 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / square, t * t / square)
    return 1 - tail if t > 0 else tail


def t_quantile(probability: float, degrees: int) -> float:
    """Return the value that Student's t stays below with a probability in (0, 1).

    Example:
        >>> round(t_quantile(0.975, 4), 6)
        2.776445
    """
    low, high = -1.0, 1.0
    while t_cdf(low, degrees) > probability:
        low *= 2
    while t_cdf(high, degrees) < probability:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_cdf(middle, degrees) < probability else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Regularised incomplete beta function at x, by its continued fraction where that converges fast; y is 1 - x."""
    if x <= 0 or y <= 0:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, y, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y))
    # Lentz's method; the odd and even terms of the fraction come in pairs.
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / (1 + term * d), 1 + term / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return front * fraction / a
