"""The table of all losses: every law of test_contract.py runs on each line of it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_topk import losses
from lightning_topk.losses import TopKLoss


@dataclass(frozen=True)
class Case:
    """A loss, how to make it for C = 6 classes, and the pure function that it calls."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    function: str = ""
    noisy: bool = False

    @property
    def cls(self) -> type[TopKLoss]:
        return getattr(losses, self.name)

    def make(self, num_classes: int = 6, **changes: Any) -> TopKLoss:
        loss = self.cls(**{**self.arguments, **changes})
        if loss.needs_class_counts:
            loss.bind_class_counts(torch.arange(1, num_classes + 1) ** 2)
        return loss

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.name}({options})"


CASES = [
    Case("CrossEntropyLoss", function="cross_entropy_loss"),
    Case("NoisedTopKLoss", {"k": 2, "epsilon": 1.0}, "noised_topk_loss", noisy=True),
    Case("NoisedTopKLoss", {"k": 1, "epsilon": 0.0, "margin": 0.5}, "noised_topk_loss"),
    Case("ImbalancedNoisedTopKLoss", {"k": 3, "epsilon": 0.3, "max_margin": 0.5}, "noised_topk_loss", noisy=True),
    Case("ImbalancedNoisedTopKLoss", {"k": 2, "epsilon": 0.1, "margin_constant": 2.0}, "noised_topk_loss", noisy=True),
]


def batch(rows: int = 8, num_classes: int = 6, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random logits [N, C] and targets [N], the same in every test."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(rows, num_classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes, (rows,), generator=generator)
    return logits.to(dtype), targets
