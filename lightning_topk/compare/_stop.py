"""SIGTERM outside of the training, where no trainer listens."""

import signal
import threading
from typing import Any

_told = threading.Event()


def stop_requested() -> bool:
    """Tell whether this process was told to stop."""
    return _told.is_set()


def note_sigterm() -> Any:
    """Note SIGTERM in place of being ended by it, and return the handler that was there before.

    A trainer that runs gets the signal first: it ends its run at the next place where that can go on, and must not be
    interrupted on the way there.
    """
    _told.clear()
    return signal.signal(signal.SIGTERM, lambda number, frame: _told.set())
