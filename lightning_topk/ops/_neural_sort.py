"""NeuralSort, a unimodal relaxation of the permutation matrix (Grover et al. 2019)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_topk._checks import check_float
from lightning_topk.ops._soft_operator import SoftSortOperator, check_rows


@dataclass(frozen=True)
class NeuralSort(SoftSortOperator):
    r"""First k rows of the NeuralSort relaxation, in logarithm.

    .. math::
        P_r = \mathrm{softmax}\Bigl(\frac{(C + 1 - 2r)\,s - A}{\tau}\Bigr), \qquad A_j = \sum_l |s_j - s_l|

    Each row sums to 1 and has its maximum at the entry of rank r; columns do not sum to 1, so that the sum of several
    rows may exceed 1. A costs one sort, O(C log C), and each row O(C): no C x C matrix is made. Permuting the scores
    permutes the columns; the gradient at ties is symmetric.

    Args:
        tau: Temperature > 0, in units of the scores. Petersen et al. use the inverse temperatures 0.5 (ImageNet) and
            0.0625 (CIFAR-100), that is ``tau = 2`` and ``tau = 16``.

    Shape:
        scores [..., C]; returns log P of shape [..., k, C].

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range.

    References:
        Grover, Wang, Zweig, Ermon, "Stochastic optimization of sorting networks via continuous relaxations",
        ICLR 2019, theorem 4 [formula as in the authors' and Petersen's code].

    Example:
        >>> NeuralSort(tau=8.0)(torch.tensor([4.0, -1.5, 2.5, 1.0]), 2).exp()
        tensor([[0.4166, 0.0412, 0.3454, 0.1968],
                [0.2779, 0.1088, 0.3353, 0.2779]])
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_float("tau", self.tau, 0.0, low_open=True)

    def __call__(self, scores: Tensor, k: int) -> Tensor:
        check_rows(scores, k)
        num_classes = scores.shape[-1]
        # A shift does not change a row. Relative to the best, and with sums that run down from it, masked classes cost
        # the others no digits; nothing overflows above the floor, where a class has no share in any row.
        floor = torch.finfo(scores.dtype).min / (8 * num_classes**2) * min(1.0, self.tau)
        scores = (scores - scores.detach().amax(-1, keepdim=True)).clamp(min=floor)
        factors = num_classes - 1 - 2 * torch.arange(k, device=scores.device, dtype=scores.dtype)
        exponents = factors.unsqueeze(-1) * scores.unsqueeze(-2) - _distances(scores).unsqueeze(-2)
        return torch.log_softmax(exponents / self.tau, -1)


def _distances(scores: Tensor) -> Tensor:
    """Sum over l of |s_j - s_l| for each j, up to a constant of the row, by sums of the sorted scores from the best on.

    Its gradient counts ties as 0.
    """
    ordered = scores.sort(-1, descending=True).values.contiguous()
    sums = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))
    falling, points = -ordered.detach(), -scores.detach().contiguous()
    above = torch.searchsorted(falling, points)
    not_below = torch.searchsorted(falling, points, right=True)
    count = scores.shape[-1] - above - not_below
    return scores * count + sums.gather(-1, above) + sums.gather(-1, not_below)
