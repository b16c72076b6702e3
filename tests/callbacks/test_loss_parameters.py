"""Lambda of the aggregates in real runs: trained, never decayed, equal on all ranks, saved, or an error says why."""

from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.optim import SGD, Adam, AdamW, lr_scheduler

from lightning_topk import TopKClassifier, TopKMixin
from lightning_topk.callbacks._loss_parameters import train_loss_parameters
from lightning_topk.losses import STkLoss
from runs import CLASSES, Net, loader, make_trainer, seeded, vectors

STK = {"class_path": "STkLoss", "init_args": {"fraction": 0.5, "initial_lambda": 1.0}}
SCHEDULES = {
    "none": None,
    "StepLR": partial(lr_scheduler.StepLR, step_size=2, gamma=0.5),
    "LambdaLR": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=20),
    "CosineAnnealingLR": partial(lr_scheduler.CosineAnnealingLR, T_max=20),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, T_max=17)],
        [3],
    ),
}
OPTIMIZERS = {
    "SGD": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.3),
    "Adam": partial(Adam, lr=0.02, weight_decay=0.3),
    "AdamW": partial(AdamW, lr=0.02, weight_decay=0.3),
}


class Trained(Net):
    """A module whose optimizer gets ``net`` alone, everything, or lambda in a group of its own without decay."""

    def __init__(self, make: Any = OPTIMIZERS["SGD"], schedule: Any = None, which: str = "net", **options: Any) -> None:
        super().__init__(**{"loss": STK, **options})
        self.make, self.schedule, self.which = make, schedule, which

    def configure_optimizers(self) -> Any:
        groups = {"net": self.net.parameters(), "all": self.parameters()}
        groups["own group"] = [
            {"params": self.net.parameters()},
            {"params": self.topk_criterion.parameters(), "weight_decay": 0.0},
        ]
        optimizer = self.make(groups[self.which])
        if self.schedule is None:
            return optimizer
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]


def fitted(model: Any, **options: Any) -> Any:
    make_trainer(**options).fit(model, loader(vectors()))
    return model


@pytest.mark.parametrize("which", ["net", "all"])
@pytest.mark.parametrize(
    ("optimizer", "schedule"), [*[("SGD", name) for name in SCHEDULES], ("Adam", "OneCycleLR"), ("AdamW", "StepLR")]
)
def test_lambda_is_trained_without_decay_under_any_schedule(optimizer: str, schedule: str, which: str) -> None:
    """As in a run in which the user has given it a group of its own."""
    model, own = (
        fitted(seeded(Trained, make=OPTIMIZERS[optimizer], schedule=SCHEDULES[schedule], which=each))
        for each in (which, "own group")
    )
    assert abs(model.topk_criterion.lambda_.item() - 1.0) > 1e-3
    torch.testing.assert_close(model.topk_criterion.lambda_, own.topk_criterion.lambda_, atol=2e-6, rtol=0)
    torch.testing.assert_close(model.net.weight, own.net.weight, atol=2e-6, rtol=0)


def test_decay_would_have_shown() -> None:
    """The same run with the shelter taken away."""

    class Bare(Trained):
        def on_train_start(self) -> None:
            self.trainer.optimizers[0]._optimizer_step_pre_hooks.clear()

    sheltered, bare = (fitted(seeded(cls, which="all")).topk_criterion.lambda_.item() for cls in (Trained, Bare))
    assert abs(sheltered - bare) > 1e-2


@pytest.mark.parametrize("namespace", [pl, pytorch_lightning])
def test_both_namespaces_and_named_parameters(namespace: Any) -> None:
    class Named(TopKMixin, namespace.LightningModule, loss=STK):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(6, CLASSES)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.topk_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return SGD(self.net.named_parameters(), lr=0.1)

    model, trainer = Named(), make_trainer(namespace=namespace)
    trainer.fit(model, loader(vectors()))
    assert model.topk_criterion.lambda_.item() != 1.0
    assert trainer.optimizers[0].state_dict()["param_groups"][0]["param_names"] == ["weight", "bias", "lambda_"]


class Plain(Net):
    def __init__(self) -> None:
        super().__init__(loss=STK)


