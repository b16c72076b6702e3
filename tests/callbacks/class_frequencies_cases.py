"""Small modules, data sets and runs for the tests of ClassFrequencies."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_topk.losses import TopKLoss

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
COUNTS = [4, 3, 1]


class CountedLoss(TopKLoss):
    """Cross-entropy that insists on class counts and remembers how often it got them."""

    needs_class_counts = True

    def __init__(self, zero_counts: str = "error") -> None:
        super().__init__()
        self.zero_counts = zero_counts
        self.bound = 0

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.needs_class_counts and self.class_counts is None:
            raise RuntimeError("no counts")
        return F.cross_entropy(logits, targets)

    def bind_class_counts(self, counts: Any, *, names: Any = None) -> None:
        super().bind_class_counts(counts, names=names)
        self.bound += 1


class FreeLoss(CountedLoss):
    """A loss that works without counts."""

    needs_class_counts = False


class Group(nn.Module):
    """Something that is no loss, takes counts, and does not keep them in checkpoints, as group metrics do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] | None = None

    def bind_class_counts(self, counts: Any) -> None:
        self.seen = counts.tolist()


class Model(LightningModule):
    """A linear classifier of two features."""

    def __init__(self, num_outputs: int = 3, loss: nn.Module | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(2, num_outputs)
        self.loss = CountedLoss() if loss is None else loss
        self.group = Group()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = (batch["x"], batch["label"]) if isinstance(batch, dict) else batch[:2]
        return self.loss(self.net(x), y)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(LightningDataModule):
    """Serves one training set, built in ``setup``, and counts how often its loader is asked for."""

    def __init__(self, dataset: Any, **attributes: Any) -> None:
        super().__init__()
        self.source = dataset
        self.asked = 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def setup(self, stage: str) -> None:
        self.train_set = self.source

    def train_dataloader(self) -> Any:
        self.asked += 1
        return DataLoader(self.train_set, batch_size=4)


class Opaque(Dataset):
    """Labels only inside the samples, which are dictionaries."""

    def __init__(self, labels: Tensor, key: str = "label") -> None:
        self.hidden, self.key, self.reads = labels, key, 0

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        return {"x": torch.rand(2), self.key: self.hidden[index]}


class Stream(IterableDataset):
    """A stream of pairs."""

    def __init__(self, labels: Tensor) -> None:
        self.hidden = labels

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((torch.rand(2), label) for label in self.hidden)


def pairs(labels: Tensor = LABELS) -> TensorDataset:
    """Return features with the labels."""
    return TensorDataset(torch.rand(len(labels), 2), labels)


def make_trainer(*callbacks: Any, **arguments: Any) -> Trainer:
    """Return a silent CPU trainer of one step."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **arguments})


def two_ranks(*callbacks: Any, **arguments: Any) -> Trainer:
    """Return a trainer of two gloo processes, forked from this one."""
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=20))
    return make_trainer(*callbacks, devices=2, strategy=strategy, **arguments)
