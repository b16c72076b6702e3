"""What operators share that compute value and gradient by hand, in few passes and with little memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_topk._checks import readable

# Scores in a block of rows on the CPU: its temporaries stay in the cache.
_BLOCK = 1 << 17


def fusable(scores: Tensor, *others: Any) -> bool:
    """Tell whether an operator may be computed by hand: in eager mode, with a gradient in the scores alone.

    ``torch.compile`` fuses the plain formula itself, and the transforms of ``torch.func`` and forward-mode derivatives
    need to see its parts.
    """
    if not readable(scores) or forward_ad._current_level >= 0:
        return False
    return not any(isinstance(other, Tensor) and (other.requires_grad or not readable(other)) for other in others)


def row_blocks(scores: Tensor) -> list[slice]:
    """Blocks of the rows of ``scores`` [N, C]; one alone on devices that want few large kernels."""
    rows, width = scores.shape
    step = max(1, _BLOCK // width) if scores.device.type == "cpu" else max(1, rows)
    return [slice(first, first + step) for first in range(0, rows, step)]


def block_like(scores: Tensor, blocks: list[slice], dtype: torch.dtype | None = None) -> Tensor:
    """Memory for the largest of the blocks; the others use its first rows."""
    rows = min(blocks[0].stop, scores.shape[0]) if blocks else 0
    return scores.new_empty(rows, scores.shape[1], dtype=dtype)


def gradient_of(plain: Callable[[Tensor], Tensor], scores: Tensor, grad: Tensor) -> Tensor:
    """Gradient of a plain formula in the scores that can be differentiated itself."""
    with torch.enable_grad():
        leaf = scores if scores.requires_grad else scores.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(plain(leaf), leaf, grad, create_graph=True)
    return gradient
