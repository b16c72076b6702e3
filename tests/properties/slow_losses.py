"""Every loss of a row and its label as slow arithmetic, also where exponentials leave float64."""

import math
from collections.abc import Callable, Sequence

import mpmath
import numpy as np
import torch

import references
from lightning_topk import losses
from lightning_topk.losses import TopKLoss
from lightning_topk.ops import LapSum, NeuralSort, SoftSort

#: Losses whose reference takes more than a few milliseconds, and so is asked for in few examples.
COSTLY = (losses.TopKSVMLoss, losses.TopKEntropyLoss, losses.GaussianTopKLoss, losses.ImbalancedGaussianTopKLoss)


def log_sum_exp(values: Sequence[float]) -> float:
    """Log of the sum of exponentials, from the largest on."""
    most = max(values)
    if most == -math.inf:
        return most
    return most + math.log(sum(math.exp(v - most) for v in values))


def cross_entropy(scores: Sequence[float], label: int) -> float:
    """Cross-entropy, with all digits where the label is nearly certain."""
    others = [s for c, s in enumerate(scores) if c != label]
    return softplus(log_sum_exp(others) - scores[label]) if others else 0.0


def softplus(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def focal(scores: Sequence[float], label: int, gamma: float) -> float:
    """Focal loss from the log-odds of the label."""
    others = [s for c, s in enumerate(scores) if c != label]
    if not others:
        return 0.0
    odds = scores[label] - log_sum_exp(others)
    return math.exp(-gamma * softplus(odds)) * softplus(-odds)


def truncated_entropy(scores: Sequence[float], label: int, k: int) -> float:
    """Truncated top-k entropy loss."""
    others = sorted(s for c, s in enumerate(scores) if c != label)
    return softplus(log_sum_exp(others[: len(scores) - k]) - scores[label])


def log_neural_sort(scores: Sequence[float], tau: float) -> list[list[float]]:
    """Logarithms of the matrix of NeuralSort in exact rational arithmetic up to the exponentials."""
    with mpmath.workdps(60):
        s = [mpmath.mpf(x) for x in scores]
        distances = [mpmath.fsum(abs(a - b) for b in s) for a in s]
        rows = []
        for rank in range(1, len(s) + 1):
            exponents = [((len(s) + 1 - 2 * rank) * a - d) / tau for a, d in zip(s, distances, strict=True)]
            best = max(exponents)
            total = mpmath.log(mpmath.fsum(mpmath.exp(max(e - best, -1e6)) for e in exponents))
            rows.append([float(e - best - total) for e in exponents])
    return rows


def log_soft_sort(scores: Sequence[float], tau: float) -> list[list[float]]:
    """Logarithms of the matrix of SoftSort."""
    rows = []
    for largest in sorted(scores, reverse=True):
        exponents = [-abs(largest - s) / tau for s in scores]
        total = log_sum_exp(exponents)
        rows.append([e - total for e in exponents])
    return rows


def sorting_topk(scores: Sequence[float], label: int, loss: losses.SortingTopKLoss) -> float:
    """Top-K cross-entropy of the label and its strongest rivals."""
    others = sorted((s for c, s in enumerate(scores) if c != label), reverse=True)
    size = len(scores) if loss.num_candidates is None else min(len(scores), loss.num_candidates)
    candidates = [scores[label], *others[: size - 1]]
    p_k = [0.0] * (loss.k - 1) + [1.0] if loss.p_k is None else loss.p_k
    operator = loss.operator
    if isinstance(operator, NeuralSort):
        rows = log_neural_sort(candidates, operator.tau)
    elif isinstance(operator, SoftSort):
        rows = log_soft_sort(candidates, operator.tau)
    else:
        matrix = references.sorting_network(candidates, operator.steepness, operator.distribution)
        rows = np.log(np.maximum(matrix, 1e-300)).tolist()
    terms = []
    for k, share in enumerate(p_k, start=1):
        if share and k == 1 and loss.top1 == "softmax":
            terms.append(math.log(share) - cross_entropy(candidates, 0))
        elif share:
            terms += [math.log(share) + rows[r][0] for r in range(k)]
    return -log_sum_exp(terms)


def soft_topk(scores: Sequence[float], label: int, loss: losses.SoftTopKLoss) -> float:
    """Loss of the soft mask of the K best."""
    operator = loss.operator
    if isinstance(operator, LapSum):
        offset = (scores[label] - references.lapsum_threshold(scores, loss.k, operator.alpha)) / operator.alpha
        log_mask = offset - math.log(2) if offset < 0 else math.log1p(-math.exp(-offset) / 2)
        return -log_mask if loss.variant == "log" else -math.expm1(log_mask)
    return 1.0 - float(references.sparse_topk(scores, loss.k, operator.alpha, operator.p)[label])


def slow_loss(loss: TopKLoss, num_classes: int) -> Callable[[list[float], int], float]:
    """The function from scores and label to the loss that a loss of the table should compute in ``eval()``."""
    if isinstance(loss, losses.PriorAdjustedLoss):
        inner = slow_loss(loss.loss, num_classes)
        shift = (loss.prior_tau * loss.log_priors.double()).tolist()
        return lambda scores, label: inner([s + p for s, p in zip(scores, shift, strict=True)], label)
    if hasattr(loss, "loss"):
        return slow_loss(loss.loss, num_classes)
    if isinstance(loss, losses.CrossEntropyLoss):
        return cross_entropy
    if isinstance(loss, losses.FocalLoss):
        return lambda scores, label: focal(scores, label, loss.gamma)
    if isinstance(loss, losses.LDAMLoss):
        margins = loss.margins.tolist()
        return lambda scores, label: cross_entropy(
            [loss.scale * (s - margins[c] * (c == label)) for c, s in enumerate(scores)], label
        )
    if isinstance(loss, losses.LogitAdjustedLoss | losses.BalancedSoftmaxLoss):
        priors = loss.log_priors.double().tolist()
        tau = getattr(loss, "tau", 1.0)
        return lambda scores, label: cross_entropy([s + tau * p for s, p in zip(scores, priors, strict=True)], label)
    if isinstance(loss, losses.VSLoss):
        counts = loss.class_counts.tolist()
        factors = [(n / max(counts)) ** loss.gamma for n in counts]
        shifts = [loss.tau * math.log(n / sum(counts)) for n in counts]
        return lambda scores, label: cross_entropy(
            [f * s + p for f, s, p in zip(factors, scores, shifts, strict=True)], label
        )
    if isinstance(loss, losses.NoisedTopKLoss | losses.ImbalancedNoisedTopKLoss):
        noise = loss._noise(torch.zeros(1, num_classes)).get("noise", torch.zeros(1, num_classes)).tolist()
        return lambda scores, label: (
            loss.scale * references.noised_hinge(scores, label, loss.k, loss.epsilon, noise, margin_of(loss, label))
        )
    if isinstance(loss, losses.GaussianTopKLoss | losses.ImbalancedGaussianTopKLoss):

        def gaussian(scores: list[float], label: int) -> float:
            kth = references.kth_largest(scores, loss.k + 1)
            if loss.epsilon:
                near = [min(max(s, kth - 40 * loss.epsilon), kth + 40 * loss.epsilon) for s in scores]
                kth = references.smoothed_kth_of_many(near, loss.k + 1, loss.epsilon)[0]
            return loss.scale * max(0.0, margin_of(loss, label) + kth - scores[label])

        return gaussian
    if isinstance(loss, losses.SmoothTopKLoss):
        return lambda scores, label: float(references.smooth_topk(scores, label, loss.k, loss.tau, loss.alpha)[0])
    if isinstance(loss, losses.SortingTopKLoss):
        return lambda scores, label: sorting_topk(scores, label, loss)
    if isinstance(loss, losses.SoftTopKLoss):
        return lambda scores, label: soft_topk(scores, label, loss)
    if isinstance(loss, losses.TopKHingeLoss):
        return lambda scores, label: references.topk_hinge(scores, label, loss.k, loss.variant, loss.margin)
    if isinstance(loss, losses.TopKSVMLoss):
        return lambda scores, label: references.topk_svm(scores, label, loss.k, loss.variant, loss.gamma, loss.margin)
    if isinstance(loss, losses.TopKEntropyLoss):
        return lambda scores, label: references.topk_entropy(scores, label, loss.k)
    assert isinstance(loss, losses.TruncatedTopKEntropyLoss), f"{type(loss).__name__} needs a slow reference"
    return lambda scores, label: truncated_entropy(scores, label, loss.k)


def margin_of(loss: TopKLoss, label: int) -> float:
    """Margin of a label: one for all, or by class."""
    margins = getattr(loss, "margins", None)
    return loss.margin if margins is None else float(margins[label])
