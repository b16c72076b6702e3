"""How often each class stands among the best K of the samples of each other class."""

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

DENSE_CLASSES = 2048  # a matrix of 16 MiB; for more classes the pairs that occur are listed instead
MOST_PAIRS = 2**22


class PairCounts:
    r"""Count the pairs (class of a sample, class among its best K).

    .. math:: n_{cj} = \#\{i : y_i = c,\; j \in \text{top-}K(s_i)\}

    Up to ``dense_classes`` classes the state is one int32 matrix [C, C]. Beyond, it is the list of the pairs that
    occur, at most ``most_pairs`` of them, or twice as many for a moment. A list that grows longer loses its rarest
    pairs, and ``missed`` then says by how much a count may be too small; with ``missed`` zero all counts are exact.

    Args:
        num_classes: Number of classes C.
        dense_classes: The largest C that is given a matrix.
        most_pairs: Length of the list, >= 1.

    Example:
        >>> pairs = PairCounts(3)
        >>> pairs.update(torch.tensor([0, 0, 2]), torch.tensor([[0, 2], [1, 2], [2, 0]]))
        >>> pairs.largest(1)
        [(0, 2, 2, 1)]
    """

    def __init__(self, num_classes: int, *, dense_classes: int = DENSE_CLASSES, most_pairs: int = MOST_PAIRS) -> None:
        self.num_classes = num_classes
        self.dense = num_classes <= dense_classes
        self.most_pairs = most_pairs
        self.missed = 0
        self._matrix: Tensor | None = None
        self._cells = torch.empty(0, dtype=torch.int64)
        self._counts = torch.empty(0, dtype=torch.int64)
        self._waiting: list[Tensor] = []
        self._waiting_size = 0

    def update(self, labels: Tensor, best: Tensor) -> None:
        """Count samples with their labels [N], below 0 for one that is not counted, and best classes [N, K]."""
        real = (labels >= 0)[:, None].expand_as(best)
        cells = (labels.long()[:, None] * self.num_classes + best).masked_fill(~real, -1).reshape(-1)
        if self.dense:
            if self._matrix is None:
                self._matrix = torch.zeros(self.num_classes**2, dtype=torch.int32, device=best.device)
            self._matrix.scatter_add_(0, cells.clamp(min=0), real.reshape(-1).int())
            return
        self._waiting.append(cells)
        self._waiting_size += len(cells)
        if self._waiting_size >= self.most_pairs:
            self._merge_waiting()

    def sync(self, device: torch.device) -> None:
        """Sum over all processes, each of which has to call this, also one that has seen nothing."""
        if self.dense:
            if self._matrix is None:
                self._matrix = torch.zeros(self.num_classes**2, dtype=torch.int32, device=device)
            self._matrix = sum_over_processes(self._matrix.to(device)).cpu()
            return
        self._merge_waiting()
        self.missed = int(sum_over_processes(torch.tensor(self.missed, device=device)))
        cells, counts = self._cells.to(device), self._counts.to(device)
        if dist.is_available() and dist.is_initialized():
            cells, counts = (torch.cat(gather_all_tensors(each)) for each in (cells, counts))
        self._cells, self._counts = _summed(cells.cpu(), counts.cpu())

    def largest(self, number: int) -> list[tuple[int, int, int, int]]:
        """Return the pairs of different classes with the largest sums of both counts.

        Args:
            number: How many pairs, at most.

        Returns:
            Tuples (a, b, n_ab, n_ba) with a < b, the largest n_ab + n_ba first, and for equal sums in the order of the
            classes.
        """
        self._merge_waiting()
        size = self.num_classes
        cells, counts = self._cells.cpu(), self._counts.cpu()
        if self._matrix is not None:
            cells = self._matrix.cpu().nonzero().flatten()
            counts = self._matrix.cpu()[cells].long()
        label, other = cells // size, cells % size
        apart = label != other
        label, other, counts = label[apart], other[apart], counts[apart]
        pairs, sums = _summed(torch.minimum(label, other) * size + torch.maximum(label, other), counts)
        chosen = pairs[sums.sort(descending=True, stable=True).indices[:number]]
        found = dict(zip((label * size + other).tolist(), counts.tolist(), strict=True)) if len(chosen) else {}
        ends = [(pair // size, pair % size) for pair in chosen.tolist()]
        return [(a, b, found.get(a * size + b, 0), found.get(b * size + a, 0)) for a, b in ends]

    def _merge_waiting(self) -> None:
        if not self._waiting:
            return
        cells = torch.cat(self._waiting)
        cells = cells[cells >= 0]
        self._waiting, self._waiting_size = [], 0
        known, counts = self._cells.to(cells.device), self._counts.to(cells.device)
        cells, counts = _summed(torch.cat([known, cells]), torch.cat([counts, torch.ones_like(cells)]))
        if len(cells) > self.most_pairs:
            order = counts.sort(descending=True, stable=True).indices
            self.missed += int(counts[order[self.most_pairs]])
            kept = order[: self.most_pairs].sort().values
            cells, counts = cells[kept], counts[kept]
        self._cells, self._counts = cells, counts


def sum_over_processes(counts: Tensor) -> Tensor:
    """Sum counts of one shape over all processes, each of which has to call this."""
    if dist.is_available() and dist.is_initialized():
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts


def _summed(cells: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the counts of equal cells; the cells come out in ascending order."""
    unique, place = torch.unique(cells, return_inverse=True)
    return unique, torch.zeros_like(unique).scatter_add_(0, place, counts)
