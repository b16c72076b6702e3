"""The table of all losses: every law of test_contract.py runs on each line of it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_topk import losses
from lightning_topk.losses import TopKLoss
from lightning_topk.ops import LapSum, NeuralSort, SoftSort, SortingNetwork, SparseTopK


@dataclass(frozen=True)
class Case:
    """A loss, how to make it for C = 6 classes, and the pure function that it calls."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    function: str = ""
    noisy: bool = False
    #: Laws that do not hold, each with the reason: "shift" (invariance under a constant added to all logits).
    without: dict[str, str] = field(default_factory=dict)

    @property
    def needs_counts(self) -> bool:
        return self.cls(**self.arguments).needs_class_counts

    @property
    def cls(self) -> type[TopKLoss]:
        return getattr(losses, self.name)

    def make(self, num_classes: int = 6, **changes: Any) -> TopKLoss:
        loss = self.cls(**{**self.arguments, **changes})
        if loss.needs_class_counts:
            loss.bind_class_counts(torch.arange(1, num_classes + 1) ** 2)
        return loss

    def __str__(self) -> str:
        return f"{self.name}({','.join(map(_option, self.arguments.items()))})"


def _option(pair: tuple[str, Any]) -> str:
    """Show an argument in the name of a test; a loss in a loss is shown as one."""
    key, value = pair
    return f"{key}={Case(value['class_path'], value['init_args'])}" if isinstance(value, dict) else f"{key}={value}"


def within(name: str, **arguments: Any) -> dict[str, Any]:
    """Describe a loss that stands in another one."""
    return {"class_path": name, "init_args": arguments}


CASES = [
    Case("CrossEntropyLoss", function="cross_entropy_loss"),
    Case("NoisedTopKLoss", {"k": 2, "epsilon": 1.0}, "noised_topk_loss", noisy=True),
    Case("NoisedTopKLoss", {"k": 1, "epsilon": 0.0, "margin": 0.5}, "noised_topk_loss"),
    Case("ImbalancedNoisedTopKLoss", {"k": 3, "epsilon": 0.3, "max_margin": 0.5}, "noised_topk_loss", noisy=True),
    Case("ImbalancedNoisedTopKLoss", {"k": 2, "epsilon": 0.1, "margin_constant": 2.0}, "noised_topk_loss", noisy=True),
    Case("FocalLoss", {"gamma": 2.0}, "focal_loss"),
    Case("FocalLoss", {"gamma": 0.5}, "focal_loss"),
    Case("SmoothTopKLoss", {"k": 2}, "smooth_topk_loss"),
    Case("SmoothTopKLoss", {"k": 3, "tau": 0.1, "alpha": 0.5}, "smooth_topk_loss"),
    Case("SmoothTopKLoss", {"k": 1, "tau": 2.0}, "smooth_topk_loss"),
    Case("LDAMLoss", {"max_margin": 0.5, "scale": 2.0}, "ldam_loss"),
    Case("BalancedSoftmaxLoss", function="logit_adjusted_loss"),
    Case("LogitAdjustedLoss", {"tau": 1.5}, "logit_adjusted_loss"),
    Case("VSLoss", {"gamma": 0.3, "tau": 1.0}, "vs_loss", without={"shift": "each class scales its logit by its own"}),
    Case("PriorAdjustedLoss", {"loss": within("NoisedTopKLoss", k=2, epsilon=1.0), "prior_tau": 0.5}, noisy=True),
    Case("SortingTopKLoss", {"k": 2, "operator": NeuralSort()}, "sorting_topk_loss"),
    Case("SortingTopKLoss", {"k": 3, "operator": SoftSort(2.0), "p_k": [0.5, 0, 0.5]}, "sorting_topk_loss"),
    Case("SortingTopKLoss", {"k": 2, "operator": SortingNetwork(), "num_candidates": 4}, "sorting_topk_loss"),
    Case("SortingTopKLoss", {"k": 2, "operator": SortingNetwork(distribution="logistic")}, "sorting_topk_loss"),
    Case("SoftTopKLoss", {"k": 2, "operator": LapSum()}, "soft_topk_loss"),
    Case("SoftTopKLoss", {"k": 2, "operator": SparseTopK(3.0), "variant": "linear"}, "soft_topk_loss"),
    Case("GaussianTopKLoss", {"k": 2, "epsilon": 1.0}, "gaussian_topk_loss"),
    Case("GaussianTopKLoss", {"k": 4, "epsilon": 0.3, "margin": 0.5, "scale": 2.0}, "gaussian_topk_loss"),
    Case("GaussianTopKLoss", {"k": 1, "epsilon": 0.0}, "gaussian_topk_loss"),
    Case("ImbalancedGaussianTopKLoss", {"k": 3, "epsilon": 0.3, "max_margin": 0.5}, "gaussian_topk_loss"),
    Case("ImbalancedGaussianTopKLoss", {"k": 2, "epsilon": 0.1, "margin_constant": 2.0}, "gaussian_topk_loss"),
    Case("PriorAdjustedLoss", {"loss": within("LDAMLoss", scale=1.0)}),
    Case("TopKHingeLoss", {"k": 2}, "topk_hinge_loss"),
    Case("TopKHingeLoss", {"k": 2, "variant": "psi1"}, "topk_hinge_loss"),
    Case("TopKHingeLoss", {"k": 3, "variant": "psi2", "margin": 2.0}, "topk_hinge_loss"),
    Case("TopKHingeLoss", {"k": 6, "variant": "psi3"}, "topk_hinge_loss"),
    Case("TopKHingeLoss", {"k": 2, "variant": "psi4", "margin": 0.5}, "topk_hinge_loss"),
    Case("TopKSVMLoss", {"k": 2}, "topk_svm_loss"),
    Case("TopKSVMLoss", {"k": 5, "gamma": 10.0, "margin": 2.0}, "topk_svm_loss"),
    Case("TopKSVMLoss", {"k": 3, "variant": "beta", "gamma": 0.1}, "topk_svm_loss"),
    Case("TopKEntropyLoss", {"k": 2}, "topk_entropy_loss"),
    Case("TopKEntropyLoss", {"k": 5}, "topk_entropy_loss"),
    Case("TruncatedTopKEntropyLoss", {"k": 2}, "truncated_topk_entropy_loss"),
    Case("AverageTopKLoss", {"fraction": 0.6}),
    Case("AverageTopKLoss", {"loss": within("NoisedTopKLoss", k=2, epsilon=1.0), "fraction": 0.0}, noisy=True),
    Case("MATkLoss", {"fraction": 0.6, "initial_lambda": 1.5}),
    Case("STkLoss", {"fraction": 0.6, "initial_lambda": 1.5}),
    Case("STkLoss", {"loss": within("LDAMLoss", scale=2.0), "fraction": 0.9, "delta": 0.1}),
]


def batch(rows: int = 8, num_classes: int = 6, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random logits [N, C] and targets [N], the same in every test."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(rows, num_classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes, (rows,), generator=generator)
    return logits.to(dtype), targets
