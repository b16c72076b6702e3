"""The precision that operators compute in."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in float64 where they are in it, else in float32."""
    return values if values.dtype == torch.float64 else values.float()
