r"""Elementary symmetric polynomials :math:`e_j = \sum_{|A|=j} \prod_{i \in A} x_i` of exponentials of scores.

How they are computed, with no case distinction and no loss of accuracy:

* The 2k largest scores, the head, enter one by one. Their polynomials divided by the product of the j largest x lie
  between 1 and a binomial coefficient, and a recurrence of positive terms gives them.
* All others, the tail, enter through their power sums p_1, ..., p_k, from which Newton's identities give their
  polynomials. The signs alternate, but what is lost is bounded: relative to e_j of all scores the sum of the absolute
  terms is at most :math:`(1 - r^2)^{-S}` with S = p_1 and r = k / (k + 1 + S), below :math:`e^{k/3}` whatever the
  scores, since the 2k scores of the head are no smaller than any of the tail. The small part is computed in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_topk.ops._power_sums import split


class Scores(NamedTuple):
    """Scores in float64 units of the temperature, above the k-th largest: a constant that does not lose digits."""

    head: Tensor  # the picked scores, descending, shape [..., P]; then the label's where there is one
    terms: Tensor | None  # e_i(tail) e^(-i level) for i = 0, ..., k, shape [..., k + 1]; None without a tail
    level: Tensor  # the level that keeps the terms finite, no lower than any score of the tail, shape [..., 1]
    base: Tensor  # the smallest score of the head, shape [..., 1]
    origin: Tensor  # the k-th largest score itself, shape [..., 1]
    y: Tensor  # e^(score - base) of the tail, shape [..., C]; see split


def take(logits: Tensor, picked: Tensor, k: int, temperature: float, *, label: bool = False) -> Scores:
    """Split the scores into the picked ones, of which the last may be a label, and the polynomials of the others."""
    last = picked.shape[-1] - label
    fixed = logits.detach()
    threshold = fixed.gather(-1, picked[..., last - 1 : last])
    origin = fixed.gather(-1, picked[..., k - 1 : k]).double()
    base = (threshold.double() - origin) / temperature
    if picked.shape[-1] == logits.shape[-1]:
        values, y, terms, level = logits.gather(-1, picked), logits, None, base
    else:
        values, sums, y = split(logits, picked, threshold, 1.0 / temperature, k)
        terms, log_sigma = _newton(sums.double())
        level = base + log_sigma
    return Scores((values.double() - origin) / temperature, terms, level, base, origin, y)


def polynomials(head: Tensor, scores: Scores, k: int, *, lowest: int = 0) -> tuple[Tensor, Tensor]:
    """Polynomials of head and tail, as e_j / P_j for j = lowest, ..., k, and log P_j - log P_(j-1) for j = 1, ..., k.

    P_j is the product of the j largest x, none taken smaller than the tail's level; a constant for the gradient.
    """
    steps = head[..., :k].detach()
    if scores.terms is not None:
        steps = torch.maximum(steps, scores.level)
    row = torch.ones_like(head[..., :1]).expand(*head.shape[:-1], head.shape[-1] + 1)
    ratios = [row[..., -1]]
    for j in range(k):
        # Entry m: e_(j+1) of the first j + 1 + m scores is e_(j+1) of one less, plus the last one times e_j.
        row = ((head[..., j:] - steps[..., j : j + 1]).exp() * row[..., :-1]).cumsum(-1)
        ratios.append(row[..., -1])
    if scores.terms is None:
        return torch.stack(ratios[lowest:], -1), steps
    heads, logs, sums = torch.stack(ratios, -1), levels(steps - scores.level), []
    for j in range(lowest, k + 1):
        weights = (logs[..., : j + 1] - logs[..., j : j + 1]).exp()
        sums.append((weights * heads[..., : j + 1] * scores.terms[..., : j + 1].flip(-1)).sum(-1))
    return torch.stack(sums, -1), steps


def _newton(sums: Tensor) -> tuple[Tensor, Tensor]:
    r"""Elementary symmetric polynomials from power sums [..., K].

    .. math:: i\,e_i = \sum_{m=1}^i (-1)^{m-1} e_{i-m}\, p_m

    Returns :math:`e_i / \sigma^i` for i = 0, ..., K and :math:`\log \sigma` [..., 1], where sigma keeps them finite.
    """
    k = sums.shape[-1]
    sigma = (sums[..., :1].detach() / k).clamp(min=1.0)
    scaled = sums * signs(k, like=sums) / sigma ** torch.arange(1, k + 1, device=sums.device)
    terms, pending = [torch.ones_like(sigma)], scaled
    for i in range(1, k + 1):
        terms.append(pending[..., :1] / i)
        pending = torch.addcmul(pending[..., 1:], scaled[..., : k - i], terms[-1])
    return torch.cat(terms, -1), sigma.log()


def levels(steps: Tensor) -> Tensor:
    """0 and the cumulative sums, shape [..., k + 1]."""
    return torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)], -1)


def signs(count: int, *, like: Tensor) -> Tensor:
    """The signs +, -, +, ... of Newton's identities."""
    return 1.0 - 2.0 * (torch.arange(count, device=like.device) % 2).to(like.dtype)
