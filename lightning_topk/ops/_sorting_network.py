"""A differentiable sorting network (Petersen et al. 2021, 2022)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_topk._checks import check_choice, check_float
from lightning_topk.ops._soft_operator import SoftSortOperator, check_rows

# Logarithm of a share that is 0 so far; finite, as derivatives at two infinities are not.
_NOTHING = -1e30


def _log_cauchy(v: Tensor) -> Tensor:
    # arctan(v) / pi + 1/2 as an angle, which keeps its digits where v is far below 0.
    return torch.log(torch.atan2(torch.ones_like(v), -v) / math.pi)


_LOG_DISTRIBUTION: dict[str, Callable[[Tensor], Tensor]] = {
    "cauchy": _log_cauchy,
    "logistic": torch.nn.functional.logsigmoid,
}


@dataclass(frozen=True)
class SortingNetwork(SoftSortOperator):
    r"""First k rows of the matrix of a relaxed bitonic sorting network, in logarithm.

    Where the network compares entries :math:`a` and :math:`b` and would put the larger one first, the relaxed one
    mixes them,

    .. math::
        \begin{pmatrix} a' \\ b' \end{pmatrix} =
        \begin{pmatrix} p & 1 - p \\ 1 - p & p \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix},
        \qquad p = F(\beta\,(a - b))

    with a distribution function F; P is the product of these matrices over the layers. It is doubly stochastic, so
    that the share of an entry at the first k ranks is at most 1. The network works for every C, in
    :math:`\lceil\log_2 C\rceil (\lceil\log_2 C\rceil + 1) / 2` layers of O(k C).

    The relaxed matrix depends on the order in which the scores enter, beyond the permutation of its columns; a loss
    that must not has to fix that order, as :class:`~lightning_topk.losses.SortingTopKLoss` does.

    Args:
        steepness: Inverse temperature beta > 0. Petersen et al. 2022: 1 (ImageNet) and 0.5 (CIFAR-100), with a logistic
            F of :math:`v / |v|^{1/2}`, whose derivative at ties is infinite and which is not offered here.
        distribution: F, ``"cauchy"`` (the network is monotonic: its outputs grow with its inputs) or ``"logistic"``.

    Shape:
        scores [..., C]; returns log P of shape [..., k, C].

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range.

    References:
        Petersen, Borgelt, Kuehne, Deussen, "Differentiable sorting networks for scalable sorting and ranking
        supervision", ICML 2021; "Monotonic differentiable sorting networks", ICLR 2022 (the Cauchy distribution).
        Batcher, "Sorting networks and their applications", 1968 (the network).

    Example:
        >>> SortingNetwork(steepness=10.0)(torch.tensor([4.0, -1.5, 2.5, 1.0]), 2).exp()
        tensor([[0.9626, 0.0058, 0.0208, 0.0108],
                [0.0209, 0.0080, 0.9503, 0.0208]])
    """

    steepness: float = 1.0
    distribution: str = "cauchy"

    def __post_init__(self) -> None:
        check_float("steepness", self.steepness, 0.0, low_open=True)
        check_choice("distribution", self.distribution, tuple(_LOG_DISTRIBUTION))

    def __call__(self, scores: Tensor, k: int) -> Tensor:
        check_rows(scores, k)
        num_classes = scores.shape[-1]
        log_distribution = _LOG_DISTRIBUTION[self.distribution]
        place = torch.arange(num_classes, device=scores.device)
        layers = []
        # A shift changes no row, and the floor keeps differences to masked classes, and their slopes, finite.
        floor = max(_NOTHING, torch.finfo(scores.dtype).min)
        values = (scores - scores.detach().amax(-1, keepdim=True)).clamp(min=floor)
        for mask in bitonic_masks(num_classes):
            partner = place ^ mask
            # An entry without partner meets itself.
            partner = torch.where(partner < num_classes, partner, place)
            # The entry of the lower place wants to be the larger one.
            gap = self.steepness * (values - values[..., partner]) * (partner - place).sign()
            log_stay, log_swap = log_distribution(gap), log_distribution(-gap)
            layers.append((partner, log_stay.unsqueeze(-2), log_swap.unsqueeze(-2)))
            values = values + log_swap.exp() * (values[..., partner] - values)
        identity = torch.eye(k, num_classes, dtype=scores.dtype, device=scores.device)
        rows = ((1.0 - identity) * _NOTHING).expand(*scores.shape[:-1], k, num_classes)
        for partner, log_stay, log_swap in reversed(layers):
            # Not logaddexp, whose second derivative is NaN where the terms are far apart.
            rows = torch.logsumexp(torch.stack([rows + log_stay, rows[..., partner] + log_swap]), 0)
        return rows


def bitonic_masks(num_classes: int) -> list[int]:
    """Return, for each layer of the bitonic network, the m for which places i and i XOR m are compared.

    All comparisons put the larger entry at the lower place (the first layer of a merge mirrors its block), so that
    places from ``num_classes`` up to the next power of two could hold minus infinity, would never move, and are left
    out.
    """
    masks = []
    block = 2
    while block < 2 * num_classes:
        masks.append(block - 1)
        masks.extend(block >> shift for shift in range(2, block.bit_length()))
        block *= 2
    return masks
