"""Collate image batches, with random small changes done for the whole batch at once."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from lightning_topk._checks import check_float, check_int
from lightning_topk.data._resumable import Keyed


class AugmentingCollate:
    r"""Collate ``(x, y)`` samples and change every image of the batch by a random map.

    The map rotates by up to ``rotation`` degrees, shifts by up to ``shift`` of the image size and zooms by up to
    ``scale`` of it, each uniform, in one bilinear resampling for the batch; pixels from outside repeat the border.
    The random numbers are those of the batch where it comes from a training loader of this package, a function of the
    run's seed, the epoch and the place of the batch; those of the global generator otherwise.

    Args:
        rotation: Largest angle in degrees, >= 0.
        shift: Largest shift as a share of the image size, in [0, 1].
        scale: Largest relative change of size, in [0, 0.9].
        flip: Whether to mirror each axis with probability 1/2.
    """

    def __init__(self, rotation: float = 10.0, shift: float = 0.06, scale: float = 0.1, *, flip: bool = False) -> None:
        self.rotation = check_float("rotation", rotation, 0.0)
        self.shift = check_float("shift", shift, 0.0, 1.0)
        self.scale = check_float("scale", scale, 0.0, 0.9)
        self.flip = flip

    def __call__(self, samples: list[Any]) -> tuple[Tensor, Tensor]:
        images, targets = default_collate(list(samples))
        return self.augment(images, samples.generator() if isinstance(samples, Keyed) else None), targets

    def augment(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return changed images, shape [B, C, H, W], by numbers from a generator or from the global one."""
        amounts = torch.rand(4, len(images), generator=generator) * 2 - 1
        angle = amounts[0] * math.radians(self.rotation)
        zoom = 1 + amounts[1] * self.scale
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        mirror = torch.ones(2, len(images))
        if self.flip:
            mirror = torch.randint(0, 2, (2, len(images)), generator=generator) * 2.0 - 1
        x, y = amounts[2:] * 2 * self.shift
        aspect = images.shape[-1] / images.shape[-2]  # the grid runs from -1 to 1 on both axes
        to_x = torch.stack([cos * mirror[0], -sin * mirror[1] / aspect, x], 1)
        to_y = torch.stack([sin * mirror[0] * aspect, cos * mirror[1], y], 1)
        grid = F.affine_grid(torch.stack([to_x, to_y], 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def __repr__(self) -> str:
        amounts = f"rotation={self.rotation:g}, shift={self.shift:g}, scale={self.scale:g}, flip={self.flip}"
        return f"{type(self).__name__}({amounts})"


class ShiftAndMirror:
    """Collate ``(x, y)`` samples, and shift and mirror every image at random, as is usual for CIFAR.

    An image is shifted by a whole number of pixels along both axes, up to ``shift`` and uniform, and mirrored left to
    right with probability 1/2: the crop of a padded image. The random numbers are as in :class:`AugmentingCollate`.

    Args:
        shift: Largest shift in pixels, >= 0.
        fill: Value of each channel for pixels from outside, shape [C], or one value.
    """

    def __init__(self, shift: int = 4, *, fill: Tensor | float = 0.0) -> None:
        self.shift = check_int("shift", shift, 0)
        self.fill = torch.as_tensor(fill)

    def __call__(self, samples: list[Any]) -> tuple[Tensor, Tensor]:
        images, targets = default_collate(list(samples))
        return self.augment(images, samples.generator() if isinstance(samples, Keyed) else None), targets

    def augment(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return changed images, shape [B, C, H, W], by numbers from a generator or from the global one."""
        size, channels, height, width = images.shape
        up, left = torch.randint(0, 2 * self.shift + 1, (2, size, 1), generator=generator)
        mirrored = torch.randint(0, 2, (size, 1), generator=generator).bool()
        padded = self.fill.to(images.dtype).expand(channels)[:, None, None]
        padded = padded.repeat(size, 1, height + 2 * self.shift, width + 2 * self.shift)
        padded[:, :, self.shift : self.shift + height, self.shift : self.shift + width] = images
        rows, columns = torch.arange(height) + up, torch.arange(width)
        columns = torch.where(mirrored, columns.flip(0), columns) + left
        return padded[torch.arange(size)[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shift={self.shift})"
