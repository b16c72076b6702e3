"""Slow, obvious loops that say what the fast code should compute."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import mpmath
import numpy as np
from scipy.integrate import trapezoid  # numpy has it under this name from 2.0 on
from scipy.optimize import brentq
from scipy.special import xlogy
from scipy.stats import laplace, norm


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
        gradient[i] = trapezoid(norm.pdf((t - s[i]) / epsilon) / epsilon * exactly, t)
    value = t[0] + trapezoid(tail, t)
    return float(value), gradient


def smoothed_kth_of_many(
    scores: Sequence[float], k: int, epsilon: float, classes: Sequence[int] = (), nodes: int = 1201
) -> tuple[float, np.ndarray]:
    """Expectation of the k-th largest noised score, and its gradient at some classes, for any number of scores.

    The law of the number of scores above t is built up class by class, and without class i for the gradient there.
    """
    u = np.asarray(scores, dtype=np.float64)
    kth = kth_largest(u, k)
    u = (u - kth) / epsilon
    t = np.linspace(-10, 17, nodes)

    def law(values: np.ndarray, size: int) -> np.ndarray:
        counts = np.zeros((size, nodes))
        counts[0] = 1
        for value in values[values > -30]:
            above = norm.sf(t - value)
            more = counts[:-1] * above
            counts *= norm.cdf(t - value)
            counts[1:] += more
        return counts

    value = t[0] + trapezoid(1 - law(u, k).sum(0), t)
    gradient = [trapezoid(norm.pdf(t - u[i]) * law(np.delete(u, i), k)[k - 1], t) for i in classes]
    return float(kth + epsilon * value), np.array(gradient)


def cross_entropy(scores: Sequence[float], label: int) -> float:
    """Softmax cross-entropy of one row."""
    return math.log(sum(math.exp(s - scores[label]) for s in scores))


def focal(scores: Sequence[float], label: int, gamma: float) -> float:
    """Softmax focal loss of one row."""
    ce = cross_entropy(scores, label)
    return (-math.expm1(-ce)) ** gamma * ce


def ldam(scores: Sequence[float], label: int, margins: Sequence[float], scale: float) -> float:
    """Cross-entropy of scaled scores, with the margin taken from that of the label."""
    return cross_entropy([scale * (s - margins[c] * (c == label)) for c, s in enumerate(scores)], label)


def vector_scaling(scores: Sequence[float], label: int, counts: Sequence[int], gamma: float, tau: float) -> float:
    """Cross-entropy of scores that are scaled and shifted by class."""
    z = [(n / max(counts)) ** gamma * s + tau * math.log(n / sum(counts)) for s, n in zip(scores, counts, strict=True)]
    return cross_entropy(z, label)


def average_of_largest(values: list[float], weights: list[float], fraction: float) -> float:
    """Mean of the largest values, up to a fraction of all weight, the last one in part; at least one value."""
    pairs = sorted(((v, w) for v, w in zip(values, weights, strict=True) if w > 0), reverse=True)
    if not pairs:
        return 0.0
    mass = max(fraction * sum(w for _, w in pairs), pairs[0][1])
    left, total = mass, 0.0
    for value, weight in pairs:
        total += min(weight, left) * value
        left -= min(weight, left)
    return total / mass


def smooth_topk(
    scores: Sequence[float], label: int, k: int, tau: float, alpha: float
) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    """Smooth top-k SVM loss of one row and its gradient, from the products of exponentials themselves in 200 bits.

    The polynomials without a class are those of all classes before it times those of all classes after it.
    """
    with mpmath.workprec(200):
        tau, alpha, best = mpmath.mpf(tau), mpmath.mpf(alpha), max(scores)
        x = [mpmath.exp((mpmath.mpf(s) - best) / (k * tau)) for s in scores]
        others = [i for i in range(len(scores)) if i != label]

        def polynomials(order: Sequence[int]) -> list[list[mpmath.mpf]]:
            rows = [[mpmath.mpf(1)] + k * [mpmath.mpf(0)]]
            for i in order:
                last = rows[-1]
                rows.append([last[0]] + [last[j] + x[i] * last[j - 1] for j in range(1, k + 1)])
            return rows

        before, after = polynomials(others), polynomials(others[::-1])[::-1]
        e_k, e_less = before[-1][k], before[-1][k - 1]
        odds = mpmath.exp(alpha / tau) * e_k / (x[label] * e_less)
        outside = odds / (1 + odds)
        gradient = len(scores) * [-outside / k]
        for place, i in enumerate(others):
            left, right = before[place], after[place + 1]
            in_k = sum(left[j] * right[k - 1 - j] for j in range(k)) * x[i] / e_k
            in_less = sum(left[j] * right[k - 2 - j] for j in range(k - 1)) * x[i] / e_less
            gradient[i] = (in_k - in_less) * outside / k
        return tau * mpmath.log1p(odds), gradient


def neural_sort(scores: Sequence[float], tau: float) -> np.ndarray:
    """Relaxed permutation matrix of NeuralSort, row by row from its definition."""
    size = len(scores)
    distances = [sum(abs(s - t) for t in scores) for s in scores]
    rows = []
    for rank in range(1, size + 1):
        exponents = [((size + 1 - 2 * rank) * s - d) / tau for s, d in zip(scores, distances, strict=True)]
        powers = [math.exp(e - max(exponents)) for e in exponents]
        rows.append([power / sum(powers) for power in powers])
    return np.array(rows)


def soft_sort(scores: Sequence[float], tau: float) -> np.ndarray:
    """Relaxed permutation matrix of SoftSort, row by row from its definition."""
    rows = []
    for largest in sorted(scores, reverse=True):
        powers = [math.exp(-abs(largest - s) / tau) for s in scores]
        rows.append([power / sum(powers) for power in powers])
    return np.array(rows)


def bitonic_comparisons(places: Sequence[int]) -> list[tuple[int, int]]:
    """Comparisons (larger here, smaller there) of a bitonic sort of a power of two of places, by recursion."""
    if len(places) == 1:
        return []

    def merge(ordered: Sequence[int]) -> list[tuple[int, int]]:
        if len(ordered) == 1:
            return []
        half = len(ordered) // 2
        pairs = list(zip(ordered[:half], ordered[half:], strict=True))
        return pairs + merge(ordered[:half]) + merge(ordered[half:])

    half = len(places) // 2
    first, second = places[:half], places[half:]
    mirrored = list(zip(first, second[::-1], strict=True))
    return bitonic_comparisons(first) + bitonic_comparisons(second) + mirrored + merge(first) + merge(second)


def sorting_network(scores: Sequence[float], steepness: float, distribution: str) -> np.ndarray:
    """Matrix of a relaxed bitonic network: the product of one matrix for each comparison."""
    size = len(scores)
    values, matrix = np.array(scores, dtype=np.float64), np.eye(size)
    padded = range(1 << (size - 1).bit_length())
    for high, low in bitonic_comparisons(padded):
        if max(high, low) >= size:
            continue
        v = steepness * (values[high] - values[low])
        stay = math.atan(v) / math.pi + 0.5 if distribution == "cauchy" else 1 / (1 + math.exp(-v))
        step = np.eye(size)
        step[high, high] = step[low, low] = stay
        step[high, low] = step[low, high] = 1 - stay
        values, matrix = step @ values, step @ matrix
    return matrix


def sorting_topk(scores: Sequence[float], label: int, p_k: Sequence[float], rows: np.ndarray, top1: str) -> float:
    """Top-K cross-entropy of one row, given its relaxed permutation matrix."""
    softmax = math.exp(-cross_entropy(scores, label))
    within = [sum(rows[r][label] for r in range(j)) for j in range(1, len(p_k) + 1)]
    if top1 == "softmax":
        within[0] = softmax
    return -math.log(sum(share * chance for share, chance in zip(p_k, within, strict=True)))


def lapsum_threshold(scores: Sequence[float], k: int, alpha: float) -> float:
    """Threshold of LapSum, by a root finder."""

    def excess(b: float) -> float:
        return sum(float(laplace.cdf((s - b) / alpha)) for s in scores) - k

    return float(brentq(excess, min(scores) - 100 * alpha, max(scores) + 100 * alpha, xtol=1e-14))


def sparse_topk(scores: Sequence[float], k: int, alpha: float, p: float) -> np.ndarray:
    """Sparse top-k mask, by a root finder on its threshold."""

    def mask(theta: float) -> np.ndarray:
        return np.clip((np.asarray(scores) - theta) / alpha, 0, 1) ** (1 / (p - 1))

    return mask(brentq(lambda theta: mask(theta).sum() - k, min(scores) - alpha, max(scores), xtol=1e-14))


def topk_hinge(scores: Sequence[float], label: int, k: int, variant: str, margin: float) -> float:
    """psi_1 to psi_5 of one row, each by its own formula."""
    own = scores[label]
    others = sorted((s for j, s in enumerate(scores) if j != label), reverse=True)
    raised = sorted((s + margin * (j != label) for j, s in enumerate(scores)), reverse=True)
    if variant == "psi1":
        return max(0.0, margin + others[k - 1] - own)
    if variant == "psi2":
        return max(0.0, sum(raised[:k]) / k - own)
    if variant == "psi3":
        return sum(max(0.0, entry - own) for entry in raised[:k]) / k
    if variant == "psi4":
        return max(0.0, margin + sum(others[:k]) / k - own)
    return max(0.0, margin + kth_largest(scores, k + 1) - own)


def water_level(level: Callable[[float], np.ndarray], low: float, high: float, total: float) -> np.ndarray:
    """Entries of a falling function of a level, at the level where they sum to a total; bisection."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if level(middle).sum() > total else (low, middle)
    return level(high)


