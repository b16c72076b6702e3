"""Every loss under the precision plugins of Lightning on the CPU, and whole modules under ``torch.compile``."""

from __future__ import annotations

import copy
import os
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from cases import CASES
from lightning_topk.callbacks import EpsilonScheduler
from lightning_topk.schedules import Linear
from runs import CLASSES, Net, loader, make_trainer, seeded, vectors

# Precision: dtypes of the weights, of the logits and of the loss.
PRECISIONS = {
    "32-true": (torch.float32, torch.float32, torch.float32),
    "64-true": (torch.float64, torch.float64, torch.float64),
    "bf16-mixed": (torch.float32, torch.bfloat16, torch.float32),
    "bf16-true": (torch.bfloat16, torch.bfloat16, torch.float32),
    "16-true": (torch.float16, torch.float16, torch.float32),
}


class AllLosses(Net):
    """Trains on the mean of all losses, and keeps what each one gave for the first batch."""

    def __init__(self) -> None:
        super().__init__(loss="CrossEntropyLoss", k=3, log_loss=True)
        self.losses = nn.ModuleList(case.cls(**case.arguments) for case in CASES)
        self.seen: dict[str, SimpleNamespace] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits, targets = self.net(batch[0]), batch[1]
        values = []
        for case, loss in zip(CASES, self.losses, strict=True):
            loss.seed_noise(3)
            values.append(loss(logits, targets))
            if batch_idx == 0:
                (gradient,) = torch.autograd.grad(values[-1], logits, retain_graph=True)
                self.seen[str(case)] = SimpleNamespace(
                    logits=logits.detach(), targets=targets, value=values[-1].detach(), gradient=gradient
                )
        mean = torch.stack(values).mean()
        self.log("train_loss", mean)
        return mean


@pytest.fixture(scope="module", params=PRECISIONS)
def run(request: Any) -> SimpleNamespace:
    model, trainer = seeded(AllLosses), make_trainer(precision=request.param)
    trainer.fit(model, loader(vectors(64)), loader(vectors()))
    return SimpleNamespace(precision=request.param, model=model, logged=dict(trainer.callback_metrics))


def test_every_loss_and_gradient_is_that_of_float32(run: SimpleNamespace) -> None:
    """In low precision up to the rounding of the logits' dtype, in which the gradient arrives."""
    weights, dtype, wide = PRECISIONS[run.precision]
    assert run.model.net.weight.dtype == weights
    for case, loss in zip(CASES, run.model.losses, strict=True):
        seen = run.model.seen[str(case)]
        assert (seen.logits.dtype, seen.value.dtype, seen.gradient.dtype) == (dtype, wide, dtype), case
        assert seen.value.isfinite(), case
        assert seen.gradient.isfinite().all(), case
        twin = case.cls(**case.arguments)
        twin.bind_class_counts(loss.class_counts)
        twin.seed_noise(3)
        logits = seen.logits.to(wide, copy=True).requires_grad_()
        expected = twin(logits, seen.targets)
        expected.backward()
        near = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(seen.value, expected, **near, msg=lambda text, case=case: f"{case}: {text}")
        ulp = torch.finfo(dtype).eps
        torch.testing.assert_close(seen.gradient.to(wide), logits.grad, rtol=max(2 * ulp, 1e-5), atol=1e-6)


def test_margins_and_priors_are_not_rounded(run: SimpleNamespace) -> None:
    for case, loss in zip(CASES, run.model.losses, strict=True):
        twin = case.cls(**case.arguments)
        twin.bind_class_counts(loss.class_counts)
        for name in ("margins", "log_priors"):
            if getattr(twin, name, None) is not None:
                assert torch.equal(getattr(loss, name), getattr(twin, name)), case


