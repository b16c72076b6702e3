"""Label-distribution-aware margin loss (Cao et al. 2019)."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_topk._checks import check_float, check_logits, check_per_class
from lightning_topk._reduce import at_labels, reduce_labels
from lightning_topk.losses._base import checked_scalar, positive
from lightning_topk.losses._class_margins import ClassMargins
from lightning_topk.ops._log_odds import log_odds_and_finite


def ldam_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    margins: Tensor,
    scale: float = 30.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy with a margin for the label, and cosine logits in mind.

    .. math::
        \ell(s, y) = -\log \frac{e^{\lambda (s_y - m_y)}}{e^{\lambda (s_y - m_y)} + \sum_{j \ne y} e^{\lambda s_j}}

    The margin is subtracted before the scale :math:`\lambda` is applied. Soft labels take the expectation over all
    labels y in the same time as one.

    Args:
        logits: Scores s, shape [..., C]: cosines in [-1, 1] as of :class:`~lightning_topk.heads.NormalizedLinear`.
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        margins: Margins m, shape [C], as of :func:`~lightning_topk.imbalance.ldam_margins`.
        scale: Factor lambda > 0 on the cosines.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, shapes that do not fit, or a class index outside [0, C).

    References:
        Cao, Wei, Gaidon, Arechiga, Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019; the definition is that of the authors' code.

    Example:
        >>> import torch
        >>> cosines, margins = torch.tensor([[0.4, 0.1, 0.5, 0.3]]), torch.tensor([0.5, 0.25, 0.1667, 0.125])
        >>> ldam_loss(cosines, torch.tensor([2]), margins=margins, scale=1.0)
        tensor(1.3424)
    """
    check_logits(logits)
    check_per_class("margins", margins, logits)
    check_float("scale", scale, 0.0, low_open=True)

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, bool]:
        odds, finite = log_odds_and_finite(scores, labels, scale=float(scale))
        own = at_labels(margins.to(odds).expand_as(scores), labels)
        return -logsigmoid(odds - scale * own), finite

    return reduce_labels(
        label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction, upcast=False
    )


class LDAMLoss(ClassMargins):
    r"""Label-distribution-aware margin loss: cross-entropy on cosine logits with larger margins for rarer classes.

    .. math::
        \ell(s, y) = -\log \frac{e^{\lambda (s_y - m_y)}}{e^{\lambda (s_y - m_y)} + \sum_{j \ne y} e^{\lambda s_j}},
        \qquad m_y = C / n_y^{1/4}

    with :math:`n_y` the number of training samples of class y, which
    :class:`~lightning_topk.callbacks.ClassFrequencies` or :meth:`bind_class_counts` gives. It is made for a cosine
    head, :class:`~lightning_topk.heads.NormalizedLinear`. With
    :class:`~lightning_topk.callbacks.DeferredReweighting` it is the LDAM-DRW of the paper.

    Args:
        max_margin: The largest margin, that of the rarest class, >= 0, in units of the cosines. Cao et al.: 0.5 on
            CIFAR (0.3 on iNaturalist by the author's advice), Garcin et al.: 0.2. May be set at any time.
        scale: Factor lambda > 0 on the cosines. Cao et al.: 30, Garcin et al.: 40. May be set at any time.
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
        Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019; the definition is that of the authors' code.

    Example:
        >>> import torch
        >>> loss = LDAMLoss(max_margin=0.5)
        >>> loss.bind_class_counts([1, 16, 81, 256])
        >>> loss(torch.tensor([[0.4, 0.1, 0.5, 0.3]]), torch.tensor([2]))
        tensor(2.1700)
    """

    scale = checked_scalar("scale", positive, "Factor on the cosines, > 0; may be scheduled.")

    def __init__(
        self,
        max_margin: float = 0.5,
        *,
        scale: float = 30.0,
        zero_counts: str = "error",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self._follow_counts(max_margin, zero_counts, in_units_of_logits="margin")
        self.scale = scale

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        margins = self._bound(self.margins)
        if self.training:
            self.cosine_check(logits, self.scale)
        return ldam_loss(
            logits,
            targets,
            margins=margins,
            scale=self.scale,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
