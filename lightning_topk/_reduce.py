"""From the loss of each label to the number that is returned: soft labels, weights, ignored targets, reduction."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_topk._checks import check_choice, check_ignore_index, check_per_class, check_scores, readable

REDUCTIONS = ("mean", "sum", "none")


LabelLoss = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, bool]]
# Entries of the rows that are read at a time where they have to be converted.
_CACHED = 1 << 18


def reduce_labels(
    label_loss: LabelLoss,
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    upcast: bool = True,
) -> Tensor:
    r"""Apply a loss of (logits, label) to hard or soft targets and reduce it.

    With :math:`\ell(s, c)` the loss of scores s at label c and class weights :math:`w`, a sample counts as
    :math:`\sum_c p_c w_c \ell(s, c)`, where p is its soft label, or :math:`w_y \ell(s, y)` for a class index y.
    ``"mean"`` divides by :math:`\sum_c p_c w_c` summed over the samples, which is their number without weights
    and the convention of :func:`torch.nn.functional.cross_entropy` with class indices.

    A row with a logit that is NaN or infinite has the loss NaN, also where the formula would not have touched that
    logit, so that a diverging network is seen at once. Classes are masked by a large negative finite logit, at most the
    lowest number of float32. Beside those, losses and gradients are finite for logits of at most 1e30 in size, also
    when multiplied by ``scale`` or divided by a temperature; beyond that they may overflow.

    Args:
        label_loss: ``(logits [N, C], labels [N, L]) -> [N, L]``, the loss of each row at each of its L labels; or this
            and whether all logits were seen to be finite, which saves looking at them again.
        logits: Scores, shape [..., C]; computed in float32 when of lower precision.
        targets: Class indices [...] or soft labels [..., C].
        weight: Class weights, shape [C].
        ignore_index: Class index whose samples count nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        upcast: Whether scores of lower precision than float32 are copied for ``label_loss``; soft labels always are.

    Returns:
        A scalar, or the losses of shape [...] for ``"none"``. No counted sample at all gives 0 with a zero gradient.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_ignore_index(ignore_index)
    soft = check_scores(logits, targets, ignore_index=ignore_index)
    if weight is not None:
        check_per_class("weight", weight, logits)
    num_classes = logits.shape[-1]
    scores = logits if logits.ndim == 2 else logits.reshape(-1, num_classes)
    low = scores.dtype in (torch.float16, torch.bfloat16)
    if low and (upcast or soft):
        scores = scores.float()
    if soft:
        shares = targets.reshape(-1, num_classes).to(scores.dtype)
        labels = torch.arange(num_classes, device=scores.device).expand_as(scores)
        shares = shares if weight is None else shares * weight.to(shares)
        counted = shares.sum(-1)
        # A class without a share counts nothing, also where its loss is infinite because its logit is masked.
        losses, finite = _loss_and_finite(label_loss, scores, labels)
        losses = (shares * torch.where(shares == 0, 0.0, losses)).sum(-1)
        if not (finite or sum_is_finite(scores)):
            losses = losses + _nan_unless_finite(scores)
    elif weight is None and _known_counted(targets, ignore_index):
        counted = None
        losses, finite = _loss_and_finite(label_loss, scores, targets.reshape(-1, 1).long())
        losses = losses.squeeze(-1)
        if not (finite or sum_is_finite(scores)):
            losses = losses + _nan_unless_finite(scores)
    else:
        dtype = torch.float32 if low else scores.dtype
        valid, labels, counted = _weigh_indices(targets.reshape(-1), weight, ignore_index, dtype)
        finite = sum_is_finite(scores)
        if not finite:
            # The loss of an ignored row is left out below, but its gradient would be 0 times NaN.
            scores = torch.where(valid.unsqueeze(-1), scores, 0.0)
        losses, _ = _loss_and_finite(label_loss, scores, labels.unsqueeze(-1))
        # Not a product with zero: the loss of an ignored row may be infinite or NaN.
        losses = torch.where(valid, counted * losses.squeeze(-1), 0.0)
        if not finite:
            losses = losses + torch.where(valid, _nan_unless_finite(scores), 0.0)
    return reduce_rows(losses if logits.ndim == 2 else losses.reshape(logits.shape[:-1]), counted, reduction)


