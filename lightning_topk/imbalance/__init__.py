r"""From labels to class counts, and from counts to margins and groups. Pure functions of torch tensors.

The training counts :math:`n_c` are all that the long-tail methods know about the data. They enter a loss through
:meth:`~lightning_topk.losses.TopKLoss.bind_class_counts`, which turns them into what it needs with the functions of
this module.

Example:
    >>> from lightning_topk.imbalance import class_counts, ldam_margins
    >>> counts = class_counts([0, 1, 1, 2, 2, 2, 2, 2], num_classes=3)
    >>> counts
    tensor([1, 2, 5])
    >>> ldam_margins(counts, max_margin=0.5)
    tensor([0.5000, 0.4204, 0.3344])
"""

from lightning_topk.imbalance._counts import (
    ZERO_COUNTS,
    check_counts,
    class_counts,
    nonzero_counts,
    read_counts,
)
from lightning_topk.imbalance._derived import (
    class_balanced_weights,
    class_groups,
    ldam_margins,
    log_priors,
    posthoc_logit_adjustment,
)

__all__ = [
    "ZERO_COUNTS",
    "check_counts",
    "class_balanced_weights",
    "class_counts",
    "class_groups",
    "ldam_margins",
    "log_priors",
    "nonzero_counts",
    "posthoc_logit_adjustment",
    "read_counts",
]
