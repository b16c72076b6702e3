"""Checkpoints across losses, classes and namespaces, and other tools of Lightning around a module with the mixin."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn

from cases import CASES, Case
from lightning_topk import TopKClassifier, TopKMixin
from lightning_topk.callbacks import DeferredReweighting, TopKReport
from lightning_topk.callbacks._optimizer_states import fit_states
from lightning_topk.losses import STkLoss, TopKLoss
from lightning_topk.metrics import GroupTopKAccuracy
from metrics.slow_metrics import slow_macro, slow_micro
from runs import CLASSES, Net, SaveAt, loader, make_trainer, seeded, vectors

COUNTS = torch.bincount(vectors(64).tensors[1], minlength=CLASSES)
STK = {"class_path": "STkLoss", "init_args": {"fraction": 0.5, "initial_lambda": 0.5}}


def first_of_each_loss() -> list[Case]:
    return list({case.name: case for case in reversed(CASES)}.values())


class Features(nn.Module):
    """A backbone that tells its number of features."""

    num_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


def classifier(classes: int = CLASSES, **options: Any) -> TopKClassifier:
    torch.manual_seed(0)
    return TopKClassifier(Features(), num_classes=classes, **{"k": 3, **options})


def trained(model: Any, path: Path, **options: Any) -> Any:
    """Train a module for an epoch, and write its checkpoint."""
    trainer = make_trainer(**options)
    trainer.fit(model, loader(vectors(64)))
    trainer.save_checkpoint(path)
    return model


class TestAcrossLosses:
    @pytest.mark.parametrize("case", first_of_each_loss(), ids=str)
    def test_weights_and_counts_go_from_each_loss_to_each(self, case: Case, tmp_path: Path) -> None:
        path = tmp_path / "run.ckpt"
        model = trained(classifier(loss=case.cls(**case.arguments), k=None), path)
        others = first_of_each_loss()
        twins = [classifier(loss=other.cls(**other.arguments), k=None) for other in others]
        stored = torch.load(path, weights_only=True)["state_dict"]
        for twin in twins:
            twin.load_state_dict(stored)
        next_one = others[[str(other) for other in others].index(str(case)) - 1]
        loss = next_one.cls(**next_one.arguments).spec()
        twins.append(TopKClassifier.load_from_checkpoint(path, backbone=Features(), loss=loss, k=None))
        assert type(twins[-1].topk_criterion) is next_one.cls
        for twin in twins:
            assert torch.equal(twin.topk_criterion.class_counts, COUNTS)
            assert torch.equal(twin.head.weight, model.head.weight)
            assert twin.topk_loss(twin(vectors().tensors[0]), vectors().tensors[1]).isfinite()

    @pytest.mark.parametrize(
        ("kind", "optimizer"),
        [
            ("all parameters", torch.optim.SGD),
            ("the network's", torch.optim.SGD),
            ("named", torch.optim.Adam),
            ("all parameters", torch.optim.Adam),
        ],
    )
    def test_training_goes_on_with_another_loss(self, kind: str, optimizer: Any, tmp_path: Path) -> None:
        """Also where only one of the two trains a parameter, which stands before, behind or among those of the net."""

        class Own(Net):
            def configure_optimizers(self) -> Any:
                named = self.net.named_parameters() if kind == "named" else self.net.parameters()
                momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
                return optimizer(self.parameters() if kind == "all parameters" else named, lr=0.1, **momentum)

        wrapped = {"class_path": "PriorAdjustedLoss", "init_args": {"loss": STK}}
        specs = {"ce": "CrossEntropyLoss", "stk": STK, "matk": "MATkLoss", "wrapped": wrapped}
        for one, first in specs.items():
            trained(seeded(Own, loss=first), tmp_path / "run.ckpt")
            stored = torch.load(tmp_path / "run.ckpt", weights_only=True)
            for two, second in specs.items():
                model, resumed = seeded(Own, loss=second), {}

                class Look(pl.Callback):
                    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                        found = resumed  # noqa: B023
                        for name, parameter in pl_module.named_parameters():
                            found[name] = copy.deepcopy(trainer.optimizers[0].state.get(parameter, {}))

                trainer = make_trainer(Look(), max_epochs=2)
                trainer.fit(model, loader(vectors(64)), ckpt_path=tmp_path / "run.ckpt")
                assert trainer.global_step == 16
                assert torch.equal(model.topk_criterion.class_counts, COUNTS)
                # What the optimizer knows of the network is what it knew.
                name = "momentum_buffer" if optimizer is torch.optim.SGD else "exp_avg"
                groups = stored["optimizer_states"][0]
                known = [state[name] for state in groups["state"].values() if state[name].shape == (CLASSES, 6)]
                assert torch.equal(resumed["net.weight"][name], known[0]), (one, two)
                keeps = {"stk", "matk"} >= {one, two} or (one == two and one != "ce")
                threshold = next((value for key, value in resumed.items() if key.endswith("lambda_")), None)
                assert (threshold is None) == (two == "ce")
                assert threshold is None or bool(threshold) == keeps, (one, two)

    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # that loss has no use for the counts
    def test_to_a_loss_of_torch_and_back(self, tmp_path: Path) -> None:
        weight = torch.arange(1.0, CLASSES + 1)
        foreign = nn.CrossEntropyLoss(weight=weight)
        trained(seeded(loss=STK), tmp_path / "own.ckpt")
        model = seeded(loss=foreign, k=3)
        make_trainer(max_epochs=2).fit(model, loader(vectors(64)), ckpt_path=tmp_path / "own.ckpt")
        assert torch.equal(foreign.weight, weight)
        trained(model, tmp_path / "foreign.ckpt", max_epochs=2)
        back = seeded(loss=STK)
        make_trainer(max_epochs=3).fit(back, loader(vectors(64)), ckpt_path=tmp_path / "foreign.ckpt")
        assert torch.equal(back.topk_criterion.class_counts, COUNTS)

    def test_a_checkpoint_without_counts_is_given_them(self, tmp_path: Path) -> None:
        trained(seeded(loss="CrossEntropyLoss", k=3, class_counts=False), tmp_path / "run.ckpt")
        model = seeded(loss="ImbalancedNoisedTopKLoss", k=3)
        make_trainer(max_epochs=2).fit(model, loader(vectors(64)), ckpt_path=tmp_path / "run.ckpt")
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)

    def test_states_of_other_optimizers_are_left_alone(self) -> None:
        states = [{"state": {}, "param_groups": [{"params": ["net.weight"]}]}, {"state": {}}]
        kept = [{"state": {}, "param_groups": [{"params": ["net.weight"]}]}, {"state": {}}]
        fit_states(states, {"lambda_": [0, 0, 0]}, {"lambda_": [2, 0, 0], "loss.lambda_": [1, 0, 0]})
        assert states == kept


class TestAcrossClasses:
    def test_another_number_of_classes_is_a_clear_error(self, tmp_path: Path) -> None:
        path = tmp_path / "run.ckpt"
        trained(classifier(), path)
        message = r"as many classes\. Found 8 in the checkpoint and 12 here.*num_classes=\.\.\., strict=False\)` starts"
        with pytest.raises(RuntimeError, match=message):
            TopKClassifier.load_from_checkpoint(path, backbone=Features(), num_classes=12)
        for method in ("fit", "validate"):
            with pytest.raises(RuntimeError, match=message):
                getattr(make_trainer(), method)(classifier(12), loader(vectors(80, classes=12)), ckpt_path=path)

    @pytest.mark.filterwarnings("ignore:Found keys that are in the model state dict but not in the checkpoint")
    @pytest.mark.parametrize("loss", ["ImbalancedNoisedTopKLoss", "BalancedSoftmaxLoss", "CrossEntropyLoss"])
    @pytest.mark.parametrize("normalized", [True, False])
    def test_fine_tuning_starts_a_new_head(self, loss: str, normalized: bool, tmp_path: Path) -> None:
        path = tmp_path / "run.ckpt"
        model = trained(classifier(loss=loss, normalized_head=normalized), path)
        data = vectors(80, classes=12)
        twin = TopKClassifier.load_from_checkpoint(path, backbone=Features(), num_classes=12, strict=False)
        assert torch.equal(twin.backbone.layer.weight, model.backbone.layer.weight)
        assert twin.head.weight.shape == (12, 5)
        assert twin.topk_criterion.class_counts is None
        trainer = make_trainer()
        trainer.fit(twin, loader(data), loader(data))
        assert twin.topk_criterion.class_counts.tolist() == torch.bincount(data.tensors[1]).tolist()
        trained_twice = trainer.callback_metrics
        with torch.no_grad():
            logits = twin.eval()(data.tensors[0])
        assert math.isclose(trained_twice["val_macro_top3"], slow_macro(logits, data.tensors[1], 3), rel_tol=1e-6)

    def test_a_users_own_recipe(self, tmp_path: Path) -> None:
        """The weights of all but the head, into a module with the mixin: new counts replace those of the checkpoint."""

        class Own(Net):
            def __init__(self, classes: int, **options: Any) -> None:
                super().__init__(loss="ImbalancedNoisedTopKLoss", k=3, posthoc_tau=1.0)
                self.net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, classes))

        weights = trained(Own(CLASSES), tmp_path / "run.ckpt").state_dict()
        data = vectors(80, classes=12)
        model = Own(12)
        kept = {name: value for name, value in weights.items() if not name.startswith("net.1.")}
        missing = model.load_state_dict(kept, strict=False)
        assert (missing.missing_keys, missing.unexpected_keys) == (["net.1.weight", "net.1.bias"], [])
        with pytest.raises(ValueError, match=r"one entry per class, shape \[12\]\. Found \[8\]"):
            make_trainer().validate(model, loader(data), verbose=False)
        trainer = make_trainer()
        trainer.fit(model.train(), loader(data), loader(data))
        counts = torch.bincount(data.tensors[1])
        assert torch.equal(model.topk_criterion.class_counts, counts)
        with torch.no_grad():
            logits = model.net(data.tensors[0]) - (counts / counts.sum()).log()
        logged = trainer.callback_metrics["val_macro_top3"].item()
        assert math.isclose(logged, slow_macro(logits, data.tensors[1], 3), rel_tol=1e-6)

    def test_a_new_head_on_the_same_module(self) -> None:
        model = seeded(loss="ImbalancedNoisedTopKLoss", k=3)
        make_trainer().fit(model, loader(vectors()), loader(vectors()))
        model.net = nn.Linear(6, 12)
        data = vectors(80, classes=12)
        trainer = make_trainer()
        trainer.fit(model, loader(data), loader(data))
        with torch.no_grad():
            logits = model.net(data.tensors[0])
        logged = trainer.callback_metrics["val_macro_top3"].item()
        assert math.isclose(logged, slow_macro(logits, data.tensors[1], 3), rel_tol=1e-6)


class Steps:
    """What :class:`runs.Net` does, for any LightningModule."""

    training_step = Net.training_step
    validation_step = Net.validation_step
    configure_optimizers = Net.configure_optimizers

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()  # type: ignore[attr-defined]
        self.net = nn.Linear(6, CLASSES)


class Elsewhere(Steps, TopKMixin, pytorch_lightning.LightningModule, loss=STK, k=3):
    """In the other namespace."""


class Here(Steps, TopKMixin, pl.LightningModule, loss=STK, k=3):
    """In this one."""


@pytest.mark.parametrize(("source", "target"), [(Here, Elsewhere), (Elsewhere, Here)])
def test_checkpoints_go_from_one_namespace_to_the_other(source: Any, target: Any, tmp_path: Path) -> None:
    spaces = {Here: pl, Elsewhere: pytorch_lightning}
    path = tmp_path / "run.ckpt"
    model = source(lr=0.3)
    whole = make_trainer(SaveAt(11, path), namespace=spaces[source], max_epochs=2)
    whole.fit(model, loader(vectors(64)), loader(vectors()))
    twin = target.load_from_checkpoint(path, weights_only=True)
    assert twin.hparams["lr"] == 0.3
    assert torch.equal(twin.topk_criterion.class_counts, COUNTS)
    resumed, epoch_end = target(), tmp_path / "epoch.ckpt"
    first = source()
    first.load_state_dict(twin.state_dict())
    once = make_trainer(SaveAt(8, epoch_end), namespace=spaces[source])
    once.fit(first, loader(vectors(64)))
    trainer = make_trainer(namespace=spaces[target], max_epochs=2)
    trainer.fit(resumed, loader(vectors(64)), loader(vectors()), ckpt_path=epoch_end)
    assert trainer.global_step == 16
    assert resumed.topk_criterion.lambda_.item() != first.topk_criterion.lambda_.item()
    assert "val_macro_top3" in trainer.callback_metrics


AVERAGES = {
    "mean": WeightAveraging,
    "mean without buffers": lambda: WeightAveraging(use_buffers=False),
    "moving": lambda: EMAWeightAveraging(decay=0.9),
    "stochastic": lambda: StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1),
}


class Grouped(Net):
    """Has batch norm, whose statistics are averaged, and a metric of its own that is given the counts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"log_loss": True, **options})
        self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES))
        self.few = GroupTopKAccuracy(CLASSES, 3, "few")