def test_metrics_are_logged_in_float32_and_are_right(run: SimpleNamespace) -> None:
    wide = PRECISIONS[run.precision][2]
    assert {name: value.dtype for name, value in run.logged.items() if name.startswith("val_")} == {
        name: torch.float32 for name in run.logged if name.startswith("val_")
    }
    assert run.logged["train_loss"].dtype == wide
    assert all(value.isfinite() for value in run.logged.values())
    features, targets = vectors().tensors
    twin = copy.deepcopy(run.model.net)
    with torch.no_grad():
        if run.precision == "bf16-mixed":
            with torch.autocast("cpu", torch.bfloat16):
                logits = torch.cat([twin(part) for part in features.split(8)])
        else:
            logits = torch.cat([twin(part.to(twin.weight.dtype)) for part in features.split(8)])
    ranks = (logits >= logits.gather(1, targets[:, None])).sum(1) - 1
    expected = torch.tensor([(ranks[targets == c] < 3).float().mean() for c in range(CLASSES)]).mean()
    torch.testing.assert_close(run.logged["val_macro_top3"], expected)


def test_half_precision_is_replaced_by_lightning_on_the_cpu() -> None:
    with pytest.warns(UserWarning, match="AMP with fp16 is not supported on CPU"):
        trainer = make_trainer(precision="16-mixed")
    assert trainer.precision == "bf16-mixed"


LOSSES = {
    "CrossEntropyLoss": {},
    "ImbalancedNoisedTopKLoss": {"k": 3, "epsilon": 0.5},
    "GaussianTopKLoss": {"k": 3, "epsilon": 0.5},
    "SmoothTopKLoss": {"k": 3},
    "SoftTopKLoss": {"k": 3},
    "STkLoss": {"fraction": 0.5},
}


def compiled_as_it_was(loss: str, **options: Any) -> None:
    """Train a module as it is and compiled as a whole, from the same weights and with the same noise."""
    torch._dynamo.reset()
    logged, weights = [], []
    for compiled in (False, True):
        spec = {"class_path": loss, "init_args": LOSSES[loss]}
        model, trainer = (
            seeded(loss=spec, k=3, log_loss=True),
            make_trainer(),
        )
        torch.manual_seed(0)
        whole = torch.compile(model, **options) if compiled else model
        trainer.fit(whole, loader(vectors(64)), loader(vectors(56)))
        trainer.validate(whole, loader(vectors(56)), verbose=False)
        logged.append(dict(trainer.callback_metrics))
        weights.append(model.net.weight.detach())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    assert logged[0].keys() == logged[1].keys()
    for name, value in logged[0].items():
        torch.testing.assert_close(logged[1][name], value, rtol=1e-4, atol=1e-5)


# Of dynamo itself, where it goes on after a break of the graph.
breaks = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")


@breaks
@pytest.mark.timeout(300)
def test_a_compiled_module_trains_as_it_does_uncompiled() -> None:
    compiled_as_it_was("ImbalancedNoisedTopKLoss", backend="aot_eager")


@breaks
@pytest.mark.timeout(300)
def test_a_schedule_does_not_compile_the_module_anew() -> None:
    """Epsilon and the address of the noise change with every step; the limit of dynamo is eight compilations."""
    torch._dynamo.reset()
    counters.clear()
    model = seeded(loss={"class_path": "ImbalancedNoisedTopKLoss", "init_args": {"k": 3, "epsilon": 1.0}}, k=3)
    trainer = make_trainer(EpsilonScheduler(Linear(1.0, 0.1)), max_epochs=3)
    trainer.fit(torch.compile(model, backend="aot_eager"), loader(vectors(64)), loader(vectors(56)))
    assert trainer.global_step > 2 * torch._dynamo.config.recompile_limit
    assert model.topk_criterion.epsilon == pytest.approx(0.1, abs=0.05)
    assert counters["stats"]["unique_graphs"] <= 4


@breaks
@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "long", reason="compiles C++ for a minute")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_module_compiled_to_machine_code_trains_as_it_does_uncompiled(loss: str) -> None:
    compiled_as_it_was(loss, backend="inductor")
