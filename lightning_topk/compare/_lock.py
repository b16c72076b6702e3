"""One process at a time works on a run."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_topk.compare._stop import stop_requested

try:
    fcntl: Any = import_module("fcntl")
except ImportError:  # Windows, where there is no such lock
    fcntl = None

_SECONDS_BETWEEN_TRIES = 0.2


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the same folder.

    The system gives the lock back when its holder ends in whatever way, as a worker does a while after the command that
    it belongs to was killed.

    Raises:
        SIGTERMException: This process was told to stop while it waited.
    """
    if fcntl is None:
        yield
        return
    number = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop_requested():
                    raise SIGTERMException from None
                time.sleep(_SECONDS_BETWEEN_TRIES)
        yield
    finally:
        os.close(number)
