"""The smoothed top-K SVM losses alpha and beta of Lapin, Hein and Schiele (2016)."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from lightning_topk._checks import check_choice, check_float, check_int, check_logits
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative, positive
from lightning_topk.ops import topk_simplex_maximum
from lightning_topk.ops._topk_simplex import SIMPLICES


def topk_svm_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    variant: str = "alpha",
    gamma: float = 1.0,
    margin: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Smoothed top-K SVM loss.

    .. math::
        \ell(s, y) = \max_{x \in \Delta} \Bigl\{ \sum_{j \ne y} x_j (m + s_j - s_y) - \frac\gamma2 \|x\|^2 \Bigr\}

    the Moreau-Yosida smoothing of psi4 (alpha) and of psi3 (beta) of
    :func:`~lightning_topk.losses.topk_hinge_loss`, with

    .. math::
        \Delta_\alpha = \{x \ge 0,\ t = \textstyle\sum_j x_j \le 1,\ x_j \le \tfrac tK\}, \qquad
        \Delta_\beta = \{0 \le x_j \le \tfrac1K,\ \textstyle\sum_j x_j \le 1\}

    It lies below the loss that it smooths, by at most gamma / (2 K). Convex. The gradient is x on the other classes
    and -sum(x) on the label: exact, sparse, of sum 0, Lipschitz with the constant C / gamma. Solved by one sort and
    binary searches in float64 (:func:`lightning_topk.ops.topk_simplex_maximum`).

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        k: Number of guesses K; in [1, C) for alpha, in [1, C] for beta.
        variant: ``"alpha"`` (hinge of the mean of K) or ``"beta"`` (mean of K hinges).
        gamma: Smoothing > 0, in units of the logits. 1 in the authors' code.
        margin: Margin m >= 0, in units of the logits. 1 in the paper.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, too few classes, shapes that do not fit, or a class index outside [0, C).

    References:
        Lapin, Hein, Schiele, "Loss functions for top-k error: Analysis and insights", CVPR 2016. The definition is
        that of the authors' code; it was not compared with the text.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]])
        >>> [topk_svm_loss(logits, torch.tensor([2]), k=2, variant=name).item() for name in ("alpha", "beta")]
        [0.75, 1.125]
    """
    check_logits(logits)
    k = check_int("k", k, 1)
    check_choice("variant", variant, SIMPLICES)
    check_float("gamma", gamma, 0.0, low_open=True)
    check_float("margin", margin, 0.0)

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
        return topk_simplex_maximum(scores, labels, k, variant=variant, gamma=gamma, margin=margin)

    return reduce_labels(label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction)


class TopKSVMLoss(TopKLoss):
    r"""Smoothed top-K SVM loss, alpha or beta.

    .. math::
        \ell(s, y) = \max_{x \in \Delta} \Bigl\{ \sum_{j \ne y} x_j (m + s_j - s_y) - \frac\gamma2 \|x\|^2 \Bigr\}

    over the top-K simplex alpha or beta. gamma -> 0 gives psi4 (alpha) and psi3 (beta) of
    :class:`~lightning_topk.losses.TopKHingeLoss`. See :func:`~lightning_topk.losses.topk_svm_loss`.

    Args:
        k: Number of guesses K; in [1, C) for alpha, in [1, C] for beta.
        variant: ``"alpha"`` (hinge of the mean of K) or ``"beta"`` (mean of K hinges).
        gamma: Smoothing > 0, in units of the logits. 1 in the authors' code. May be set at any time.
        margin: Margin m >= 0, in units of the logits. May be set at any time.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``. Soft labels cost
        O(C log^2 C log K) a row, class indices O(C) where few entries count, as is usual, and O(C log C) else.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, too few classes, shapes that do not fit, or a class index outside [0, C).

    References:
        Lapin, Hein, Schiele, CVPR 2016.

    Example:
        >>> loss = TopKSVMLoss(k=2, variant="beta", gamma=0.1)
        >>> loss
        TopKSVMLoss(k=2, variant='beta', gamma=0.1)
        >>> import torch
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([2]))
        tensor(1.2375)
    """

    gamma = checked_scalar("gamma", positive, "Smoothing, > 0; may be scheduled.")
    margin = checked_scalar("margin", non_negative, "Margin, >= 0; may be scheduled.")
    _always_shown: ClassVar[tuple[str, ...]] = ("k", "variant", "gamma")

    def __init__(
        self,
        k: int = 5,
        *,
        variant: str = "alpha",
        gamma: float = 1.0,
        margin: float = 1.0,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.k = check_int("k", k, 1)
        self.variant = check_choice("variant", variant, SIMPLICES)
        self.gamma = gamma
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return topk_svm_loss(
            logits,
            targets,
            k=self.k,
            variant=self.variant,
            gamma=self.gamma,
            margin=self.margin,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
