"""A small model, its data, and the slow loops that say what a report of it should hold."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_topk import TopKMixin
from lightning_topk.callbacks import TopKReport

COUNTS = [150, 120, 60, 30, 20, 10, 5, 3]
NUM_CLASSES = len(COUNTS)
GROUPS = {"many": [0, 1], "medium": [2, 3, 4], "few": [5, 6, 7]}
PNG = b"\x89PNG\r\n\x1a\n"


class Net(TopKMixin, LightningModule, loss="ImbalancedNoisedTopKLoss", k=3, log_loss=True):
    """A linear classifier of six features that remembers its training losses."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"class_counts": COUNTS, **options})
        self.net = nn.Linear(6, NUM_CLASSES)
        self.losses: list[float] = []
        if options.get("class_counts") is not False:  # also for evaluation without a fit before it
            self.topk_criterion.bind_class_counts(COUNTS)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.topk_loss(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.topk_loss(self.net(batch[0]), batch[1])

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def samples(size: int = 40, seed: int = 0, classes: Sequence[int] = range(NUM_CLASSES)) -> TensorDataset:
    """Return features and labels among some classes; the first feature tells a little about the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(list(classes))[torch.randint(len(classes), (size,), generator=generator)]
    features = torch.randn(size, 6, generator=generator)
    features[:, 0] += labels / 2
    return TensorDataset(features, labels)


def loader(size: int = 40, seed: int = 0, **arguments: Any) -> DataLoader:
    return DataLoader(samples(size, seed, **arguments), batch_size=8)


def make_trainer(*callbacks: Any, **arguments: Any) -> Trainer:
    """Return a CPU trainer of two epochs that logs to ``logs/run/version_0`` and shows nothing of its own."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
    }
    if "logger" not in arguments:
        arguments["logger"] = CSVLogger("logs", name="run", version=0)
    return Trainer(callbacks=list(callbacks) or [TopKReport()], **{**defaults, **arguments})


def two_ranks() -> DDPStrategy:
    return DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=20))


def fit(*callbacks: Any, net: Net | None = None, ckpt_path: Any = None, **arguments: Any) -> tuple[Trainer, Net]:
    net = net or Net()
    trainer = make_trainer(*callbacks, **arguments)
    trainer.fit(net, loader(), loader(30, seed=1), ckpt_path=ckpt_path)
    return trainer, net


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def slow_ranks(net: Net, dataset: TensorDataset) -> list[tuple[int, int]]:
    """Return (label, rank of its score) of every sample."""
    pairs = []
    with torch.no_grad():
        for features, label in dataset:
            scores = net.net(features).tolist()
            own = int(label)
            pairs.append((own, sum(score >= scores[own] for c, score in enumerate(scores) if c != own)))
    return pairs


def slow_accuracy(pairs: list[tuple[int, int]], k: int, classes: Sequence[int] | None = None) -> float:
    """Return the mean over classes of their top-k accuracies; over samples when no classes are given."""
    if classes is None:
        return sum(rank < k for _, rank in pairs) / len(pairs)
    values = []
    for c in classes:
        own = [rank for label, rank in pairs if label == c]
        if own:
            values.append(sum(rank < k for rank in own) / len(own))
    return math.fsum(values) / len(values)
