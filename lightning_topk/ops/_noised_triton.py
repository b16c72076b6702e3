"""The k-th largest noised score in one pass over the logits, as a Triton kernel; the only file that needs Triton.

A program holds one row, or a part of its classes, for a few draws. Every lane keeps, for every draw, the largest of the
noised scores that it met, its class, and the second largest; nothing is exchanged between lanes on the way, and no
noise is written to memory. At the end the k largest of the lanes are taken. They are the k largest of all unless one
lane met two of them, which its second largest tells (k = 6: in 6 % of the draws of a program); that draw is then gone
through once more, exactly.

The noise is that of a counter, Philox 4 x 32 of ten rounds: four numbers for each (row, draw, class modulo ``LANES``),
so that it neither depends on how the work is split nor on the device, and can be computed again at single classes. Two
numbers give two normal ones by Box and Muller's method, whose largest value is 6.76 here (6.66 in ``torch.randn``).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
    raise ImportError(f"The kernel needs Triton >= 3.3, the first with tuples of blocks. Found {triton.__version__}.")

# The noise of a class depends on this number: two classes for each thread.
LANES = 256
WARPS = 4
# Draws that share the load of a row. More need more registers, of which a thread should hold half of the 255 at most.
MOST_DRAWS = 6
MOST_K = 16
# Programs that a multiprocessor should get, and classes that make a program worth its end.
_PROGRAMS = 4
_CLASSES = 2048


@triton.jit
def _two_normals(first, second):  # type: ignore[no-untyped-def]
    """Box and Muller's method on 32 random bits each; the angle, in half turns, needs no reduction."""
    radius = tl.sqrt(-2.0 * tl.log((first.to(tl.float32) + 0.5) * 2.3283064365386963e-10))
    turn = second.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10
    square = turn * turn
    # Polynomials of least error on [-1/2, 1/2], at most 5e-8.
    sine = 0.07722224 * square - 0.59804645
    sine = turn * (((sine * square + 2.55003164) * square - 5.1677069) * square + 3.14159258)
    cosine = 0.2196968 * square - 1.33188016
    cosine = ((cosine * square + 4.05841192) * square - 4.93479286) * square + 0.99999995
    return radius * (1.0 - 2.0 * sine * sine), radius * (2.0 * sine * cosine)


@triton.jit
def _four_normals(seed, row, draw, quad):  # type: ignore[no-untyped-def]
    first, second, third, fourth = tl.philox(seed, quad, row, draw, draw * 0)
    a, b = _two_normals(first, second)
    c, d = _two_normals(third, fourth)
    return a, b, c, d