def concave_maximum(function: Callable[[float], float], low: float, high: float) -> float:
    """Maximum of a concave function on an interval by golden section."""
    ratio, ends = (5**0.5 - 1) / 2, (low, high)
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (left, high) if function(left) < function(right) else (low, right)
    return max(function((low + high) / 2), *map(function, ends))


def topk_svm(scores: Sequence[float], label: int, k: int, variant: str, gamma: float, margin: float) -> float:
    """Smoothed top-K SVM loss of one row, from its definition as a maximum over p = gamma x."""
    h = np.delete(np.asarray(scores, dtype=np.float64), label) + margin - scores[label]

    def value(mass: float, cap: float) -> float:
        p = water_level(lambda z: np.clip(h - z, 0, cap), h.min() - cap - 1, h.max(), mass)
        return float(h @ p - p @ p / 2) / gamma

    if variant == "beta":
        p = np.clip(h, 0, gamma / k)
        return value(gamma, gamma / k) if p.sum() > gamma else float(h @ p - p @ p / 2) / gamma
    return concave_maximum(lambda mass: value(mass, mass / k), 0.0, gamma)


def topk_entropy(scores: Sequence[float], label: int, k: int) -> float:
    """Top-k entropy loss of one row, from its definition as a maximum over x with the sum t."""
    a = np.delete(np.asarray(scores, dtype=np.float64), label) - scores[label]

    def value(t: float) -> float:
        x = water_level(lambda z: np.minimum(np.exp(a - z), t / k), a.min(), a.max() + 50, t)
        return float(a @ x - xlogy(x, x).sum() - xlogy(1 - t, 1 - t))

    return concave_maximum(value, 0.0, 1.0)


def truncated_topk_entropy(scores: Sequence[float], label: int, k: int) -> float:
    """Truncated top-k entropy loss of one row."""
    others = sorted(s for j, s in enumerate(scores) if j != label)
    return math.log1p(sum(math.exp(s - scores[label]) for s in others[: len(scores) - k]))
