"""What the losses share whose margins follow the class counts."""

from torch import Tensor

from lightning_topk._checks import check_choice
from lightning_topk.imbalance import ZERO_COUNTS, ldam_margins
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative
from lightning_topk.losses._cosine import CosineCheck


class ClassMargins(TopKLoss):
    """The ``margins`` of :func:`~lightning_topk.imbalance.ldam_margins`, kept up to date."""

    needs_class_counts = True
    max_margin = checked_scalar("max_margin", non_negative, "The largest margin, >= 0; may be scheduled.")

    margins: Tensor | None
    _unit_margins: Tensor | None
    _constants = (*TopKLoss._constants, "margins", "_unit_margins")

    def _follow_counts(
        self,
        max_margin: float,
        zero_counts: str,
        *,
        margin_constant: float | None = None,
        in_units_of_logits: str = "margin and epsilon",
    ) -> None:
        """Take the constructor's arguments; to be called at its end."""
        self.margins = None
        # The margins for `max_margin = 1`: to schedule that scalar is not to read the counts, and wait for a device.
        self._unit_margins = None
        self.zero_counts = check_choice("zero_counts", zero_counts, ZERO_COUNTS)
        self.margin_constant = None if margin_constant is None else non_negative("margin_constant", margin_constant)
        self.max_margin = max_margin
        self.cosine_check = CosineCheck(in_units_of_logits)

    def _counts_changed(self) -> None:
        if self.class_counts is not None:
            margins = ldam_margins(self.class_counts, max_margin=1.0, constant=self.margin_constant, zero="clamp")
            self._unit_margins = margins.to(self.class_counts.device)
            self._scalar_changed("max_margin")

    def _scalar_changed(self, name: str) -> None:
        if name == "max_margin" and self._unit_margins is not None:
            self.margins = self._unit_margins * (self.max_margin if self.margin_constant is None else 1.0)
