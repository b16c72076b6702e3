"""The fast exact smoothing as a differentiable function, and when it may be taken."""

from typing import Any

import torch
from torch import Tensor

from lightning_topk.ops._fused import fusable, gradient_of
from lightning_topk.ops._gaussian_fast import shares_at, smoothed_block, write_gradient
from lightning_topk.ops._zeroed import zeros

# Rows whose laws are computed together: their arrays stay in the cache.
_ROWS = 128


def fast_suits(scores: Tensor, k: int, tolerance: float) -> bool:
    """Tell whether the fast way was made for such scores: on the CPU, in float32 or less, for moderate k.

    These are k up to 24 at a tolerance of 1e-3 or more, and up to 12 down to one of 1e-5. On CUDA the checks of the
    rows would wait for the device.
    """
    return (
        scores.device.type == "cpu"
        and scores.dtype != torch.float64
        and k <= (24 if tolerance >= 1e-3 else 12)
        and tolerance >= 1e-5
        and len(scores) > 0
    )


def fast_applies(scores: Tensor, k: int, tolerance: float) -> bool:
    """Tell whether the fast way may be taken here and now: where it suits, in eager mode.

    The transforms of ``torch.func`` and tensors without values take the plain way; ``torch.compile`` calls the fast one
    as an operator.
    """
    return fast_suits(scores, k, tolerance) and fusable(scores)


def value_and_gradient(scores: Tensor, k: int, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """Smoothed k-th largest score [N] of scores [N, C], and its gradient [N, C], both in float32."""
    values, gradient = [], zeros(scores.shape, scores, torch.float32)
    for rows, into in zip(scores.split(_ROWS), gradient.split(_ROWS), strict=True):
        value, law = smoothed_block(rows, k, epsilon, tolerance)
        write_gradient(rows, law, torch.ones_like(value), k, epsilon, tolerance, into)
        values.append(value)
    return torch.cat(values), gradient


class FastExpectation(torch.autograd.Function):
    """Smoothed k-th largest score [N], and the scores at labels [N, 1], with one gradient [N, C] for both.

    Both are in float32. Last comes whether the sum of all scores is finite.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, labels: Tensor | None, k: int, epsilon: float, tolerance: float, plain: Any
    ) -> tuple[Tensor, Tensor | None, bool]:
        parts = [smoothed_block(rows, k, epsilon, tolerance) for rows in scores.split(_ROWS)]
        ctx.save_for_backward(scores, labels)
        ctx.laws = [part[1] for part in parts]
        ctx.parameters = k, epsilon, tolerance
        ctx.plain = plain
        own = None if labels is None else scores.gather(1, labels).float()
        return torch.cat([part[0] for part in parts]), own, all(part[1].finite for part in parts)

    @staticmethod
    def backward(ctx: Any, slope: Tensor, at_labels: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        scores, labels = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The gradient is to be differentiated itself: that of the plain way can be.
            gradient = gradient_of(ctx.plain, scores, slope)
            if labels is not None and at_labels is not None:
                gradient = gradient.scatter_add(1, labels, at_labels.to(gradient.dtype))
        else:
            gradient = zeros(scores.shape, scores)
            k, epsilon, tolerance = ctx.parameters
            for rows, law in zip(range(0, len(scores), _ROWS), ctx.laws, strict=True):
                chosen = slice(rows, rows + _ROWS)
                write_gradient(scores[chosen], law, slope[chosen], k, epsilon, tolerance, gradient[chosen])
            if labels is not None and at_labels is not None:
                own = gradient.gather(1, labels)
                if own.dtype.itemsize < 4:
                    # Rounded once, as the difference of two numbers near each other would be rounded to nothing.
                    parts = zip(ctx.laws, labels.split(_ROWS), slope.unsqueeze(1).split(_ROWS), strict=True)
                    exact = torch.cat([shares_at(law, index) * factor for law, index, factor in parts])
                    own = torch.where(exact.isnan(), own.double(), exact)
                gradient.scatter_(1, labels, (own + at_labels).to(gradient.dtype))
        return gradient, None, None, None, None, None
