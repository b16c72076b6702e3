"""The script that turns texts into features, and a linear probe on them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import CONFIGS, SHORT, command
from lightning_topk.data import ArrayDataModule

SCRIPT = CONFIGS.parent / "benchmarks" / "text_features.py"


def make(source: Path, target: Path, *args: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(source), str(target), *args], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(60)
def test_features_are_those_of_the_formula(tmp_path: Path) -> None:
    train = np.array(["My card, my card!", "the card is lost", "It's lost"])
    np.savez(
        tmp_path / "texts.npz",
        text_train=train,
        y_train=[0, 1, 1],
        text_test=["My dog", "dog"],
        y_test=[0, 1],
        names=["a", "b"],
    )
    make(tmp_path / "texts.npz", tmp_path / "f.npz", "--min_texts", "1", "--most", "3")
    with np.load(tmp_path / "f.npz") as made:
        assert sorted(made.files) == ["names", "x_test", "x_train", "y_test", "y_train"]
        # The terms in two texts, "card" and "lost", and the first of the others in the alphabet, "card is".
        two, one = 1 + math.log(4 / 3), 1 + math.log(4 / 2)
        expected = np.array([[(1 + math.log(2)) * two, 0, 0], [two, two, one], [0, two, 0]])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(made["x_train"], expected, rtol=1e-6)
        assert not made["x_test"].any()
        assert made["x_train"].dtype == np.float32


@pytest.mark.timeout(100)
def test_a_linear_probe_on_real_texts(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "banking77.npz").is_file():
        pytest.skip("needs the file banking77.npz among the real data")
    make(shared_data / "banking77.npz", tmp_path / "features.npz", "--most", "1024")
    data = ArrayDataModule(str(tmp_path), "features.npz", imbalance_factor=10)
    assert (data.num_classes, data.input_shape, data.split_sizes["test"]) == (77, (1024,), 3080)
    assert 9 <= int(data.class_counts.max()) / int(data.class_counts.min()) <= 10
    probe = ("--config", str(CONFIGS / "data" / "features.yaml"), "--data.root", str(tmp_path))
    short = [word if word != "2" else "1.0" for word in SHORT]  # all batches
    printed = command("fit", *probe, *short, "--model.loss", "CrossEntropyLoss", "--model.learning_rate", "0.05")
    assert (printed.status, printed.err) == (0, "")
    header, *rows = Path(printed.last_line, "metrics.csv").read_text().splitlines()
    values = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert float(values["val_macro_top5"]) > 0.6  # chance is 0.065
