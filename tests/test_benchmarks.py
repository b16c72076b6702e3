"""The benchmarks run, on tiny sizes; their figures are of no interest here."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.timeout(120)
def test_speed(tmp_path: Path) -> None:
    rows = ["psi5", "focal", "smooth, tau"]
    sizes = ["--classes", "12", "20", "--batches", "4", "--ks", "2", "--threads", "1", "--allocators", "default"]
    arguments = [*sizes, "--seconds", "0.05", "--only", *rows, "--profile", "psi5", "--output", str(tmp_path)]
    done = run("speed.py", *arguments, "--figures")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [result["setting"]["classes"] for result in results] == [12, 20]
    for result in results:
        assert list(result["rows"]) == ["cross-entropy", "smooth, tau 0.1", "psi5", "focal"]
        for row in result["rows"].values():
            assert 0 < row["low"] <= row["median"] <= row["high"]
            assert row["allocated"] >= 1.0  # the gradient at least
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8
    text = (tmp_path / "speed.md").read_text()
    assert "| psi5 | " in text
    assert "Where the time goes: psi5, C = 12" in text
    assert {path.name for path in tmp_path.glob("*.svg")} >= {"time_classes.svg", "breakdown.svg"}
    before = (tmp_path / "results.json").read_text()
    again = run("speed.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert "[1/2]" not in again.stdout, "what is done is not measured again"
    assert (tmp_path / "results.json").read_text() == before


@pytest.mark.timeout(120)
def test_training_step() -> None:
    done = run(
        *["training_step.py", "--classes", "6", "--batch", "2", "--pixels", "32", "--seconds", "0", "--only", "focal"]
    )
    assert done.returncode == 0, done.stderr
    assert "| focal | 6 | " in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it would run in full")
@pytest.mark.timeout(120)
def test_gpu_says_that_there_is_none() -> None:
    done = run("gpu.py")
    assert done.returncode == 2
    assert "This benchmark needs a CUDA device. Found none" in done.stderr
