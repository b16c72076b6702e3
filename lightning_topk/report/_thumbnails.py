"""Images as a model gets them, as small pictures for a page."""

import base64
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIDE = 112  # pixels of the longer side
SMALL = 56  # pictures up to this side are enlarged on the page without smoothing


def is_image(sample: Any) -> bool:
    """Tell whether a sample is an image: a Pillow image, or a tensor [H, W] or [1 or 3, H, W] of at least 4 pixels."""
    from PIL import Image

    if isinstance(sample, Image.Image):
        return True
    if not isinstance(sample, Tensor) or sample.is_complex() or sample.ndim not in (2, 3):
        return False
    return min(sample.shape[-2:]) >= 4 and (sample.ndim == 2 or sample.shape[0] in (1, 3))


def thumbnail(sample: Any) -> tuple[str, int, int]:
    """Return an image as the data URI of a PNG of at most 112 x 112 pixels, with its width and height.

    Floating-point images within [0, 1] are shown as they are; others, such as normalised ones, are stretched from their
    least value to their largest, over all channels at once.

    Example:
        >>> uri, width, height = thumbnail(torch.rand(3, 224, 448))
        >>> uri[:22], width, height
        ('data:image/png;base64,', 112, 56)
    """
    from PIL import Image

    picture = sample if isinstance(sample, Image.Image) else Image.fromarray(_pixels(sample))
    picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}", *picture.size


def _pixels(sample: Tensor) -> Any:
    values = sample.detach().cpu()
    if values.dtype != torch.uint8:
        values = values.double().nan_to_num(0.0, 0.0, 0.0)
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            values = (values - low) / max(high - low, 1e-12)
        values = (255 * values).round().to(torch.uint8)
    if values.ndim == 3:
        values = values[0] if values.shape[0] == 1 else values.permute(1, 2, 0)
    return np.ascontiguousarray(values.numpy())
