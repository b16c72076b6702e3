"""The log-sum-exp whose softmax gives no class more than 1 / K, over all classes but one."""

import math

import torch
from torch import Tensor

from lightning_topk._checks import check_indices, check_int, check_logits
from lightning_topk.ops._largest import largest_others
from lightning_topk.ops._places import places
from lightning_topk.ops._power_sums import split_off


def capped_logsumexp(logits: Tensor, indices: Tensor, k: int) -> Tensor:
    r"""Entropic maximum of the entries without one of them, with no share above 1 / K.

    .. math::
        V_K(s \backslash y) = \max_q \Bigl\{ \sum_{j \ne y} q_j (s_j - \log q_j) :
        0 \le q_j \le \tfrac1K,\ \sum_{j \ne y} q_j = 1 \Bigr\}

    for every index y that is asked for. The gradient is q: the softmax of the other entries, with its largest shares
    capped at 1/K and the rest scaled up. K = 1 is the log-sum-exp; K q is a soft mask of the K largest entries. The
    n capped entries are the largest ones, and given n

    .. math::
        V_K = \frac1K \sum_{i \le n} s_{(i)} + \frac nK \log K
        + r \log \sum_{i > n} e^{s_{(i)}} - r \log r, \qquad r = 1 - \frac nK

    so that K + 1 selected entries and one pass over the others give the exact value, without iterations. All indices
    of a row together cost O(C log K + K^2), as indices below the selected entries share them.

    Args:
        logits: Scores s, shape [..., C].
        indices: Entries y to leave out, int64, shape [..., L].
        k: Number K in [1, C), as at least K other entries must share the mass.

    Returns:
        Maxima, shape [..., L].

    Raises:
        TypeError: ``logits`` of an integer dtype, or ``k`` of the wrong type.
        ValueError: ``k`` out of its range.

    References:
        The inner problem of the top-k entropy loss of Lapin, Hein, Schiele, "Loss functions for top-k error: Analysis
        and insights", CVPR 2016; this form is derived here.

    Example:
        >>> scores = torch.tensor([4.0, -1.5, 2.5, 1.0], requires_grad=True)
        >>> value = capped_logsumexp(scores, torch.tensor([0]), k=2)
        >>> value.sum().backward()
        >>> value, scores.grad
        (tensor([2.4826], grad_fn=<...>), tensor([0.0000, 0.0379, 0.5000, 0.4621]))
    """
    check_logits(logits)
    check_indices("indices", indices, logits)
    k = check_int("k", k, 1)
    num_classes = logits.shape[-1]
    if k >= num_classes:
        raise ValueError(
            f"Parameter `k` should be in [1, C), as K of the C - 1 other classes share the mass. "
            f"Found `k = {k}` with `C = {num_classes}`."
        )
    if indices.shape[-1] == 1:
        return capped_others(logits, indices, k)[1]
    lowest = torch.finfo(logits.dtype).min  # not -inf, whose gradient would be NaN
    top, order = logits.topk(k + 1)
    rest = logits.scatter(-1, order, lowest).logsumexp(-1, keepdim=True)
    below = _logaddexp(rest, top[..., k:])
    # What lies below the K largest others. An index outside of the top is at most half of `below`: no cancellation.
    wanted = torch.arange(num_classes, device=logits.device).expand_as(logits)
    place = places(order, wanted, num_classes)
    share = logits.gather(-1, wanted) - below
    # More than half is a rounding error of huge logits, among which one more changes nothing.
    share = torch.where((place <= k) | (share > -0.5), lowest, share)
    tails = torch.where(place <= k, rest, below + torch.log1p(-share.exp()))
    ranks = torch.arange(k, device=logits.device)
    chosen = torch.arange(k + 1, device=logits.device).unsqueeze(-1)
    within = _maximum(top[..., ranks + (chosen <= ranks)], rest.unsqueeze(-2).expand(*top.shape, 1)).squeeze(-1)
    return _maximum(top[..., :k], tails).scatter(-1, order, within).gather(-1, indices)


def capped_others(logits: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One entry of each row, and the :func:`capped_logsumexp` of the others; for an index [..., 1], both [..., 1]."""
    if logits.shape[-1] == k + 1:
        picked = logits.gather(-1, largest_others(logits, index, k))
        tails = torch.full_like(picked[..., -1:], torch.finfo(logits.dtype).min).detach()
    else:
        best = largest_others(logits, index, k + 1)
        picked, tails = split_off(logits, torch.cat([best[..., :k], index], -1), best[..., k : k + 1])
    return picked[..., -1:], _maximum(picked[..., :-1], tails)


def _maximum(heads: Tensor, tails: Tensor) -> Tensor:
    """V of lists with the K largest entries ``heads`` [..., K] and the log-sum-exp of the others ``tails`` [..., L]."""
    k = heads.shape[-1]
    suffixes, step = heads, 1
    while step < k:  # torch.logcumsumexp has NaN second derivatives at wide gaps
        shifted = torch.nn.functional.pad(suffixes[..., step:], (0, step), value=torch.finfo(heads.dtype).min)
        suffixes, step = _logaddexp(suffixes, shifted), 2 * step
    # With n entries capped, the next one keeps to its cap if the tail is at least this; falls as n grows.
    room = torch.arange(k, 0, -1, device=heads.device, dtype=heads.dtype)
    bounds = heads + (room - (suffixes - heads).exp()).clamp(min=0.0).log()
    capped = torch.searchsorted(-bounds.detach()[..., :-1].contiguous(), -tails.detach().contiguous())
    sums = torch.nn.functional.pad(heads.cumsum(-1), (1, 0)).gather(-1, capped)
    left = _logaddexp(suffixes.gather(-1, capped), tails)
    share = capped.to(heads.dtype) / k
    return sums / k + share * math.log(k) + (1 - share) * (left - torch.log1p(-share))


def _logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b); torch's own has NaN second derivatives where a and b are far apart."""
    return torch.stack(torch.broadcast_tensors(a, b), -1).logsumexp(-1)
