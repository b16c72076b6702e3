"""The top-K calibrated hinge under the exact expectation over Gaussian noise, balanced and imbalanced."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_topk._checks import (
    LARGEST_FLOAT,
    check_classes_exceed_k,
    check_float,
    check_int,
    check_logits,
    check_per_class,
)
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative, positive
from lightning_topk.losses._class_margins import ClassMargins
from lightning_topk.ops._gaussian_topk import smoothed_and_own


def gaussian_topk_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    epsilon: float = 1.0,
    margin: float | Tensor = 1.0,
    scale: float = 1.0,
    tolerance: float | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Top-K calibrated hinge loss under the exact Gaussian smoothing of the threshold.

    .. math::
        \ell(s, y) = \bigl(\lambda\,(m_y + \mathrm{top}_{K+1,\epsilon}(s) - s_y)\bigr)_+, \qquad
        \mathrm{top}_{K+1,\epsilon}(s) = \mathbb E\,\mathrm{top}_{K+1}(s + \epsilon Z)

    with the expected (K+1)-th largest score under Gaussian noise (:func:`lightning_topk.ops.gaussian_topk`), taken over
    all classes, the label included. It is the limit of :func:`noised_topk_loss` for infinitely many draws; at a finite
    number of them that loss is larger on average, as the hinge of a mean is at most the mean of the hinges. The
    gradient of an active row is :math:`\lambda` times the probability that each class is the (K+1)-th, minus
    :math:`\lambda` at the label; it sums to 0. Off the kink of the hinge the loss is infinitely smooth, and its second
    derivative is right.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        k: Number of guesses K in [1, C).
        epsilon: Standard deviation of the noise, >= 0, in units of the logits. 0 gives the top-K calibrated hinge
            loss. Garcin et al., who sample: 0.2 (CIFAR-100) and 1.0 (Pl@ntNet-300K), 0.01 with cosine logits.
        margin: Margin m, one number >= 0 for all classes, or a tensor of shape [C].
        scale: Factor lambda > 0 on the hinge. It acts as a learning rate relative to the weight decay.
        tolerance: Bound on the error of the threshold in units of epsilon, see
            :func:`lightning_topk.ops.gaussian_topk`; by default 1e-5, and 1e-11 in float64.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        The smoothed loss: Garcin, Servajean, Joly, Salmon, "Stochastic smoothing of the top-K calibrated hinge loss for
        deep imbalanced classification", ICML 2022, sections 3 and 4. Its evaluation without noise was derived here.

    Example:
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]])
        >>> gaussian_topk_loss(logits, torch.tensor([3]), k=1)  # 1 + 2.5003 - 1
        tensor(2.5003)
    """
    check_logits(logits)
    k = check_int("k", k, 1)
    check_classes_exceed_k(k, logits.shape[-1])
    if check_float("epsilon", epsilon, 0.0) < 1 / LARGEST_FLOAT:
        epsilon = 0.0  # as in float32
    check_float("scale", scale, 0.0, low_open=True)
    if isinstance(margin, Tensor):
        check_per_class("margin", margin, logits)
    else:
        check_float("margin", margin, 0.0)

    def label_loss(scores: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
        single = labels if labels.shape[-1] == 1 else None
        threshold, own, finite = smoothed_and_own(scores, single, k + 1, epsilon, tolerance)
        margins = margin.to(own)[labels] if isinstance(margin, Tensor) else margin
        return torch.relu(scale * (margins + threshold.unsqueeze(-1) - own)), finite

    return reduce_labels(
        label_loss,
        logits,
        targets,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        upcast=False,
    )


class GaussianBase(TopKLoss):
    """What the balanced and the imbalanced loss share: k, epsilon, scale and tolerance."""

    epsilon = checked_scalar("epsilon", non_negative, "Standard deviation of the noise, >= 0; may be scheduled.")
    scale = checked_scalar("scale", positive, "Factor on the hinge, > 0; may be scheduled.")

    def __init__(self, k: int, epsilon: float, scale: float, tolerance: float | None, **common: Any) -> None:
        super().__init__(**common)
        self.k = check_int("k", k, 1)
        self.epsilon = epsilon
        self.scale = scale
        self.tolerance = None if tolerance is None else check_float("tolerance", tolerance, 1e-12, 0.01)

    def _loss(self, logits: Tensor, targets: Tensor, margin: float | Tensor) -> Tensor:
        return gaussian_topk_loss(
            logits,
            targets,
            k=self.k,
            epsilon=self.epsilon,
            margin=margin,
            scale=self.scale,
            tolerance=self.tolerance,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class GaussianTopKLoss(GaussianBase):
    r"""Exactly smoothed top-K calibrated hinge loss with one margin for all classes (balanced).

    .. math:: \ell(s, y) = (\lambda\,(m + \mathrm{top}_{K+1,\epsilon}(s) - s_y))_+

    What :class:`NoisedTopKLoss` samples, without noise: the same value in ``train()`` and in ``eval()``, and no number
    of draws to choose. See :func:`~lightning_topk.losses.gaussian_topk_loss`.

    Args:
        k: Number of guesses K in [1, C).
        epsilon: Standard deviation of the noise, >= 0, in units of the logits. Garcin et al.: 1.0 on Pl@ntNet-300K,
            0.2 on CIFAR-100. May be set at any time, ``loss.epsilon = 0.5``.
        margin: Margin m >= 0, in units of the logits.
        scale: Factor lambda > 0 on the hinge.
        tolerance: Bound in [1e-12, 0.01] on the error of the threshold in units of epsilon; 1e-5 when None, and 1e-11
            in float64.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Garcin, Servajean, Joly, Salmon, ICML 2022, section 3, for the loss that is sampled there.

    Example:
        >>> loss = GaussianTopKLoss(k=1)
        >>> loss
        GaussianTopKLoss(k=1, epsilon=1.0)
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]], requires_grad=True)
        >>> loss(logits, torch.tensor([3])).backward()
        >>> [round(g, 4) for g in logits.grad[0].tolist()]
        [0.1417, 0.001, 0.7159, -0.8586]
    """

    margin = checked_scalar("margin", non_negative, "Margin, >= 0; may be scheduled.")
    _always_shown: ClassVar[tuple[str, ...]] = ("k", "epsilon")

    def __init__(
        self,
        k: int = 5,
        *,
        epsilon: float = 1.0,
        margin: float = 1.0,
        scale: float = 1.0,
        tolerance: float | None = None,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(k, epsilon, scale, tolerance, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._loss(logits, targets, self.margin)


class ImbalancedGaussianTopKLoss(ClassMargins, GaussianBase):
    r"""Exactly smoothed top-K calibrated hinge loss with larger margins for rarer classes.

    .. math::
        \ell(s, y) = (\lambda\,(m_y + \mathrm{top}_{K+1,\epsilon}(s) - s_y))_+, \qquad m_y = C / n_y^{1/4}

    What :class:`ImbalancedNoisedTopKLoss` samples, without noise, with the counts :math:`n_y` from the same sources
    and the same advice: cosine logits with a scale of 50 or 60 and an epsilon of 0.01; on an ordinary head ``scale=1``,
    and margin and epsilon of the size of the logits' spread.

    Args:
        k: Number of guesses K in [1, C).
        epsilon: Standard deviation of the noise, >= 0, in units of the logits. May be set at any time.
        max_margin: The largest margin, that of the rarest class, >= 0, in units of the logits. May be set at any time.
        margin_constant: The constant C >= 0 itself; ``max_margin`` is not used then.
        scale: Factor lambda > 0 on the hinge. Garcin et al.: 60 with cosine logits on Pl@ntNet-300K.
        zero_counts: What a class without training samples does: ``"error"`` names the classes, ``"clamp"`` counts it
            as one sample.
        tolerance: Bound in [1e-12, 0.01] on the error of the threshold in units of epsilon, see
            :class:`GaussianTopKLoss`.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).
        RuntimeError: Called before the class counts were bound.

    References:
        Garcin, Servajean, Joly, Salmon, ICML 2022, section 4, for the loss that is sampled there. Margins: Cao, Wei,
        Gaidon, Arechiga, Ma, NeurIPS 2019.

    Example:
        >>> loss = ImbalancedGaussianTopKLoss(k=1, max_margin=0.5)
        >>> loss.bind_class_counts([1, 16, 81, 256])
        >>> loss
        ImbalancedGaussianTopKLoss(k=1, epsilon=0.01, max_margin=0.5, class_counts=[4 values])
    """

    _always_shown: ClassVar[tuple[str, ...]] = ("k", "epsilon", "max_margin")

    def __init__(
        self,
        k: int = 5,
        *,
        epsilon: float = 0.01,
        max_margin: float = 0.2,
        margin_constant: float | None = None,
        scale: float = 1.0,
        zero_counts: str = "error",
        tolerance: float | None = None,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(k, epsilon, scale, tolerance, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self._follow_counts(max_margin, zero_counts, margin_constant=margin_constant)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        margins = self._bound(self.margins)
        if self.training:
            self.cosine_check(logits, self.scale)
        return self._loss(logits, targets, margins)
