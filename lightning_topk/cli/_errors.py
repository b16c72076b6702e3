"""Which errors are a user's mistake, and how these are told."""

import dis
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pickle import UnpicklingError
from types import FrameType, TracebackType
from typing import Any, get_type_hints

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_topk.cli._checkpoints import unsafe_checkpoint
from lightning_topk.cli._explain import shorten
from lightning_topk.data._image_files import CorruptImageError

_MISTAKES = (ValueError, TypeError, OSError, RuntimeError, MisconfigurationException)

#: What ModelCheckpoint and EarlyStopping say of a value that was not logged.
_MONITOR = re.compile(
    r"(?:`ModelCheckpoint\(monitor='(?P<found>.*?)'\)` could not find.*?: \[(?P<logged>.*?)\]"
    r"|Early stopping conditioned on metric `(?P<early>.*?)` which is not available.*?: (?P<choices>.*))",
    re.DOTALL,
)


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
        if isinstance(seen, CorruptImageError):  # also from a worker process, whose errors another module raises again
            return str(seen)
        if isinstance(seen, UnpicklingError):
            return unsafe_checkpoint(seen)
        if (monitor := _MONITOR.match(str(seen))) is not None:
            law = "Option `monitor` of a callback should name a value that the run logs"
            found, logged = monitor["found"] or monitor["early"], monitor["logged"] or monitor["choices"]
            return f"{law}: {logged}. Found `{found}`."
        if isinstance(seen, _MISTAKES) and seen.__traceback__ is not None:
            frames = list(_frames(seen.__traceback__))
            module = str(frames[-1][0].f_globals.get("__name__", ""))
            running = any(frame.f_code.co_name == "_run_subcommand" for frame, _ in frames)
            ours = module.startswith("lightning_topk.")
            theirs = module.startswith("lightning.") and (
                not running or isinstance(seen, MisconfigurationException | FileNotFoundError)
            )
            if (ours or theirs) and _raises(*frames[-1]):
                return " ".join([str(seen), *getattr(seen, "__notes__", [])])
        seen = seen.__cause__
    return None


def refuse_null(cls: Any, arguments: Mapping[str, Any]) -> None:
    """Raise for a null in place of a number, text or class that has another default: the parser lets any null pass.

    A class would read it as false, or as its own default.
    """
    try:
        hints = get_type_hints(cls.__init__)
        parameters = inspect.signature(cls).parameters
    except (AttributeError, NameError, TypeError, ValueError):
        return  # nothing is known about a class without readable annotations
    for name in (name for name, value in arguments.items() if value is None and name in parameters):
        hint = hints.get(name)
        if inspect.isclass(hint) and hint not in (object, type(None)) and parameters[name].default is not None:
            law = f"Parameter `{name}` of {cls.__name__} should be of type {hint.__name__}, or be left out."
            raise TypeError(f"{law} Found null.")


def add_fact(error: Exception, arguments: Mapping[str, Any]) -> None:
    """Note the values of the arguments that an error of Lightning names, as it seldom says what was found."""
    if not error.__class__.__module__.startswith(("builtins", "lightning")) or "Found" in str(error):
        return
    text = str(error)
    named = [name for name in arguments if re.search(rf"[`'\"]{re.escape(name)}\b", text)]
    named = named or [name for name, value in arguments.items() if value and f"={value!r})" in text]
    if named and not hasattr(error, "__notes__"):
        fact = "Found " + ", ".join(f"`{name} = {arguments[name]!r:.80}`" for name in named) + "."
        vars(error)["__notes__"] = [fact]  # as add_note does from Python 3.11 on


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
