"""Logits, targets and arguments, right and wrong: what users, data sets and diverging networks hand over."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

LOW_PRECISION = (torch.float16, torch.bfloat16)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INDEX_DTYPES = (
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)
#: Leading shapes of a batch: a single row, empty ones, and up to three dimensions.
LEADING = ([], [0], [1], [2], [4], [2, 2], [0, 3], [3, 1], [1, 2, 2], [2, 0, 1])
#: What the logits of a batch look like. "beyond" is where sums and differences leave float32.
KINDS = ("ordinary", "ordinary", "ties", "constant", "large", "huge", "masked", "denormal", "nonfinite", "beyond")
#: Kinds whose losses are finite numbers.
FINITE = ("ordinary", "ties", "constant", "large", "huge", "masked", "denormal")


@dataclass(frozen=True)
class Batch:
    """Logits and targets, and what is wrong with them: ``None`` when nothing is."""

    logits: Any
    targets: Any
    kind: str
    fault: str | None = None

    @property
    def rows(self) -> Tensor:
        """Logits as [N, C] in float64."""
        return self.logits.detach().double().reshape(-1, self.logits.shape[-1])

    @property
    def soft(self) -> bool:
        return self.targets.is_floating_point()

    def shares(self, ignore_index: int) -> list[list[tuple[int, float]]]:
        """Label and share of every row, in float64; nothing for an ignored one."""
        if self.soft:
            rows = self.targets.detach().double().reshape(-1, self.logits.shape[-1]).tolist()
            return [[(label, share) for label, share in enumerate(row) if share != 0] for row in rows]
        return [[] if y == ignore_index else [(y, 1.0)] for y in self.targets.flatten().long().tolist()]


def make_logits(kind: str, shape: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Logits of one kind. Masked classes are the odd ones from 1 on."""
    x = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    largest = torch.finfo(dtype).max
    if kind == "ties":
        x = (x / 2).round()
    elif kind == "constant":
        x = torch.full(shape, float(x.sum() % 7))
    elif kind == "large":
        x = x.clamp(-5, 5) * 1e4 / 5
    elif kind == "huge":
        x = x.clamp(-1, 1) * min(1e30, largest)
    elif kind == "beyond":
        x = x.clamp(-1, 1) * min(3e38, largest)
    elif kind == "denormal":
        x = x * torch.finfo(dtype).tiny / 8
    x = x.to(dtype)
    if kind == "masked":
        x[..., 1::2] = max(torch.finfo(torch.float32).min, torch.finfo(dtype).min)
    if kind == "nonfinite" and x.numel():
        bad = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=dtype)
        hit = torch.rand(shape, generator=generator) < 0.5 / max(shape[-1], 1)
        x = torch.where(hit, bad[torch.randint(3, shape, generator=generator)], x)
    return x


def viewed(draw: st.DrawFn, x: Tensor) -> Tensor:
    """The same tensor in another layout of memory."""
    layout = draw(st.sampled_from(["plain", "strided", "transposed", "expanded", "offset"]))
    if layout == "strided":
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "transposed" and x.ndim > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "expanded" and x.ndim > 1 and x.shape[0]:
        return x[:1].expand(x.shape)
    if layout == "offset":
        return torch.cat([x.new_zeros(3), x.reshape(-1)])[3:].reshape(x.shape)
    return x


def make_targets(
    draw: st.DrawFn, kind: str, logits: Tensor, ignore_index: int, generator: torch.Generator, *, soft: bool
) -> Tensor:
    """Right targets, some of them ignored; of masked classes none."""
    leading, num_classes = list(logits.shape[:-1]), logits.shape[-1]
    index = torch.randint(num_classes, leading, generator=generator)
    if kind == "masked":
        index = index // 2 * 2
    if soft and draw(st.booleans()):
        labels = torch.nn.functional.one_hot(index, num_classes).double()
        style = draw(st.sampled_from(["one-hot", "two", "sums to two", "negative"]))
        if style != "one-hot":
            second = torch.nn.functional.one_hot(index.flip(0) if index.ndim else index * 0, num_classes)
            first, last = {"two": (0.75, 0.25), "sums to two": (0.5, 1.5), "negative": (1.5, -0.25)}[style]
            labels = first * labels + last * second
        return labels.to(draw(st.sampled_from(FLOATS)))
    dtype = draw(st.sampled_from(INDEX_DTYPES))
    try:
        holds = int(torch.tensor(ignore_index, dtype=torch.int64).to(dtype).long()) == ignore_index
    except RuntimeError:
        holds = False
    if holds:
        index = torch.where(torch.rand(leading, generator=generator) < 0.2, ignore_index, index)
    return index.to(dtype)


@st.composite
def batches(draw: st.DrawFn, least: int, ignore_index: int = -100, *, soft: bool = True, most: int = 9) -> Batch:
    """Batches of at least ``least`` classes without any fault."""
    kind = draw(st.sampled_from(KINDS))
    num_classes = draw(st.sampled_from([least, least + 1, least + 2, least + 3, max(most, least), max(40, least)]))
    leading = draw(st.sampled_from(LEADING))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = viewed(draw, make_logits(kind, [*leading, num_classes], dtype, generator))
    targets = make_targets(draw, kind, x, ignore_index, generator, soft=soft)
    return Batch(x, targets, kind)


