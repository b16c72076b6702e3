"""Find the labels of a data set without reading its samples."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from lightning_topk.imbalance import check_counts, class_counts

# Names under which data sets keep their labels: a vector, or a list of (file, label) or (label, file) pairs.
_VECTORS = ("targets", "labels", "_labels", "y")
_PAIRS = (("_samples", 1), ("samples", 1), ("imgs", 1), ("_flat_character_images", 1), ("index", 0))
_COLUMNS = ("label", "labels", "target", "targets", "y")
# Kinds of target that are the plain class; other kinds of torchvision data sets need a table of their own.
_PLAIN_KINDS = ("category", "full")


class _CannotTellError(Exception):
    """The labels of a data set cannot be told without iterating; the message says why."""


@overload
def find_labels(dataset: Any, *, strict: Literal[False] = False) -> Tensor | None: ...
@overload
def find_labels(dataset: Any, *, strict: Literal[True]) -> Tensor: ...
def find_labels(dataset: Any, *, strict: bool = False) -> Tensor | None:
    r"""Return the class label of every sample of a data set, without reading one sample.

    Looked at, in this order: the attributes ``targets``, ``labels``, ``_labels`` and ``y`` (a vector), ``_samples``,
    ``samples``, ``imgs``, ``_flat_character_images`` and ``index`` (pairs of a file and a label), the columns of a
    Hugging Face data set, and the parts of ``Subset``, ``random_split``, ``ConcatDataset``, ``TensorDataset`` and of a
    list of ``(x, y)`` pairs. A vector counts only when it has one entry per sample. A ``target_transform`` is applied
    once to each distinct label.

    Args:
        dataset: Any data set.
        strict: Whether to raise instead of returning ``None``.

    Returns:
        Labels as the data set delivers them, int64, shape [N]; they may hold -100 or other marks of "no label".
        ``None`` when they cannot be told: streams, multi-label, one-hot or continuous targets, unknown layouts.

    Raises:
        ValueError: With ``strict=True``, where ``None`` would be returned; the message gives the reason.

    Example:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> parent = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 2, 2, 1]))
        >>> find_labels(Subset(parent, [3, 1]))
        tensor([1, 2])
    """
    try:
        return _labels_of(dataset)
    except _CannotTellError as reason:
        if not strict:
            return None
        raise ValueError(
            "A data set should keep one integer class label per sample in `targets`, `labels`, `samples` or another "
            f"known place. Found `{type(dataset).__name__}`: {reason}."
        ) from None


def find_class_counts(dataset: Any, num_classes: int | None = None, *, ignore_index: int = -100) -> Tensor | None:
    """Return the number of samples of each class, without reading one sample.

    Args:
        dataset: Any data set. Its attribute ``class_counts``, where it has one, is taken at its word.
        num_classes: Number of classes C; by default the largest label plus one.
        ignore_index: A label that marks samples to leave out of the count.

    Returns:
        Counts, int64, shape [C], or ``None`` when the labels cannot be told (see :func:`find_labels`).

    Raises:
        ValueError: A negative label other than ``ignore_index``, a label beyond ``num_classes``, or malformed
            ``class_counts``.

    Example:
        >>> find_class_counts([("a.png", 0), ("b.png", 2), ("c.png", 2)])
        tensor([1, 0, 2])
    """
    counts = getattr(dataset, "class_counts", None)
    if counts is not None and not callable(counts):
        return check_counts(counts, num_classes)
    labels = find_labels(dataset)
    if labels is None:
        return None
    labels = labels[labels != ignore_index]
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(
            f"Labels should be class indices >= 0, or `ignore_index = {ignore_index}` for samples without a class. "
            f"Found {int(labels.min())} in `{type(dataset).__name__}`."
        )
    return class_counts(labels, num_classes)


def _labels_of(dataset: Any) -> Tensor:
    if isinstance(dataset, IterableDataset):
        raise _CannotTellError("a stream has no labels before it is read")
    if not hasattr(dataset, "__len__"):
        raise _CannotTellError("it has no length")
    if hasattr(dataset, "video_clips"):
        raise _CannotTellError("the samples are clips, while the labels belong to whole videos")
    kind = _target_kind(dataset)
    if kind is not None and kind not in _PLAIN_KINDS:
        return _transform_labels(dataset, _labels_of_kind(dataset, kind))
    reasons: list[str] = []
    for reader in (_read_attributes, _read_columns, _read_parts):
        labels = _attempt(reasons, reader, dataset)
        if labels is not None:
            return labels
    raise _CannotTellError("; ".join(filter(None, reasons)) or "none of the known places of labels is there")


def _attempt(reasons: list[str], reader: Callable[..., Tensor], *args: Any) -> Tensor | None:
    try:
        return reader(*args)
    except _CannotTellError as reason:
        reasons.append(str(reason))
        return None


def _read_attributes(dataset: Any) -> Tensor:
    reasons: list[str] = []
    for name, column in [(name, None) for name in _VECTORS] + list(_PAIRS):
        labels = _attempt(reasons, _read_attribute, dataset, name, column)
        if labels is not None:
            return labels
    raise _CannotTellError("; ".join(filter(None, reasons)))


def _read_attribute(dataset: Any, name: str, column: int | None) -> Tensor:
    value = getattr(dataset, name, None)
    if value is None or callable(value):
        raise _CannotTellError("")
    if column is not None:
        value = _pick(value, column, f"`{name}`")
    elif name == "targets" and getattr(dataset, "compat", None) is True:
        value = value[:, 0]  # QMNIST keeps eight columns and delivers the first
    return _transform_labels(dataset, _as_labels(value, len(dataset), f"`{name}`"))


def _read_columns(dataset: Any) -> Tensor:
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, Sequence):
        raise _CannotTellError("")
    for name in _COLUMNS:
        if name in columns:
            return _as_labels(dataset[name], len(dataset), f"column `{name}`")
    raise _CannotTellError(f"none of the columns {list(columns)} is called {' or '.join(map(repr, _COLUMNS))}")


def _read_parts(dataset: Any) -> Tensor:
    if isinstance(dataset, Subset):
        return _labels_of(dataset.dataset)[torch.as_tensor(dataset.indices, dtype=torch.long)]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([_labels_of(part) for part in dataset.datasets])
    if isinstance(dataset, TensorDataset):
        return _as_labels(dataset.tensors[-1], len(dataset), "the last tensor")
    if isinstance(dataset, list | tuple):
        return _as_labels(_pick(dataset, 1, "the list"), len(dataset), "the list of labels")
    raise _CannotTellError("")


def _target_kind(dataset: Any) -> str | None:
    """Return what a torchvision data set with a choice of targets was asked to deliver."""
    kinds = getattr(dataset, "target_type", None) or getattr(dataset, "_target_types", None)
    if kinds is None or isinstance(kinds, str):
        return kinds
    if len(kinds) != 1:
        raise _CannotTellError(f"a sample has the targets {list(kinds)} instead of one class")
    return str(kinds[0])


def _labels_of_kind(dataset: Any, kind: str) -> Tensor:
    if kind == "binary-category":  # OxfordIIITPet
        return _as_labels(dataset._bin_labels, len(dataset), "`_bin_labels`")
    if kind == "identity":  # CelebA
        return _as_labels(dataset.identity, len(dataset), "`identity`")
    if hasattr(dataset, "categories_map"):  # INaturalist, at a rank above the species
        coarse = [dataset.categories_map[label][kind] for label, _ in dataset.index]
        return _as_labels(coarse, len(dataset), f"the {kind}")
    raise _CannotTellError(f"a target of the kind {kind!r} is no class index")


def _pick(pairs: Any, column: int, where: str) -> list[Any]:
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise _CannotTellError(f"{where} is no list of pairs")
    if column == 0 and not all(isinstance(name, str) for _, name in pairs):
        raise _CannotTellError(f"{where} is no list of (class, file name)")  # (file, offset) is common under `index`
    return [pair[column] for pair in pairs]


def _as_labels(value: Any, length: int, where: str) -> Tensor:
    try:
        labels = value if isinstance(value, Tensor) else torch.as_tensor(_plain(value))
    except (TypeError, ValueError, RuntimeError):
        raise _CannotTellError(f"{where} holds something other than numbers") from None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise _CannotTellError(f"{where} has shape {list(labels.shape)}, as one-hot or multi-label targets have")
    if len(labels) != length:
        raise _CannotTellError(f"{where} has {len(labels)} entries for {length} samples")
    if len(labels) and (labels.is_floating_point() or labels.is_complex()):
        raise _CannotTellError(f"{where} has dtype {labels.dtype} instead of integers")
    return labels.detach().to("cpu", torch.long)


def _plain(value: Any) -> Any:
    # as_tensor reads a list of 0-d tensors; everything else goes through numpy: data frames, columns, arrays
    return value if isinstance(value, list | tuple) else np.array(value)


def _transform_labels(dataset: Any, labels: Tensor) -> Tensor:
    transform: Callable[[Any], Any] | None = getattr(dataset, "target_transform", None)
    if transform is None or not labels.numel():
        return labels
    distinct, inverse = labels.unique(return_inverse=True)
    delivered = [transform(label) for label in distinct.tolist()]
    return _as_labels(delivered, len(distinct), "what `target_transform` returns")[inverse]
