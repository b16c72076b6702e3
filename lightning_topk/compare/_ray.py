"""Runs on the machines of a Ray cluster."""

import os
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import torch

from lightning_topk.compare._launcher import Launcher
from lightning_topk.compare._work import Task, message_of
from lightning_topk.compare._workers import Event

_RETRIES = 3  # of a task whose process or machine died; it goes on from its checkpoint
_cache: dict[str, Any] = {}


class RayWorkers:
    """Carries out tasks on a Ray cluster, in the place of :class:`Workers`.

    Every machine has to see the folder of the output, and the data, under the same path. A task whose process or
    machine dies is begun again elsewhere, and goes on from the checkpoint of its run.

    Args:
        launcher: What tasks are given.
        address: Address of the cluster, as in ``ray.init``; when not given the one that is found, or a new one on this
            machine.
        cpus: Processors for each run, and threads of it.
        gpus: GPUs for each run, or a part of one; one where the cluster has any, when not given.

    Raises:
        RuntimeError: Ray is not installed.
    """

    def __init__(
        self, launcher: Launcher, *, address: str | None = None, cpus: int = 1, gpus: float | None = None
    ) -> None:
        try:
            self._ray = import_module("ray")
        except ModuleNotFoundError as error:
            raise RuntimeError(
                'Runs on a cluster need the package ray: `pip install "lightning-topk[ray]"`. Found none.'
            ) from error
        self.launcher, self.address, self.cpus, self.gpus = launcher, address, cpus, gpus
        self._own = False
        self._waiting: dict[Any, int] = {}

    def __enter__(self) -> "RayWorkers":
        if not self._ray.is_initialized():
            self._own = True
            self._ray.init(address=self.address, log_to_driver=False, include_dashboard=False, logging_level="error")
        if self.gpus is None:
            self.gpus = min(self._ray.cluster_resources().get("GPU", 0.0), 1.0)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for reference in self._waiting:
            self._ray.cancel(reference)
        self._waiting = {}
        if self._own:
            self._ray.shutdown()

    def run(self, tasks: Sequence[Task]) -> Iterator[Event]:
        """Carry out tasks, and yield what becomes known of them."""
        perform = self._ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_RETRIES)(_perform)
        self._waiting = {
            perform.remote(task, self.launcher, self.cpus, os.getcwd()): index for index, task in enumerate(tasks)
        }
        while self._waiting:
            yield Event(-1, "tick")
            done, _ = self._ray.wait(list(self._waiting), num_returns=1, timeout=0.5)
            for reference in done:
                index = self._waiting.pop(reference)
                try:
                    kind, value, seconds = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    kind, value, seconds = "failed", message_of(error), None
                yield Event(index, kind, value, seconds)


def _perform(task: Task, launcher: Launcher, threads: int, folder: str) -> tuple[str, Any, float]:
    """Carry out a task in a process of the cluster, as if it were in the folder of the command."""
    since = time.perf_counter()
    if os.path.isdir(folder):
        os.chdir(folder)
    torch.set_num_threads(threads)
    launcher.prepare()
    try:
        return "done", task(launcher, lambda fraction: None, _cache), time.perf_counter() - since
    except Exception as error:
        return "failed", message_of(error), time.perf_counter() - since
