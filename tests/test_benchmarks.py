"""The benchmarks run, on tiny sizes, where their figures are of no interest; and the losses take little memory."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_topk.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    NoisedTopKLoss,
    SmoothTopKLoss,
    STkLoss,
    TopKHingeLoss,
    TopKLoss,
    VSLoss,
)

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
def test_speed_of_compiled_rows_on_two_threads(tmp_path: Path) -> None:
    sizes = ["--classes", "1000", "--batches", "4", "--ks", "2", "--threads", "2", "--allocators", "default"]
    rows = ["--only", "psi5", "--compile", "psi5", "--seconds", "0.05", "--output", str(tmp_path)]
    done = run("speed.py", *sizes, *rows)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert list(result["rows"]) == ["cross-entropy", "psi5", "psi5, compiled"]
    assert "allocated" in result["rows"]["psi5"]
    assert "allocated" not in result["rows"]["psi5, compiled"]


@pytest.mark.timeout(120)
def test_noise_choice() -> None:
    done = run("noise_choice.py", "--classes", "600", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ") == 18
    assert "| uniform on [0, 6] | " in done.stdout


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


@pytest.fixture
def allocation_peak(monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("speed_measure").allocation_peak


def test_peak_counts_what_torch_and_numpy_hold(allocation_peak: Callable[..., float]) -> None:
    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits: Tensor) -> Tensor:
            kept = np.empty(logits.shape, np.float32)
            ctx.save_for_backward(torch.from_numpy(kept), torch.empty_like(logits))
            return logits.sum()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            left = [np.zeros(ctx.saved_tensors[0].shape, np.float32), torch.empty_like(ctx.saved_tensors[0])]
            return torch.from_numpy(left[0])

    logits = torch.zeros(128, 1_000)
    # Two are kept, two are made in the backward pass.
    assert allocation_peak(lambda logits, _: Loss.apply(logits), logits, None) == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize(
    ("loss", "most"),
    [
        (CrossEntropyLoss(), 1.1),
        (FocalLoss(), 1.1),
        (LDAMLoss(scale=2.0), 1.1),
        (BalancedSoftmaxLoss(), 1.1),
        (VSLoss(), 1.1),
        (STkLoss(), 1.1),
        (TopKHingeLoss(k=5), 1.1),
        (TopKHingeLoss(k=5, variant="psi3"), 1.1),
        (NoisedTopKLoss(k=5), 1.1),
        (SmoothTopKLoss(k=5), 1.2),
        (SmoothTopKLoss(k=5, tau=0.1), 1.2),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_a_step(
    loss: TopKLoss, most: float, dtype: torch.dtype, allocation_peak: Callable[..., float]
) -> None:
    """The gradient is all that is held of the size of the logits."""
    if dtype == torch.bfloat16:
        # What is made in float32, or of some classes alone, weighs twice as much.
        most = 2.2 if isinstance(loss, NoisedTopKLoss) else 1.3
    loss.bind_class_counts(torch.arange(1, 10_001))
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(128, 10_000, generator=generator)
    targets = torch.randint(10_000, (128,), generator=generator)
    assert 1.0 <= allocation_peak(loss, logits.to(dtype), targets) <= most
