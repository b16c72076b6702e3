"""All pure functions under one name: losses, operators and metrics. Nothing inside the package imports this module.

Example:
    >>> import torch
    >>> from lightning_topk import functional as F
    >>> logits, targets = torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([2])
    >>> F.noised_topk_loss(logits, targets, k=1, epsilon=0.0), F.topk_accuracy(logits, targets, k=2)
    (tensor(1.), tensor(1.))
"""

from lightning_topk.losses import (
    cross_entropy_loss,
    focal_loss,
    gaussian_topk_loss,
    ldam_loss,
    logit_adjusted_loss,
    noised_topk_loss,
    smooth_labels,
    smooth_topk_loss,
    soft_topk_loss,
    sorting_topk_loss,
    topk_entropy_loss,
    topk_hinge_loss,
    topk_shares,
    topk_svm_loss,
    truncated_topk_entropy_loss,
    vs_loss,
)
from lightning_topk.metrics import (
    class_topk_accuracy_from_histogram,
    group_topk_accuracy,
    group_topk_accuracy_from_histogram,
    macro_topk_accuracy,
    macro_topk_accuracy_from_histogram,
    rank_histogram,
    target_ranks,
    topk_accuracy,
    topk_accuracy_from_histogram,
)
from lightning_topk.ops import (
    capped_logsumexp,
    exclusion_log_odds,
    gaussian_topk,
    log_odds,
    log_symmetric,
    noised_topk,
    smoothed_relu,
    smoothed_topk,
    topk_simplex_maximum,
)

__all__ = [
    "capped_logsumexp",
    "class_topk_accuracy_from_histogram",
    "cross_entropy_loss",
    "exclusion_log_odds",
    "focal_loss",
    "gaussian_topk",
    "gaussian_topk_loss",
    "group_topk_accuracy",
    "group_topk_accuracy_from_histogram",
    "ldam_loss",
    "log_odds",
    "log_symmetric",
    "logit_adjusted_loss",
    "macro_topk_accuracy",
    "macro_topk_accuracy_from_histogram",
    "noised_topk",
    "noised_topk_loss",
    "rank_histogram",
    "smooth_labels",
    "smooth_topk_loss",
    "smoothed_relu",
    "smoothed_topk",
    "soft_topk_loss",
    "sorting_topk_loss",
    "target_ranks",
    "topk_accuracy",
    "topk_accuracy_from_histogram",
    "topk_entropy_loss",
    "topk_hinge_loss",
    "topk_shares",
    "topk_simplex_maximum",
    "topk_svm_loss",
    "truncated_topk_entropy_loss",
    "vs_loss",
]
