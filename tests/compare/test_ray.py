"""A local Ray, one of whose workers is killed in the middle of a run."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from commands import command
from compare.small import NOISED, run_folders, write
from lightning_topk.cli._fit_parts import FitLauncher
from lightning_topk.compare import RayWorkers, compare, read_comparison
from lightning_topk.compare._run import read_result


def test_ray_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeError, match=r"need the package ray: .pip install .lightning-topk\[ray\].*Found none."):
        RayWorkers(FitLauncher())
    printed = command("compare", write(), "--output", "out", "--ray")
    assert printed.status == 2
    assert "need the package ray" in printed.err


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_killed_worker_of_a_local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    path = write(losses={"noised": {"loss": NOISED["loss"]}}, seeds=[0], config={"trainer.max_epochs": 10})
    assert command("compare", path, "--output", "whole", "--jobs", "0", "--no_timing").status == 0
    checkpoint = Path("out", "runs", run_folders("whole")[0].name, "checkpoints", "last.ckpt").resolve()
    killed: list[int] = []

    def kill() -> None:
        while not checkpoint.is_file():
            time.sleep(0.01)
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and b"ray::_perform" in (entry / "cmdline").read_bytes():
                killed.append(int(entry.name))
                os.kill(killed[-1], signal.SIGKILL)
                return

    threading.Thread(target=kill, daemon=True).start()
    launcher = FitLauncher()
    workers: Any = RayWorkers(launcher, cpus=1)
    table = compare(read_comparison(path), Path("out").resolve(), launcher, timing=False, workers=workers)
    assert not table.failures
    assert len(killed) == 1
    assert Path("out", "results.csv").read_bytes() == Path("whole", "results.csv").read_bytes()
    (folder,) = run_folders("out")
    result = read_result(folder)
    assert result is not None
    assert result["parts"] == 2, "the run went on from its checkpoint"
