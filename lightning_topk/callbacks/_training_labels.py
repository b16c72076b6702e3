"""Count classes by one pass over the training data, for data sets whose labels cannot be looked up."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_topk.imbalance import class_counts

_KEYS = ("target", "targets", "label", "labels", "y")
#: What a user can do where no counts are found.
REMEDY = "Give the counts instead: `ClassFrequencies(counts=[...])`, or an attribute `class_counts` of the data module."


def single_loader(loaders: Any) -> Any:
    """Return the one loader in what Lightning keeps as the training loader.

    Args:
        loaders: A loader, or loaders in a list, a dictionary or a ``CombinedLoader``.

    Raises:
        ValueError: Several loaders, where it is not plain which one's labels are meant.
    """
    flat = loaders.flattened if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders).flattened
    if len(flat) != 1:
        raise ValueError(
            f"Classes should be counted in one training loader. Found {len(flat)} in a {type(loaders).__name__}. "
            + REMEDY
        )
    return flat[0]


def batch_targets(batch: Any) -> Any:
    """Return the targets of a batch: ``batch[1]``, or the first key of target, targets, label, labels and y.

    Raises:
        TypeError: A batch that has neither.

    Example:
        >>> batch_targets({"image": torch.zeros(2, 3), "label": torch.tensor([1, 0])})
        tensor([1, 0])
    """
    if isinstance(batch, Mapping):
        for key in _KEYS:
            if key in batch:
                return batch[key]
        found = f"a dictionary with the keys {list(batch)}"
    elif isinstance(batch, list | tuple) and len(batch) > 1:
        return batch[1]
    else:
        found = f"a {type(batch).__name__}"
    raise TypeError(
        f"A batch should be a tuple (inputs, targets) or a dictionary with one of the keys {', '.join(_KEYS)}. "
        f"Found {found}. `ClassFrequencies(iterate=True, get_targets=...)` takes a function that picks the targets."
    )


def count_by_iteration(
    loader: Any,
    *,
    get_targets: Callable[[Any], Any] = batch_targets,
    ignore_index: int = -100,
    show_progress: bool = False,
) -> Tensor:
    """Count the classes by going once through the whole data set of a loader.

    The sampler of the loader is left out: every sample is read once, whichever part of them a process trains on and
    however often a weighted sampler draws them. The state of the global random generators is put back afterwards.

    Args:
        loader: A ``DataLoader``.
        get_targets: Function from a batch to its class indices.
        ignore_index: Target value that is not counted.
        show_progress: Whether to show a progress bar.

    Returns:
        Counts of dtype int64; their length is the largest label plus one.

    Raises:
        TypeError: Something other than a ``DataLoader``, or targets that are no class indices.
        ValueError: No sample, or a negative label.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            "A training loader should be a torch DataLoader where its classes are counted by iteration. "
            f"Found {type(loader).__name__}. {REMEDY}"
        )
    total = torch.zeros(0, dtype=torch.long)
    with isolate_rng():
        batches: Any = _whole_data_set(loader)
        if show_progress:
            steps = None if isinstance(loader.dataset, IterableDataset) else len(batches)
            batches = track(batches, description="Counting classes", total=steps, transient=True)
        for batch in batches:
            targets = torch.as_tensor(get_targets(batch)).cpu()
            targets = targets[targets != ignore_index]
            if targets.numel():
                counts = class_counts(targets)
                total = padded(total, len(counts)) + padded(counts, len(total))
    if not total.numel():
        raise ValueError(
            "Training data should hold at least one labelled sample. Found none in one pass over the loader."
        )
    return total


def padded(counts: Tensor, size: int) -> Tensor:
    """Return counts with zeros after them, up to ``size`` classes."""
    return torch.cat([counts, counts.new_zeros(max(0, size - len(counts)))])


def _whole_data_set(loader: DataLoader) -> DataLoader:
    batch_size = loader.batch_size
    if batch_size is None and loader.batch_sampler is not None:  # a batch sampler of the user's
        batch_size = getattr(loader.batch_sampler, "batch_size", 1)
    return DataLoader(
        loader.dataset,
        batch_size=batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
