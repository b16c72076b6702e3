"""Which errors are a user's mistake, and how these are told."""

import dis
import os
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_topk.cli._explain import shorten

_MISTAKES = (ValueError, TypeError, OSError, RuntimeError, MisconfigurationException)


def debugging() -> bool:
    """Tell whether ``LIGHTNING_TOPK_DEBUG`` asks for tracebacks."""
    return os.environ.get("LIGHTNING_TOPK_DEBUG", "0") not in ("", "0")


def user_mistake(error: BaseException) -> str | None:
    """Return the message of an error that a check raised on purpose, or None when it is a crash.

    Such an error was raised by a ``raise`` statement of this package, of Lightning while it was set up, or it says
    by its type that the configuration is at fault. jsonargparse wraps what a constructor raises, so the causes of the
    error are looked through as well.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, _MISTAKES) and seen.__traceback__ is not None:
            frames = list(_frames(seen.__traceback__))
            module = str(frames[-1][0].f_globals.get("__name__", ""))
            running = any(frame.f_code.co_name == "_run_subcommand" for frame, _ in frames)
            ours = module.startswith("lightning_topk.")
            theirs = module.startswith("lightning.") and (
                not running or isinstance(seen, MisconfigurationException | FileNotFoundError)
            )
            if (ours or theirs) and _raises(*frames[-1]):
                return str(seen)
        seen = seen.__cause__
    return None


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lasti
        traceback = traceback.tb_next


def _raises(frame: FrameType, position: int) -> bool:
    """Tell a ``raise`` statement from an operation that failed."""
    return frame.f_code.co_code[position] == dis.opmap["RAISE_VARARGS"]


def report_mistake(message: str) -> None:
    """Print the message of a user's mistake to stderr, with the rank in runs of several processes."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    where = f" (rank {rank})" if rank else ""
    sys.stderr.write(
        f"error{where}: {shorten(message)}\nhelp:  LIGHTNING_TOPK_DEBUG=1 in the environment shows the traceback\n"
    )
