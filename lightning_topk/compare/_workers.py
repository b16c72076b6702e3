"""Persistent worker processes, which survive the death of any one of them."""

import logging
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_topk.compare._launcher import Launcher
from lightning_topk.compare._work import SECONDS_OF_GRACE, Task, message_of, work

_MOST_DEATHS = 2  # of the process of one task; after another one the task has failed


@dataclass
class Event:
    """News of a task.

    Attributes:
        index: Place of the task in what was given to :meth:`Workers.run`.
        kind: ``"start"``, ``"progress"``, ``"done"`` or ``"failed"``; ``"tick"`` when there is no news.
        value: The part that is done, what the task returned, or the message of its error.
        seconds: Time that the task took, where nothing tells when it was begun.
    """

    index: int
    kind: str
    value: Any = None
    seconds: float | None = None


class Workers:
    """Processes that are started once and carry out tasks one after the other.

    Use it in a ``with`` block; when an exception ends the block, processes are told to stop by SIGTERM, so that runs
    write their checkpoints, and are waited for.

    Args:
        count: Number of processes; 0 works in this process.
        launcher: What tasks are given.
        threads: Threads of each process.
        log: Where a process writes what its tasks print.
    """

    def __init__(self, count: int, launcher: Launcher, threads: int, log: Path) -> None:
        self.count, self.launcher, self.threads, self.log = count, launcher, threads, log
        self._alive: list[_Worker] = []
        self._cache: dict[str, Any] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for worker in self._alive:
            worker.stop(told=kind is not None)
        end = time.monotonic() + SECONDS_OF_GRACE
        try:
            for worker in self._alive:
                worker.process.join(max(end - time.monotonic(), 0.1))
        finally:
            for worker in self._alive:
                if worker.process.is_alive():
                    worker.process.kill()
            self._alive = []

    def run(self, tasks: Sequence[Task]) -> Iterator[Event]:
        """Carry out tasks in their order, and yield what becomes known of them.

        A task whose process dies is begun again, and has failed when that goes on.
        """
        if self.count == 0:
            yield from self._run_here(tasks)
            return
        waiting = deque(range(len(tasks)))
        deaths = [0] * len(tasks)
        while waiting or any(worker.task is not None for worker in self._alive):
            for worker in self._idle(len(waiting)):
                index = waiting.popleft()
                worker.give(index, tasks[index])
                yield Event(index, "start")
            yield Event(-1, "tick")
            for worker in self._news():
                event = worker.receive()
                if event is not None:
                    yield event
                    continue
                self._alive.remove(worker)
                worker.process.join()
                index = worker.task if worker.task is not None else -1
                if index < 0:
                    continue
                deaths[index] += 1
                if deaths[index] <= _MOST_DEATHS:
                    waiting.appendleft(index)
                else:
                    code = worker.process.exitcode
                    message = f"its process ended {deaths[index]} times, at last with exit code {code}: see {self.log}"
                    yield Event(index, "failed", message)

    def _idle(self, wanted: int) -> Iterator["_Worker"]:
        for worker in [worker for worker in self._alive if worker.task is None][:wanted]:
            wanted -= 1
            yield worker
        while wanted > 0 and len(self._alive) < self.count:
            wanted -= 1
            worker = _Worker(self.launcher, self.threads, self.log, len(self._alive))
            self._alive.append(worker)
            yield worker

    def _news(self) -> list["_Worker"]:
        ready = connection.wait([worker.pipe for worker in self._alive], timeout=0.5)
        return [worker for worker in self._alive if worker.pipe in ready]

    def _run_here(self, tasks: Sequence[Task]) -> Iterator[Event]:
        for index, task in enumerate(tasks):
            yield Event(index, "start")
            try:
                with _quiet():
                    value = task(self.launcher, lambda fraction: None, self._cache)
            except SIGTERMException:
                raise
            except Exception as error:
                yield Event(index, "failed", message_of(error))
            else:
                yield Event(index, "done", value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Lightning says of every run to itself."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Worker:
    """A process, this end of the pipe to it, and the task that it is at."""

    def __init__(self, launcher: Launcher, threads: int, log: Path, place: int) -> None:
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = (other, launcher, threads, str(log), _device(place))
        # No daemon: loaders with workers of their own need children.
        self.process = context.Process(target=work, args=arguments, daemon=False)
        self.task: int | None = None
        self.process.start()
        other.close()

    def give(self, index: int, task: Task) -> None:
        self.task = index
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, as `receive` will find
            self.pipe.send(task)

    def receive(self) -> Event | None:
        """Return what the process says, or None when it is no more."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        index = -1 if self.task is None else self.task
        if kind in ("done", "failed"):
            self.task = None
        return Event(index, kind, value)

    def stop(self, *, told: bool) -> None:
        if told and self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGTERM)
        with suppress(OSError):
            self.pipe.send(None)


def _device(place: int) -> str | None:
    """Return the GPU of a worker by its name for CUDA, or None where there is no choice."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else list(map(str, range(torch.cuda.device_count())))
    return devices[place % len(devices)] if len(devices) > 1 else None