class TestWeightAveraging:
    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("loss", ["NoisedTopKLoss", "ImbalancedNoisedTopKLoss", STK], ids=str)
    def test_counts_and_margins_are_not_averaged(self, average: str, loss: Any, tmp_path: Path) -> None:
        model = seeded(Grouped, loss=loss, k=None if loss is STK else 3, metrics=[1, 3])
        drw = [] if average == "stochastic" else [DeferredReweighting(start_epoch=1)]
        trainer = make_trainer(AVERAGES[average](), *drw, max_epochs=3, enable_checkpointing=True)
        trainer.fit(model, loader(vectors(64)), loader(vectors()))
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)
        fresh = seeded(Grouped, loss=loss, k=None if loss is STK else 3).topk_criterion
        fresh.bind_class_counts(COUNTS)
        if isinstance(getattr(fresh, "margins", None), Tensor):
            assert torch.equal(model.topk_criterion.margins, fresh.margins)
        assert model.topk_criterion.weight is None
        assert torch.equal(model.few.group_mask, COUNTS < 20)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        # The scheduler of stochastic averaging stores a function, which torch 2.7 does not load with weights only.
        stored = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=average != "stochastic")
        stored = stored["state_dict"]
        assert torch.equal(stored["topk_criterion.class_counts"], COUNTS)

    def test_what_is_validated_is_the_average(self, tmp_path: Path) -> None:
        """And a run that is resumed ends as the one that was not stopped."""
        logged, weights = [], []
        for stopped in (False, True):
            model = seeded(loss="ImbalancedNoisedTopKLoss", k=3, log_loss=True)
            callbacks = [EMAWeightAveraging(decay=0.9), SaveAt(8, tmp_path / "run.ckpt")]
            pl.seed_everything(1, verbose=False)
            trainer = make_trainer(*(callbacks[:1] if stopped else callbacks), max_epochs=2)
            trainer.fit(
                model, loader(vectors(64)), loader(vectors()), ckpt_path=tmp_path / "run.ckpt" if stopped else None
            )
            logged.append(dict(trainer.callback_metrics))
            weights.append(model.net.weight.detach().clone())
        assert torch.equal(*weights)
        assert logged[0] == logged[1]
        with torch.no_grad():
            logits = model.net(vectors().tensors[0])
        expected = slow_macro(logits, vectors().tensors[1], 3)
        assert math.isclose(logged[1]["val_macro_top3"].item(), expected, rel_tol=1e-6)

    def test_buffers_are_those_of_the_network(self) -> None:
        for case in CASES:
            assert list(case.make(weight=[1.0] * 6).buffers()) == [], case
        assert list(GroupTopKAccuracy(3, 1, "few", class_counts=[1, 2, 3]).buffers()) == []


