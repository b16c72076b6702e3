"""Selection of the largest scores in two stages."""

import torch
from torch import Tensor

# Classes in a group of which the maximum is looked at first, and the number of classes that need no groups.
_GROUP, _FEW = 8, 512


def largest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores in descending order, shape [..., count].

    The largest are members of the ``count`` groups of classes with the largest maxima. So a selection among the maxima,
    made in the same way, and one among the members of the groups found replace a slow one among all.
    """
    return _select(scores.detach(), count, in_order=True)


def _select(scores: Tensor, count: int, *, in_order: bool) -> Tensor:
    num_classes = scores.shape[-1]
    if num_classes <= max(_FEW, 2 * _GROUP * count):
        return torch.topk(scores, count, sorted=in_order).indices
    groups = num_classes // _GROUP
    maxima = scores[..., : groups * _GROUP].unflatten(-1, (_GROUP, groups)).amax(-2)
    strides = torch.arange(0, groups * _GROUP, groups, device=scores.device)
    members = (_select(maxima, count, in_order=False).unsqueeze(-1) + strides).flatten(-2)
    if groups * _GROUP < num_classes:
        rest = torch.arange(groups * _GROUP, num_classes, device=scores.device)
        members = torch.cat([members, rest.expand(*members.shape[:-1], -1)], -1)
    return members.gather(-1, torch.topk(scores.gather(-1, members), count, sorted=in_order).indices)


def largest_others(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores beside that of the label, descending, then the label's.

    Shape [..., count + 1], for labels [..., 1] and more than ``count`` classes.
    """
    return without(largest(scores, count + 1), labels)


def without(top: Tensor, labels: Tensor) -> Tensor:
    """Indices of the largest scores without the label, of which there is one less, then the label's."""
    # What stands behind the label moves up.
    places = torch.arange(top.shape[-1] - 1, device=top.device) + (top == labels).cumsum(-1)[..., :-1]
    return torch.cat([top.gather(-1, places), labels], -1)
