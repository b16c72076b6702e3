"""Tables of predictions: one row for each sample, as CSV or Parquet."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_topk.report._files import replacing

FORMATS = ("csv", "parquet")
_ROWS = 2**16  # written at a time


@dataclass
class Predictions:
    """The K best classes of samples, with what is known of them.

    Attributes:
        loader: Number of the dataloader, int64, shape [N].
        index: Position of the sample in its data set, int64, shape [N].
        target: Label, int64, shape [N], -1 where it is not known.
        classes: The best classes in descending order, int64, shape [N, K].
        scores: Their scores, float32, shape [N, K].
    """

    loader: Tensor
    index: Tensor
    target: Tensor
    classes: Tensor
    scores: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Join parts one after the other; those without rows may have another K."""
        full = [part for part in parts if len(part.index)] or list(parts[:1])
        if not full:
            return cls(*(torch.empty(0, dtype=torch.int64) for _ in range(3)), *torch.empty(2, 0, 0).unbind())
        widths = {part.classes.shape[1] for part in full}
        if len(widths) > 1:
            raise ValueError(f"All predictions should have as many classes. Found {sorted(widths)}.")
        return cls(*(torch.cat([getattr(part, each.name) for part in full]) for each in fields(cls)))

    def in_order(self) -> "Predictions":
        """Return the rows by dataloader and index, each sample once: what a sampler has repeated is left out."""
        order = np.lexsort((self.index.numpy(), self.loader.numpy()))  # stable
        key = np.stack([self.loader.numpy(), self.index.numpy()])[:, order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (key[:, 1:] != key[:, :-1]).any(0)
        rows = torch.from_numpy(order[first])
        return Predictions(*(getattr(self, each.name)[rows] for each in fields(self)))


def prediction_columns(
    found: Predictions, score: str, names: Sequence[str] | None = None, paths: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return predictions as columns.

    Args:
        found: The predictions.
        score: What the scores are: the beginning of the names of their columns.
        names: Names of the classes.
        paths: Path of each sample.

    Returns:
        Arrays of N values: ``dataloader`` (where there are several), ``index``, ``path`` and ``target`` with
        ``target_name`` as far as they are known, and ``class_1``, ``name_1``, ``<score>_1`` and so on, the best first.

    Example:
        >>> one = torch.tensor([0])
        >>> found = Predictions(one, one, one + 1, torch.tensor([[1, 2]]), torch.tensor([[0.75, 0.25]]))
        >>> list(prediction_columns(found, "probability", names=["a", "b", "c"]))[:5]
        ['index', 'target', 'target_name', 'class_1', 'name_1']
    """
    columns: dict[str, Any] = {}
    lookup = None if names is None else np.array([str(name) for name in names], dtype=object)
    if bool((found.loader > 0).any()):
        columns["dataloader"] = found.loader.numpy()
    columns["index"] = found.index.numpy()
    if paths is not None:
        columns["path"] = np.array(paths, dtype=object)
    if bool((found.target >= 0).any()):
        columns["target"] = found.target.numpy()
        if lookup is not None:
            columns["target_name"] = _named(lookup, columns["target"])
    for place in range(found.classes.shape[1]):
        columns[f"class_{place + 1}"] = own = found.classes[:, place].numpy()
        if lookup is not None:
            columns[f"name_{place + 1}"] = _named(lookup, own)
        columns[f"{score}_{place + 1}"] = found.scores[:, place].numpy()
    return columns


def write_predictions(path: str | Path, columns: dict[str, Any], file_format: str) -> None:
    """Put columns in a file, in one step.

    Args:
        path: The file; its folder has to exist.
        columns: Arrays of one length by the names of the columns.
        file_format: ``"csv"`` or ``"parquet"``.

    Raises:
        ModuleNotFoundError: Parquet without pyarrow.
        OSError: The folder does not exist or cannot be written, or the disk is full.
    """
    with replacing(path) as beside:
        if file_format == "parquet":
            pyarrow = import_pyarrow()
            table = pyarrow.table({name: pyarrow.array(value) for name, value in columns.items()})
            import_module("pyarrow.parquet").write_table(table, beside)
            return
        with open(beside, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for rows in _rows(columns):
                writer.writerows(rows)


def import_pyarrow() -> Any:
    """Return pyarrow, or raise when it is not installed."""
    try:
        return import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Parquet files need the package pyarrow: `pip install lightning-topk[parquet]`, or take "
            '`format="csv"`. Found none.'
        ) from error


def _named(lookup: Any, classes: Any) -> Any:
    """Names of classes; None for one that has none."""
    known = (classes >= 0) & (classes < len(lookup))
    named = np.full(len(classes), None, dtype=object)
    named[known] = lookup[classes[known]]
    return named


def _rows(columns: dict[str, Any]) -> Iterator[Any]:
    """Yield rows in parts; a float32 is written with as many digits as tell it from its neighbours."""
    size = len(next(iter(columns.values())))
    for start in range(0, size, _ROWS):
        parts = [column[start : start + _ROWS] for column in columns.values()]
        yield zip(*(part.astype(str) if part.dtype == np.float32 else part.tolist() for part in parts), strict=True)