class Tuned(Net):
    """What the tuner sets is an attribute, and the loaders are its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lr, self.batch_size = 0.1, 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        return loader(vectors(64), batch_size=self.batch_size)


class TestTuner:
    @pytest.mark.parametrize("loss", ["ImbalancedNoisedTopKLoss", STK], ids=str)
    def test_the_learning_rate_finder_leaves_the_module_as_it_was(self, loss: Any) -> None:
        model = seeded(Tuned, loss=loss)
        before = {name: value.clone() for name, value in model.named_parameters()}
        finder = Tuner(make_trainer()).lr_find(model, num_training=20, update_attr=True)
        assert len(finder.results["loss"]) == 20
        assert all(math.isfinite(each) for each in finder.results["loss"])
        assert model.lr == finder.suggestion()
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
        make_trainer().fit(model)
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)
        assert not any(torch.equal(value, before[name]) for name, value in model.named_parameters())

    @pytest.mark.parametrize("loss", ["ImbalancedNoisedTopKLoss", STK], ids=str)
    def test_finders_as_callbacks(self, loss: Any) -> None:
        model = seeded(Tuned, loss=loss)
        own = BatchSizeFinder(max_trials=2, init_val=2, steps_per_trial=2), LearningRateFinder(num_training_steps=12)
        trainer = make_trainer(*own)
        trainer.fit(model, val_dataloaders=loader(vectors()))
        assert model.batch_size > 2
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)
        assert "val_macro_top3" in trainer.callback_metrics or "val_macro_top5" in trainer.callback_metrics

    def test_the_batch_size_scaler(self) -> None:
        model = seeded(Tuned, loss=STK)
        found = Tuner(make_trainer()).scale_batch_size(
            model, val_dataloaders=loader(vectors()), mode="binsearch", max_trials=3, steps_per_trial=2
        )
        assert model.batch_size == found
        make_trainer().fit(model)
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)


class TestOptionsOfTheTrainer:
    @pytest.mark.parametrize("algorithm", ["norm", "value"])
    def test_gradients_are_clipped(self, algorithm: str) -> None:
        seen = []

        class Look(pl.Callback):
            def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
                gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
                seen.append(torch.cat([gradient.flatten() for gradient in gradients]) if gradients else None)

        model = seeded(loss=STK)
        options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
        make_trainer(Look(), **options).fit(model, loader(vectors(64)))
        found = [each for each in seen if each is not None]
        size = torch.stack([each.norm() if algorithm == "norm" else each.abs().max() for each in found])
        assert len(found) == 7 or len(found) == 8
        torch.testing.assert_close(size, torch.full_like(size, 0.01), rtol=1e-3, atol=0)
        assert len(found[0]) == sum(p.numel() for p in model.parameters())

    def test_fast_dev_run(self, tmp_path: Path) -> None:
        model = seeded(loss="ImbalancedNoisedTopKLoss", k=3)
        trainer = make_trainer(TopKReport(dirpath=tmp_path / "report"), fast_dev_run=True)
        trainer.fit(model, loader(vectors(64)), loader(vectors()))
        assert trainer.global_step == 1
        assert "val_macro_top3" in trainer.callback_metrics
        assert not (tmp_path / "report").exists()
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)

    @pytest.mark.parametrize("share", [2, 0.5])
    def test_overfit_batches(self, share: Any) -> None:
        """Metrics are those of the training batches, and counts those of the whole data set."""
        model, data = seeded(loss="ImbalancedNoisedTopKLoss", k=3), vectors(64)
        trainer = make_trainer(overfit_batches=share, max_epochs=2)
        trainer.fit(model, loader(data), loader(data))
        rows = 8 * (share if isinstance(share, int) else int(8 * share))
        assert trainer.global_step == 2 * rows // 8
        with torch.no_grad():
            logits = model.net(data.tensors[0][:rows])
        expected = slow_macro(logits, data.tensors[1][:rows], 3)
        assert math.isclose(trainer.callback_metrics["val_macro_top3"].item(), expected, rel_tol=1e-6)
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)

    @pytest.mark.parametrize("limit", [3, 0.4, 0])
    def test_limits_of_batches(self, limit: Any) -> None:
        model, data = seeded(loss="ImbalancedNoisedTopKLoss", k=3), vectors(61)
        trainer = make_trainer(limit_train_batches=3, limit_val_batches=limit, limit_test_batches=limit)
        trainer.fit(model, loader(vectors(64)), loader(data))
        rows = min(61, 8 * (limit if isinstance(limit, int) else int(8 * limit)))
        logged = dict(trainer.callback_metrics)
        if rows:
            trainer.test(model, loader(data), verbose=False)
            logged |= trainer.callback_metrics
            with torch.no_grad():
                logits, labels = model.net(data.tensors[0][:rows]), data.tensors[1][:rows]
            for stage in ("val", "test"):
                assert math.isclose(logged[f"{stage}_macro_top3"], slow_macro(logits, labels, 3), rel_tol=1e-6)
                assert math.isclose(logged[f"{stage}_top1"], slow_micro(logits, labels, 1), rel_tol=1e-6)
        else:
            assert logged == {}
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)


def test_values_of_the_sanity_check_reach_nothing(tmp_path: Path) -> None:
    """The sanity check here sees other logits than any later validation: perfect ones."""
    at_start = {}

    class Perfect(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            logits = self.net(batch[0])
            if self.trainer.sanity_checking:
                logits = 100.0 * nn.functional.one_hot(batch[1], CLASSES)
            self.log("val_own", self.topk_loss(logits, batch[1]))

    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            at_start.update(trainer.callback_metrics)

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step < 8:
                at_start.update(trainer.callback_metrics)

    logger = CSVLogger(tmp_path, name="logs", version=0)
    best = ModelCheckpoint(
        tmp_path / "best", monitor="val_macro_top1", mode="max", save_top_k=-1, filename="{val_macro_top1:.4f}"
    )
    stop = EarlyStopping("val_macro_top1", mode="max", patience=5)
    trainer = make_trainer(
        Look(),
        best,
        stop,
        TopKReport(figures=False),
        max_epochs=2,
        num_sanity_val_steps=-1,
        logger=logger,
        enable_checkpointing=True,
    )
    model = seeded(Perfect, loss="ImbalancedNoisedTopKLoss", k=3, log_loss=True, class_counts=COUNTS.tolist())
    trainer.fit(model, loader(vectors(64)), loader(vectors()))
    assert not [name for name in at_start if name.startswith("val")]
    with open(tmp_path / "logs" / "version_0" / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_macro_top1"]]
    assert [row["step"] for row in rows] == ["7", "15"]
    values = [float(row["val_macro_top1"]) for row in rows]
    assert max(values) < 1
    report = tmp_path / "logs" / "version_0" / "report"
    with open(report / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    assert [row["step"] for row in history] == ["8", "16"]
    assert [float(row["val_macro_top1"]) for row in history] == pytest.approx(values)
    assert json.loads((report / "val_table.json").read_text())["step"] == 16
    assert float(best.best_model_score) == pytest.approx(max(values))
    assert len(best.best_k_models) == 2
    assert float(stop.best_score) == pytest.approx(max(values))


def test_training_after_a_validation_that_failed_is_training() -> None:
    """The batch that was not ended is forgotten: losses of training are not counted as evaluation."""

    class Fails(Net):
        failing = True

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            if self.failing:
                raise ArithmeticError("in the middle")

    model = seeded(Fails)
    with pytest.raises(ArithmeticError, match="in the middle"):
        make_trainer().validate(model, loader(vectors()), verbose=False)
    model.failing = False
    trainer = make_trainer()
    trainer.fit(model.train(), loader(vectors(64)), loader(vectors()))
    with torch.no_grad():
        logits = model.net(vectors().tensors[0])
    logged = trainer.callback_metrics["val_macro_top3"].item()
    assert math.isclose(logged, slow_macro(logits, vectors().tensors[1], 3), rel_tol=1e-6)


def test_losses_of_users_keep_the_law_of_buffers() -> None:
    """A constant of a subclass follows the module, and one on the meta device can be made real again."""

    class Mine(STkLoss):
        _constants = (*STkLoss._constants, "table")

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.arange(3)

    loss = Mine().to(torch.float64)
    assert isinstance(loss, TopKLoss)
    assert loss.table.dtype == torch.int64
    assert loss.to("meta").table.is_meta
    assert loss.to_empty(device="cpu").table.device.type == "cpu"
