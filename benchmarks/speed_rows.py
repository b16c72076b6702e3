"""What `speed.py` measures: the losses of this package, cross-entropy, and every peer that can be imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_topk import losses
from lightning_topk.ops import LapSum, NeuralSort, SoftSort, SortingNetwork, SparseTopK, _noised_topk
from lightning_topk.ops._full_noise import full_draws_on_cpu
from lightning_topk.ops._gaussian_topk import _plain as plain_expectation

BASE = "cross-entropy"
COMPILED = ", compiled"
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """One cell of the benchmark: everything that is the same for all losses in it."""

    classes: int = 1000
    spread: float = 3.0
    k: int = 5
    samples: int = 5
    batch: int = 128
    dtype: str = "float32"
    epsilon: float = 1.0
    threads: int = 1
    huge_pages: bool = False

    def data(self) -> tuple[Tensor, Tensor]:
        """Normal logits of the given spread; the label's are 8 higher, as those of a network that has learned."""
        random = torch.Generator().manual_seed(0)
        logits = self.spread * torch.randn(self.batch, self.classes, generator=random)
        targets = torch.randint(self.classes, (self.batch,), generator=random)
        logits[torch.arange(self.batch), targets] += 8 if self.spread >= 1 else 8 * self.spread
        return logits.to(getattr(torch, self.dtype)), targets


def ours(setting: Setting) -> dict[str, Loss]:
    """Every loss of the package, by a short name."""
    k, noise = setting.k, {"k": setting.k, "epsilon": setting.epsilon}
    sampled = {**noise, "num_samples": setting.samples}
    # A scale below 5 is not taken for that of cosines, which these logits are not.
    made: dict[str, losses.TopKLoss] = {
        "CrossEntropyLoss": losses.CrossEntropyLoss(),
        "noised": losses.NoisedTopKLoss(**sampled),
        "noised, imbalanced": losses.ImbalancedNoisedTopKLoss(**sampled, scale=1.0),
        "Gaussian, 1e-3": losses.GaussianTopKLoss(**noise, tolerance=1e-3),
        "Gaussian, 1e-5": losses.GaussianTopKLoss(**noise, tolerance=1e-5),
        "smooth": losses.SmoothTopKLoss(k=k),
        "smooth, tau 0.1": losses.SmoothTopKLoss(k=k, tau=0.1),
        **{variant: losses.TopKHingeLoss(k=k, variant=variant) for variant in ("psi1", "psi2", "psi3", "psi4", "psi5")},
        "LDAM": losses.LDAMLoss(scale=2.0),
        "balanced softmax": losses.BalancedSoftmaxLoss(),
        "logit adjustment": losses.LogitAdjustedLoss(tau=1.5),
        "VS": losses.VSLoss(),
        "focal": losses.FocalLoss(),
        "STk": losses.STkLoss(),
        "MATk": losses.MATkLoss(),
        "ATk": losses.AverageTopKLoss(),
        "noised, adjusted": losses.PriorAdjustedLoss(losses.NoisedTopKLoss(**sampled)),
        "top-k SVM, alpha": losses.TopKSVMLoss(k=k),
        "top-k SVM, beta": losses.TopKSVMLoss(k=k, variant="beta"),
        "top-k entropy": losses.TopKEntropyLoss(k=k),
        "truncated entropy": losses.TruncatedTopKEntropyLoss(k=k),
        "LapSum": losses.SoftTopKLoss(k=k, operator=LapSum()),
        "SparseTopK": losses.SoftTopKLoss(k=k, operator=SparseTopK(), variant="linear"),
        "NeuralSort, m = 16": losses.SortingTopKLoss(k=k, operator=NeuralSort(), num_candidates=max(16, k + 1)),
        "SoftSort, m = 16": losses.SortingTopKLoss(k=k, operator=SoftSort(), num_candidates=max(16, k + 1)),
        "network, m = 16": losses.SortingTopKLoss(k=k, operator=SortingNetwork(), num_candidates=max(16, k + 1)),
    }
    counts = torch.arange(setting.classes) % 100 + 1
    for loss in made.values():
        if loss.needs_class_counts:
            loss.bind_class_counts(counts)
    return dict(made)


