"""Normal noise of a counter, drawn inside of Triton kernels.

Philox 4 x 32 of ten rounds gives four numbers of 32 bits for each (row, draw, group of four classes), so that the noise
neither depends on how the work is split nor on the device, and can be computed again at single classes. Two numbers
give two normal ones by Box and Muller's method, whose largest value is 6.76 here (6.66 in ``torch.randn``).

References:
    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
"""

# mypy: disable-error-code="no-untyped-def, assignment, import-untyped, import-not-found"

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
    raise ImportError(f"The kernel needs Triton >= 3.3, the first with tuples of blocks. Found {triton.__version__}.")

# The noise of a class depends on this number.
LANES = 256


@triton.jit
def _log2_of_bits(bits):
    """log2((bits + 1/2) / 2^32), at most 5e-8 off plus rounding; without the cases that ``tl.log2`` has to look for."""
    number = bits.to(tl.float32) + 0.5
    pattern = number.to(tl.int32, bitcast=True)
    power = (pattern - 0x3F2AAAAB) & -0x800000  # the mantissa lies in [2/3, 4/3)
    x = (pattern - power).to(tl.float32, bitcast=True) - 1.0
    series = -0.231742223 * x + 0.251716622
    series = (series * x - 0.234740153) * x + 0.284652355
    series = (series * x - 0.360922841) * x + 0.481015743
    series = (series * x - 0.721344051) * x + 1.44269415
    return power.to(tl.float32) * 1.1920928955078125e-07 - 32.0 + series * x


@triton.jit
def _two_normals(first, second):
    """Box and Muller's method on 32 random bits each; sine and cosine of the half angle need no reduction."""
    radius = tl.sqrt(-1.3862943611198906 * _log2_of_bits(first))
    turn = second.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10
    square = turn * turn
    # Polynomials of least error on [-1/2, 1/2], at most 5e-8.
    sine = 0.07722224 * square - 0.59804645
    sine = turn * (((sine * square + 2.55003164) * square - 5.1677069) * square + 3.14159258)
    cosine = 0.2196968 * square - 1.33188016
    cosine = ((cosine * square + 4.05841192) * square - 4.93479286) * square + 0.99999995
    twice = 2.0 * sine
    return radius * (1.0 - twice * sine), radius * (twice * cosine)


@triton.jit
def _philox(seed, c0, c1, c2, c3):
    """Philox 4 x 32 of ten rounds, equal to ``tl.philox``; one wide product where that takes two narrow ones."""
    key_0 = (seed & 0xFFFFFFFF).to(tl.uint32)
    key_1 = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(10):
        even = c0.to(tl.uint64) * 0xD2511F53
        odd = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (odd >> 32).to(tl.uint32) ^ c1 ^ key_0
        c2 = (even >> 32).to(tl.uint32) ^ c3 ^ key_1
        c1 = odd.to(tl.uint32)
        c3 = even.to(tl.uint32)
        key_0 = tl.add(key_0, 0x9E3779B9, sanitize_overflow=False)
        key_1 = tl.add(key_1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def four_normals(seed, row, draw, quad):
    zero = (quad * 0).to(tl.uint32)
    first, second, third, fourth = _philox(
        seed, quad.to(tl.uint32), zero + row.to(tl.uint32), zero + draw.to(tl.uint32), zero
    )
    a, b = _two_normals(first, second)
    c, d = _two_normals(third, fourth)
    return a, b, c, d


@triton.jit
def noise_at(seed, row, draw, classes, lanes: tl.constexpr):
    """Noise of single classes: number ``classes // lanes % 4`` of its four."""
    quad = classes // (4 * lanes) * lanes + classes % lanes
    a, b, c, d = four_normals(seed, row, draw, quad)
    part = classes // lanes % 4
    return tl.where(part < 2, tl.where(part == 0, a, b), tl.where(part == 2, c, d))


@triton.jit
def _write_noise(noise, seeds, num_classes, num_samples, LANES: tl.constexpr, BLOCK: tl.constexpr):
    """The noise of a draw at BLOCK classes, shape [rows, draws, C]."""
    cell = tl.program_id(0)
    classes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    drawn = noise_at(tl.load(seeds), cell // num_samples, cell % num_samples, classes, LANES)
    tl.store(noise + cell.to(tl.int64) * num_classes + classes, drawn, mask=classes < num_classes)


def noise_of(seed: Tensor, num_rows: int, num_samples: int, num_classes: int, *, block: int = 1024) -> Tensor:
    """The normal noise that ``kth_of_kernel`` adds to the scores of all classes, shape [N, B, C]; for checks."""
    noise = torch.empty(num_rows, num_samples, num_classes, dtype=torch.float32, device=seed.device)
    grid = (num_rows * num_samples, triton.cdiv(num_classes, block))
    with on_device_of(seed):
        _write_noise[grid](noise, seed, num_classes, num_samples, LANES=LANES, BLOCK=block, enable_fp_fusion=True)
    return noise


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
