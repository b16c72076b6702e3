"""Noise on two processes: other numbers on each and in each step, the same in each run of a seed, and no bias."""

import math
import os
from statistics import NormalDist
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from ddp import run_ranks
from distributed.processes import joined
from lightning_topk.callbacks._mixin_hooks import MixinHooks
from lightning_topk.losses import GaussianTopKLoss
from runs import CLASSES, Net, loader, seeded, vectors

pytestmark = pytest.mark.timeout(120)


class Recorder(Net):
    """Takes the loss of the same logits in every step: what differs is noise alone."""

    def on_train_start(self) -> None:
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.topk_loss(torch.zeros(4, CLASSES), torch.zeros(4, dtype=torch.long))
        self.losses.append(loss.item())
        return loss + 0 * self.net(batch[0]).sum()


def test_noise_is_a_function_of_seed_process_and_step() -> None:
    def work(rank: int) -> list[list[float]]:
        runs = []
        for seed, loss in [(7, "NoisedTopKLoss"), (7, "NoisedTopKLoss"), (8, "NoisedTopKLoss"), (7, "STkLoss")]:
            pl.seed_everything(seed, verbose=False)
            outer = {"class_path": "STkLoss", "init_args": {"loss": "NoisedTopKLoss", "initial_lambda": -50.0}}
            model = seeded(Recorder, loss=outer if loss == "STkLoss" else loss, k=3)
            joined(rank, 2, max_epochs=2, accumulate_grad_batches=2).fit(model, loader(vectors(64)))
            runs.append(model.losses)
        return runs

    with mock.patch.dict(os.environ):
        (first, again, other, wrapped), (second, *rest) = run_ranks(work)
    assert first == again
    assert second == rest[0]
    everything = [*first, *second, *other, *rest[1]]
    assert len(everything) == len(set(everything)) == 32  # 2 seeds, 2 processes, 2 epochs of 4 batches
    assert len({*wrapped, *rest[2]}) == 16  # a loss in a loss gets noise of its own, too


def test_without_a_seed_all_processes_take_that_of_the_first() -> None:
    def work(rank: int) -> tuple[int, list[float]]:
        os.environ.pop("PL_GLOBAL_SEED", None)
        model = seeded(Recorder)
        torch.manual_seed(100 + rank)
        trainer = joined(rank, 2)
        trainer.fit(model, loader(vectors(64)))
        hooks = next(callback for callback in trainer.callbacks if isinstance(callback, MixinHooks))
        return hooks.state_dict()["seed"], model.losses

    (seed, losses), (same, others) = run_ranks(work)
    assert seed == same == 100
    assert not {*losses} & {*others}


class Scores(Net):
    """Learns nothing: the scores of two classes are its parameter, and their averaged gradient is kept."""

    rows, start = 16, (0.3, 0.0)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = torch.nn.ParameterList([torch.tensor(self.start)])
        self.gradients: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.topk_loss(self.net[0].expand(self.rows, 2), torch.zeros(self.rows, dtype=torch.long))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append(self.net[0].grad[1].item())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_the_averaged_gradient_is_unbiased() -> None:
    r"""Closed form for K = 1 of two classes, where the (K+1)-th largest score is the smaller one.

    The gradient of the loss at label 0 by score 1 is the share of draws in which score 1 is the smaller one, of mean
    :math:`P = \Phi((s_0 - s_1) / (\sqrt 2 \epsilon))`. The mean over all steps has to lie within 4 standard errors, as
    it does with probability 0.99994, and so has the variance of steps: noise that both processes share would double it.
    """
    epsilon, draws, steps = 0.5, 3, 200

    def work(rank: int) -> list[float]:
        pl.seed_everything(11, verbose=False)
        loss = {"class_path": "NoisedTopKLoss", "init_args": {"k": 1, "epsilon": epsilon, "num_samples": draws}}
        model = seeded(Scores, loss={**loss, "init_args": {**loss["init_args"], "margin": 20.0}}, class_counts=False)
        joined(rank, 2, max_steps=steps, max_epochs=-1).fit(model, loader(vectors(1600)))
        return model.gradients

    with mock.patch.dict(os.environ):
        gradients, twin = run_ranks(work)
    assert gradients == twin
    assert len(gradients) == steps
    probability = NormalDist().cdf((Scores.start[0] - Scores.start[1]) / (math.sqrt(2) * epsilon))
    each = probability * (1 - probability) / (2 * Scores.rows * draws)  # the variance of one step
    mean = sum(gradients) / steps
    assert abs(mean - probability) < 4 * math.sqrt(each / steps)
    variance = sum((value - mean) ** 2 for value in gradients) / (steps - 1)
    assert abs(variance / each - 1) < 4 * math.sqrt(2 / (steps - 1))

    scores = torch.tensor(Scores.start, requires_grad=True)  # the loss without noise has the expected gradient
    GaussianTopKLoss(k=1, epsilon=epsilon, margin=20.0)(scores.unsqueeze(0), torch.tensor([0])).backward()
    assert scores.grad[1].item() == pytest.approx(probability, abs=1e-5)
