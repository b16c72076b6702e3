"""What the losses share whose margins follow the class counts."""

from torch import Tensor

from lightning_topk._checks import check_choice
from lightning_topk.imbalance import ZERO_COUNTS, ldam_margins
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative
from lightning_topk.losses._cosine import CosineCheck


class ClassMargins(TopKLoss):
    """The buffer ``margins`` of :func:`~lightning_topk.imbalance.ldam_margins`, kept up to date."""

    needs_class_counts = True
    max_margin = checked_scalar("max_margin", non_negative, "The largest margin, >= 0; may be scheduled.")

    margins: Tensor | None

    def _follow_counts(self, max_margin: float, margin_constant: float | None, zero_counts: str) -> None:
        """Take the constructor's arguments; to be called at its end."""
        self.register_buffer("margins", None, persistent=False)
        self.zero_counts = check_choice("zero_counts", zero_counts, ZERO_COUNTS)
        self.margin_constant = None if margin_constant is None else non_negative("margin_constant", margin_constant)
        self.max_margin = max_margin
        self.cosine_check = CosineCheck("margin and epsilon")

    def _counts_changed(self) -> None:
        if self.class_counts is not None:
            margins = ldam_margins(
                self.class_counts, max_margin=self.max_margin, constant=self.margin_constant, zero="clamp"
            )
            self.margins = margins.to(self.class_counts.device)

    def _scalar_changed(self, name: str) -> None:
        if name == "max_margin":
            self._counts_changed()
