"""Small modules, data and silent trainers for tests that really run Lightning."""

from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_topk import TopKMixin

CLASSES = 8


def vectors(rows: int = 61, classes: int = CLASSES, seed: int = 0) -> TensorDataset:
    """Feature vectors of unequally frequent classes; every class is there when rows >= classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, generator=generator) ** 2 * classes).long()
    labels[: min(rows, classes)] = torch.arange(classes)[:rows]
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(1))
    return TensorDataset(centres[labels] + 0.7 * torch.randn(rows, 6, generator=generator), labels)


def loader(dataset: Any, batch_size: int = 8, **options: Any) -> DataLoader:
    return DataLoader(dataset, batch_size=batch_size, **options)


class StatefulLoader(DataLoader):
    """A loader that goes on in the middle of an epoch."""

    position = start = 0

    def __iter__(self) -> Any:
        start, self.start = self.start, 0
        for index, batch in enumerate(super().__iter__()):
            if index >= start:
                self.position = index + 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["position"]


class Net(TopKMixin, pl.LightningModule):
    """A user's module that has adopted the mixin."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"loss": {"class_path": "NoisedTopKLoss", "init_args": {"k": 3}}, **options})
        self.net = nn.Linear(6, CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.topk_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.topk_loss(self.net(batch[0]), batch[1])

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.5)


class SaveAt(pl.Callback):
    """Writes a checkpoint after a number of training steps, in the middle of an epoch."""

    def __init__(self, step: int, path: Any) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def make_trainer(*callbacks: Any, ranks: int = 1, namespace: Any = pl, **options: Any) -> Any:
    """A silent trainer on the CPU; several ranks are gloo processes forked from this one."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": ranks,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    if ranks > 1:
        settings["strategy"] = DDPStrategy(
            start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=20)
        )
    return namespace.Trainer(callbacks=list(callbacks), **{**settings, **options})


def seeded(cls: Any = Net, **options: Any) -> Any:
    """A module with the same initial weights at every call."""
    torch.manual_seed(3)
    return cls(**options)