def plain_hinge(k: int) -> Loss:
    """The calibrated hinge without smoothing, as one would write it by hand."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        own = logits.gather(1, targets[:, None]).squeeze(1)
        return (1 + logits.topk(k + 1).values[:, -1] - own).relu().mean()

    return loss


def all_noise(setting: Setting) -> Loss:
    """The noised loss with the noise of every class drawn, a few rows at a time: the plain way, done well."""
    loss = losses.NoisedTopKLoss(k=setting.k, epsilon=setting.epsilon, num_samples=setting.samples)

    def every_class(*arguments: Any) -> tuple[Tensor, Tensor, bool]:
        return *full_draws_on_cpu(*arguments), False

    def plain(logits: Tensor, targets: Tensor) -> Tensor:
        cheapest, _noised_topk.cheapest_draws = _noised_topk.cheapest_draws, every_class
        try:
            return loss(logits, targets)
        finally:
            _noised_topk.cheapest_draws = cheapest

    return plain


def plain_gaussian(setting: Setting) -> Loss:
    """The Gaussian loss by the plain sequence of tensor operations."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        value = plain_expectation(logits, setting.k + 1, setting.epsilon, 1e-3)
        return (1 + value - logits.gather(1, targets[:, None]).squeeze(1)).relu().mean()

    return loss


def peers(setting: Setting, paths: dict[str, str], asked: Callable[[str], bool]) -> dict[str, Loss]:
    """Plain ways, and what others have made and can be imported; ``paths`` names folders of source code, by peer."""
    k, counts = setting.k, (torch.arange(setting.classes) % 100 + 1).tolist()
    shares = [0.0] * (k - 1) + [1.0]

    def pytopk_loss(balanced: bool) -> Loss:
        module = importlib.import_module("pytopk")
        if balanced:
            return module.BalNoisedTopK(k=k, epsilon=setting.epsilon, n_sample=setting.samples)
        return module.ImbalNoisedTopK(k, setting.epsilon, 0.3, counts, scale=1, n_sample=setting.samples)

    def difftopk(method: str, **options: object) -> Loss:
        module = importlib.import_module("difftopk")
        return module.TopKCrossEntropyLoss(method, 1.0, p_k=shares, n=setting.classes, m=max(16, k + 1), **options)

    def smooth(module: str, name: str) -> Loss:
        if "smooth-topk" in paths and paths["smooth-topk"] not in sys.path:
            sys.path.insert(0, paths["smooth-topk"])
        if module == "topk" and not Path(paths.get("smooth-topk", ""), "topk").is_dir():
            raise ImportError("the authors' package needs --peer-path smooth-topk=FOLDER")
        return getattr(importlib.import_module(module), name)(setting.classes, k=k, tau=1.0)

    def ldam() -> Loss:
        if "LDAM-DRW" not in paths:
            raise ImportError("the authors' code needs --peer-path LDAM-DRW=FOLDER")
        sys.path.insert(0, paths["LDAM-DRW"])
        return importlib.import_module("losses").LDAMLoss(counts, max_m=0.5, s=2)

    makers: dict[str, Callable[[], Loss]] = {
        "hinge by torch.topk": lambda: plain_hinge(k),
        "plain noised": lambda: all_noise(setting),
        "plain Gaussian, 1e-3": lambda: plain_gaussian(setting),
        "pytopk": lambda: pytopk_loss(True),
        "pytopk, imbalanced": lambda: pytopk_loss(False),
        "smooth-topk (authors)": lambda: smooth("topk.svm", "SmoothTop1SVM" if k == 1 else "SmoothTopkSVM"),
        "smooth-topk (in difftopk)": lambda: smooth("difftopk", "SmoothTopKLoss"),
        "difftopk NeuralSort, m = 16": lambda: difftopk("neuralsort"),
        "difftopk bitonic, m = 16": lambda: difftopk("bitonic__non_sparse", distribution="cauchy"),
        "LDAM (authors)": ldam,
    }
    made = ((name, _made(name, make)) for name, make in makers.items() if asked(name))
    return {name: loss for name, loss in made if loss is not None}


def _made(name: str, make: Callable[[], Loss]) -> Loss | None:
    try:
        return make()
    except (ImportError, AssertionError) as error:  # not installed, or a k that it refuses
        print(f"{name}: left out, {error}", file=sys.stderr)
        return None


def all_rows(
    setting: Setting, paths: dict[str, str] | None, only: list[str] | None, without: list[str], compiled: list[str]
) -> dict[str, Loss]:
    """Cross-entropy, the rows that begin with one of ``only``, those of ``compiled`` once more, and the peers.

    No rows that begin with one of ``without``, and no peers where their paths are None.
    """

    def asked(name: str) -> bool:
        return (not only or name.startswith(tuple(only))) and not name.startswith(tuple(without))

    rows = {BASE: cross_entropy, **{name: loss for name, loss in ours(setting).items() if asked(name)}}
    twins = {name + COMPILED: torch.compile(loss) for name, loss in rows.items() if name in compiled}
    return {**rows, **twins, **({} if paths is None else peers(setting, paths, asked))}
