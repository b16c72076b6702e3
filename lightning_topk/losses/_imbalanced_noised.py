"""The noised top-K loss with margins by class count (Garcin et al. 2022, imbalanced)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_topk.losses._class_margins import ClassMargins
from lightning_topk.losses._noised import NoisedBase


class ImbalancedNoisedTopKLoss(ClassMargins, NoisedBase):
    r"""Noised top-K calibrated hinge loss with larger margins for rarer classes.

    .. math::
        \ell(s, y) = (\lambda\,(m_y + \widehat{\mathrm{top}}_{K+1,\epsilon,B}(s) - s_y))_+, \qquad m_y = C / n_y^{1/4}

    with :math:`n_y` the number of training samples of class y. The counts come from
    :class:`~lightning_topk.callbacks.ClassFrequencies`, which :class:`~lightning_topk.TopKMixin` adds by itself, or
    from :meth:`bind_class_counts`. The paper uses it with cosine logits
    (:class:`~lightning_topk.heads.NormalizedLinear`), where scores lie in [-1, 1] and a scale of 50 or 60 and an
    epsilon of 0.01 fit; on an ordinary head use ``scale=1``, and margin and epsilon of the size of the logits' spread.

    Args:
        k: Number of guesses K in [1, C).
        epsilon: Standard deviation of the noise, >= 0, in units of the logits. May be set at any time.
        num_samples: Number of draws B >= 1.
        max_margin: The largest margin, that of the rarest class, >= 0, in units of the logits. May be set at any time.
        margin_constant: The constant C >= 0 itself; ``max_margin`` is not used then.
        scale: Factor lambda > 0 on the hinge. Garcin et al.: 60 with cosine logits on Pl@ntNet-300K.
        zero_counts: What a class without training samples does: ``"error"`` names the classes, ``"clamp"`` counts it
            as one sample.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        generator: Source of the noise, see :class:`NoisedTopKLoss`.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).
        RuntimeError: Called before the class counts were bound.

    References:
        Garcin, Servajean, Joly, Salmon, ICML 2022, section 4. Margins: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019.

    Example:
        >>> loss = ImbalancedNoisedTopKLoss(k=1, max_margin=0.5)
        >>> loss.bind_class_counts([1, 16, 81, 256])
        >>> loss.margins
        tensor([0.5000, 0.2500, 0.1667, 0.1250])
        >>> loss
        ImbalancedNoisedTopKLoss(k=1, epsilon=0.01, num_samples=5, max_margin=0.5, class_counts=[4 values])
    """

    _always_shown: ClassVar[tuple[str, ...]] = ("k", "epsilon", "num_samples", "max_margin")

    def __init__(
        self,
        k: int = 5,
        *,
        epsilon: float = 0.01,
        num_samples: int = 5,
        max_margin: float = 0.2,
        margin_constant: float | None = None,
        scale: float = 1.0,
        zero_counts: str = "error",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            k, epsilon, num_samples, scale, generator, weight=weight, ignore_index=ignore_index, reduction=reduction
        )
        self._follow_counts(max_margin, zero_counts, margin_constant=margin_constant)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        margins = self._bound(self.margins)
        if self.training:
            self.cosine_check(logits, self.scale)
        return self._loss(logits, targets, margins)
