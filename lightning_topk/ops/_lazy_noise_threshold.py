"""Lazy noise, second part: the threshold of rows whose scores are so even that noise decides."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._lazy_noise_split import Array, Index, Split
from lightning_topk.ops._precision import at_least_float32

# At most about this share of the cells (row, draw) should have less than k noised scores above the threshold.
_SHARE_OF_SHORT_CELLS = 2e-3
# A sample of scores tells the expected number of noised scores above a threshold to about this factor.
_TRUST = 1.15
_LEAST_SAMPLE = 128
_NEWTON_STEPS = 3


def even_thresholds(scores: Tensor, rows: Index, split: Split, k: int) -> Array:
    """Return a threshold that enough noised scores of a row lie above, going by a sample of its scores.

    For some rows of the scores [N, C], and their split; shape of the rows.

    The expected number above t is a sum of normal tails over the classes: over the candidates, and over some of the
    others in the place of all. An estimate will do: where it misleads, cells are completed below the threshold, or more
    work is done than needed.
    """
    num_classes = scores.shape[1]
    wanted = _expected_above(k) * _TRUST
    if wanted >= num_classes / 2:
        return np.full(len(split.origin), -np.inf, split.origin.dtype)
    stride = max(1, num_classes // (_LEAST_SAMPLE + num_classes // 256))
    some = torch.arange(0, num_classes, stride)
    sample = at_least_float32(scores[torch.from_numpy(rows).unsqueeze(1), some]).numpy()
    sample = (sample - split.origin) * sample.dtype.type(split.inverse)
    sample = np.minimum(sample, split.levels.min(-1, keepdims=True))
    weight = num_classes / sample.shape[1]
    reach = float(-torch.special.ndtri(torch.tensor(wanted / num_classes, dtype=torch.float64)))
    # Right for normal scores; scores with other tails move it by Newton's method.
    threshold = sample.mean(-1) + reach * np.sqrt(1 + sample.var(-1))
    highest = split.levels.max(-1) + reach
    for _ in range(_NEWTON_STEPS):
        tail, density = _tail(threshold, sample)
        own_tail, own_density = _tail(threshold, split.levels)
        expected = weight * tail + own_tail
        slope = (weight * density + own_density) / expected
        threshold = np.minimum(threshold + np.log(expected / wanted) / slope, highest)
    return threshold.astype(sample.dtype)


def _tail(threshold: Array, levels: Array) -> tuple[Array, Array]:
    """Expected number of noised levels [N, X] above the threshold [N] and its falling rate; a tenth off at most."""
    over = np.clip(threshold[:, None] - levels, 0.0, 12.0)
    density = np.exp(-0.5 * over * over) / np.sqrt(2 * np.pi).astype(over.dtype)
    return (2 * density / (over + np.sqrt(over * over + 4))).sum(-1), density.sum(-1)


@lru_cache(maxsize=64)
def _expected_above(k: int) -> float:
    """Mean of a Poisson number that is below k with the small probability wanted, by the bound of Chernoff."""
    low, high = float(k), 20.0 * k + 40
    for _ in range(60):
        mean = (low + high) / 2
        exponent = mean - (k - 1) + ((k - 1) * np.log((k - 1) / mean) if k > 1 else 0.0)
        low, high = (low, mean) if exponent >= -np.log(_SHARE_OF_SHORT_CELLS) else (mean, high)
    return high
