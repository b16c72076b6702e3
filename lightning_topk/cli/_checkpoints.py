"""Look at a checkpoint before it is used, without running what may be in it."""

import pickle
import re
import warnings
from pathlib import Path

import torch

_LAW = "A checkpoint should be a file as Lightning writes it."


def check_checkpoint(path: str) -> None:
    """Raise when a file is no checkpoint, or can be loaded only by running code.

    Its tensors are mapped, not read.

    Raises:
        ValueError: A file of another kind, damaged, or with more in it than tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it is refused or read all the same
            content = torch.load(path, weights_only=True, map_location="cpu", mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise ValueError(unsafe_checkpoint(error, path)) from None
    except (EOFError, OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise ValueError(f"{_LAW} `{path}` cannot be read: {reason:.200}") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        keys = ", ".join(map(repr, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{_LAW} Found no `state_dict` in `{path}`, but {keys or 'nothing'}.")


def unsafe_checkpoint(error: pickle.UnpicklingError, path: str | None = None) -> str:
    """Return law and fact for what the unpickler of torch refuses: code, or bytes that are no pickle."""
    where = "the checkpoint" if path is None else f"`{path}`"
    names = re.findall(r"GLOBAL ([\w.]+)|(?:Trying to (?:call|instantiate)|class) ([\w.]+)", str(error))
    found = next((name for pair in names for name in pair if name), None)
    if found is None:
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0]
        return f"{_LAW} {where} cannot be read: {reason:.200}"
    return (
        "A checkpoint should hold tensors and plain values alone: it is loaded without running code. "
        f"Found `{found}` in {where}. For a file that you trust like a program there is `--weights_only false`."
    )


def _is_zip(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) == b"PK\3\4"
