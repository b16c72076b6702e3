r"""Losses for classification that is judged by K guesses.

Every loss is a module ``loss(logits [..., C], targets) -> loss`` and a pure function of the same name in lower case,
and all keep one contract (:class:`TopKLoss`): ``targets`` are class indices [...] or soft labels [..., C];
``reduction``, ``ignore_index`` and class ``weight`` mean the same everywhere; scalars such as ``epsilon`` can be set,
and so scheduled, at any time; losses that need the training counts of the classes say so (``needs_class_counts``) and
get them by ``bind_class_counts``.

Law of the top-K losses: adding a constant to all logits changes nothing, and permuting classes permutes the gradient.

Example:
    >>> import torch
    >>> from lightning_topk.losses import CrossEntropyLoss, NoisedTopKLoss
    >>> logits, targets = torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([2])
    >>> CrossEntropyLoss()(logits, targets)
    tensor(1.7445)
    >>> NoisedTopKLoss(k=2, epsilon=0.0)(logits, targets)  # the label is among the two best, by more than the margin
    tensor(0.)
"""

from lightning_topk.losses._aggregates import AverageTopKLoss, topk_shares
from lightning_topk.losses._base import TopKLoss
from lightning_topk.losses._build import build_loss
from lightning_topk.losses._cross_entropy import CrossEntropyLoss, cross_entropy_loss
from lightning_topk.losses._focal import FocalLoss, focal_loss
from lightning_topk.losses._gaussian_topk import GaussianTopKLoss, ImbalancedGaussianTopKLoss, gaussian_topk_loss
from lightning_topk.losses._imbalanced_noised import ImbalancedNoisedTopKLoss
from lightning_topk.losses._ldam import LDAMLoss, ldam_loss
from lightning_topk.losses._logit_adjusted import BalancedSoftmaxLoss, LogitAdjustedLoss, logit_adjusted_loss
from lightning_topk.losses._noised import NoisedTopKLoss, noised_topk_loss
from lightning_topk.losses._prior_adjusted import PriorAdjustedLoss
from lightning_topk.losses._smooth_labels import smooth_labels
from lightning_topk.losses._smooth_topk import SmoothTopKLoss, smooth_topk_loss
from lightning_topk.losses._soft_topk import SoftTopKLoss, soft_topk_loss
from lightning_topk.losses._sorting_topk import SortingTopKLoss, sorting_topk_loss
from lightning_topk.losses._stk import MATkLoss, STkLoss
from lightning_topk.losses._topk_entropy import (
    TopKEntropyLoss,
    TruncatedTopKEntropyLoss,
    topk_entropy_loss,
    truncated_topk_entropy_loss,
)
from lightning_topk.losses._topk_hinge import TopKHingeLoss, topk_hinge_loss
from lightning_topk.losses._topk_svm import TopKSVMLoss, topk_svm_loss
from lightning_topk.losses._vs import VSLoss, vs_loss

__all__ = [
    "AverageTopKLoss",
    "BalancedSoftmaxLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "GaussianTopKLoss",
    "ImbalancedGaussianTopKLoss",
    "ImbalancedNoisedTopKLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "MATkLoss",
    "NoisedTopKLoss",
    "PriorAdjustedLoss",
    "STkLoss",
    "SmoothTopKLoss",
    "SoftTopKLoss",
    "SortingTopKLoss",
    "TopKEntropyLoss",
    "TopKHingeLoss",
    "TopKLoss",
    "TopKSVMLoss",
    "TruncatedTopKEntropyLoss",
    "VSLoss",
    "build_loss",
    "cross_entropy_loss",
    "focal_loss",
    "gaussian_topk_loss",
    "ldam_loss",
    "logit_adjusted_loss",
    "noised_topk_loss",
    "smooth_labels",
    "smooth_topk_loss",
    "soft_topk_loss",
    "sorting_topk_loss",
    "topk_entropy_loss",
    "topk_hinge_loss",
    "topk_shares",
    "topk_svm_loss",
    "truncated_topk_entropy_loss",
    "vs_loss",
]
