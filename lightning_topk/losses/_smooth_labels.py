"""Label smoothing, as soft labels that every loss takes."""

import torch
from torch import Tensor

from lightning_topk._checks import LOGIT_DTYPES, check_float, check_ignore_index, check_num_classes, check_scores


def smooth_labels(targets: Tensor, num_classes: int, smoothing: float = 0.1, *, ignore_index: int = -100) -> Tensor:
    r"""Turn targets into smoothed soft labels, :math:`(1 - \varepsilon)\, p + \varepsilon / C`.

    The losses of this package take soft labels as the expectation of the loss over the label, so that label smoothing
    is ``loss(logits, smooth_labels(targets, C))`` for each of them. For cross-entropy that is the ``label_smoothing``
    of :func:`torch.nn.functional.cross_entropy`. Targets of mixup and CutMix are soft labels already, and may be
    smoothed too.

    Args:
        targets: Class indices, shape [...], or soft labels p, shape [..., C].
        num_classes: Number of classes C.
        smoothing: Share :math:`\varepsilon` in [0, 1] that is spread over all classes. Szegedy et al.: 0.1.
        ignore_index: Class index whose rows become zeros, which count nothing in a loss.

    Returns:
        Soft labels, shape [..., C], float32 for class indices.

    Raises:
        TypeError: Targets that are none.
        ValueError: A parameter out of range, soft labels of another number of classes, or a class index outside [0, C).

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision",
        CVPR 2016.

    Example:
        >>> smooth_labels(torch.tensor([1, -100]), num_classes=2, smoothing=0.2)
        tensor([[0.1000, 0.9000],
                [0.0000, 0.0000]])
    """
    check_num_classes(num_classes)
    check_float("smoothing", smoothing, 0.0, 1.0)
    soft = isinstance(targets, Tensor) and targets.is_floating_point()
    leading = targets.shape[: -1 if soft else None] if isinstance(targets, Tensor) else ()
    check_ignore_index(ignore_index)
    check_scores(torch.empty(*leading, num_classes, device="meta"), targets, ignore_index=ignore_index)
    if soft:
        if targets.dtype not in LOGIT_DTYPES:
            raise TypeError(
                f"Argument `targets` should have a floating point dtype of 16 to 64 bits. Found {targets.dtype}."
            )
        return torch.lerp(targets, torch.full_like(targets, 1 / num_classes), smoothing)
    index = targets.long().unsqueeze(-1)
    labels = (index == torch.arange(num_classes, device=targets.device)).float()
    return torch.where(index != ignore_index, (1 - smoothing) * labels + smoothing / num_classes, 0.0)
