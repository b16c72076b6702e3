"""Cross-entropy with the class frequencies in the logits: balanced softmax and logit adjustment."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_topk._checks import check_choice, check_float, check_logits, check_per_class
from lightning_topk._reduce import reduce_labels
from lightning_topk.imbalance import ZERO_COUNTS
from lightning_topk.imbalance import log_priors as log_priors_of
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative
from lightning_topk.ops._log_odds import log_odds_and_finite
from lightning_topk.ops._precision import working_dtype


def logit_adjusted_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    log_priors: Tensor,
    tau: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of logits that are shifted by the log-priors; ``tau=1`` is balanced softmax.

    .. math:: \ell(s, y) = \log \sum_c e^{s_c + \tau \log \pi_c} - (s_y + \tau \log \pi_y)

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        log_priors: Log-priors, shape [C], as of :func:`~lightning_topk.imbalance.log_priors`. A constant in them,
            as with logarithms of counts, changes nothing.
        tau: Strength >= 0 of the adjustment; 0 gives cross-entropy.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, shapes that do not fit, or a class index outside [0, C).

    References:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar, "Long-tail learning via logit adjustment", ICLR 2021; Ren, Yu,
        Sheng, Ma, Zhao, Yi, Li, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020.

    Example:
        >>> log_priors = torch.tensor([0.25, 0.75]).log()
        >>> logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([0]), log_priors=log_priors, tau=2.0)
        tensor(2.3026)
    """
    check_logits(logits)
    check_per_class("log_priors", log_priors, logits)
    check_float("tau", tau, 0.0)

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, bool]:
        shift = tau * log_priors.to(scores.device, working_dtype(scores))
        if labels.shape[-1] == 1:
            odds, finite = log_odds_and_finite(scores, labels, shift=shift)
            return -logsigmoid(odds), finite
        # The largest score is taken away first: added to large scores, the log-priors would lose their digits.
        scores = scores - scores.detach().amax(-1, keepdim=True)
        return -torch.log_softmax(scores + shift, -1)

    return reduce_labels(
        label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction, upcast=False
    )


class PriorLoss(TopKLoss):
    """What the losses share that use log-priors: the counts, and the ``log_priors`` made of them."""

    needs_class_counts = True

    log_priors: Tensor | None
    _constants = (*TopKLoss._constants, "log_priors")

    def __init__(self, zero_counts: str, **common: Any) -> None:
        super().__init__(**common)
        self.log_priors = None
        self.zero_counts = check_choice("zero_counts", zero_counts, ZERO_COUNTS)

    def _counts_changed(self) -> None:
        if self.class_counts is not None:
            self.log_priors = log_priors_of(self.class_counts, zero="clamp").to(self.class_counts.device)


class LogitAdjustedLoss(PriorLoss):
    r"""Logit-adjusted cross-entropy.

    .. math:: \ell(s, y) = \log \sum_c e^{s_c + \tau \log \pi_c} - (s_y + \tau \log \pi_y), \qquad \pi_c = n_c / n

    with :math:`n_c` the number of training samples of class c, which
    :class:`~lightning_topk.callbacks.ClassFrequencies` or :meth:`bind_class_counts` gives. Predictions are made with
    the raw scores s. The same shift around any other loss is
    :class:`~lightning_topk.losses.PriorAdjustedLoss`, and after training
    :func:`~lightning_topk.imbalance.posthoc_logit_adjustment`.

    Args:
        tau: Strength >= 0 of the adjustment. Menon et al.: 1. May be set at any time.
        zero_counts: What a class without training samples does: ``"error"`` names the classes, ``"clamp"`` counts it
            as one sample.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, shapes that do not fit, or a class index outside [0, C).
        RuntimeError: Called before the class counts were bound.

    References:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar, ICLR 2021; the definition is that of the authors' code.

    Example:
        >>> loss = LogitAdjustedLoss(tau=2.0)
        >>> loss.bind_class_counts([1, 3])
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(2.3026)
    """

    tau = checked_scalar("tau", non_negative, "Strength of the adjustment, >= 0; may be scheduled.")

    def __init__(
        self,
        tau: float = 1.0,
        *,
        zero_counts: str = "error",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(zero_counts, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.tau = tau

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logit_adjusted_loss(
            logits,
            targets,
            log_priors=self._bound(self.log_priors),
            tau=self.tau,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class BalancedSoftmaxLoss(PriorLoss):
    r"""Balanced softmax: cross-entropy of :math:`s + \log n`.

    .. math:: \ell(s, y) = -\log \frac{n_y e^{s_y}}{\sum_c n_c e^{s_c}}

    It is :class:`LogitAdjustedLoss` with ``tau=1``, without a parameter. With :math:`n_c` the number of training
    samples of class c, which :class:`~lightning_topk.callbacks.ClassFrequencies` or :meth:`bind_class_counts` gives.
    Predictions are made with the raw scores s.

    Args:
        zero_counts: What a class without training samples does: ``"error"`` names the classes, ``"clamp"`` counts it
            as one sample.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: Shapes that do not fit, or a class index outside [0, C).
        RuntimeError: Called before the class counts were bound.

    References:
        Ren, Yu, Sheng, Ma, Zhao, Yi, Li, NeurIPS 2020; the definition is that of the authors' code.

    Example:
        >>> loss = BalancedSoftmaxLoss()
        >>> loss.bind_class_counts([1, 3])
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(1.3863)
    """

    def __init__(
        self,
        *,
        zero_counts: str = "error",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(zero_counts, weight=weight, ignore_index=ignore_index, reduction=reduction)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logit_adjusted_loss(
            logits,
            targets,
            log_priors=self._bound(self.log_priors),
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
