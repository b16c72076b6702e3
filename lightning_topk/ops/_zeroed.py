"""Large zeroed memory of which few entries are written, as gradients that touch a few scores of each row."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_topk._checks import readable

# From so many bytes on, numpy asks the system for huge pages, and new memory costs more than what is written to it.
LARGE = 1 << 22
# Torch's own allocations begin at multiples of so many bytes.
_ALIGNMENT = 64


def zeros(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros on the device of a tensor, and of its dtype when None is given.

    Large ones on the CPU are memory that the system hands out zeroed, page by page as they are touched, where
    :func:`torch.zeros` writes all of it first. Numpy takes it, in huge pages where the system has them for those who
    ask (``madvise``, the default of Linux distributions, or ``always``): what reads or adds to such a gradient finds
    it faster as well. Where it has none, a consumer pays for each small page at its first touch, which for one that
    only reads is less than what was saved, and more for one that writes to all of it.

    Such memory is owned by the tensor and freed with it, but does not pass through torch's allocator: its profiler and
    its statistics do not see it, and the storage cannot be resized.
    """
    dtype = like.dtype if dtype is None else dtype
    size = math.prod(shape) * dtype.itemsize
    # Tensors of a subclass (fake ones of a tracer, distributed ones) make zeros of their own kind.
    if size < LARGE or like.device.type != "cpu" or type(like) is not Tensor or not readable(like):
        return like.new_zeros(shape, dtype=dtype)
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=start).view(shape)
