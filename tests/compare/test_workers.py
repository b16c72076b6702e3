"""Worker processes: what they are told, what they tell, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from commands import command
from compare.small import NOISED, run_folders, write
from lightning_topk.cli._fit_parts import FitLauncher
from lightning_topk.compare import _workers, compare, read_comparison
from lightning_topk.compare._lock import alone
from lightning_topk.compare._run import read_result
from lightning_topk.compare._workers import Event, Workers

LOSSES = {"noised": {"loss": NOISED["loss"]}}


def double(number: int, launcher: Any, report: Any, cache: dict[str, Any]) -> tuple[int, int, int]:
    report(0.5)
    cache["tasks"] = cache.get("tasks", 0) + 1
    print("doubling", number)
    return 2 * number, cache["tasks"], os.getpid()


def fail(launcher: Any, report: Any, cache: dict[str, Any]) -> None:
    raise ValueError("no")


def die(launcher: Any, report: Any, cache: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def last_of(events: list[Event]) -> dict[int, Event]:
    return {event.index: event for event in events if event.kind in ("done", "failed")}


@pytest.mark.timeout(60)
def test_tasks_errors_and_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "_MOST_DEATHS", 0)
    with Workers(1, FitLauncher(), 1, Path("log.txt")) as workers:
        events = list(workers.run([partial(double, 1), fail, partial(double, 2)]))
        events += [replace(event, index=3) for event in workers.run([die])]
    last = last_of(events)
    assert (last[0].value[:2], last[2].value[:2]) == ((2, 1), (4, 2)), "one process does one after the other"
    assert last[0].value[2] == last[2].value[2] != os.getpid()
    assert (last[1].kind, last[1].value) == ("failed", "ValueError: no")
    assert Event(0, "progress", 0.5) in events
    assert "doubling 2" in Path("log.txt").read_text()
    assert last[3].kind == "failed"
    assert last[3].value == "its process ended 1 times, at last with exit code -9: see log.txt"


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.timeout(120)
def test_a_killed_and_an_interrupted_run_give_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of the worker in the middle of a run, then Ctrl-C in the middle of what it does next."""
    path = write(losses=LOSSES, seeds=[0], config={"trainer.max_epochs": 16})
    assert command("compare", path, "--output", "whole", "--jobs", "0", "--no_timing").status == 0
    comparison, launcher = read_comparison(path), FitLauncher()
    checkpoint = Path("out", "runs", run_folders("whole")[0].name, "checkpoints", "last.ckpt")
    news = Workers._news
    killed = []

    def disturbing(self: Workers) -> Any:
        (worker,) = self._alive
        if not killed:
            wait_for(checkpoint.is_file)
            killed.append(worker.process.pid)
            worker.process.kill()
        elif worker.process.pid not in killed:
            wait_for(lambda: "Restor" in Path("out", "log.txt").read_text())
            killed.append(worker.process.pid)
            raise KeyboardInterrupt
        return news(self)

    with monkeypatch.context() as patched:
        patched.setattr(Workers, "_news", disturbing)
        with pytest.raises(KeyboardInterrupt):
            compare(comparison, "out", launcher, timing=False)
    assert len(killed) == 2
    (folder,) = run_folders("out")
    assert read_result(folder) is None
    assert "SafeStop: the run was told to stop at step" in Path("out", "log.txt").read_text()
    assert command("compare", path, "--output", "out", "--jobs", "0", "--no_timing").status == 0
    assert Path("out", "results.csv").read_bytes() == Path("whole", "results.csv").read_bytes()
    result, whole = read_result(folder), read_result(run_folders("whole")[0])
    assert result is not None
    assert whole is not None
    assert (result["parts"], result["test"]) == (3, whole["test"])


PARENT = """
import sys
from functools import partial
from pathlib import Path
from compare.test_workers import linger
from lightning_topk.cli._fit_parts import FitLauncher
from lightning_topk.compare._workers import Workers

if __name__ == "__main__":
    with Workers(1, FitLauncher(), 1, Path("log.txt")) as workers:
        list(workers.run([linger]))
"""


def linger(launcher: Any, report: Any, cache: dict[str, Any]) -> None:
    from lightning_topk.compare._stop import stop_requested

    Path("child").write_text(str(os.getpid()))
    while not stop_requested():
        time.sleep(0.05)
    Path("told").touch()


@pytest.mark.timeout(100)
def test_workers_end_with_a_command_that_is_killed() -> None:
    Path("parent.py").write_text(PARENT)
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen([sys.executable, "parent.py"], env={**os.environ, "PYTHONPATH": paths})
    wait_for(lambda: Path("child").is_file() and Path("child").read_text())
    parent.kill()
    parent.wait()
    wait_for(Path("told").exists, 10.0)


def test_two_processes_do_not_work_on_one_run() -> None:
    number = os.fork()
    if number == 0:
        with alone(Path()):
            Path("held").touch()
            time.sleep(0.5)
            Path("done").touch()
        os._exit(0)
    wait_for(Path("held").exists)
    with alone(Path()):
        assert Path("done").exists()
    os.waitpid(number, 0)
