"""The command on two real processes gives what it gives on one."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import GLYPHS, QUICKSTART, QUIET, command

ONE_EPOCH = ("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", *QUIET)


def logged(folder: str) -> dict[str, float]:
    """Return what the run has logged, from the file of its logger."""
    with Path(folder, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: float(row[name]) for row in rows for name in row if name.startswith("val_") and row[name]}


@pytest.mark.timeout(120)
def test_validation_on_two_processes_equals_one(repository: Path) -> None:
    # 11 classes x 9 images = 99 on batches of 25: one rank repeats a sample, and the last batches are not full.
    data = (*GLYPHS, "--data.num_classes", "11", "--data.val_count", "9", "--data.batch_size", "25")
    fit = command("fit", *QUICKSTART, *data, *ONE_EPOCH)
    assert fit.status == 0, fit.err
    checkpoint = "logs/quickstart/version_0/checkpoints/last.ckpt"
    args = ("validate", *QUICKSTART, *data, "--ckpt_path", checkpoint, *QUIET, "--trainer.accelerator", "cpu")
    one = command(*args)
    assert one.last_line == "logs/quickstart/version_1"
    two = subprocess.run(
        [sys.executable, "-m", "lightning_topk", *args, "--trainer.devices", "2", "--trainer.strategy", "ddp"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.splitlines()[-1] == "logs/quickstart/version_2"
    expected, found = logged("logs/quickstart/version_1"), logged("logs/quickstart/version_2")
    assert {"val_loss", "val_macro_top1", "val_macro_top5", "val_top5"} <= expected.keys() == found.keys()
    for name, value in expected.items():
        assert math.isclose(found[name], value, rel_tol=1e-6, abs_tol=1e-6), name
