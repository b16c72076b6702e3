"""Elementary symmetric polynomials of exponentials of scores, and the law of a random set of k classes."""

import torch
from torch import Tensor

from lightning_topk._checks import check_classes_exceed_k, check_float, check_indices, check_int, check_logits
from lightning_topk.ops._exclusion_odds import ExclusionOdds
from lightning_topk.ops._fused import fusable
from lightning_topk.ops._head_and_tail import Scores, levels, polynomials, signs, take
from lightning_topk.ops._largest import largest, largest_others
from lightning_topk.ops._power_sums import merge
from lightning_topk.ops._precision import at_least_float32
from lightning_topk.ops._scaled_softplus import ScaledSoftplus

# Logarithm of nothing: finite, so that no difference of two of them is NaN, and below those of all scores.
_NOTHING = -1e300


def log_symmetric(logits: Tensor, k: int, *, temperature: float = 1.0) -> Tensor:
    r"""Logarithms of the elementary symmetric polynomials of exponentials of scores.

    .. math:: \log e_j(x), \quad x_i = e^{s_i / T}, \quad j = 0, \dots, k

    Args:
        logits: Scores s, shape [..., C].
        k: The largest degree, in [1, C].
        temperature: T > 0.

    Returns:
        Shape [..., k + 1], float64.

    Raises:
        TypeError: ``logits`` of an integer dtype, or a parameter of the wrong type.
        ValueError: A parameter out of its range.

    References:
        Berrada, Zisserman, Kumar, "Smooth loss functions for deep top-k classification", ICLR 2018, on the use of
        these polynomials. The algorithm is another one.

    Example:
        >>> log_symmetric(torch.tensor([1.0, 2.0, 3.0]).log(), 3).exp()
        tensor([ 1.0000,  6.0000, 11.0000,  6.0000], dtype=torch.float64)
    """
    check_logits(logits)
    num_classes = logits.shape[-1]
    k = check_int("k", k, 1)
    if k > num_classes:
        raise ValueError(f"Parameter `k` should be in [1, C]. Found `k = {k}` with `C = {num_classes}`.")
    check_float("temperature", temperature, 0.0, low_open=True)
    logits = at_least_float32(logits)
    scores = take(logits, largest(logits, min(2 * k, num_classes)), k, temperature)
    ratios, steps = polynomials(scores.head, scores, k)
    shifts = torch.arange(k + 1, device=logits.device) * (scores.origin / temperature)
    # The shifts and steps are constants: the derivatives of the ratios are those of the whole.
    return ratios.log() + levels(steps) + shifts


