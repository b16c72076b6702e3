"""Slow, obvious loops that say what the fast code should compute."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.stats import norm


def kth_largest(scores: Sequence[float], k: int) -> float:
    """The k-th largest entry."""
    return sorted(scores, reverse=True)[k - 1]


def noised_kth_largest(scores: Sequence[float], k: int, epsilon: float, noise: Sequence[Sequence[float]]) -> float:
    """Mean over draws of the k-th largest noised score."""
    return float(
        np.mean([kth_largest([s + epsilon * z for s, z in zip(scores, draw, strict=True)], k) for draw in noise])
    )


def noised_hinge(
    scores: Sequence[float], label: int, k: int, epsilon: float, noise: Sequence[Sequence[float]], margin: float
) -> float:
    """Noised top-K calibrated hinge loss of one row."""
    return max(0.0, margin + noised_kth_largest(scores, k + 1, epsilon, noise) - scores[label])


def exact_smoothed_kth(scores: Sequence[float], k: int, epsilon: float, nodes: int = 4001) -> tuple[float, np.ndarray]:
    """Expectation of the k-th largest noised score and its gradient, by the law of a Poisson-binomial count.

    The number of noised scores above t is a sum of independent indicators; the k-th largest is above t when there are
    at least k of them.
    """
    s = np.asarray(scores, dtype=np.float64)
    t = np.linspace(s.min() - 9 * epsilon, s.max() + 9 * epsilon, nodes)
    above = norm.sf((t[:, None] - s) / epsilon)
    tail = np.zeros_like(t)
    gradient = np.zeros_like(s)
    for inside in product((0, 1), repeat=len(s)):
        weight = np.prod(np.where(inside, above, 1 - above), axis=1)
        if sum(inside) >= k:
            tail += weight
    for i in range(len(s)):
        others = np.delete(above, i, axis=1)
        exactly = np.zeros_like(t)
        for inside in product((0, 1), repeat=len(s) - 1):
            if sum(inside) == k - 1:
                exactly += np.prod(np.where(inside, others, 1 - others), axis=1)
        gradient[i] = np.trapezoid(norm.pdf((t - s[i]) / epsilon) / epsilon * exactly, t)
    value = t[0] + np.trapezoid(tail, t)
    return float(value), gradient


def cross_entropy(scores: Sequence[float], label: int) -> float:
    """Softmax cross-entropy of one row."""
    return math.log(sum(math.exp(s - scores[label]) for s in scores))