def _loss_and_finite(label_loss: LabelLoss, scores: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
    """The losses, and whether all scores were seen to be finite on the way."""
    found = label_loss(scores, labels)
    return found if isinstance(found, tuple) else (found, False)


def at_labels(values: Tensor, labels: Tensor) -> Tensor:
    """Return the values [N, C] at the labels that :func:`reduce_labels` hands to a loss: at [N, 1], or all [N, C].

    All labels need no gathering, whose backward pass would cost more than the loss.
    """
    return values.gather(-1, labels) if labels.shape[-1] == 1 else values


def weigh_rows(
    row_loss: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor | None]:
    """Apply a loss of rows, in place of a loss of labels, and weigh it as :func:`reduce_labels` does.

    Args:
        row_loss: ``(logits [..., C], targets) -> [...]``, linear in soft targets and 0 where the target is ignored.
        logits: Scores, shape [..., C].
        targets: Class indices [...] or soft labels [..., C].
        weight: Class weights, shape [C].
        ignore_index: Class index whose samples count nothing.

    Returns:
        Weighted losses [...], and the weights [...] whose sum their mean is divided by; None for 1 of each of at least
        one row.
    """
    soft = check_scores(logits, targets, ignore_index=ignore_index)
    if weight is not None:
        check_per_class("weight", weight, logits)
    if soft:
        shares = targets if weight is None else targets * weight
        losses = row_loss(logits, shares)
        return losses, shares.to(losses).sum(-1)
    losses = row_loss(logits, targets)
    if weight is None:
        if _known_counted(targets, ignore_index):
            return losses, None
        return losses, (targets.long() != ignore_index).to(losses.dtype)
    valid, _, counted = _weigh_indices(targets, weight, ignore_index, losses.dtype)
    return torch.where(valid, counted * losses, 0.0), counted


def reduce_rows(losses: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    """Reduce weighted losses [...]; the mean divides by the sum of the weights ``counted``, and is 0 without any.

    None stands for the weight 1 of each of at least one row.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if counted is None:
        return losses.mean()
    total = counted.sum()
    return losses.sum() / torch.where(total == 0, 1.0, total)


def counted_weight(targets: Tensor, *, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    """What the mean of a batch is divided by: the number of counted targets, or the sum of their class weights."""
    if targets.is_floating_point():
        return (targets if weight is None else targets * weight.to(targets)).sum()
    return _weigh_indices(targets, weight, ignore_index, torch.float32)[2].sum()


def _weigh_indices(
    targets: Tensor, weight: Tensor | None, ignore_index: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """For class indices: which are counted, the indices with 0 where they are not, and their weights in the mean."""
    index = targets.long()
    valid = index != ignore_index
    labels = torch.where(valid, index, 0)
    counted = valid.to(dtype)
    return valid, labels, counted if weight is None else counted * weight.to(index.device, dtype)[labels]


def _known_counted(targets: Tensor, ignore_index: int) -> bool:
    """Tell whether there are targets and none is ignored, where that can be read without waiting for a device."""
    if targets.device.type != "cpu" or not targets.numel() or not readable(targets):
        return False
    if ignore_index < 0:  # below all class indices
        return int(targets.long().min()) >= 0
    return not bool((targets.long() == ignore_index).any())


def sum_is_finite(scores: Tensor) -> bool:
    """Tell whether all scores are finite, where that can be read; False where their sum overflows."""
    fixed = scores.detach()
    if fixed.device.type != "cpu" or not readable(fixed):
        return False
    if fixed.dtype.itemsize >= 4:
        return math.isfinite(float(fixed.sum()))
    # A sum in float16 overflows early, and one in float32 makes a copy.
    blocks = fixed.split(max(1, _CACHED // fixed.shape[-1]))
    return all(math.isfinite(float(block.sum(dtype=torch.float32))) for block in blocks)


def _nan_unless_finite(scores: Tensor) -> Tensor:
    """Zero for a row of finite scores, NaN for any other; shape [N]."""
    fixed = scores.detach()
    if fixed.device.type == "cpu" and readable(fixed):
        total = fixed.sum(-1) * 0
        if not total.isnan().any():
            return total
    # The plain sum is the fast way, but overflows where two classes are masked by the lowest finite logit.
    return (fixed * 0).sum(-1)
