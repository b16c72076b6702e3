"""Look up class counts, the number of classes and their names in a module and its training data."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import Subset

from lightning_topk.callbacks._training_labels import REMEDY, padded
from lightning_topk.imbalance import check_counts, class_groups, nonzero_counts

_FRAMEWORK = {"lightning", "pytorch_lightning", "lightning_topk"}


def consumers_of(pl_module: nn.Module) -> Iterator[Any]:
    """Yield what has a method ``bind_class_counts``."""
    for module in pl_module.modules():
        if callable(getattr(module, "bind_class_counts", None)):
            yield module


def copies_of(pl_module: nn.Module, callbacks: Iterable[Any]) -> Iterator[nn.Module]:
    """Yield the copies of a module that callbacks hold, such as the one whose weights are an average."""
    for callback in callbacks:
        for held in vars(callback).values():
            if isinstance(held, nn.Module) and any(type(each) is type(pl_module) for each in held.modules()):
                yield held


def makes_its_data(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Tell whether the loaders come from a module with its own ``setup``, which runs after that of callbacks."""
    own = any("setup" in vars(c) and c.__module__.split(".")[0] not in _FRAMEWORK for c in type(pl_module).__mro__)
    return own and trainer.fit_loop._data_source.instance is pl_module


def known_num_classes(owners: Iterable[Any]) -> int | None:
    """Return the first ``num_classes`` that is a positive integer, or ``None``."""
    for owner in owners:
        value = getattr(owner, "num_classes", None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def known_names(owners: Iterable[Any]) -> list[str] | None:
    """Return the first ``class_names`` or ``classes`` that is a list; a subset is asked for those of its parent."""
    for owner in owners:
        while owner is not None:
            for name in ("class_names", "classes"):
                value = getattr(owner, name, None)
                if isinstance(value, list | tuple):
                    return [str(item) for item in value]
            owner = owner.dataset if isinstance(owner, Subset) else None
    return None


def known_ignore_index(owners: Iterable[Any]) -> int:
    """Return the first ``ignore_index`` that is an integer; -100 as in torch when there is none."""
    return next((owner.ignore_index for owner in owners if isinstance(getattr(owner, "ignore_index", None), int)), -100)


def count_training_set(
    loader: Any,
    num_classes: int | None,
    *,
    ignore_index: int,
    look_up: bool = True,
    by_pass: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Count the classes of the training set behind a loader.

    Args:
        loader: The training loader.
        num_classes: Number of classes C; the largest label plus one when not given.
        ignore_index: Label that is not counted.
        look_up: Whether to look for labels that can be read without the samples.
        by_pass: Function that counts by reading the data, for a data set without such labels.

    Returns:
        Counts of dtype int64, shape [C].

    Raises:
        ValueError: A label of at least ``num_classes``, or labels that are not found.
    """
    from lightning_topk.data import find_class_counts

    dataset = getattr(loader, "dataset", loader)
    counts: Tensor | None = find_class_counts(dataset, num_classes, ignore_index=ignore_index) if look_up else None
    if counts is None:
        if by_pass is None:
            raise _not_found(dataset)
        counts = by_pass()
    if num_classes is not None and len(counts) > num_classes:
        raise ValueError(
            f"Labels of the training data should be in [0, C) with `C = {num_classes}`. Found {len(counts) - 1}."
        )
    return padded(counts, num_classes or 0)


def _not_found(dataset: Any) -> ValueError:
    from lightning_topk.data import find_labels

    reason = ""
    try:
        find_labels(dataset, strict=True)
    except ValueError as error:
        reason = f"{error} "
    return ValueError(f"{reason}{REMEDY} Or read all data once: `ClassFrequencies(iterate=True)`.")


def settle_zeros(
    counts: Tensor, rule: str, names: Sequence[str] | None, consumers: Iterable[Any], *, required: bool = True
) -> Tensor:
    """Apply the rule for classes without samples, unless all losses that get the counts have their own.

    Args:
        counts: Counts, shape [C].
        rule: ``"error"`` or ``"clamp"``.
        names: Class names for the message.
        consumers: What the counts will be bound to.
        required: Whether the rule also holds where no loss needs the counts.

    Returns:
        Counts, shape [C].

    Raises:
        ValueError: A class without samples under ``"error"``.
    """
    own = {getattr(consumer, "zero_counts", None) for consumer in consumers if _needs_counts(consumer)}
    if rule == "error" and (own == {"clamp"} or not (own or required)):
        return check_counts(counts)
    settled = nonzero_counts(counts, rule, names=names if names and len(names) >= len(counts) else None)
    empty = int((counts == 0).sum())
    if empty:
        rank_zero_warn(
            f"Every class should have a training sample. Found none for {empty} of {len(counts)} classes, "
            'which are counted as one by `zero_counts="clamp"`.'
        )
    return settled


def _needs_counts(consumer: Any) -> bool:
    return bool(getattr(consumer, "needs_class_counts", False))


def summary(counts: Tensor) -> str:
    """Describe counts in one line.

    Example:
        >>> import torch
        >>> summary(torch.tensor([200, 50, 10]))
        '3 classes, 260 samples, largest 200, smallest 10, imbalance factor 20, many/medium/few 1/1/1.'
    """
    large, small = int(counts.max()), int(counts.min())
    groups = "/".join(str(int(mask.sum())) for mask in class_groups(counts).values())
    factor = f"{large / small:.4g}" if small else "infinite"
    return (
        f"{len(counts)} classes, {int(counts.sum())} samples, largest {large}, smallest {small}, "
        f"imbalance factor {factor}, many/medium/few {groups}."
    )
