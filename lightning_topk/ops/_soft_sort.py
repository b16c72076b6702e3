"""SoftSort, a relaxation of the permutation matrix by distances (Prillo and Eisenschlos 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_topk._checks import check_float
from lightning_topk.ops._soft_operator import SoftSortOperator, check_rows


@dataclass(frozen=True)
class SoftSort(SoftSortOperator):
    r"""First k rows of the SoftSort relaxation, in logarithm.

    .. math:: P_r = \mathrm{softmax}\Bigl(-\frac{|s_{(r)} - s|}{\tau}\Bigr)

    where :math:`s_{(r)}` is the r-th largest score. Each row sums to 1 and has its maximum at the entry of rank r;
    columns do not sum to 1, so that the sum of several rows may exceed 1. One selection and O(k C). Permuting the
    scores permutes the columns. Where all scores are equal the gradient is 0: a network whose last layer starts at
    zero does not learn from SoftSort alone.

    Args:
        tau: Temperature > 0, in units of the scores. Petersen et al. use the inverse temperatures 0.5 (ImageNet) and
            0.0625 (CIFAR-100), that is ``tau = 2`` and ``tau = 16``.

    Shape:
        scores [..., C]; returns log P of shape [..., k, C].

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range.

    References:
        Prillo, Eisenschlos, "SoftSort: a continuous relaxation for the argsort operator", ICML 2020, with the
        absolute distance.

    Example:
        >>> SoftSort(tau=1.0)(torch.tensor([4.0, -1.5, 2.5, 1.0]), 2).exp()
        tensor([[0.7831, 0.0032, 0.1747, 0.0390],
                [0.1524, 0.0125, 0.6828, 0.1524]])
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_float("tau", self.tau, 0.0, low_open=True)

    def __call__(self, scores: Tensor, k: int) -> Tensor:
        check_rows(scores, k)
        largest = scores.topk(k, -1).values
        distances = (largest.unsqueeze(-1) - scores.unsqueeze(-2)).abs()
        return torch.log_softmax(-distances / self.tau, -1)
