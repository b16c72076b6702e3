"""Passes over blocks of scores for the classes below the best ones: the map to v in [-1, 1], and e of v.

The blocks and the arrays made of them stay in the cache. Of few classes, rows are worked on together; of many, one by
one, so that a product and a sum are one operation.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Entries of all arrays for a block of scores, which stay in the cache.
_CACHE = 3 << 17
# Most classes that are summed in float32, whose rounding grows with their number; these sums are added in float64.
_SUMMED = 2048
# Classes from which on rows are worked on one by one.
_ONE_BY_ONE = 16384


class Map(NamedTuple):
    """Map from scores to v in [-1, 1], and from v to e, for each row."""

    shift: Tensor | None  # [N, 1] in the dtype of the scores: that of the k-th class; None stands for 0
    scale: Tensor  # [N, 1], as the next ones: v = (score - shift) * scale + offset, held in [-1, 1]
    offset: Tensor
    square: Tensor  # e = exp((square * v + linear) * v)
    linear: Tensor

    def of(self, rows: slice) -> "Map":
        """The map of some rows."""
        return Map(None if self.shift is None else self.shift[rows], *(part[rows] for part in self[1:]))

    def bell(self, v: Tensor) -> Tensor:
        """The function e of some v [n], float64, shape [N, n]."""
        return ((self.square.double() * v + self.linear.double()) * v).exp()


class Memory:
    """Memory for the arrays of one block [n, m], used again for the next of its shape."""

    def __init__(self, rows: int, columns: int, order: int) -> None:
        # A single row is summed in pieces, the last of which is filled up with classes of weight 0.
        pieces = -(-columns // _SUMMED) if rows == 1 else 1
        length = _aligned(-(-columns // pieces))
        bases, products = torch.ones(rows, order + 1, pieces * length), torch.zeros(rows, 2, pieces * length)
        self.base, self.product = bases[..., :columns].unbind(1), products[..., :columns].unbind(1)
        self.left = bases.view(rows, order + 1, pieces, length).transpose(1, 2).flatten(0, 1)
        self.right = products.view(rows, 2, pieces, length).permute(0, 2, 3, 1).flatten(0, 1)
        self.rows = rows

    def sums(self) -> Tensor:
        """Sums of the products of each base with each of two products, float64, shape [n, order + 1, 2]."""
        of_pieces = torch.bmm(self.left, self.right).double()
        return of_pieces.sum(0, keepdim=True) if self.rows == 1 else of_pieces


def blocks(
    scores: Tensor, order: int, places: Map, *arrays: Tensor
) -> Iterator[tuple[Tensor, Map, list[Tensor], Memory]]:
    """Cut scores into blocks, with the map of their rows, the rows of other arrays, and memory that stays in the cache.

    An array of the shape of the scores is cut like them.
    """
    columns = scores.shape[1]
    size = _CACHE // (order + 4)
    if columns < _ONE_BY_ONE:
        width = _aligned(-(-columns // -(-columns // _SUMMED)))
        height = size // width
    else:
        width, height = _aligned(-(-columns // -(-columns // size))), 1
    memories: dict[torch.Size, Memory] = {}
    count = -(-len(scores) // height)
    where = zip(*([None] * count if part is None else part.split(height) for part in places), strict=True)
    parts = zip(*(part.split(height) for part in (scores, *arrays)), strict=True)
    for rows, fields in zip(parts, where, strict=True):
        pieces = [part.split(width, 1) if part.shape == rows[0].shape else None for part in rows]
        for number in range(-(-columns // width)):
            block, *others = (row if piece is None else piece[number] for row, piece in zip(rows, pieces, strict=True))
            if block.shape not in memories:
                memories[block.shape] = Memory(block.shape[0], block.shape[1], order)
            yield block, Map(*fields), others, memories[block.shape]


def to_interval(block: Tensor, places: Map, memory: Memory) -> Tensor:
    """Write v into memory, and return it."""
    v = memory.base[1]
    differences = block if places.shift is None else torch.sub(block, places.shift, out=v)
    return affine(differences, places.scale, places.offset, out=v).clamp_(-1, 1)


def bell(v: Tensor, places: Map, memory: Memory) -> Tensor:
    """Write e of v into memory, and return it."""
    return affine(v, places.square, places.linear, out=memory.product[0]).mul_(v).exp_()


def _aligned(count: int) -> int:
    """Round up to whole cache lines of float32."""
    return -(-count // 16) * 16


def affine(values: Tensor, factor: Tensor, term: Tensor, *, out: Tensor) -> Tensor:
    """Product of values [n, m] and factors [n, 1], plus terms [n, 1]; one operation for a single row."""
    if len(values) == 1:
        return torch.add(term, values, alpha=float(factor), out=out)
    return torch.mul(values, factor, out=out).add_(term)
