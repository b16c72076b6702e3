"""The k-th largest noised score in one pass over the logits, as a Triton kernel.

A program holds one row, or a part of its classes, for a few draws. Every lane keeps, for every draw, the largest of the
noised scores that it met, its class, and the second largest; nothing is exchanged between lanes on the way, and no
noise is written to memory. At the end the k largest of the lanes are taken. They are the k largest of all unless one
lane met two of them, which its second largest tells; that happens to 6 % of the draws of a program at k = 6. Such a
draw is gone through once more, exactly.
"""

# mypy: disable-error-code="no-untyped-def, assignment, misc, import-untyped, import-not-found"

import triton
import triton.language as tl

from lightning_topk.ops._triton_noise import four_normals, noise_at


@triton.jit
def _load(logits, classes, num_classes):
    """Scores as they are, and in float32 with finite numbers in the place of what is none; -inf beyond the last."""
    inside = classes < num_classes
    scores = tl.load(logits + classes, mask=inside, other=0.0).to(tl.float32)
    finite = tl.where(scores > -3.4028234e38, scores, -3.4028234e38)
    finite = tl.where(finite < 3.4028234e38, finite, 3.4028234e38)
    return scores, tl.where(inside, finite, float("-inf"))


# Sizes of the batch would else be compiled into variants of their own.
@triton.jit(do_not_specialize=["num_classes", "stride", "num_samples", "splits", "groups", "quads"])
def kth_of_row(
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

    Rows of the logits are ``stride`` apart, a part has ``quads`` blocks of 4 LANES classes, ``groups`` programs share
    the draws, and SLOTS is a power of two >= K. What is written has the shape [rows, draws, splits, K], or where
    KTH_ONLY, for ``splits == 1``, [rows, draws].
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
            z0, z1, z2, z3 = four_normals(seed, row, group * DRAWS + b, quad * LANES + lane)
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
    for b in range(DRAWS):  # no static range: copies of this long end would double the time to compile
        draw = group * DRAWS + b
        most, of, next_most = largest[0], found[0], second[0]
        for other in tl.static_range(1, DRAWS):
            most = tl.where(b == other, largest[other], most)
            of = tl.where(b == other, found[other], of)
            next_most = tl.where(b == other, second[other], next_most)
        top, top_classes, kth = _largest_lanes(most, of, K, SLOTS)
        if tl.max(next_most, 0) > kth:
            # A little lower, as the same sum may be rounded otherwise at another place of the program.
            least = kth - tl.abs(kth) * 1e-6 - epsilon * 1e-5
            top, top_classes = _again(
                logits, seed, row, draw, num_classes, first, last, least, epsilon, K, SLOTS, LANES
            )
        kth_slot = tl.min(tl.where(top == tl.min(tl.where(slot < K, top, float("inf")), 0), slot, SLOTS), 0)
        if bad >= 0:
            top = tl.where(slot < K, float("nan"), top)
            top_classes = tl.where(slot < K, bad, top_classes)
        noise = epsilon * noise_at(seed, row, draw, top_classes, LANES)
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
def _meet(largest, found, second, value, classes):
    """Lane by lane: the largest, its class, and the second largest after one more value."""
    second = tl.maximum(second, tl.minimum(largest, value))
    found = tl.where(value > largest, classes, found)
    return tl.maximum(largest, value), found, second


@triton.jit
def _largest_lanes(largest, found, K: tl.constexpr, SLOTS: tl.constexpr):
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
def _again(
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
        noise = four_normals(seed, row, draw, quad * LANES + lane)
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
