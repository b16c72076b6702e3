"""Vector-scaling loss (Kini et al. 2021): logits that are scaled and shifted by class."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_topk._checks import check_float, check_logits, check_per_class
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import checked_scalar, non_negative
from lightning_topk.losses._logit_adjusted import PriorLoss
from lightning_topk.ops._log_odds import log_odds_and_finite
from lightning_topk.ops._precision import working_dtype


def vs_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    log_priors: Tensor,
    gamma: float = 0.3,
    tau: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Vector-scaling loss.

    .. math::
        \ell(s, y) = \log \sum_c e^{z_c} - z_y, \qquad z_c = \Delta_c s_c + \tau \log \pi_c, \qquad
        \Delta_c = (\pi_c / \max_j \pi_j)^\gamma

    Adding a constant to all logits changes it, as every class scales its own, and its gradient does not sum to 0.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        log_priors: Log-priors, shape [C], as of :func:`~lightning_topk.imbalance.log_priors`.
        gamma: Exponent >= 0 of the factors; 0 gives :func:`~lightning_topk.losses.logit_adjusted_loss`.
        tau: Strength >= 0 of the shift; 0 gives the class-dependent temperatures (CDT) alone.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, shapes that do not fit, or a class index outside [0, C).

    References:
        Kini, Paraskevas, Oymak, Thrampoulidis, "Label-Imbalanced and Group-Sensitive Classification under
        Overparameterization", NeurIPS 2021; the definition is that of the authors' code.

    Example:
        >>> log_priors = torch.tensor([0.8, 0.2]).log()
        >>> vs_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), log_priors=log_priors, gamma=0.5)
        tensor(1.6094)
    """
    check_logits(logits)
    check_per_class("log_priors", log_priors, logits)
    check_float("gamma", gamma, 0.0)
    check_float("tau", tau, 0.0)

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, bool]:
        priors = log_priors.to(scores.device, working_dtype(scores))
        factors = (gamma * (priors - priors.amax())).exp()
        if labels.shape[-1] == 1:
            odds, finite = log_odds_and_finite(scores, labels, scale=factors, shift=tau * priors)
            return -logsigmoid(odds), finite
        return -torch.log_softmax(factors * scores + tau * priors, -1)

    return reduce_labels(
        label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction, upcast=False
    )


class VSLoss(PriorLoss):
    r"""Vector-scaling loss: cross-entropy of logits that are scaled and shifted by class.

    .. math::
        \ell(s, y) = \log \sum_c e^{z_c} - z_y, \qquad z_c = \Delta_c s_c + \tau \log \pi_c, \qquad
        \Delta_c = (n_c / \max_j n_j)^\gamma

    with :math:`n_c` the number of training samples of class c, :math:`\pi_c` its share, which
    :class:`~lightning_topk.callbacks.ClassFrequencies` or :meth:`bind_class_counts` gives. Predictions are made with
    the raw scores s. Unlike the other losses it is not invariant under a shift of all logits.

    Args:
        gamma: Exponent >= 0 of the factors; 0 gives :class:`~lightning_topk.losses.LogitAdjustedLoss`. The authors'
            code: 0.3 by default, 0.2 on CIFAR-10-LT. May be set at any time.
        tau: Strength >= 0 of the shift. The authors' code: 1 by default, 1.2 on CIFAR-10-LT. May be set at any time.
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
        Kini, Paraskevas, Oymak, Thrampoulidis, NeurIPS 2021; the definition is that of the authors' code.

    Example:
        >>> loss = VSLoss(gamma=0.5, tau=1.0)
        >>> loss.bind_class_counts([4, 1])
        >>> loss(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
        tensor(1.6094)
    """

    gamma = checked_scalar("gamma", non_negative, "Exponent of the factors, >= 0; may be scheduled.")
    tau = checked_scalar("tau", non_negative, "Strength of the shift, >= 0; may be scheduled.")

    def __init__(
        self,
        gamma: float = 0.3,
        tau: float = 1.0,
        *,
        zero_counts: str = "error",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(zero_counts, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.gamma = gamma
        self.tau = tau

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return vs_loss(
            logits,
            targets,
            log_priors=self._bound(self.log_priors),
            gamma=self.gamma,
            tau=self.tau,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
