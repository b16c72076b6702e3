"""Run a function in a few real processes that share a gloo group, within a time limit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class RankError(RuntimeError):
    """A rank raised, died or did not finish; the message names it and holds its traceback."""


def run_ranks(fn: Callable[..., Any], world_size: int = 2, timeout: float = 60, *args: Any) -> list[Any]:
    """Call ``fn(rank, *args)`` in ``world_size`` forked processes of one gloo group.

    The processes are forks, so ``fn`` may be a closure. They find each other by a file in a temporary folder: no port
    is chosen. When a rank fails the others are killed at once, as they may wait for it in a collective for ever.

    Returns:
        What the ranks returned (anything that can be pickled), in the order of ranks.

    Raises:
        RankError: The first error of a rank with its traceback, or that the time is over.
    """
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        processes, readers = [], []
        try:
            for rank in range(world_size):
                reader, writer = fork.Pipe(duplex=False)
                readers.append(reader)
                processes.append(fork.Process(target=_rank, args=(fn, rank, world_size, timeout, store, writer, args)))
                processes[-1].start()
                writer.close()
            return _collect(readers, time.monotonic() + timeout, timeout)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            for reader in readers:
                reader.close()


def _rank(
    fn: Callable[..., Any], rank: int, world_size: int, timeout: float, store: str, writer: Connection, args: tuple
) -> None:
    """Body of one process: join the group, call the function, send back its value or its traceback."""
    signal.alarm(int(timeout) + 5)  # ends this process even if its parent was killed before it could
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
        )
        # Plain pickle copies tensors; multiprocessing's own pickler shares memory that ends with the process.
        message = pickle.dumps((fn(rank, *args), None, time.monotonic()))
    except BaseException:
        message = pickle.dumps((None, traceback.format_exc(), time.monotonic()))
    # Sent before the group is left: torch 2.7 may wait for ever for its own threads there, until it is killed.
    writer.send_bytes(message)
    writer.close()
    if dist.is_initialized():
        dist.destroy_process_group()


def _collect(readers: list[Connection], deadline: float, timeout: float) -> list[Any]:
    """Receive one value from each rank, or raise the error that came first: later ones may follow from it."""
    values: dict[int, Any] = {}
    while len(values) < len(readers):
        late = [rank for rank in range(len(readers)) if rank not in values]
        ready = wait([readers[rank] for rank in late], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankError(f"Ranks {late} did not finish within {timeout:g} s.")
        errors = []
        for rank in (rank for rank in late if readers[rank] in ready):
            try:
                values[rank], error, when = pickle.loads(readers[rank].recv_bytes())
            except EOFError:
                error, when = "It died without a word.", 0.0
            if error is not None:
                errors.append((when, rank, error))
        if errors:
            _, rank, error = min(errors)
            raise RankError(f"Rank {rank} of {len(readers)} failed.\n{error}")
    return [values[rank] for rank in range(len(readers))]