@st.composite
def faulty_batches(draw: st.DrawFn, least: int, ignore_index: int = -100, *, soft: bool = True) -> Batch:
    """Batches with exactly one fault."""
    good = draw(batches(least, ignore_index, soft=soft).filter(lambda b: not b.soft and b.logits.numel() > 0))
    x, y, num_classes = good.logits, good.targets, good.logits.shape[-1]
    fault = draw(st.sampled_from(sorted(LOGIT_FAULTS) + sorted(TARGET_FAULTS) + ["label out of range"]))
    if fault in LOGIT_FAULTS:
        return Batch(LOGIT_FAULTS[fault](x), y, good.kind, fault)
    if fault == "label out of range":
        wrong = draw(st.sampled_from([-1, -7, num_classes, num_classes + 100, 2**40, -(2**63), 2**63 - 1]))
        y = y.long().clone()
        y.view(-1)[0] = wrong
        return Batch(x, y, good.kind, None if wrong == ignore_index else fault)
    return Batch(x, TARGET_FAULTS[fault](y, x), good.kind, fault)


LOGIT_FAULTS = {
    "logits: a list": lambda x: x.tolist(),
    "logits: nothing": lambda x: None,
    "logits: an array": lambda x: x.float().numpy(),
    "logits: integers": lambda x: x.nan_to_num(0, 0, 0).clamp(-9, 9).long(),
    "logits: bool": lambda x: x > 0,
    "logits: complex": lambda x: x.to(torch.complex64),
    "logits: eight bits": lambda x: x.to(torch.float8_e4m3fn),
    "logits: sparse": lambda x: x.to_sparse(),
    "logits: no dimension": lambda x: x.sum(),
    "logits: no class": lambda x: x[..., :0],
}
TARGET_FAULTS = {
    "targets: a list": lambda y, x: y.tolist(),
    "targets: nothing": lambda y, x: None,
    "targets: bool": lambda y, x: y.long() > 0,
    "targets: complex": lambda y, x: y.to(torch.complex64),
    "targets: floats of the shape of indices": lambda y, x: y.double(),
    "targets: one dimension more": lambda y, x: y.unsqueeze(0).expand(3, *y.shape),
    "targets: indices of the shape of the logits": lambda y, x: torch.zeros(x.shape, dtype=torch.long),
    "targets: a class too many": lambda y, x: torch.zeros(*x.shape[:-1], x.shape[-1] + 1),
    "targets: sparse": lambda y, x: y.long().to_sparse(),
    "targets: text": lambda y, x: "0",
}


def wild_numbers() -> st.SearchStrategy[Any]:
    """Numbers and what is none, for any parameter that should be one."""
    plain = st.sampled_from(
        [
            *(0, 1, 2, 3, 5, 7, -1, 40, 2**31, 2**53, 2**62, 2**63, -(2**63), 10**400),
            *(0.0, -0.0, 0.5, 1.0, 1.5, -0.1, 1e-320, 1e-45, 1e-30, 1e-6, 1e30, 1e31, 1e300),
            *(float("nan"), float("inf"), -float("inf")),
        ]
    )
    other = st.sampled_from(
        [
            *(None, True, False, "1", "", "a", b"1", 1j, (), [], {}, [1.0], (1, 2), object, Ellipsis),
            *(np.float32(0.5), np.float64(2.0), np.int64(3), np.uint8(1), np.bool_(True), np.float16("nan")),
            *(np.array(1), np.array([1.0]), Fraction(1, 2), torch.float32),
            *(torch.tensor(1), torch.tensor(0.5), torch.tensor([1.0, 2.0]), torch.tensor(float("nan"))),
        ]
    )
    # Mapped, so that it stays one branch where it is joined to right values.
    return (plain | other | st.floats() | st.integers(-5, 60) | st.text(max_size=3)).map(_same)


def _same(value: Any) -> Any:
    return value


def wild_counts(num_classes: int) -> st.SearchStrategy[Any]:
    """Class counts, right and wrong."""
    whole = st.lists(st.integers(0, 2000), min_size=num_classes, max_size=num_classes)
    entry = st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, 2**62, 2**63, 10**400, 1.0, 0.5, 1e300, None, "3", True])
    odd = entry | st.floats() | st.integers(0, 9)
    return whole | st.one_of(
        whole.map(torch.tensor),
        whole.map(lambda x: torch.tensor(x, dtype=torch.float16)),
        whole.map(lambda x: torch.tensor(x, dtype=torch.uint16)),
        whole.map(lambda x: np.array(x)[::-1]),
        whole.map(lambda x: torch.tensor(x).unsqueeze(0)),
        whole.map(lambda x: torch.tensor(x).to(torch.complex64)),
        st.lists(odd, max_size=num_classes + 2),
        st.lists(st.floats(), max_size=num_classes + 2).map(np.array),
        st.lists(whole, max_size=3),
        st.sampled_from([None, "many", 3, 0.5, {}, {"a": 1}, object(), b"123", {1, 2}, range(1, num_classes + 1)]),
    ).map(_same)


def wild_per_class(num_classes: int) -> st.SearchStrategy[Any]:
    """Class weights, right and wrong."""
    numbers = st.lists(st.floats() | st.floats(0, 10), min_size=num_classes, max_size=num_classes)
    right = st.lists(st.floats(0, 10, width=32), min_size=num_classes, max_size=num_classes)
    return st.one_of(right, right.map(torch.tensor), right.map(np.array), numbers, wild_counts(num_classes))
