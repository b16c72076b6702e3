"""The precision that operators compute in."""

import torch
from torch import Tensor


def working_dtype(values: Tensor) -> torch.dtype:
    """Return float64 for values in float64, else float32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in float64 where they are in it, else in float32."""
    return values.to(working_dtype(values))
