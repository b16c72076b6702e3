r"""The law of a count of independent events, up to a degree, with each event left out in turn.

The number of events among independent ones of probability :math:`q_i` has the generating function
:math:`\prod_i (1 - q_i + q_i x)`. Polynomials are tensors whose first dimension is the degree, truncated to ``size``
coefficients; the events lie in the dimension after it, and all others are batch.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def product_tree(chances: Tensor, size: int) -> list[Tensor]:
    """Multiply pairs of the polynomials 1 - q + q x, then pairs of products, and so on.

    Args:
        chances: Probabilities q, shape [M, ...].
        size: Number of coefficients that are kept, >= 1.

    Returns:
        The levels of the tree, shapes [degree + 1, events, ...]; the last one is the whole product, [.., 1, ...].
    """
    levels = [torch.stack([1 - chances, chances][:size])]
    while levels[-1].shape[1] > 1:
        left, right = _halves(levels[-1])
        levels.append(multiply(left, right, min(size, 2 * left.shape[0] - 1)))
    return levels


def multiply(left: Tensor, right: Tensor, size: int) -> Tensor:
    """Product of two polynomials, truncated to ``size`` coefficients, and with zeros up to as many."""
    total = _fill(left[0] * right, size)
    for degree in range(1, min(left.shape[0], size)):
        kept = right[: size - degree]
        total[degree : degree + kept.shape[0]].addcmul_(left[degree], kept)
    return total


def leave_one_out(levels: list[Tensor], outside: Tensor, size: int) -> Tensor:
    """Coefficient ``size - 1`` of the product without each of the events.

    Args:
        levels: What :func:`product_tree` returned.
        outside: A polynomial that multiplies the product, shape [degree + 1, ...].
        size: Number of coefficients that were kept.

    Returns:
        Coefficient ``size - 1`` of the product of ``outside`` and all events but one, shape [M, ...].
    """
    # The coefficient is linear in each subtree: `weights[m]` is what coefficient m of the subtree counts in it. Going
    # down, half a tree's weights are those of the whole correlated with the other half. All terms are positive.
    weights = _fill(outside, size).flip(0).unsqueeze(1)[: levels[-1].shape[0]]
    for level in reversed(levels[:-1]):
        left, right = _halves(level)
        needed = 1 if level is levels[0] else level.shape[0]
        both = [_correlation(right, weights, needed), _correlation(left, weights, needed)]
        weights = torch.cat(both, 1)[:, : level.shape[1]]
    return weights[0]


def power_product(sums: list[Tensor], log_zero: Tensor) -> Tensor:
    r"""Coefficients of a product of many events from the power sums of their odds.

    Args:
        sums: :math:`\sum_i w_i^m` for m = 1, 2, ... with the odds :math:`w_i = q_i / (1 - q_i)`, shape [...] each.
        log_zero: :math:`\sum_i \log(1 - q_i)`, shape [...].

    Returns:
        Polynomial, shape [len(sums) + 1, ...], by Newton's identities, in float64 because their terms alternate.
    """
    terms = log_zero.double().exp().unsqueeze(0)
    signed = terms[:0]
    for order, total in enumerate(sums):
        signed = torch.cat([(-total if order % 2 else total).double().unsqueeze(0), signed])
        terms = torch.cat([terms, (signed * terms).sum(0, keepdim=True) / (order + 1)])
    return terms.to(log_zero.dtype)


def without_one(product: Tensor, odds: Tensor) -> Tensor:
    """Highest coefficient of a product divided by 1 + w x, for an event with small odds w.

    Args:
        product: Polynomial, shape [size, ...].
        odds: w, a shape that broadcasts with [...].

    Returns:
        Coefficient ``size - 1``; dividing it by 1 - q leaves the event out.
    """
    rest = product[0]
    for coefficient in product[1:]:
        rest = coefficient - odds * rest
    return rest


def _halves(level: Tensor) -> tuple[Tensor, Tensor]:
    """Split the events in two, after adding the polynomial 1 to an odd number of them."""
    events = level.shape[1]
    if events % 2:
        one = torch.zeros_like(level[:, :1])
        one[0] = 1
        level = torch.cat([level, one], 1)
    return level.split((events + 1) // 2, 1)


def _correlation(factor: Tensor, weights: Tensor, size: int) -> Tensor:
    """``sum_l factor[l] weights[m + l]`` for m < size."""
    size = min(size, weights.shape[0])
    total = factor[0] * weights[:size]
    for degree in range(1, min(factor.shape[0], weights.shape[0])):
        kept = weights[degree : degree + size]
        total[: kept.shape[0]].addcmul_(factor[degree], kept)
    return total


def _fill(polynomial: Tensor, size: int) -> Tensor:
    """Truncate or fill with zeros to ``size`` coefficients."""
    kept = polynomial[:size]
    missing = size - kept.shape[0]
    return pad(kept, [0, 0] * (kept.ndim - 1) + [0, missing]) if missing else kept