def exclusion_log_odds(logits: Tensor, k: int, labels: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    r"""Log-odds that a class is not in a random set of k classes, where good classes come together.

    .. math::
        \log \frac{P(y \notin A)}{P(y \in A)}
        = \log \frac{\sum_{|A| = k,\, y \notin A} e^{\sum_{j \in A} s_j / T}}
                    {\sum_{|A| = k,\, y \in A} e^{\sum_{j \in A} s_j / T}}
        = \log \frac{e_k(x_{\setminus y})}{x_y\, e_{k-1}(x_{\setminus y})}, \qquad x_i = e^{s_i / T}

    For k = 1 these are the log-odds of the softmax. T times the log-odds tends to the k-th largest of the other scores
    minus s_y as T goes to 0. The value is right to 1e-6 (plus 1e-7 of itself) and the gradient to 1e-5 of its L1 norm
    for float32 scores of any spread; the second derivatives are right too.

    On the CPU one label per row needs no memory of the size of the logits beside their gradient, elsewhere that of one
    more logits tensor; all labels at once cost O(C k) and about a dozen.

    Args:
        logits: Scores s, shape [..., C].
        k: Number of classes in the set, in [1, C).
        labels: Class indices y, shape [...]; None for the log-odds of every class.
        temperature: T > 0.

    Returns:
        Shape [...], or [..., C] without ``labels``; float64, as differences with large margins need it.

    Raises:
        TypeError: ``logits`` of an integer dtype, or a parameter of the wrong type.
        ValueError: A parameter out of its range.

    Example:
        >>> exclusion_log_odds(torch.tensor([1.0, 2.0, 3.0]).log(), 2).exp()  # sets: 1*2, 1*3, 2*3
        tensor([1.2000, 0.3750, 0.2222], dtype=torch.float64)
    """
    check_logits(logits)
    num_classes = logits.shape[-1]
    if labels is not None:
        check_indices("labels", labels, logits, one_per_row=True)
    k = check_int("k", k, 1)
    check_classes_exceed_k(k, num_classes)
    check_float("temperature", temperature, 0.0, low_open=True)
    if labels is None:
        logits = at_least_float32(logits)
        top = largest(logits, min(2 * k, num_classes - 1) + 1)
        return _all_log_odds(logits, k, top, temperature)
    flat, label = logits.reshape(-1, num_classes), labels.reshape(-1, 1)
    return label_log_odds(flat, k, label, temperature)[0].reshape(logits.shape[:-1])


def label_log_odds(
    scores: Tensor, k: int, labels: Tensor, temperature: float, loss: ScaledSoftplus | None = None
) -> tuple[Tensor, bool]:
    """Log-odds [N, 1] of the labels [N, 1] from scores [N, C]; and whether all scores were seen to be finite.

    Scores of float16 and bfloat16 are read block by block, without a float32 copy of them all, where it is by hand.
    With a loss of the log-odds, that is returned, in float32 for scores of float32 and less.
    """
    if scores.device.type == "cpu" and fusable(scores, labels):
        values, finite = ExclusionOdds.apply(scores, labels, k, temperature, _label_log_odds, loss)
        return values, finite
    scores = at_least_float32(scores)
    picked = largest_others(scores, labels, min(2 * k, scores.shape[-1] - 1))
    odds = _label_log_odds(scores, picked, k, temperature)
    return odds if loss is None else loss(odds).to(scores.dtype), False


def _label_log_odds(logits: Tensor, picked: Tensor, k: int, temperature: float) -> Tensor:
    """The log-odds [..., 1] of a label, from the indices [..., P + 1] of the best others and the label."""
    scores = take(logits, picked, k, temperature, label=True)
    ratios, steps = polynomials(scores.head[..., :-1], scores, k, lowest=k - 1)
    logs = ratios.log()
    return (steps[..., -1:] - scores.head[..., -1:]) + (logs[..., 1:] - logs[..., :1])


def _all_log_odds(logits: Tensor, k: int, top: Tensor, temperature: float) -> Tensor:
    """The log-odds of every class, from the 2k + 1 largest and all others."""
    scores = take(logits, top, k, temperature)
    head_odds = _head_log_odds(scores, k)
    if scores.terms is None:
        return torch.zeros_like(logits, dtype=torch.float64).scatter(-1, top, head_odds)
    ratios, steps = polynomials(scores.head, scores, k)
    heights = levels(steps - scores.base)
    threshold = logits.detach().gather(-1, top[..., -1:])
    log_odds = steps[..., -1:] + ratios[..., k:].log() - ratios[..., k - 1 : k].log()
    log_odds = log_odds - (logits.double() - scores.origin) / temperature
    for degree, sign in ((k, 1.0), (k - 1, -1.0))[: 1 + (k > 1)]:
        # P(class not in A) = e_j(without it) / e_j = 1 - x e_(j-1) / e_j + x^2 e_(j-2) / e_j - ..., at least 1/2.
        shares = ratios[..., :degree] / ratios[..., degree : degree + 1]
        shares = shares * (heights[..., :degree] - heights[..., degree : degree + 1]).exp()
        shares = (shares.flip(-1) * signs(degree, like=shares)).to(logits.dtype)
        inside = merge(
            logits, torch.zeros_like(threshold).expand_as(top), shares, top, threshold, 1.0 / temperature, scores.y
        )
        log_odds = log_odds + sign * torch.log1p(-inside)
    return log_odds.scatter(-1, top, head_odds)


def _head_log_odds(scores: Scores, k: int) -> Tensor:
    """The log-odds of each class of the head, from the polynomials of all before it and all after it."""
    head = scores.head
    nothing = torch.full_like(head[..., :1], _NOTHING).expand(*head.shape[:-1], k)
    start = end = torch.cat([torch.zeros_like(head[..., :1]), nothing], -1)
    if scores.terms is not None:
        degrees = torch.arange(k + 1, device=head.device)
        end = scores.terms.clamp(min=torch.finfo(head.dtype).tiny).log() + degrees * scores.level
    before = _scan(head[..., :-1], start)
    after = _scan(head[..., 1:].flip(-1), end).flip(-2)
    outside = (before + after.flip(-1)).logsumexp(-1)
    others = (before[..., :-1] + after[..., :-1].flip(-1)).logsumexp(-1)
    return outside - others - head


def _scan(heights: Tensor, start: Tensor) -> Tensor:
    """Log-polynomials of ``start`` [..., k + 1] and the first 0, ..., M heights; shape [..., M + 1, k + 1]."""
    logs = [start]
    for m in range(heights.shape[-1]):
        joined = torch.stack([logs[-1][..., 1:], logs[-1][..., :-1] + heights[..., m : m + 1]]).logsumexp(0)
        logs.append(torch.cat([start[..., :1], joined], -1))
    return torch.stack(logs, -2)