@triton.jit
def _noise_of(seed, row, draw, classes, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
    """Noise of single classes: number ``classes // lanes % 4`` of its four."""
    quad = classes // (4 * lanes) * lanes + classes % lanes
    a, b, c, d = _four_normals(seed, row, draw, quad)
    part = classes // lanes % 4
    return tl.where(part < 2, tl.where(part == 0, a, b), tl.where(part == 2, c, d))


@triton.jit
def _load(logits, classes, num_classes):  # type: ignore[no-untyped-def]
    """Scores as they are, and in float32 with finite numbers in the place of what is none; -inf beyond the last."""
    inside = classes < num_classes
    scores = tl.load(logits + classes, mask=inside, other=0.0).to(tl.float32)
    finite = tl.where(scores > -3.4028234e38, scores, -3.4028234e38)
    finite = tl.where(finite < 3.4028234e38, finite, 3.4028234e38)
    return scores, tl.where(inside, finite, float("-inf"))


@triton.jit
def _kth_of_row(  # type: ignore[no-untyped-def]
    logits,
    seeds,
    values,
    classes,
    offsets,
    num_classes,
    stride,
    num_samples,
    splits,
    groups,
    quads,
    epsilon,
    K: tl.constexpr,
    SLOTS: tl.constexpr,
    DRAWS: tl.constexpr,
    LANES: tl.constexpr,
    KTH_ONLY: tl.constexpr,
):
    """The K largest noised scores of a part of a row, or the K-th alone, for DRAWS draws.

    Args:
        logits: Scores, rows ``stride`` apart.
        seeds: One number of 64 bits.
        values: Largest noised scores, shape [rows, draws, splits, K], or [rows, draws] of the K-th alone.
        classes: Their classes, of the same shape.
        offsets: Their noise times epsilon.
        num_classes: C.
        stride: Distance of two rows.
        num_samples: Number of draws B.
        splits: Parts of a row.
        groups: Groups of DRAWS draws.
        quads: Blocks of 4 LANES classes in a part.
        epsilon: Standard deviation of the noise.
        K: Rank.
        SLOTS: A power of two >= K.
        DRAWS: Draws of one program.
        LANES: Power of two on which the noise depends.
        KTH_ONLY: Whether the K-th alone is written; needs ``splits == 1``.
    """
    program = tl.program_id(0)
    group = program % groups
    split = program // groups % splits
    row = program // groups // splits
    seed = tl.load(seeds)
    logits += row.to(tl.int64) * stride
    lane = tl.arange(0, LANES)
    first = split * quads
    last = tl.minimum(first + quads, tl.cdiv(num_classes, 4 * LANES))

    largest = ()
    found = ()
    second = ()
    for _ in tl.static_range(DRAWS):
        largest += (tl.full([LANES], float("-inf"), tl.float32),)
        found += (tl.zeros([LANES], tl.int32),)
        second += (tl.full([LANES], float("-inf"), tl.float32),)
    not_a_number = tl.full([LANES], -1, tl.int32)
    for quad in range(first, last):
        at = quad * (4 * LANES) + lane
        s0, f0 = _load(logits, at, num_classes)
        s1, f1 = _load(logits, at + LANES, num_classes)
        s2, f2 = _load(logits, at + 2 * LANES, num_classes)
        s3, f3 = _load(logits, at + 3 * LANES, num_classes)
        not_a_number = tl.where(s0 != s0, at, not_a_number)
        not_a_number = tl.where(s1 != s1, at + LANES, not_a_number)
        not_a_number = tl.where(s2 != s2, at + 2 * LANES, not_a_number)
        not_a_number = tl.where(s3 != s3, at + 3 * LANES, not_a_number)
        largest_now = ()
        found_now = ()
        second_now = ()
        for b in tl.static_range(DRAWS):
            z0, z1, z2, z3 = _four_normals(seed, row, group * DRAWS + b, quad * LANES + lane)
            m, c, m2 = _meet(largest[b], found[b], second[b], f0 + epsilon * z0, at)
            m, c, m2 = _meet(m, c, m2, f1 + epsilon * z1, at + LANES)
            m, c, m2 = _meet(m, c, m2, f2 + epsilon * z2, at + 2 * LANES)
            m, c, m2 = _meet(m, c, m2, f3 + epsilon * z3, at + 3 * LANES)
            largest_now += (m,)
            found_now += (c,)
            second_now += (m2,)
        largest = largest_now
        found = found_now
        second = second_now
    bad = tl.max(not_a_number, 0)

    slot = tl.arange(0, SLOTS)
    for b in tl.static_range(DRAWS):
        draw = group * DRAWS + b
        top, top_classes, kth = _largest_lanes(largest[b], found[b], K, SLOTS)
        if tl.max(second[b], 0) > kth:
            # A little lower, as the same sum may be rounded otherwise at another place of the program.
            least = kth - tl.abs(kth) * 1e-6 - epsilon * 1e-5
            top, top_classes = _again(
                logits, seed, row, draw, num_classes, first, last, least, epsilon, K, SLOTS, LANES
            )
        kth_slot = tl.min(tl.where(top == tl.min(tl.where(slot < K, top, float("inf")), 0), slot, SLOTS), 0)
        if bad >= 0:
            top = tl.where(slot < K, float("nan"), top)
            top_classes = tl.where(slot < K, bad, top_classes)
        noise = epsilon * _noise_of(seed, row, draw, top_classes, LANES)
        draws = draw + slot * 0
        if KTH_ONLY:
            place = row.to(tl.int64) * num_samples + draws
            written = (slot == kth_slot) & (draws < num_samples)
        else:
            place = ((row.to(tl.int64) * num_samples + draws) * splits + split) * K + slot
            written = (slot < K) & (draws < num_samples)
        tl.store(values + place, top, mask=written)
        tl.store(classes + place, top_classes.to(tl.int64), mask=written)
        tl.store(offsets + place, noise, mask=written)


@triton.jit
def _meet(largest, found, second, value, classes):  # type: ignore[no-untyped-def]
    """Lane by lane: the largest, its class, and the second largest after one more value."""
    second = tl.maximum(second, tl.minimum(largest, value))
    found = tl.where(value > largest, classes, found)
    return tl.maximum(largest, value), found, second


@triton.jit
def _largest_lanes(largest, found, K: tl.constexpr, SLOTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The K largest of all lanes in falling order, their classes, and the K-th."""
    slot = tl.arange(0, SLOTS)
    top = tl.full([SLOTS], float("-inf"), tl.float32)
    classes = tl.zeros([SLOTS], tl.int32)
    value = float("inf")
    for rank in range(K):
        value = tl.max(largest, 0)
        at = tl.min(tl.where(largest == value, found, 2147483647), 0)
        largest = tl.where((largest == value) & (found == at), float("-inf"), largest)
        top = tl.where(slot == rank, value, top)
        classes = tl.where(slot == rank, at, classes)
    return top, classes, value


@triton.jit
def _again(  # type: ignore[no-untyped-def]
    logits,
    seed,
    row,
    draw,
    num_classes,
    first,
    last,
    least,
    epsilon,
    K: tl.constexpr,
    SLOTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The K largest noised scores of one draw, all of them above ``least``, whichever lanes they lie in."""
    slot = tl.arange(0, SLOTS)
    lane = tl.arange(0, LANES)
    top = tl.where(slot < K, float("-inf"), float("inf"))
    classes = tl.zeros([SLOTS], tl.int32)
    kth = least
    for quad in range(first, last):
        at = quad * (4 * LANES) + lane
        noise = _four_normals(seed, row, draw, quad * LANES + lane)
        for part in tl.static_range(4):
            here = at + part * LANES
            _, scores = _load(logits, here, num_classes)
            noised = scores + epsilon * noise[part]
            value = tl.max(noised, 0)
            while value > kth:
                chosen = tl.min(tl.where(noised == value, here, 2147483647), 0)
                place = tl.min(tl.where(top == tl.min(top, 0), slot, SLOTS), 0)
                top = tl.where(slot == place, value, top)
                classes = tl.where(slot == place, chosen, classes)
                noised = tl.where(here == chosen, float("-inf"), noised)
                kth = tl.maximum(tl.min(top, 0), least)
                value = tl.max(noised, 0)
    return top, classes


@triton.jit
def _write_noise(  # type: ignore[no-untyped-def]
    noise, seeds, num_classes, num_samples, LANES: tl.constexpr, BLOCK: tl.constexpr
):
    """The noise of a draw at BLOCK classes, shape [rows, draws, C]."""
    cell = tl.program_id(0)
    classes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    drawn = _noise_of(tl.load(seeds), cell // num_samples, cell % num_samples, classes, LANES)
    tl.store(noise + cell.to(tl.int64) * num_classes + classes, drawn, mask=classes < num_classes)


def noise_of(seed: Tensor, num_rows: int, num_samples: int, num_classes: int, *, block: int = 1024) -> Tensor:
    """The normal noise that ``kth_of_kernel`` adds to the scores of all classes, shape [N, B, C]."""
    noise = torch.empty(num_rows, num_samples, num_classes, device=seed.device)
    grid = (num_rows * num_samples, triton.cdiv(num_classes, block))
    with _on(seed):
        _write_noise[grid](noise, seed, num_classes, num_samples, LANES=LANES, BLOCK=block, enable_fp_fusion=True)
    return noise


def kth_of_kernel(
    scores: Tensor, k: int, epsilon: float, num_samples: int, seed: Tensor, *, splits: int | None = None
) -> tuple[Tensor, Tensor]:
    """Class and added noise of the k-th largest noised score of scores [N, C]; shapes [N, B].

    A row that holds a NaN gives the class of one, so that its value is NaN.

    Args:
        scores: Shape [N, C], float16, bfloat16 or float32, detached, N and C >= 1.
        k: Rank in [1, min(C, MOST_K)].
        epsilon: Standard deviation of the noise.
        num_samples: Number of draws B.
        seed: One int64 on the device of the scores, which the host never reads.
        splits: Parts of a row; None for as many as fill the device. The result does not depend on it.

    Returns:
        Classes, int64, and added noise, float32.
    """
    scores = scores if scores.stride(-1) == 1 else scores.contiguous()
    num_rows, num_classes = scores.shape
    groups = triton.cdiv(num_samples, MOST_DRAWS)
    draws = triton.cdiv(num_samples, groups)
    groups = triton.cdiv(num_samples, draws)
    blocks = triton.cdiv(num_classes, 4 * LANES)
    if splits is None:
        splits = _splits(num_rows * groups, num_classes, scores.device)
    quads = triton.cdiv(blocks, min(splits, blocks))
    splits = triton.cdiv(blocks, quads)

    shape = (num_rows, num_samples) if splits == 1 else (num_rows, num_samples, splits * k)
    values = scores.new_empty(shape, dtype=torch.float32)
    classes = scores.new_empty(shape, dtype=torch.int64)
    offsets = torch.empty_like(values)
    with _on(scores):
        _kth_of_row[(num_rows * splits * groups,)](
            scores,
            seed,
            values,
            classes,
            offsets,
            num_classes,
            scores.stride(0),
            num_samples,
            splits,
            groups,
            quads,
            epsilon,
            K=k,
            SLOTS=triton.next_power_of_2(k),
            DRAWS=draws,
            LANES=LANES,
            KTH_ONLY=splits == 1,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    if splits == 1:
        return classes, offsets
    kth = torch.topk(values, k).indices[..., -1:]
    return classes.gather(-1, kth).squeeze(-1), offsets.gather(-1, kth).squeeze(-1)


def _splits(programs: int, num_classes: int, device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    wanted = _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(wanted // max(1, programs), num_classes // _CLASSES))


def _on(tensor: Tensor) -> Any:
    return torch.cuda.device(tensor.device if tensor.device.type == "cuda" else -1)
