"""The metrics under ``self.log`` and ``self.log_dict`` of a LightningModule, without the mixin."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_topk.metrics import MacroTopKAccuracy, topk_metrics, unpadded_size

COUNTS = [500, 120, 100, 60, 20, 19, 3]


def samples(n: int = 61) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, 7, generator=generator), torch.randint(7, (n,), generator=generator)


class Probe(LightningModule):
    """The inputs are the logits, so that the values are known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.train_metric = MacroTopKAccuracy(7, 2)
        self.val_metrics = topk_metrics(7, (1, 3), class_counts=COUNTS)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits, targets = batch
        self.train_metric(logits, targets)
        self.log("train_macro_top2", self.train_metric, on_step=True, on_epoch=True)
        return self.scale

    def on_validation_epoch_start(self) -> None:
        self.val_metrics.sample_limit = unpadded_size(self.trainer.val_dataloaders.sampler)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_metrics.update(*batch)
        self.log_dict(self.val_metrics)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    metrics = topk_metrics(7, (1, 3), class_counts=COUNTS)
    metrics.update(*samples())
    return {name: value.item() for name, value in metrics.compute().items()}


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*samples()), batch_size=8)


def test_logged_values_are_those_of_the_epoch(expected: dict[str, float]) -> None:
    trainer = Trainer(max_epochs=2, **QUIET)
    trainer.fit(Probe(), loader(), loader())
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    train = MacroTopKAccuracy(7, 2)
    train.update(*samples())
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert logged["train_macro_top2_epoch"] == pytest.approx(train.compute().item(), abs=1e-6)


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")  # its padding is the subject
def test_two_processes_log_what_one_does(expected: dict[str, float]) -> None:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=20))
    trainer = Trainer(devices=2, strategy=strategy, **QUIET)
    [logged] = trainer.validate(Probe(), loader(), verbose=False)
    assert logged == pytest.approx(expected, abs=1e-6)
