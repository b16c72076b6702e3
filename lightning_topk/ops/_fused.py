"""What operators share that compute value and gradient by hand, in few passes and with little memory."""

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_topk._checks import readable
from lightning_topk.ops._precision import working_dtype

# Scores in a block of rows on the CPU: its temporaries stay in the cache.
_BLOCK = 1 << 17
# Bytes from which on memory comes from the operating system anew at every call, and bytes of a huge page.
_LARGE, _HUGE_PAGE = 1 << 25, 1 << 21


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


def gradient_like(scores: Tensor) -> Tensor:
    """Memory for the gradient of ``scores``, not filled."""
    return on_huge_pages(torch.empty_like(scores))


def kept_gradient(scores: Tensor, wanted: bool) -> Tensor | None:
    """Memory for the gradient to which the forward pass may write what becomes it, row by row.

    None where no gradient is wanted, or where it would round or scatter what is written.
    """
    kept = wanted and scores.dtype == working_dtype(scores) and scores.is_contiguous()
    return gradient_like(scores) if kept else None


def on_huge_pages(memory: Tensor) -> Tensor:
    """Ask Linux to back large new memory by huge pages, as NumPy does for its arrays; return it.

    The first touch of each small page costs as much as several passes over what is in it.
    """
    if _madvise is not None and memory.nbytes >= _LARGE and memory.device.type == "cpu":
        start = -(-memory.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        end = (memory.data_ptr() + memory.nbytes) // _HUGE_PAGE * _HUGE_PAGE
        _madvise(start, end - start, mmap.MADV_HUGEPAGE)  # a refusal changes nothing
    return memory


def _find_madvise() -> Any:
    """The system call that advises on memory, None where there is none."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_madvise = _find_madvise()


def gradient_of(plain: Callable[[Tensor], Tensor], scores: Tensor, grad: Tensor) -> Tensor:
    """Gradient of a plain formula in the scores that can be differentiated itself."""
    with torch.enable_grad():
        leaf = scores if scores.requires_grad else scores.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(plain(leaf), leaf, grad, create_graph=True)
    return gradient
