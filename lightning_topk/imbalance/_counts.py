"""Class counts: from labels, from files, and what makes them valid."""

import csv
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import MOST_CLASSES, as_numbers, check_choice, check_num_classes

ZERO_COUNTS = ("error", "clamp")
LARGEST_FILE = 1 << 28  # bytes; ten million classes have far fewer
LARGEST_COUNT = 2**53  # up to here every whole number is a float64


def class_counts(labels: Tensor | Sequence[int], num_classes: int | None = None) -> Tensor:
    """Count the samples of each class.

    Args:
        labels: Class indices, any shape, integers >= 0.
        num_classes: Number of classes C; the largest label plus one when not given.

    Returns:
        Counts of dtype int64, shape [C].

    Raises:
        TypeError: Labels that are not integers.
        ValueError: No labels, a negative label, or a label of at least ``num_classes``.

    Example:
        >>> class_counts(torch.tensor([2, 0, 2]), num_classes=4)
        tensor([1, 0, 2, 0])
    """
    law = "Argument `labels` should hold integer class indices."
    values = as_numbers(labels, law)
    if values.is_floating_point() and values.numel():
        raise TypeError(f"{law} Found {values.dtype}.")
    if values.numel() == 0:
        raise ValueError("Argument `labels` should hold at least one class index. Found none.")
    values = values.long()
    low, high = int(values.min()), int(values.max())
    size = max(1, min(high + 1, MOST_CLASSES)) if num_classes is None else check_num_classes(num_classes)
    if low < 0 or high >= size:
        raise ValueError(
            f"Argument `labels` should hold class indices in [0, {size}). Found {low if low < 0 else high}."
        )
    return torch.bincount(values.flatten(), minlength=size)


def check_counts(counts: Any, num_classes: int | None = None) -> Tensor:
    """Return class counts as an int64 tensor, or raise when they are none.

    Args:
        counts: One non-negative whole number per class: list, tuple, array or tensor of shape [C].
        num_classes: The number of classes C that they should have.

    Returns:
        Counts of dtype int64, shape [C], on the CPU.

    Raises:
        TypeError: Something that cannot become a tensor of numbers.
        ValueError: Not one-dimensional, of the wrong length, negative, not whole, or all zero.

    Example:
        >>> check_counts([3, 0, 5.0])
        tensor([3, 0, 5])
    """
    law = "Class counts should be a list of one non-negative whole number per class."
    values = as_numbers(counts, law).cpu()
    if values.ndim != 1 or values.numel() == 0:
        raise ValueError(f"{law} Found shape {list(values.shape)}.")
    values = values.double() if values.is_floating_point() else values.long()
    bad = ~((values >= 0) & (values <= LARGEST_COUNT) & (values == values.round()))
    if bad.any():
        position = int(bad.nonzero()[0])
        raise ValueError(f"{law} Found {values[position].item()} for class {position}.")
    if not values.any():
        raise ValueError(f"{law} At least one should be positive. Found {values.numel()} zeros.")
    if num_classes is not None and values.numel() != num_classes:
        raise ValueError(f"{law} Found {values.numel()} counts for {num_classes} classes.")
    return values.long()


def nonzero_counts(counts: Any, zero: str = "error", *, names: Sequence[str] | None = None) -> Tensor:
    """Return counts that are all positive, by the chosen rule for classes without samples.

    Args:
        counts: Class counts as in :func:`check_counts`, shape [C].
        zero: ``"error"`` raises and names the classes, ``"clamp"`` counts such a class as one sample.
        names: Class names for the message.

    Returns:
        Counts >= 1 of dtype int64, shape [C].

    Raises:
        ValueError: A class without samples under ``"error"``.

    Example:
        >>> nonzero_counts([3, 0], zero="clamp")
        tensor([3, 1])
    """
    check_choice("zero_counts", zero, ZERO_COUNTS)
    values = check_counts(counts)
    empty = (values == 0).nonzero().flatten().tolist()
    if empty and zero == "error":
        shown = ", ".join(f"{c} ({names[c]})" if names is not None else str(c) for c in empty[:10])
        more = ", ..." if len(empty) > 10 else ""
        raise ValueError(
            "Every class should have a training sample where its count sets a margin, weight or prior. Found none for "
            f'{len(empty)} of {len(values)} classes: {shown}{more}. Counting them as one is `zero_counts="clamp"`.'
        )
    return values.clamp(min=1)


def read_counts(path: str | Path) -> Tensor:
    """Read class counts from a JSON or CSV file. Nothing in the file is executed.

    Accepted are a JSON list, a JSON object with such a list under ``"counts"``, a JSON object
    ``{class index: count}``, a CSV file with one count per row, and a CSV file with the columns ``class`` and
    ``count``, in any order of rows. A header row is optional.

    Args:
        path: File that ends in ``.json`` or ``.csv``.

    Returns:
        Counts of dtype int64, shape [C].

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another ending, or contents that are no counts.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "counts.json")
        ...     _ = path.write_text('{"counts": [40, 7, 2]}')
        ...     read_counts(path)
        tensor([40,  7,  2])
    """
    file = Path(path)
    law = "A file of class counts should be JSON (a list, or {class: count}) or CSV (count, or class,count)."
    if file.suffix.lower() not in {".json", ".csv"}:
        raise ValueError(f"{law} Found `{file}`.")
    try:
        facts = file.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"A file of class counts should be a regular file. Found another kind at `{file}`.")
        if facts.st_size > LARGEST_FILE:
            raise ValueError(f"{law} It should have at most {LARGEST_FILE} bytes. Found {facts.st_size} in `{file}`.")
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"A file of class counts should exist. Found none at `{file}`.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{law} Found bytes that are no UTF-8 text in `{file}`.") from None
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(f"A file of class counts should be readable. Found `{file}`: {error.strerror}.") from None
    try:
        return check_counts(_parse_json(text) if file.suffix.lower() == ".json" else _parse_csv(text))
    except RecursionError:
        raise ValueError(f"{law} `{file}` is not: it is nested too deeply.") from None
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, csv.Error) as error:
        raise ValueError(f"{law} `{file}` is not: {error}") from None


def _parse_json(text: str) -> Any:
    content = json.loads(text)
    if isinstance(content, dict) and "counts" in content:
        content = content["counts"]
    return _by_class(content.items()) if isinstance(content, dict) else content


def _parse_csv(text: str) -> list[float]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    rows = [row for row in rows if any(row)]
    if rows and not rows[0][-1].replace(".", "", 1).isdigit():
        header = [cell.lower() for cell in rows.pop(0)]
        if "count" in header and "class" in header:
            rows = [[row[header.index("class")], row[header.index("count")]] for row in rows]
        elif len(header) > 2:
            raise ValueError(f"the header {header} has no columns `class` and `count`.")
    if any(len(row) != len(rows[0]) or len(row) > 2 for row in rows):
        raise ValueError("rows of different or too great length.")
    if rows and len(rows[0]) == 2:
        return _by_class((row[0], float(row[1])) for row in rows)
    return [float(row[0]) for row in rows]


def _by_class(pairs: Any) -> list[float]:
    table = {}
    for key, count in pairs:
        if not str(key).isdigit():
            raise ValueError(f"classes should be given by index. Found {key!r}.")
        if int(key) in table:
            raise ValueError(f"class {key} is given twice.")
        table[int(key)] = count
    if sorted(table) != list(range(len(table))):
        largest = max(table, default=-1)
        raise ValueError(f"classes should be 0, 1, ..., without gaps. Found {len(table)} up to {largest}.")
    return [table[c] for c in range(len(table))]
