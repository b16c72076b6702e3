"""Noise that is always the same, for losses that should not depend on chance when they are compared."""

from functools import lru_cache

import torch
from torch import Tensor

from lightning_topk._checks import readable


def fixed_noise(num_samples: int, logits: Tensor) -> Tensor:
    """Standard normal noise [B, C] for logits [..., C], on their device; the last ones are kept in eager mode."""
    make = _kept if type(logits) is Tensor and readable(logits) else _hashed  # else it may belong to a trace
    return make(num_samples, logits.shape[-1], logits.device)


def _hashed(num_samples: int, num_classes: int, device: torch.device) -> Tensor:
    """Hash positions, as a generator cannot be compiled."""
    bits = torch.arange(1, num_samples * num_classes + 1, device=device)
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    bits = (bits ^ (bits >> 16)) >> 8
    return torch.special.ndtri((bits.float() + 0.5) * 2.0**-24).reshape(num_samples, num_classes)


@lru_cache(maxsize=2)
def _kept(num_samples: int, num_classes: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # so that it may be used in training too
        return _hashed(num_samples, num_classes, device)
