"""The shift of logit adjustment inside any other loss."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_topk._checks import check_choice, check_logits, check_per_class
from lightning_topk._reduce import reduce_rows
from lightning_topk.imbalance import ZERO_COUNTS
from lightning_topk.imbalance import log_priors as log_priors_of
from lightning_topk.losses._base import checked_scalar, non_negative
from lightning_topk.losses._build import LossLike
from lightning_topk.losses._cosine import LIMIT
from lightning_topk.losses._wrapper import LossWrapper


class PriorAdjustedLoss(LossWrapper):
    r"""Any loss of this package on logits that are shifted by the log-priors of the classes.

    .. math:: \ell_{\text{adjusted}}(s, y) = \ell(s + \tau \log \pi, y), \qquad \pi_c = n_c / n

    with :math:`n_c` the number of training samples of class c, which
    :class:`~lightning_topk.callbacks.ClassFrequencies` or :meth:`bind_class_counts` gives. Around cross-entropy it is
    :class:`~lightning_topk.losses.LogitAdjustedLoss`. Around a top-K loss the class frequencies are taken into account
    before the K best are looked for, so that imbalance is handled by the prior; around one with margins by class
    count, such as :class:`~lightning_topk.losses.ImbalancedNoisedTopKLoss`, by the prior and by the margin. Predictions
    are made with the raw scores s. The combination is of this package and has no paper of its own.

    The inner loss is in ``loss``; its parameters are read and set through this one, as in ``adjusted.epsilon = 0.5``.
    Class weights, ``ignore_index`` and ``reduction`` are those of this one.

    Args:
        loss: The inner loss: an object, ``{"class_path": ..., "init_args": {...}}``, or a name from
            :mod:`lightning_topk.losses`.
        prior_tau: Strength tau >= 0 of the shift. It is in units of the logits: 1 on an ordinary head fits a loss in
            the place of cross-entropy, and cosine logits with a scale of 50 in the loss need about 1 / 50. May be set
            at any time. (It is not called ``tau``, as the inner loss may have a tau of its own.)
        zero_counts: What a class without training samples does: ``"error"`` names the classes, ``"clamp"`` counts it
            as one sample.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type, or an inner loss that is none of this package.
        ValueError: A parameter out of range, an inner loss with class weights, shapes that do not fit, or a class
            index outside [0, C).
        RuntimeError: Called before the class counts were bound.

    References:
        The shift: Menon, Jayasumana, Rawat, Jain, Veit, Kumar, "Long-tail learning via logit adjustment", ICLR 2021.

    Example:
        >>> loss = PriorAdjustedLoss({"class_path": "NoisedTopKLoss", "init_args": {"k": 1, "epsilon": 0.0}})
        >>> loss.bind_class_counts([1, 1, 8])
        >>> loss(torch.tensor([[5.0, 1.0, 2.5]]), torch.tensor([0]))  # 1 + (2.5 + log 8) - 5
        tensor(0.5794)
    """

    needs_class_counts = True
    prior_tau = checked_scalar("prior_tau", non_negative, "Strength of the shift, >= 0; may be scheduled.")
    _always_shown: ClassVar[tuple[str, ...]] = ("prior_tau",)

    log_priors: Tensor | None
    _constants = (*LossWrapper._constants, "log_priors")

    def __init__(
        self,
        loss: LossLike,
        *,
        prior_tau: float = 1.0,
        zero_counts: str = "error",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(loss, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.log_priors = None
        self.zero_counts = check_choice("zero_counts", zero_counts, ZERO_COUNTS)
        self._longest = 0.0
        self.prior_tau = prior_tau
        if self.class_counts is not None:
            self.bind_class_counts(self.class_counts)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_logits(logits)
        log_priors = self._bound(self.log_priors)
        check_per_class("log_priors", log_priors, logits)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses, counted = self.row_losses(wide + self.prior_tau * log_priors.to(wide), targets)
        return reduce_rows(losses, counted, self.reduction)

    def _counts_changed(self) -> None:
        super()._counts_changed()
        if self.class_counts is not None:
            log_priors = log_priors_of(self.class_counts, zero="clamp")
            self._longest = -float(log_priors.min())
            self.log_priors = log_priors.to(self.class_counts.device)
            self._scalar_changed("prior_tau")

    def _scalar_changed(self, name: str) -> None:
        check = getattr(self, "cosine_check", None)
        if name == "prior_tau" and check is not None:
            check.limit = LIMIT + self.prior_tau * self._longest
