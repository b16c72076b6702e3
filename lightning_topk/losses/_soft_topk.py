"""Losses on a soft top-k mask (LapSum, sparse top-k)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_topk._checks import check_choice, check_int
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss, checked_scalar
from lightning_topk.losses._build import build_operator
from lightning_topk.ops import LapSum, LogSoftTopKOperator, SoftTopKOperator

VARIANTS = ("log", "linear")


def soft_topk_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    operator: SoftTopKOperator = LapSum(),  # noqa: B008 - immutable
    variant: str = "log",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Loss on the label's entry of a soft top-k mask.

    .. math::
        \ell_{\log}(s, y) = -\log p_y(s), \qquad \ell_{\mathrm{linear}}(s, y) = 1 - p_y(s)

    with the mask :math:`p \in [0, 1]^C` of sum K that the operator makes
    (:class:`~lightning_topk.ops.LapSum`, :class:`~lightning_topk.ops.SparseTopK`). The linear one is the hinge
    :math:`(1 - p_y)_+`, bounded by 1; with a sparse mask its gradient is 0 for a label far below the
    threshold, which can then not rise by itself: choose an ``alpha`` of the size of the logits' spread, or train with
    another loss first. One mask serves all labels: soft labels cost no more than class indices.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        k: Number of guesses K in [1, C).
        operator: The soft top-k mask.
        variant: ``"log"`` or ``"linear"``. A mask that can be 0 has no logarithm: it takes ``"linear"``.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, a variant that the operator has not, shapes that do not fit, or
            a class index outside [0, C).

    References:
        Struski, Bednarczyk, Podolak, Tabor, ICML 2025, and Sander, Puigcerver, Djolonga, Peyre, Blondel, ICML 2023, for
        the operators. [The definitions of their classification losses were not read in the papers.]

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]])
        >>> soft_topk_loss(logits, torch.tensor([2]), k=2, operator=LapSum(alpha=1.0))  # -log 0.777851
        tensor(0.2512)
    """
    operator = _mask_operator("operator", operator)
    _check_variant(variant, operator)

    def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
        if labels.shape[-1] == 1:
            if variant == "log":
                return -operator.log_at(scores, labels, k)  # type: ignore[attr-defined]
            return 1.0 - operator.at(scores, labels, k)
        if variant == "log":
            return -operator.log(scores, k).gather(-1, labels)  # type: ignore[attr-defined]
        return 1.0 - operator(scores, k).gather(-1, labels)

    return reduce_labels(label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction)


def _check_variant(variant: str, operator: SoftTopKOperator) -> None:
    check_choice("variant", variant, VARIANTS)
    if variant == "log" and not isinstance(operator, LogSoftTopKOperator):
        raise ValueError(
            "Parameter `variant` should be 'linear' with an operator whose mask can be 0 and so has no logarithm. "
            f"Found `variant = 'log'` with {operator!r}."
        )


def _mask_operator(name: str, value: Any) -> SoftTopKOperator:
    return build_operator(name, value, SoftTopKOperator)


class SoftTopKLoss(TopKLoss):
    r"""Loss on the label's entry of a soft top-k mask, :math:`-\log p_y` or :math:`1 - p_y`.

    See :func:`~lightning_topk.losses.soft_topk_loss`.

    Args:
        k: Number of guesses K in [1, C).
        operator: The soft top-k mask: :class:`~lightning_topk.ops.LapSum`, :class:`~lightning_topk.ops.SparseTopK`, or
            ``{"class_path": ..., "init_args": {...}}``. May be exchanged at any time.
        variant: ``"log"`` or ``"linear"``. A mask that can be 0 has no logarithm: it takes ``"linear"``.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, a variant that the operator has not, shapes that do not fit, or
            a class index outside [0, C).

    References:
        Struski et al., ICML 2025; Sander et al., ICML 2023.

    Example:
        >>> import torch
        >>> from lightning_topk.ops import SparseTopK
        >>> loss = SoftTopKLoss(k=2, operator=SparseTopK(alpha=2.0), variant="linear")
        >>> loss
        SoftTopKLoss(k=2, operator=SparseTopK(alpha=2.0, p=2.0), variant='linear')
        >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([3]))
        tensor(0.8750)
    """

    operator = checked_scalar("operator", _mask_operator, "The soft top-k mask; may be exchanged.")
    _always_shown: ClassVar[tuple[str, ...]] = ("k", "operator")

    def __init__(
        self,
        k: int = 5,
        *,
        operator: SoftTopKOperator = LapSum(),  # noqa: B008 - immutable
        variant: str = "log",
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.k = check_int("k", k, 1)
        self.operator = operator
        _check_variant(variant, self.operator)
        self.variant = variant

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return soft_topk_loss(
            logits,
            targets,
            k=self.k,
            operator=self.operator,
            variant=self.variant,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
