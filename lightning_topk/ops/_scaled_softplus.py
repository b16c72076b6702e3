"""A loss of log-odds that is known to operators by hand."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ScaledSoftplus(NamedTuple):
    """Scale times log(1 + e^(odds + shift)): a loss of log-odds, for whole tensors and by hand."""

    scale: float
    shift: float

    def __call__(self, odds: Tensor) -> Tensor:
        # Beyond the threshold softplus is its argument, which is exact there in float64.
        return self.scale * torch.nn.functional.softplus(odds + self.shift, threshold=40.0)

    def with_slope(self, odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The value and its derivative in the log-odds."""
        shifted = odds + self.shift
        return self.scale * np.logaddexp(0.0, shifted), self.scale / (1.0 + np.exp(-shifted))
