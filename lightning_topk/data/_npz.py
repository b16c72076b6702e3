"""Read single arrays of a NumPy ``.npz`` file, with errors that say what the file should be."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np


class NpzFile:
    """An ``.npz`` file whose arrays are read one by one, and only when asked for. Nothing in it is executed.

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
        if not os.access(root, os.R_OK | os.X_OK) and Path(root).exists():
            raise PermissionError(f"Parameter `root` should name a readable folder. Found `{root}`, which is not.")
        if not Path(root).is_dir():
            raise FileNotFoundError(
                f"Parameter `root` should name a folder that holds the data file `{file}`. Found no folder `{root}`."
            )
        if not self.path.is_file():
            near = sorted(path.name for path in Path(root).glob("*.npz"))
            raise FileNotFoundError(
                f"Parameter `file` should name an `.npz` file in `root = {root}`. Found no `{file}`"
                + (f"; there are {', '.join(near[:10])}." if near else ", nor any other `.npz` file.")
            )
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.namelist()
        except (OSError, zipfile.BadZipFile) as error:
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
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{key}.npy") as member:
                if whole:
                    return np.lib.format.read_array(member, allow_pickle=False)
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
                return shape, dtype
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self._law} The array `{key}` of `{self.path}` cannot be read: {error}.") from error
