"""Read the batches of CIFAR, which are pickles, without running anything that may be in them."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

# What unpickling raises on bytes that it does not expect.
_DAMAGE = (
    *(pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(MemoryError, OverflowError, RecursionError, ImportError),
)


class _Type:
    """Stands for ``numpy.dtype``: keeps the name of the type, and nothing else."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, _: Any) -> None:
        """Leave out byte order and alignment, which bytes have not."""


class _Array:
    """Stands for ``numpy.ndarray``: keeps shape and bytes of an array of uint8."""

    shape: tuple[int, ...] = ()
    content: bytes = b""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if kind.name not in ("u1", "|u1", "uint8") or fortran or min(shape) < 0 or math.prod(shape) != len(content):
            raise ValueError(f"an array should hold uint8, row by row. Found {kind.name} {list(shape)}")
        self.shape, self.content = tuple(shape), content

    def read(self) -> "np.ndarray[Any, Any]":
        return np.frombuffer(self.content, np.uint8).reshape(self.shape)


class _Call:
    """A function that a pickle cannot change, as it could those of Python."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        raise ValueError("it should change nothing outside of itself")


class _NewArray(_Call):
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _Encode(_Call):
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if _text(encoding) != "latin1":
            raise ValueError(f"bytes should be written as latin1. Found {encoding!r}")
        return text.encode("latin1")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy._core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    """Makes numbers, texts, lists, dictionaries and arrays of uint8; every other name is an error."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it should hold plain values and arrays alone. Found `{module}.{name}`")
        return _KNOWN[module, name]


def read_batch(path: Path, law: str) -> dict[str, Any]:
    """Return what a file of CIFAR holds: texts, lists of whole numbers or of texts, and arrays of uint8.

    Nothing in the file is executed, and none of its arrays is made by NumPy's own functions for pickles, which trust
    what they read. The checksum of the published files is not asked for, so that files in their layout can be read.

    Args:
        path: The file.
        law: What the folder should hold, the beginning of the message.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file of another kind, damaged, or with code in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{law} Found no `{path}`.")
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError(f"it should hold a dictionary. Found {type(content).__name__}")
        return {_text(key): _plain(value) for key, value in content.items()}
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
    raise ValueError(f"{law} `{path}` cannot be read: {reason:.200}.")


def _text(value: Any) -> str:
    if not isinstance(value, str | bytes):
        raise ValueError(f"a name should be a text. Found {type(value).__name__}")
    return value if isinstance(value, str) else value.decode("latin1")


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.read()
    if isinstance(value, list):
        return [item if isinstance(item, int) else _text(item) for item in value]
    return value if isinstance(value, int) else _text(value)