@pytest.mark.filterwarnings("ignore:`Plain.configure_optimizers` will be overridden")
def test_the_optimizer_of_the_command_line(tmp_path: Any) -> None:
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    cli = LightningCLI(
        Plain,
        args=["--optimizer=AdamW", "--optimizer.lr=0.1", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"],
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
        trainer_defaults={"default_root_dir": str(tmp_path), "accelerator": "cpu", "logger": False, "max_epochs": 1}
        | quiet,
    )
    cli.trainer.fit(cli.model, loader(vectors()))
    assert isinstance(cli.trainer.optimizers[0], AdamW)
    assert cli.trainer.optimizers[0]._optimizer_step_pre_hooks
    assert cli.model.topk_criterion.lambda_.item() != 1.0


def test_an_optimizer_put_on_the_instance() -> None:
    model, usual = seeded(Trained), seeded(Trained)
    model.configure_optimizers = lambda: OPTIMIZERS["SGD"](model.net.parameters())
    torch.testing.assert_close(fitted(model).topk_criterion.lambda_, fitted(usual).topk_criterion.lambda_)


class Manual(Trained):
    def __init__(self, optimizers: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False
        self.count = optimizers

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers() if self.count > 1 else [self.optimizers()] * self.count:
            optimizer.zero_grad()
            self.manual_backward(self.topk_loss(self.net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        parameters = [[self.net.weight], [self.net.bias]] if self.count == 2 else [self.net.parameters()]
        return [self.make(each) for each in parameters] if self.count else None


def test_manual_optimization() -> None:
    model, automatic = fitted(seeded(Manual)), fitted(seeded(Trained))
    torch.testing.assert_close(model.topk_criterion.lambda_, automatic.topk_criterion.lambda_)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_lambda_in_no_optimizer_is_an_error(count: int) -> None:
    with pytest.raises(
        ValueError, match=rf"should be in an optimizer\. Found `lambda_` of STkLoss in none of {count} opt"
    ):
        fitted(Manual(optimizers=count))
    frozen = Manual(optimizers=count)
    frozen.topk_criterion.requires_grad_(False)
    if count:
        assert fitted(frozen).topk_criterion.lambda_.item() == 1.0


def test_lbfgs_which_evaluates_often_and_allows_one_group() -> None:
    model = fitted(seeded(Trained, make=partial(torch.optim.LBFGS, lr=0.1, max_iter=4)))
    assert model.topk_criterion.lambda_.item() != 1.0
    assert model.net.weight.isfinite().all()


def test_outside_of_a_trainer_and_twice() -> None:
    """The shelter gives back what it took, also when the optimizer is set up again and has no closure."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"net": nn.Linear(3, 4), "loss": STkLoss(initial_lambda=2.0)})
    optimizer = AdamW(net["net"].parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        train_loss_parameters(net, net["loss"], [optimizer])
    optimizer.step()
    assert net["loss"].lambda_.item() == 2.0  # no gradient, and so no update
    net["loss"].lambda_.grad = torch.zeros(1)
    optimizer.step()
    assert net["loss"].lambda_.item() == 2.0  # AdamW alone would have made it 1.9
    optimizer.step(lambda: torch.zeros(()))
    assert net["loss"].lambda_.item() == 2.0
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3


def test_saved_and_resumed(tmp_path: Any) -> None:
    data, path = loader(vectors()), tmp_path / "middle.ckpt"
    half, whole, resumed = (seeded(Trained, schedule=SCHEDULES["LambdaLR"]) for _ in range(3))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(half, data)
    trainer.save_checkpoint(path)
    make_trainer(max_epochs=2).fit(whole, data)
    make_trainer(max_epochs=2).fit(resumed, data, ckpt_path=path, weights_only=True)
    assert resumed.topk_criterion.lambda_.item() != half.topk_criterion.lambda_.item()
    assert resumed.topk_criterion.lambda_.item() == whole.topk_criterion.lambda_.item()
    assert torch.equal(resumed.net.weight, whole.net.weight)


def test_load_from_checkpoint_with_another_loss(tmp_path: Any) -> None:
    losses = {"stk": STkLoss(initial_lambda=0.25), "cross-entropy": "CrossEntropyLoss"}
    for name, loss in losses.items():
        model = TopKClassifier(nn.Linear(6, 4), num_classes=CLASSES, loss=loss, k=3)
        trainer = make_trainer()
        trainer.fit(model, loader(vectors()))
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        for other in ("STkLoss", "CrossEntropyLoss"):
            TopKClassifier.load_from_checkpoint(
                tmp_path / f"{name}.ckpt", backbone=nn.Linear(6, 4), loss=other, weights_only=True
            )
    again = TopKClassifier.load_from_checkpoint(
        tmp_path / "stk.ckpt", backbone=nn.Linear(6, 4), weights_only=True, map_location="cpu"
    )
    assert repr(again.topk_criterion).startswith("STkLoss(loss=CrossEntropyLoss(")
    assert again.topk_criterion.lambda_.item() not in (0.0, 0.25)


class Ranked(Trained):
    """Keeps what every rank has at the end."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        targets = batch[1]
        if self.global_rank and batch_idx == 1:
            targets = torch.full_like(targets, -100)  # a rank for which no threshold matters
        return self.topk_loss(self.net(batch[0]), targets)

    def on_train_end(self) -> None:
        torch.save(self.topk_criterion.lambda_.detach(), self.path / str(self.global_rank))


@pytest.mark.timeout(60)
def test_equal_on_two_ranks(tmp_path: Any) -> None:
    model = seeded(Ranked, which="all")
    model.path = tmp_path
    make_trainer(ranks=2).fit(model, loader(vectors()))
    first, second = (torch.load(tmp_path / name).item() for name in ("0", "1"))
    assert first == second != 1.0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["AverageTopKLoss", "MATkLoss", "STkLoss"])
def test_validation_loss_is_the_same_on_one_and_two_ranks(name: str) -> None:
    """61 rows in batches of 8 are split, and on two ranks padded, in different ways."""
    loss = {"class_path": name, "init_args": {"fraction": 0.3}}
    values = []
    for ranks, size in ((1, 8), (2, 8), (1, 61)):
        trainer = make_trainer(ranks=ranks)
        model = seeded(Net, loss=loss, log_loss=True)
        trainer.validate(model, loader(vectors(), size), verbose=False)
        values.append(trainer.callback_metrics["val_loss"].item())
    data = vectors().tensors
    exact = nn.functional.cross_entropy(seeded(Net, loss=loss).net(data[0]), data[1]).item()
    assert values == pytest.approx([exact] * 3, abs=1e-6)
