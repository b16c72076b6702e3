"""Text of files, and the one way in which files are written."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Put a file in its place in one step: whoever reads it finds the old contents or the new, never a part.

    The contents are written beside the file under a name with a leading dot, flushed to the disk and then moved. A
    process that is killed in between leaves that other file behind; an error removes it.

    Args:
        path: The file; its folder has to exist.
        content: The contents; text is encoded as UTF-8.

    Raises:
        OSError: The folder does not exist or cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder, "a.txt"), "one")
        ...     write_atomically(Path(folder, "a.txt"), "two")
        ...     print(Path(folder, "a.txt").read_text(), os.listdir(folder))
        two ['a.txt']
    """
    path = Path(path)
    # A name of its own for each process: two runs in one folder do not write into each other's file.
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a full disk is told here by some file systems, and not by the write
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def csv_text(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return columns of one length as CSV with a header. Floats keep full precision, ``None`` is an empty cell.

    Args:
        columns: Values by the name of the column.

    Returns:
        The text; each row ends with a line feed.

    Example:
        >>> print(csv_text({"class": [0, 1], "top1": [1 / 3, None]}), end="")
        class,top1
        0,0.3333333333333333
        1,
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()


def json_text(content: Any) -> str:
    """Return indented JSON that every parser reads: a NaN or infinity, which JSON does not have, becomes ``null``.

    Example:
        >>> print(json_text({"top1": float("nan")}), end="")
        {
          "top1": null
        }
    """
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
