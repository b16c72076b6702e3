"""The k-th largest noised score with the noise of all classes drawn."""

import math

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._lazy_noise_split import Array, Index
from lightning_topk.ops._precision import at_least_float32

# Noise is drawn in blocks of at most this many entries, so that memory does not grow with num_samples.
_BLOCK = 1 << 22
# On the CPU, in blocks that stay in the cache of a core.
_CACHED_BLOCK = 1 << 16
# Numpy puts so many classes in order faster than it finds the k-th one.
_SORTED = 512


def kth_of_noise(scores: Tensor, k: int, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Class and added noise of the k-th largest noised score for each draw, given the noise; shapes [..., B]."""
    scores = at_least_float32(scores)
    blocks = [
        _kth_of_block(scores, k, epsilon, block.to(scores))
        for block in noise.split(max(1, _BLOCK // max(1, scores.numel())), -2)
    ]
    return torch.cat([block[0] for block in blocks], -1), torch.cat([block[1] for block in blocks], -1)


def _kth_of_block(scores: Tensor, k: int, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    noised = torch.add(scores.unsqueeze(-2), noise, alpha=epsilon)
    indices = torch.topk(noised, k).indices[..., -1]
    offsets = noise.expand_as(noised).gather(-1, indices.unsqueeze(-1)).squeeze(-1)
    return indices, epsilon * offsets


def full_draws(
    scores: Tensor, k: int, epsilon: float, num_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Class and added noise of the k-th largest noised score of scores [N, C], on any device; shapes [N, B].

    In few operators, and without reading a value.
    """
    scores = at_least_float32(scores)
    per_block = max(1, _BLOCK // max(1, scores.numel()))
    blocks = []
    for done in range(0, num_samples, per_block):
        shape = (scores.shape[0], min(per_block, num_samples - done), scores.shape[1])
        noise = torch.randn(shape, dtype=scores.dtype, device=scores.device, generator=generator)
        blocks.append(_kth_of_block(scores, k, epsilon, noise))
    return torch.cat([block[0] for block in blocks], -1), torch.cat([block[1] for block in blocks], -1)


def full_draws_on_cpu(
    scores: Tensor,
    k: int,
    epsilon: float,
    num_samples: int,
    generator: torch.Generator | None,
    known: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The same on the CPU, faster there: a few rows at a time, with the selection of numpy.

    Args:
        scores: Shape [N, C], detached.
        k: Rank.
        epsilon: Standard deviation of the noise.
        num_samples: Number of draws B.
        generator: Source of the noise.
        known: Classes [N, M] and noise [N, B, M] where it is drawn already.
    """
    num_rows, num_classes = scores.shape
    draws = min(num_samples, max(1, _CACHED_BLOCK // num_classes))
    rows = max(1, _CACHED_BLOCK // (num_classes * draws))
    if num_rows <= rows and num_samples <= draws:
        indices, chosen = _draw_block(scores, k, epsilon, num_samples, generator, known)
    else:
        indices = np.empty((num_rows, num_samples), np.int64)
        chosen = np.empty((num_rows, num_samples), at_least_float32(scores[:0]).numpy().dtype)
        for top in range(0, num_rows, rows):
            some = slice(top, top + rows)
            for done in range(0, num_samples, draws):
                part = slice(done, min(num_samples, done + draws))
                own = None if known is None else (known[0][some], known[1][some, part])
                indices[some, part], chosen[some, part] = _draw_block(
                    scores[some], k, epsilon, part.stop - done, generator, own
                )
    chosen *= chosen.dtype.type(epsilon)
    return torch.from_numpy(indices), torch.from_numpy(chosen)


def _draw_block(
    scores: Tensor,
    k: int,
    epsilon: float,
    num_samples: int,
    generator: torch.Generator | None,
    known: tuple[Tensor, Tensor] | None,
) -> tuple[Index, Array]:
    """Class and noise, not yet times epsilon, of the k-th largest noised score; shapes [N, B].

    In operators of numpy where the arrays are small, which take less time to begin than those of torch.
    """
    scores = at_least_float32(scores)
    shape = (scores.shape[0], num_samples, scores.shape[1])
    noise = torch.randn(shape, dtype=scores.dtype, generator=generator)
    if known is not None:
        noise.scatter_(-1, known[0].unsqueeze(1).expand_as(known[1]), known[1])
    indices = _kth_place(torch.add(scores.unsqueeze(1), noise, alpha=epsilon).numpy(), k)
    first = np.arange(0, noise.numel(), shape[-1]).reshape(shape[:-1])
    return indices, noise.numpy().reshape(-1)[first + indices]


def _kth_place(noised: Array, k: int) -> Index:
    """Place of the k-th largest entry along the last dimension, where NaN is larger than all numbers."""
    from_below = noised.shape[-1] - k
    ordered = np.sort(noised, -1) if noised.shape[-1] <= _SORTED else np.partition(noised, from_below, -1)
    kth = ordered[..., from_below, None]
    place = (noised == kth).argmax(-1)
    if math.isnan(kth.max(initial=-math.inf)):  # NaN equals nothing
        place = np.where(np.isnan(kth[..., 0]), np.isnan(noised).argmax(-1), place)
    return place
