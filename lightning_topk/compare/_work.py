"""What a worker process does."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection, parent_process
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_topk.compare._launcher import Launcher
from lightning_topk.compare._stop import note_sigterm

SECONDS_OF_GRACE = 120.0  # from SIGTERM to SIGKILL

#: A task gets the launcher, a function that reports progress, and a place to keep things.
Task = Callable[[Launcher, Callable[[float], None], dict[str, Any]], Any]


def work(pipe: Any, launcher: Launcher, threads: int, log: str, device: str | None) -> None:
    """Carry out tasks that come through a pipe, until it is closed or the process is told to stop.

    Args:
        pipe: Where tasks come from, and what becomes known of them goes to.
        launcher: What tasks are given.
        threads: Threads of this process.
        log: File that gets what is printed.
        device: The GPU that is seen, by its name for CUDA; all when not given.
    """
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before CUDA is used here: a trainer takes the first that it sees
    note_sigterm()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all processes of a terminal; the parent tells this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _write_to(log)
    torch.set_num_threads(threads)
    launcher.prepare()
    cache: dict[str, Any] = {}
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is None:
            return
        try:
            value = task(launcher, lambda fraction: pipe.send(("progress", fraction)), cache)
        except (SIGTERMException, BrokenPipeError):
            return
        except BaseException as error:
            traceback.print_exc()
            pipe.send(("failed", message_of(error)))
        else:
            pipe.send(("done", value))


def message_of(error: BaseException) -> str:
    """Return the class and the first lines of an error."""
    text = "\n".join([str(error), *getattr(error, "__notes__", [])]).strip()
    return f"{type(error).__name__}: {text:.600}"


def _write_to(log: str) -> None:
    """Let a process write to a file what it prints, also from libraries and from its own children."""
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(number, 1)
    os.dup2(number, 2)
    os.close(number)


def _end_with_parent() -> None:
    """Stop this process as SIGTERM does when its parent is gone, lest two work on one run later."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_OF_GRACE)
        os._exit(1)
