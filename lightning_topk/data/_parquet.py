"""Read feature vectors and labels from a ``.parquet`` file."""

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lightning_topk.data._npz import check_file, memory

_LAW = (
    "A data file in parquet should hold labels in the column `y` or `label` (whole numbers or texts), and features in "
    "the column `x` or `features` (lists of numbers, of equal length) or else in all columns of floating point numbers."
)
_SPLITS = ("train", "val", "test")
_FLOATS = ("halffloat", "float", "double")


class ParquetFile:
    """A ``.parquet`` file with the arrays of a data file: ``x``, ``y`` and further columns, or one pair per split.

    Columns are read when they are asked for. Nothing in the file is executed.

    Args:
        root: Folder.
        file: Name of the file in it.

    Raises:
        FileNotFoundError: No such folder or file.
        ValueError: A file of another kind or without such columns, or no pyarrow.
    """

    def __init__(self, root: str, file: str) -> None:
        self.path = Path(root, file)
        check_file(root, file)
        try:
            lib, parquet = import_module("pyarrow.lib"), import_module("pyarrow.parquet")
        except ImportError:
            law = "A data file in parquet should be read where pyarrow is (`pip install lightning-topk[parquet]`)."
            raise ValueError(f"{law} Found no pyarrow.") from None
        self._errors: tuple[type[Exception], ...] = (lib.ArrowException, OSError, ValueError, KeyError, TypeError)
        try:
            self._file = parquet.ParquetFile(self.path, memory_map=True)
            size = sum(self._file.metadata.row_group(i).total_byte_size for i in range(self._file.num_row_groups))
        except self._errors as error:
            raise ValueError(f"{_LAW} `{self.path}` cannot be read: {error!s:.200}") from error
        if size > memory():
            raise ValueError(f"{_LAW} It should fit into memory of {memory()} bytes. Found `{self.path}` of {size}.")
        self._schema = self._file.schema_arrow
        self._label = self._one_of("y", "label")
        self._features = self._find_features()
        self.length = self._file.metadata.num_rows

    def _one_of(self, *names: str) -> str:
        for name in names:
            if name in self._schema.names:
                return name
        raise ValueError(f"{_LAW} Found {', '.join(self._schema.names[:20]) or 'none'} in `{self.path}`.")

    def _find_features(self) -> list[str]:
        for name in ("x", "features"):
            if name in self._schema.names:
                return [name]
        floats = [field.name for field in self._schema if str(field.type) in _FLOATS]
        return floats or [self._one_of("x", "features")]

    @cached_property
    def _split(self) -> "np.ndarray[Any, Any] | None":
        """Split of each row, where the file says."""
        if "split" not in self._schema.names:
            return None
        values = self._column("split").astype(str)
        unknown = sorted(set(values) - set(_SPLITS))
        if unknown or "train" not in values:
            found = f"`{unknown[0]}`" if unknown else "no `train`"
            raise ValueError(
                f"{_LAW} A column `split` should hold train, val and test. Found {found} in `{self.path}`."
            )
        return values

    @cached_property
    def _labels(self) -> tuple["np.ndarray[Any, Any]", list[str] | None]:
        """Labels of all rows, and the names of the classes where the labels are texts."""
        values = self._column(self._label)
        if values.dtype.kind not in "OUS":
            return values, None
        names, labels = np.unique(values.astype(str), return_inverse=True)
        return labels, names.tolist()

    @property
    def keys(self) -> list[str]:
        """Names of the arrays."""
        names = ["names"] if self._labels[1] is not None else []
        if self._split is not None:
            return [f"{kind}_{split}" for split in _SPLITS if split in self._split for kind in "xy"] + names
        others = [name for name in self._schema.names if name not in (self._label, *self._features)]
        return ["x", "y", *others, *names]

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def read(self, key: str) -> "np.ndarray[Any, Any]":
        """Return one array."""
        kind, _, split = key.partition("_")
        if key == "names":
            return np.array(self._labels[1])
        if kind not in ("x", "y") or (split and self._split is None):
            return self._column(key)
        values = self._read_features() if kind == "x" else self._labels[0]
        return values[self._split == split] if self._split is not None else values

    def shape(self, key: str) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
        """Return shape and dtype of one array of features."""
        if len(self._features) > 1 or not self.length:
            width, dtype = len(self._features), np.dtype(np.float32)
        else:
            first = self._vectors(next(self._file.iter_batches(1, columns=self._features)).column(0))
            width, dtype = first.shape[1], first.dtype
        length = self.length if self._split is None else int((self._split == key.partition("_")[2]).sum())
        return (length, width), dtype

    def _read_features(self) -> "np.ndarray[Any, Any]":
        if len(self._features) > 1:
            return np.stack([self._column(name).astype(np.float32) for name in self._features], 1)
        return self._column(self._features[0], vectors=True)

    def _column(self, name: str, *, vectors: bool = False) -> "np.ndarray[Any, Any]":
        try:
            column = self._file.read(columns=[name], use_threads=False).column(0).combine_chunks()
        except self._errors as error:
            raise ValueError(f"{_LAW} `{name}` of `{self.path}` cannot be read: {error!s:.200}") from error
        if column.null_count:
            raise ValueError(f"{_LAW} Found {column.null_count} empty places in `{name}` of `{self.path}`.")
        if vectors:
            return self._vectors(column)
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def _vectors(self, column: Any) -> "np.ndarray[Any, Any]":
        """Return a column of lists as a matrix."""
        law = f"{_LAW} Found `{self._features[0]}` of {column.type} in `{self.path}`"
        if str(column.type) in _FLOATS:
            return np.asarray(column.to_numpy(zero_copy_only=False))[:, None]
        if not hasattr(column, "flatten") or "list" not in str(column.type):
            raise ValueError(f"{law}.")
        values = column.flatten()
        if str(values.type) not in _FLOATS and not str(values.type).lstrip("u").startswith("int"):
            raise ValueError(f"{law}.")
        lengths = np.unique(np.diff(column.offsets.to_numpy())) if hasattr(column, "offsets") else np.zeros(1)
        if len(lengths) > 1 or values.null_count or len(values) % max(1, len(column)):
            raise ValueError(f"{law}, with lists of different length or empty places.")
        array = np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), -1)
        return array if array.dtype.kind == "f" else array.astype(np.float32)
