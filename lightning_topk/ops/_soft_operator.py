"""What soft sorting and soft top-k operators are: small immutable objects that a loss takes as an argument."""

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_topk._checks import check_int, check_logits


class SoftSortOperator(ABC):
    """A relaxed permutation matrix: ``operator(scores [..., C], k) -> log P [..., k, C]``.

    ``P[r, j]`` is the share of entry j at rank r + 1 in decreasing order; the rows sum to 1. The logarithm is what
    stays finite when P underflows. Subclasses are frozen dataclasses of numbers and strings, so that they compare,
    print, pickle, and are read from a configuration by their ``class_path``.
    """

    @abstractmethod
    def __call__(self, scores: Tensor, k: int) -> Tensor:
        """Return the logarithm of the first k rows of the relaxed permutation matrix of ``scores`` [..., C]."""


class SoftTopKOperator(ABC):
    """A relaxed indicator of the k largest: ``operator(scores [..., C], k) -> mask [..., C]``.

    The entries are in [0, 1], grow with the scores and sum to k. Subclasses are frozen dataclasses of numbers and
    strings, as for :class:`SoftSortOperator`.
    """

    @abstractmethod
    def __call__(self, scores: Tensor, k: int) -> Tensor:
        """Return the mask of ``scores`` [..., C]."""

    def at(self, scores: Tensor, index: Tensor, k: int) -> Tensor:
        """Return the mask at one index per row, [..., 1]; an operator may know a faster way than the whole mask."""
        return self(scores, k).gather(-1, index)


class LogSoftTopKOperator(SoftTopKOperator):
    """A soft top-k operator whose mask is nowhere 0, and which knows its logarithm."""

    @abstractmethod
    def log(self, scores: Tensor, k: int) -> Tensor:
        """Return the logarithm of the mask of ``scores`` [..., C], finite where the mask underflows."""

    def log_at(self, scores: Tensor, index: Tensor, k: int) -> Tensor:
        """Return the logarithm of the mask at one index per row, [..., 1]."""
        return self.log(scores, k).gather(-1, index)


def check_rows(scores: Tensor, k: int) -> None:
    """Raise when k rows cannot be had of the scores."""
    check_logits(scores)
    check_int("k", k, 1)
    if k > scores.shape[-1]:
        raise ValueError(f"Parameter `k` should be in [1, C]. Found `k = {k}` with `C = {scores.shape[-1]}`.")


def check_mask(scores: Tensor, k: int) -> None:
    """Raise when a mask of sum k would be all ones, or impossible."""
    check_logits(scores)
    check_int("k", k, 1)
    if k >= scores.shape[-1]:
        raise ValueError(
            f"Parameter `k` should be in [1, C), as the entries of the mask are below 1. "
            f"Found `k = {k}` with `C = {scores.shape[-1]}`."
        )
