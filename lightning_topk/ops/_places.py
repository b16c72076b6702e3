"""Where given entries stand among the largest ones."""

import torch
from torch import Tensor


def places(order: Tensor, indices: Tensor, num_classes: int) -> Tensor:
    """Find the place of entries in a list of indices, by index and so without doubt at ties.

    Args:
        order: Distinct indices of entries, such as those of the largest, shape [..., M].
        indices: Indices to look for, shape [..., L].
        num_classes: Number of entries C >= M.

    Returns:
        Places from 0 to M - 1, and M for an index that is not in the list; int64, shape [..., L].

    Example:
        >>> order = torch.tensor([0, 2, 3])
        >>> places(order, torch.arange(4), num_classes=4)
        tensor([0, 3, 1, 2])
    """
    size = order.shape[-1]
    ranks = torch.arange(size, device=order.device).expand_as(order)
    if indices.shape[-1] == 1:  # O(M) for one label, where a table of all entries would be O(C)
        return torch.where(order == indices, ranks, size).amin(-1, keepdim=True)
    table = order.new_full((*order.shape[:-1], num_classes), size).scatter(-1, order, ranks)
    return table.gather(-1, indices)
