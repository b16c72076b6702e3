"""A comparison of seconds, and launchers that need no command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASE = {
    "model": {
        "class_path": "lightning_topk.TopKClassifier",
        "init_args": {
            "backbone": {
                "class_path": "lightning_topk.backbones.SmallConvNet",
                "init_args": {"in_channels": 1, "width": 4},
            },
            "loss": {"class_path": "lightning_topk.losses.CrossEntropyLoss"},
            "learning_rate": 0.01,
        },
    },
    "data": {
        "class_path": "lightning_topk.data.GlyphsDataModule",
        "init_args": {"num_classes": 12, "max_count": 30, "imbalance_factor": 10, "batch_size": 16, "val_count": 4},
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 4},
}
CROSS_ENTROPY = {"loss": {"class_path": "CrossEntropyLoss"}}
NOISED = {
    "loss": {"class_path": "NoisedTopKLoss", "init_args": {"k": 3}},
    "grid": {"model.loss.epsilon": [0.1, 1.0], "model.loss.margin": [1.0]},
}


def write(folder: Path = Path(), **content: Any) -> str:
    """Write a base configuration and a comparison, and return the path of the latter."""
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    whole = {
        "base": "base.yaml",
        "losses": {"cross entropy": CROSS_ENTROPY, "noised": NOISED},
        "seeds": [0, 1],
        "ks": [1, 3, 5],
        **content,
    }
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return str(path)


def results(folder: str | Path) -> dict[str, Any]:
    return json.loads(Path(folder, "results.json").read_text())


def run_folders(folder: str | Path) -> list[Path]:
    return sorted(path.parent for path in Path(folder, "runs").glob("*/config.yaml"))


def histogram(*hits: int, misses: int = 0) -> list[list[int]]:
    """A rank histogram of one class for each number: samples of rank 0, the others missed."""
    rows = [[hit, misses] for hit in hits]
    return torch.tensor(rows).tolist()
