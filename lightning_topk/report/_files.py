"""Text of files, and the one way in which files are written."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path, *, own: bool = True) -> Iterator[Path]:
    """Give the path of a file to write, and put it in the place of another when all went well.

    Whoever reads that other file finds its old contents or the new, never a part, also when this process is killed or
    the machine goes down: the new file lies in the same folder until it is complete and on the disk. An error removes
    it; a process that is killed leaves it behind, under a name with a leading dot.

    Args:
        path: The file to replace; its folder has to exist.
        own: Whether the name is of this process alone, so that two processes do not write into each other's file.
            Otherwise the next one takes the place of what a killed process has left, which is worth it for large files.

    Yields:
        The path of the new file.

    Raises:
        OSError: The folder does not exist or cannot be written, or the disk is full; what was there before is kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "a.txt")) as beside:
        ...         _ = beside.write_text("one")
        ...     print(os.listdir(folder))
        ['a.txt']
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp" if own else f".{path.name}.tmp")
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())  # a full disk is told here by some file systems, and not by the write
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise
    _sync_folder(path.parent)


def unwritable(path: str | Path, error: OSError) -> OSError:
    """Return an error of the same type that says what cannot be written."""
    return type(error)(
        f"A file should lie in a folder that can be written, with room for it: `{path}`. Found: {error.strerror}."
    )


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk as well, where a folder can be opened for that."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Put a file in its place in one step, as :func:`replacing` does.

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
    data = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    with replacing(path) as beside:
        beside.write_bytes(data)


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
