"""A data set over one array of images or feature vectors in memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class ArrayDataset(Dataset[tuple[Tensor, Tensor]]):
    """Some rows of an array, delivered as float32 with their labels.

    Images of dtype uint8 are scaled to [0, 1] and normalised; everything else is converted to float32 as it is.
    Several data sets share one array: none of them copies its rows.

    Args:
        array: Images uint8 [N, channels, H, W], or other arrays [N, ...].
        targets: Labels of the chosen rows, int64, shape [M].
        rows: The chosen rows, int64, shape [M]; all of them when not given.
        mean: Mean of each channel, on the scale [0, 1].
        std: Standard deviation of each channel, on the scale [0, 1].

    Attributes:
        targets: Labels, int64, shape [M].
    """

    def __init__(
        self,
        array: "np.ndarray[Any, Any]",
        targets: Tensor,
        rows: Tensor | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        self.array = array
        self.targets = targets
        self.rows = np.arange(len(targets)) if rows is None else rows.numpy()
        self._scale: Tensor | None = None
        if mean is not None and std is not None:
            self._scale = 1.0 / (255.0 * std.clamp(min=1e-6).view(-1, 1, 1))
            self._offset = (mean / std.clamp(min=1e-6)).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several samples with one look-up; the loader calls this for a batch."""
        samples = torch.from_numpy(self.array[self.rows[indices]]).float()
        if self._scale is not None:
            samples = samples * self._scale - self._offset
        return list(zip(samples, self.targets[indices], strict=True))


def channel_statistics(array: "np.ndarray[Any, Any]", rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of uint8 images [N, channels, H, W], on the scale [0, 1].

    Exact, as the sums run over histograms of the 256 values: the same on every machine.
    """
    chosen = np.arange(len(array)) if rows is None else rows.numpy()
    histogram = np.zeros((array.shape[1], 256), dtype=np.int64)
    for start in range(0, len(chosen), 1024):  # in parts: bincount makes eight bytes of every pixel
        images = array[chosen[start : start + 1024]]
        for channel, counts in enumerate(histogram):
            counts += np.bincount(images[:, channel].ravel(), minlength=256)
    levels = np.arange(256) / 255.0
    share = histogram / histogram.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
