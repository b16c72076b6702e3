"""Read single arrays of a NumPy ``.npz`` file, with errors that say what the file should be."""

import math
import os
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

# What unpacking raises on bytes that it does not expect; a member behind a password is a RuntimeError.
_DAMAGE = (
    *(OSError, EOFError, ValueError, RuntimeError, SyntaxError, TokenError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


def memory() -> int:
    """Return the bytes of memory of the machine, or as good as infinitely many where it does not say."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**63


def check_file(root: str, file: str) -> None:
    """Raise when there is no such file in a readable folder.

    Raises:
        FileNotFoundError: No such folder or file; the message names the data files that are there.
        PermissionError: A folder that cannot be read.
    """
    if not os.access(root, os.R_OK | os.X_OK) and Path(root).exists():
        raise PermissionError(f"Parameter `root` should name a readable folder. Found `{root}`, which is not.")
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"Parameter `root` should name a folder that holds the data file `{file}`. Found no folder `{root}`."
        )
    if not Path(root, file).is_file():
        near = sorted(path.name for path in Path(root).iterdir() if path.suffix in (".npz", ".parquet"))
        raise FileNotFoundError(
            f"Parameter `file` should name an `.npz` or `.parquet` file in `root = {root}`. Found no `{file}`"
            + (f"; there are {', '.join(near[:10])}." if near else ", nor any other file of these kinds.")
        )


class NpzFile:
    """An ``.npz`` file whose arrays are read one by one, and only when asked for. Nothing in it is executed.

    An array is unpacked only when its header declares as many bytes as the archive holds, and they fit into memory.

    Args:
        root: Folder.
        file: Name of the file in it.

    Raises:
        FileNotFoundError: No such folder or file.
        ValueError: A file of another kind, or one that is damaged.
    """

    def __init__(self, root: str, file: str) -> None:
        self.path = Path(root, file)
        self._law = "A data file should be an `.npz` archive as written by `numpy.savez`."
        check_file(root, file)
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.namelist()
        except _DAMAGE as error:
            raise ValueError(f"{self._law} `{self.path}` cannot be read: {error}.") from error
        self.keys = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def read(self, key: str) -> "np.ndarray[Any, Any]":
        """Return one array."""
        return self._open(key, whole=True)

    def shape(self, key: str) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
        """Return shape and dtype of one array from its header alone."""
        return self._open(key, whole=False)

    def _open(self, key: str, *, whole: bool) -> Any:
        if key not in self.keys:
            raise KeyError(key)
        try:
            with zipfile.ZipFile(self.path) as archive:
                size = archive.getinfo(f"{key}.npy").file_size
                with archive.open(f"{key}.npy") as member:
                    version = np.lib.format.read_magic(member)
                    first = version == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                    self._check_size(key, shape, dtype, size - member.tell())
                if not whole:
                    return shape, dtype
                with archive.open(f"{key}.npy") as member:
                    return np.lib.format.read_array(member, allow_pickle=False)
        except _DAMAGE as error:
            raise ValueError(f"{self._law} The array `{key}` of `{self.path}` cannot be read: {error}.") from error

    def _check_size(self, key: str, shape: tuple[int, ...], dtype: "np.dtype[Any]", size: int) -> None:
        declared = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:  # refused by whoever asked for it
            return
        if min(shape, default=0) < 0 or declared != size:
            raise ValueError(f"Found {declared} bytes declared, {size} there")
        if declared > memory():
            raise ValueError(f"It should fit into memory of {memory()} bytes. Found `{key}` of {declared} bytes")
