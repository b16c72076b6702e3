"""Lazy noise or the noise of all classes: what costs less, row by row."""

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops._full_noise import full_draws_on_cpu
from lightning_topk.ops._lazy_noise import Cells, lazy_draws, noise_candidates
from lightning_topk.ops._lazy_noise_events import LEAST_GAP, domination, rates
from lightning_topk.ops._lazy_noise_split import Array, Split, split_classes
from lightning_topk.ops._lazy_noise_threshold import even_thresholds
from lightning_topk.ops._precision import at_least_float32

# Candidates for a k of at most an eighth of them; with few classes, the events of some more classes cost less.
_CANDIDATES, _CANDIDATES_OF_FEW = 64, 40
# Rows are taken in blocks of at most so many scores, so that what is made of them stays in the cache of a core.
_BLOCK = 1 << 23
# With less noise in all, its operators take longer than drawing it.
_FEW_IN_ALL = 1 << 18
# With fewer classes, lazy noise does not pay where the scores of many are near the threshold.
_FEW_IF_EVEN = 2500
# Rows in which these are counted, and how far below the k-th best they are, in standard deviations of the noise.
_LOOKED_AT, _NEAR = 8, 1.5
# A dominating point of the lazy path costs about as much as the full noise of this many classes.
_CLASSES_PER_POINT = 16
# More dominating points than this, for each of the k largest values or for each class, are worth a higher threshold.
_POINTS_PER_RANK = 16
_POINTS_PER_CLASS = 1 / 32


def cheapest_draws(
    scores: Tensor, k: int, epsilon: float, num_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, bool]:
    """Class and added noise of the k-th largest noised score of scores [N, C] on the CPU; shapes [N, B].

    And whether all scores were seen to be finite.
    """
    num_rows, num_classes = scores.shape
    few = num_classes < 8 * max(_CANDIDATES, 8 * k) or num_rows * num_samples * num_classes < _FEW_IN_ALL
    if few or (num_classes < _FEW_IF_EVEN and _many_near(scores, k, epsilon)):
        return *full_draws_on_cpu(scores, k, epsilon, num_samples, generator), False
    num_candidates = _num_candidates(k, num_classes)
    classes, offsets, finite = [], [], True
    for block in scores.split(max(1, _BLOCK // num_classes)):
        # Rows with infinite scores, and scores far apart in units of epsilon, are meant to become infinite or NaN here.
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            split = split_classes(block, k, epsilon, num_candidates, _group_size(num_classes))
            drawn = _cheapest_of_block(block, split, k, epsilon, num_samples, generator)
        classes.append(drawn[0])
        offsets.append(drawn[1])
        finite = finite and split.finite
    return (torch.cat(classes), torch.cat(offsets), finite) if len(classes) > 1 else (*drawn, finite)


def _num_candidates(k: int, num_classes: int) -> int:
    if num_classes < _FEW_IF_EVEN and 8 * k <= _CANDIDATES:
        return max(_CANDIDATES_OF_FEW, 6 * k)
    return max(_CANDIDATES, 8 * k)


def _many_near(scores: Tensor, k: int, epsilon: float) -> bool:
    """Tell whether so many classes are near the threshold that lazy noise does not pay.

    For how many it does was measured at 600, 1,000 and 2,000 classes, with scores that are normal, uniform, or of one
    long tail: up to 35, 87 and 220.
    """
    some, place = at_least_float32(scores[:_LOOKED_AT]).numpy(), scores.shape[1] - k
    limit = np.partition(some, place, 1)[:, place, None] - _NEAR * epsilon
    return bool(np.count_nonzero(some > limit) > 0.13 * (scores.shape[1] - 330) * len(some))


def _cheapest_of_block(
    scores: Tensor, split: Split, k: int, epsilon: float, num_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw each row in the cheaper way.

    The noise of the candidates is drawn first and kept whatever is decided: a choice that goes by noise which is then
    drawn anew would change the law.
    """
    cells = noise_candidates(split, k, num_samples, generator)
    threshold, rate, points = _place_thresholds(scores, split, cells, k)
    lazily = np.isfinite(threshold) & (points * _CLASSES_PER_POINT < scores.shape[1])
    if lazily.all():
        return lazy_draws(scores, split, cells, threshold, rate, k, epsilon, generator)
    full = np.flatnonzero(~lazily)
    known = (torch.from_numpy(split.classes[full]), torch.from_numpy(cells.noise[full]))
    drawn = full_draws_on_cpu(scores[torch.from_numpy(full)], k, epsilon, num_samples, generator, known)
    if full.size == len(lazily):
        return drawn
    lazy = np.flatnonzero(lazily)
    rows = torch.from_numpy(lazy)
    part = (scores[rows], split.rows(lazy), cells.rows(lazy), threshold[lazy], rate[rows])
    own = lazy_draws(*part, k, epsilon, generator)
    order = torch.from_numpy(np.argsort(np.concatenate((full, lazy))))
    return torch.cat((drawn[0], own[0]))[order], torch.cat((drawn[1], own[1]))[order]


def _group_size(num_classes: int) -> int:
    """Number of classes under one bound: large groups are few, small ones have bounds that say more."""
    return 4 if num_classes < 3000 else 8 if num_classes < 30_000 else 16


def _place_thresholds(scores: Tensor, split: Split, cells: Cells, k: int) -> tuple[Array, Tensor, Array]:
    """Choose the threshold of each row; return it with the rates of the blocks and the expected number of points."""
    threshold = np.maximum(cells.kth.min(-1), split.highest + LEAST_GAP)
    rate = rates(split, threshold)
    points = _points(rate)
    rows = np.flatnonzero(points > min(_POINTS_PER_RANK * k, _POINTS_PER_CLASS * scores.shape[1]))
    if rows.size:
        part = split if rows.size == points.size else split.rows(rows)
        threshold[rows] = np.maximum(threshold[rows], even_thresholds(scores, rows, part, k))
        raised = rates(part, threshold[rows])
        rate[torch.from_numpy(rows)], points[rows] = raised, _points(raised)
    return threshold, rate, points


def _points(rate: Tensor) -> Array:
    """Expected number of dominating points of each row in each draw, about; shape [N]."""
    return domination(1.0) * rate.sum(-1).numpy()
