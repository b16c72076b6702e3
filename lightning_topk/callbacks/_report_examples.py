"""Find samples that show why two classes share top-K sets, and read them from the data again."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, SequentialSampler

from lightning_topk.callbacks._report_observed import Found
from lightning_topk.report._thumbnails import is_image, thumbnail

Picture = tuple[str, int, int]


def example_pictures(
    found: Found, loader: Any, pairs: Iterable[tuple[int, int]], number: int
) -> dict[tuple[int, int], list[Picture]]:
    """Return pictures of samples of one class that have another one among their K best.

    The samples are those that this process has evaluated; they are read from the data set once more, where that gives
    them by their index, in the order of the loader, with the label that was seen.

    Args:
        found: What was seen of the evaluation.
        loader: Its dataloader.
        pairs: Two classes each.
        number: How many pictures there are at most for each class of a pair.

    Returns:
        Pictures as :func:`~lightning_topk.report._thumbnails.thumbnail` makes them by (class of the sample, the other
        class); empty where the data are no images.
    """
    dataset = getattr(loader, "dataset", None)
    order = _order(loader, len(found.labels))
    if not number or order is None:
        return {}
    pictures: dict[tuple[int, int], list[Picture]] = {}
    with isolate_rng(include_cuda=False):  # a random transform must not change what the next run draws
        for a, b in pairs:
            for own, other in ((a, b), (b, a)):
                shown = []
                for position in _positions(found, own, other)[:number]:
                    sample = _sample(dataset, order[position], own)
                    if sample is None or not is_image(sample):
                        return {}
                    shown.append(thumbnail(sample))
                if shown:
                    pictures[own, other] = shown
    return pictures


def _positions(found: Found, own: int, other: int) -> list[int]:
    """Positions of the samples of a class with another one among their best, the most mistaken first."""
    rows = (found.labels == own).nonzero().flatten()
    hit, place = (found.best[rows] == other).max(1)
    order = place.masked_fill(~hit, found.best.shape[1]).sort(stable=True).indices
    chosen: Tensor = rows[order[: int(hit.sum())]]
    return chosen.tolist()


def _order(loader: Any, samples: int) -> list[int] | None:
    """Indices of the samples of this process in their order, or None where that is not known."""
    dataset, batches = getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not samples:
        return None
    if not isinstance(batches, BatchSampler) or type(batches).__iter__ is not BatchSampler.__iter__:
        return None
    if not isinstance(sampler, SequentialSampler | DistributedSampler) or getattr(sampler, "shuffle", False):
        return None
    order = list(islice(sampler, samples))
    return order if len(order) == samples else None


def _sample(dataset: Any, index: int, label: int) -> Any:
    """Read a sample, or None where it is not one with this label."""
    sample = dataset[index]
    if not isinstance(sample, (tuple, list)) or len(sample) < 2:
        return None
    target = torch.as_tensor(sample[1])
    if target.is_floating_point():
        target = target.argmax(-1)
    return sample[0] if target.numel() == 1 and int(target) == label else None
