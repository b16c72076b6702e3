"""Images or feature vectors from one ``.npz`` or ``.parquet`` file."""

import os
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_topk.data._array_dataset import ArrayDataset, channel_statistics
from lightning_topk.data._augment import AugmentingCollate
from lightning_topk.data._base import LongTailDataModule
from lightning_topk.data._npz import NpzFile
from lightning_topk.data._parquet import ParquetFile

_LAYOUT = (
    "A data file should hold the arrays `x` and `y`, or `x_train`, `y_train` and, if they are fixed, `x_val`, `y_val`, "
    "`x_test`, `y_test`: images [N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W] of uint8 or float, or feature "
    "vectors [N, D]; labels [N] of integers from 0 to C - 1; and optionally `names` [C]."
)


class ArrayDataModule(LongTailDataModule):
    r"""Images or feature vectors from one ``.npz`` or ``.parquet`` file, with given or drawn splits.

    Two layouts are read. Arrays ``x`` and ``y`` hold all samples; the test set is where the array ``test_key`` is true
    or takes one of ``test_values``, or a share ``test_fraction`` of every class. Arrays ``x_train``, ``y_train``,
    ``x_val``, ``y_val``, ``x_test``, ``y_test`` hold the splits; a missing one is drawn from the training samples.
    Whatever is drawn is drawn class by class and leaves each class at least one training sample.

    A ``.parquet`` file (read by pyarrow, ``pip install lightning-topk[parquet]``) holds feature vectors: labels in the
    column ``y`` or ``label``, whole numbers or texts; the features in the column ``x`` or ``features`` of lists of
    equal length, or else in all columns of floating point numbers. A column ``split`` with ``train``, ``val`` and
    ``test`` gives the splits as arrays of these names do; other columns serve as ``test_key``.

    Images of dtype uint8 are scaled to [0, 1], get a channel dimension, and are normalised with mean and standard
    deviation of the training set; floating point images and feature vectors are taken as they are. Labels are read
    on the first use of a property, images on ``setup``; the images stay in memory once, in the dtype of the file.

    Args:
        root: Folder of the file.
        file: Name of the file.
        test_key: Name of an array [N] that marks test samples, for the layout ``x``, ``y``.
        test_values: Values of that array that mean "test"; when not given, the array is boolean.
        test_fraction: Share of every class to hold out for the test where the file does not say, in (0, 1).
        val_fraction: Share of every class to hold out for the validation where the file does not say, in (0, 1).
        imbalance_factor: Ratio of the largest training count to the smallest; 1 keeps all training samples.
        profile: ``"exp"`` or ``"step"``, see :func:`~lightning_topk.data.long_tail_counts`.
        order: Which class is frequent: ``"index"`` (class 0 most) or ``"shuffled"`` (by the seed).
        seed: Seed of the splits and of the long tail.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader.
        augment: Whether to turn, shift and scale the training images a little, anew in every epoch.
        flip: Whether to mirror training images at random along both axes.

    Raises:
        TypeError: An argument or array of the wrong type.
        ValueError: An argument out of range, or a file that does not have the layout above.
        FileNotFoundError: No such folder or file.

    Example:
        >>> import pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> np.savez(pathlib.Path(folder.name, "toy.npz"), x=np.zeros((40, 8, 8), "uint8"), y=np.arange(40) % 4)
        >>> data = ArrayDataModule(folder.name, "toy.npz", test_fraction=0.2, val_fraction=0.2)
        >>> data.num_classes, data.input_shape, data.class_counts
        (4, (1, 8, 8), tensor([6, 6, 6, 6]))
        >>> folder.cleanup()
    """

    def __init__(
        self,
        root: str = ".",
        file: str = "data.npz",
        test_key: str | None = None,
        test_values: list[int] | None = None,
        test_fraction: float = 0.2,
        val_fraction: float = 0.1,
        imbalance_factor: float = 1.0,
        profile: str = "exp",
        order: str = "index",
        seed: int = 0,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: bool = False,
        flip: bool = False,
    ) -> None:
        root, file = os.fspath(root), os.fspath(file)  # strings alone may reach the hyper-parameters
        super().__init__(imbalance_factor, profile, order, seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self.root, self.file = root, file
        self.test_key, self.test_values = test_key, test_values
        if test_values is not None and test_key is None:
            raise ValueError("Parameter `test_values` should come with `test_key`. Found `test_key = None`.")
        self.set_fractions(test_fraction, val_fraction)
        if augment or flip:
            amounts = {} if augment else {"rotation": 0.0, "shift": 0.0, "scale": 0.0}
            self.train_collate = AugmentingCollate(**amounts, flip=flip)
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}

    @cached_property
    def archive(self) -> NpzFile | ParquetFile:
        """The opened file."""
        return (ParquetFile if self.file.endswith(".parquet") else NpzFile)(self.root, self.file)

    @cached_property
    def _named(self) -> bool:
        """Whether the file has one array per split."""
        archive = self.archive
        named = "x_train" in archive
        for key in ("x_train", "y_train") if named else ("x", "y"):
            if key not in archive:
                raise ValueError(f"{_LAYOUT} Found no `{key}` in `{archive.path}`, but {', '.join(archive.keys)}.")
        for split in ("val", "test"):
            if named and (f"x_{split}" in archive) != (f"y_{split}" in archive):
                raise ValueError(f"{_LAYOUT} Found one of `x_{split}` and `y_{split}` in `{archive.path}`.")
        if self.test_key is not None and (named or self.test_key not in archive):
            raise ValueError(
                "Parameter `test_key` should name an array that marks the test samples of `x` and `y`. "
                f"Found `test_key = {self.test_key!r}` with `{archive.path}`, which holds {', '.join(archive.keys)}."
            )
        return named

    @cached_property
    def _labels(self) -> dict[str, Tensor]:
        """Labels of each array of samples, by the name of the array."""
        suffixes = [s for s in ("_train", "_val", "_test") if f"y{s}" in self.archive] if self._named else [""]
        return {f"x{suffix}": self._read_labels(f"x{suffix}", f"y{suffix}") for suffix in suffixes}

    def _read_labels(self, x_key: str, y_key: str) -> Tensor:
        (length, *_), _ = self._read_header(x_key)
        labels = self.archive.read(y_key)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise TypeError(
                f"{_LAYOUT} Found `{y_key}` of {labels.dtype} {list(labels.shape)} in `{self.archive.path}`."
            )
        if len(labels) != length:
            raise ValueError(
                f"{_LAYOUT} Found {length} samples in `{x_key}` and {len(labels)} labels in `{y_key}` "
                f"of `{self.archive.path}`."
            )
        return torch.from_numpy(labels.astype(np.int64))

    def _read_header(self, key: str) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
        shape, dtype = self.archive.shape(key)
        images = len(shape) == 3 or (len(shape) == 4 and {shape[1], shape[3]} & {1, 3})
        known = dtype == np.uint8 or dtype.kind == "f"
        if not known or not (images or len(shape) == 2) or 0 in shape:
            raise TypeError(f"{_LAYOUT} Found `{key}` of {dtype} {list(shape)} in `{self.archive.path}`.")
        return shape, dtype

    @cached_property
    def rows(self) -> dict[str, tuple[str, Tensor]]:
        """Name of the array and positions in it, for each split."""
        train = next(iter(self._labels))
        rows = {f"{key[2:]}": (key, torch.arange(len(labels))) for key, labels in self._labels.items() if "_" in key}
        kept = torch.arange(len(self._labels[train]))
        if self.test_key is not None:
            is_test = self._read_marks(self.test_key, len(kept))
            rows["test"], kept = (train, kept[is_test]), kept[~is_test]
        self._check_labels()
        return self.draw(rows, train, self._labels[train], kept)

    def _read_marks(self, key: str, length: int) -> Tensor:
        marks = self.archive.read(key)
        if self.test_values is not None:
            marks = np.isin(marks, self.test_values)
        if marks.shape != (length,) or marks.dtype != np.bool_:
            raise ValueError(
                f"Parameter `test_key` should name an array of {length} booleans, or come with `test_values`. "
                f"Found `{key}` of {marks.dtype} {list(marks.shape)} in `{self.archive.path}`."
            )
        if not marks.any():
            raise ValueError(
                f"Parameter `test_key` should mark at least one test sample. "
                f"Found none in `{key}` of `{self.archive.path}` with `test_values = {self.test_values}`."
            )
        return torch.from_numpy(marks)

    def _check_labels(self) -> None:
        for key, labels in self._labels.items():
            if int(labels.min()) < 0 or int(labels.max()) >= self.num_classes:
                wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
                raise ValueError(f"{_LAYOUT} Found the label {wrong} with {self.num_classes} classes beside `{key}`.")

    def read_names(self) -> list[str]:
        largest = max(int(labels.max()) for labels in self._labels.values())
        if "names" not in self.archive:
            return [str(label) for label in range(largest + 1)]
        names = self.archive.read("names")
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise TypeError(f"{_LAYOUT} Found `names` of {names.dtype} {list(names.shape)} in `{self.archive.path}`.")
        return [str(name) for name in names.astype(str)]

    def read_shape(self) -> tuple[int, ...]:
        train = next(iter(self._labels))
        shape, _ = self._read_header(train)
        for key in self._labels:
            if self._read_header(key)[0][1:] != shape[1:]:
                found = list(self._read_header(key)[0])
                raise ValueError(f"{_LAYOUT} Found `{train}` of {list(shape)} and `{key}` of {found}.")
        if len(shape) == 2:
            return (shape[1],)
        if len(shape) == 3:
            return (1, *shape[1:])
        return (shape[3], *shape[1:3]) if _channels_last(shape) else shape[1:]

    def read_sizes(self) -> dict[str, int]:
        return {split: len(rows) for split, (_, rows) in self.rows.items()}

    def read_train_labels(self) -> Tensor:
        key, rows = self.rows["train"]
        return self._labels[key][rows]

    def build(self, split: str) -> Dataset[Any]:
        key, rows = self.rows[split]
        array = self._read_array(key)
        statistics: tuple[Tensor, ...] = ()
        if array.dtype == np.uint8 and array.ndim == 4:
            train_key, train_rows = self.rows["train"]
            statistics = channel_statistics(self._read_array(train_key), train_rows)
        return ArrayDataset(array, self._labels[key][rows], rows, *statistics)

    def _read_array(self, key: str) -> "np.ndarray[Any, Any]":
        if key not in self._arrays:
            array = self.archive.read(key)
            if array.ndim == 4 and _channels_last(array.shape):
                array = array.transpose(0, 3, 1, 2)
            if array.ndim > 2 or len(self.input_shape) == 1:
                array = array.reshape(len(array), *self.input_shape)
            self._arrays[key] = array
        return self._arrays[key]


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[3] in (1, 3) and shape[1] not in (1, 3)
