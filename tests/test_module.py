"""The mixin and the classifier in real runs."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from cases import CASES, Case
from lightning_topk import TopKClassifier, TopKMixin
from lightning_topk.backbones import SmallConvNet
from lightning_topk.callbacks import ClassFrequencies
from lightning_topk.heads import NormalizedLinear
from lightning_topk.imbalance import posthoc_logit_adjustment
from lightning_topk.losses import CrossEntropyLoss, ImbalancedNoisedTopKLoss, NoisedTopKLoss
from runs import CLASSES, Net, SaveAt, StatefulLoader, loader, make_trainer, seeded, vectors


def slow_scores(model: Any, dataset: Any, counts: torch.Tensor | None = None) -> dict[str, float]:
    """Metrics by loops over samples."""
    with torch.no_grad():
        logits = model.net(dataset.tensors[0])
    scores: dict[str, float] = {}
    for k in (1, 3):
        hits: dict[int, list[bool]] = {}
        for row, y in zip(logits.tolist(), dataset.tensors[1].tolist(), strict=True):
            rank = sum(other >= row[y] for c, other in enumerate(row) if c != y)
            hits.setdefault(y, []).append(rank < k)
        flat = [hit for row in hits.values() for hit in row]
        scores[f"val_top{k}"] = sum(flat) / len(flat)
        scores[f"val_macro_top{k}"] = sum(sum(row) / len(row) for row in hits.values()) / len(hits)
        if counts is not None and k == 3:
            few = [sum(row) / len(row) for y, row in hits.items() if counts[y] < 20]
            scores["val_few_top3"] = sum(few) / len(few)
    return scores


class TestMixin:
    def test_two_lines_bring_counts_margins_and_metrics(self) -> None:
        class Adopted(TopKMixin, pl.LightningModule, k=3):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Linear(6, CLASSES)

            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                x, y = batch
                return self.topk_loss(self.net(x), y)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                x, y = batch
                self.log("val_loss", self.topk_loss(self.net(x), y))

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        train, val = vectors(200), vectors(61, seed=5)
        model, trainer = Adopted(), make_trainer()
        trainer.fit(model, loader(train), loader(val))
        counts = torch.bincount(train.tensors[1], minlength=CLASSES)
        assert isinstance(model.topk_criterion, ImbalancedNoisedTopKLoss)
        assert torch.equal(model.topk_criterion.class_counts, counts)
        assert math.isclose(model.topk_criterion.margins.max().item(), 0.2, rel_tol=1e-6)
        for name, value in slow_scores(model, val, counts).items():
            assert math.isclose(trainer.callback_metrics[name].item(), value, rel_tol=1e-6), name
        assert "val_loss" in trainer.callback_metrics

    def test_options_of_the_class_and_of_the_constructor(self) -> None:
        class Base(TopKMixin, pl.LightningModule, loss="CrossEntropyLoss", k=2):
            pass

        class Child(Base, metrics=[1, 4]):
            pass

        assert isinstance(Base().topk_criterion, CrossEntropyLoss)
        assert (Base().topk_k, Base().topk_ks) == (2, (1, 2))
        assert isinstance(Child().topk_criterion, CrossEntropyLoss)
        assert Child().topk_ks == (1, 4)
        assert Child(metrics=False).topk_ks == ()
        assert Child(k=7).topk_k == 7
        assert Child(loss=NoisedTopKLoss(4), k=4).topk_criterion.k == 4
        assert Base(loss=NoisedTopKLoss, k=4).topk_criterion.k == 4
        assert not Child._topk_options.keys() & {"log_loss"}

    def test_the_loss_may_be_any_module(self) -> None:
        model, trainer = Net(loss=nn.CrossEntropyLoss(), k=3), make_trainer()
        trainer.fit(model, loader(vectors()), loader(vectors()))
        assert "val_macro_top3" in trainer.callback_metrics

    def test_last_among_the_bases_is_an_error(self) -> None:
        with pytest.raises(
            TypeError, match=r"before the LightningModule.*Found class Wrong\(LightningModule, TopKMixin"
        ):

            class Wrong(pl.LightningModule, TopKMixin):
                pass

        class Base(pl.LightningModule):
            pass

        with pytest.raises(TypeError, match=r"Found class Wrong2\(Base, TopKMixin\)"):

            class Wrong2(Base, TopKMixin):
                pass

    def test_configure_callbacks_without_super_keeps_the_hooks(self) -> None:
        class Own(Net):
            def configure_callbacks(self) -> Any:
                return EarlyStopping("val_macro_top3", mode="max")

        class Grandchild(Own):
            def configure_callbacks(self) -> Any:
                return super().configure_callbacks()

        for cls in (Own, Grandchild):
            trainer = make_trainer()
            trainer.fit(cls(), loader(vectors()), loader(vectors()))
            names = [type(callback).__name__ for callback in trainer.callbacks]
            assert sorted(names) == ["ClassFrequencies", "EarlyStopping", "MixinHooks"]

    def test_a_callback_of_the_users_is_the_one_that_counts(self) -> None:
        own = ClassFrequencies(range(1, CLASSES + 1))
        trainer, model = make_trainer(own), Net()
        for _ in range(2):
            trainer.fit(model, loader(vectors()))
        assert [c for c in trainer.callbacks if isinstance(c, ClassFrequencies)] == [own]
        assert model.topk_criterion.class_counts.tolist() == list(range(1, CLASSES + 1))

    @pytest.mark.parametrize("given", [list(range(1, CLASSES + 1)), torch.arange(1, CLASSES + 1), False])
    def test_counts_by_hand_or_none(self, given: Any) -> None:
        model = Net(class_counts=given)
        make_trainer().fit(model, loader(vectors()))
        counts = model.topk_criterion.class_counts
        assert counts is None if given is False else counts.tolist() == list(range(1, CLASSES + 1))

    def test_a_loss_that_brings_its_counts_keeps_them(self) -> None:
        loss = ImbalancedNoisedTopKLoss(k=2)
        loss.bind_class_counts([9] * CLASSES)
        make_trainer().fit(Net(loss=loss), loader(vectors()))
        assert loss.class_counts.tolist() == [9] * CLASSES

    def test_a_stream_goes_on_without_counts_unless_the_loss_needs_them(self) -> None:
        class Stream(IterableDataset):
            def __iter__(self) -> Any:
                return iter(vectors())

        make_trainer().fit(Net(), loader(Stream()))
        with pytest.raises(ValueError, match=r"`ClassFrequencies\(counts="):
            make_trainer().fit(Net(loss="ImbalancedNoisedTopKLoss", k=2), loader(Stream()))
        with pytest.raises(RuntimeError, match=r"should know the training counts.*Found none"):
            make_trainer().fit(Net(loss="ImbalancedNoisedTopKLoss", k=2, class_counts=False), loader(Stream()))

    def test_several_loaders_and_stages(self) -> None:
        model, trainer = seeded(), make_trainer()
        first, second = vectors(30), vectors(40, seed=9)
        results = trainer.validate(model, [loader(first), loader(second)], verbose=False)
        assert len(results) == 1 or len(results) == 2
        logged = trainer.callback_metrics
        for index, data in enumerate((first, second)):
            for name, value in slow_scores(model, data).items():
                assert math.isclose(logged[f"{name}/dataloader_idx_{index}"].item(), value, rel_tol=1e-6)
        trainer.test(model, loader(second), verbose=False)
        expected = slow_scores(model, second)["val_macro_top3"]
        assert math.isclose(trainer.callback_metrics["test_macro_top3"].item(), expected, rel_tol=1e-6)

    def test_epochs_do_not_mix_and_the_sanity_check_is_not_logged(self) -> None:
        seen = []

        class Watch(pl.Callback):
            def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
                seen.append((trainer.sanity_checking, "val_macro_top3" in trainer.callback_metrics))
                if not trainer.sanity_checking:
                    expected = slow_scores(pl_module, data)["val_macro_top3"]
                    assert math.isclose(trainer.callback_metrics["val_macro_top3"].item(), expected, rel_tol=1e-6)

        data = vectors()
        trainer = make_trainer(Watch(), max_epochs=3, num_sanity_val_steps=2)
        trainer.fit(Net(), loader(vectors(100)), loader(data))
        assert seen == [(True, False), (False, True), (False, True), (False, True)]

    def test_a_second_loss_in_one_batch_is_not_counted_twice(self) -> None:
        class Twice(Net):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                super().validation_step(batch, batch_idx)
                self.topk_loss(-self.net(batch[0]), batch[1])

        data = vectors()
        model, trainer = seeded(Twice), make_trainer()
        trainer.validate(model, loader(data), verbose=False)
        expected = slow_scores(model, data)["val_macro_top3"]
        assert math.isclose(trainer.callback_metrics["val_macro_top3"].item(), expected, rel_tol=1e-6)

    @pytest.mark.parametrize(
        ("metrics", "logged"),
        [
            (False, {"val_loss"}),
            ([1, 2], {"val_loss", "val_macro_top1", "val_macro_top2", "val_top1", "val_top2", "val_few_top2"}),
        ],
    )
    def test_metrics_of_the_users_choice(self, metrics: Any, logged: set[str]) -> None:
        model = Net(metrics=metrics, log_loss=True, class_counts=[3] * CLASSES)
        trainer = make_trainer()
        trainer.fit(model, loader(vectors()), loader(vectors()))
        assert set(trainer.callback_metrics) == logged

    def test_a_step_without_the_loss_logs_nothing(self) -> None:
        class Own(Net):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_own", F.cross_entropy(self.net(batch[0]), batch[1]))

        for options in ({}, {"num_classes": CLASSES}):
            trainer = make_trainer()
            trainer.fit(Own(log_loss=True, **options), loader(vectors()), loader(vectors()))
            assert set(trainer.callback_metrics) == {"val_own"}

    def test_soft_targets(self) -> None:
        class Mixed(Net):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                labels = F.one_hot(batch[1], CLASSES).float()
                return self.topk_loss(self.net(batch[0]), 0.7 * labels + 0.3 * labels.flip(0))

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.topk_loss(self.net(batch[0]), F.one_hot(batch[1], CLASSES).float())

        data = vectors()
        model, trainer = Mixed(log_loss=True), make_trainer()
        trainer.fit(model, loader(data), loader(data))
        expected = slow_scores(model, data)
        assert math.isclose(trainer.callback_metrics["val_top3"].item(), expected["val_top3"], rel_tol=1e-6)
        assert trainer.callback_metrics["val_loss"].isfinite()

    def test_a_diverged_network_shows(self) -> None:
        model, trainer = Net(log_loss=True), make_trainer()
        nn.init.constant_(model.net.bias, float("nan"))
        trainer.validate(model, loader(vectors()), verbose=False)
        assert trainer.callback_metrics["val_loss"].isnan()
        assert trainer.callback_metrics["val_top3"] == 0

    def test_without_a_trainer_it_is_the_loss(self) -> None:
        model = Net(loss="CrossEntropyLoss")
        logits, targets = torch.randn(4, CLASSES), torch.tensor([0, 1, 2, 3])
        torch.testing.assert_close(model.topk_loss(logits, targets), F.cross_entropy(logits, targets))

    def test_in_the_other_namespace(self) -> None:
        class Other(TopKMixin, pytorch_lightning.LightningModule, loss="ImbalancedNoisedTopKLoss", k=3):
            training_step = Net.training_step
            validation_step = Net.validation_step
            configure_optimizers = Net.configure_optimizers

            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Linear(6, CLASSES)

        trainer = make_trainer(namespace=pytorch_lightning)
        model = Other()
        trainer.fit(model, loader(vectors(100)), loader(vectors()))
        assert model.topk_criterion.margins is not None
        expected = slow_scores(model, vectors())["val_macro_top3"]
        assert math.isclose(trainer.callback_metrics["val_macro_top3"].item(), expected, rel_tol=1e-6)


@pytest.mark.timeout(60)
class TestDistributed:
    @pytest.mark.parametrize(("rows", "ranks"), [(61, 2), (2, 3), (64, 2)])
    def test_evaluation_equals_one_process(self, rows: int, ranks: int) -> None:
        data = vectors(rows)
        for method in ("validate", "test"):
            values = []
            for world in (1, ranks):
                trainer = make_trainer(ranks=world)
                getattr(trainer, method)(seeded(log_loss=True, class_counts=False), loader(data), verbose=False)
                values.append({name: value.item() for name, value in trainer.callback_metrics.items()})
            assert values[0].keys() == values[1].keys()
            for name, value in values[0].items():
                assert math.isclose(value, values[1][name], rel_tol=1e-6, abs_tol=1e-6), name

    def test_inside_fit(self) -> None:
        """Two ranks train; the values of the last epoch are those of one process for the same weights."""
        data = vectors(61, seed=2)
        trainer = make_trainer(ranks=2, max_epochs=2)
        model = seeded(log_loss=True, loss="ImbalancedNoisedTopKLoss", k=3)
        trainer.fit(model, loader(vectors(101)), loader(data))
        logged = dict(trainer.callback_metrics)
        counts = torch.bincount(vectors(101).tensors[1], minlength=CLASSES)
        assert torch.equal(model.topk_criterion.class_counts, counts)
        alone = make_trainer()
        alone.validate(model, loader(data), verbose=False)
        assert len(alone.callback_metrics) > 5
        for name, value in alone.callback_metrics.items():
            assert math.isclose(value.item(), logged[name].item(), rel_tol=1e-6, abs_tol=1e-6), name

    def test_noise_differs_between_ranks_and_steps(self) -> None:
        class Recorder(Net):
            def on_train_start(self) -> None:
                self.seen: list[torch.Tensor] = []

            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                # The same logits on every rank and step: what differs is noise alone.
                loss = self.topk_loss(torch.zeros(4, CLASSES), torch.zeros(4, dtype=torch.long))
                self.seen.append(loss.detach())
                return loss + 0 * self.net.weight.sum() + 0 * self.net.bias.sum()

            def on_train_end(self) -> None:
                mine = torch.stack(self.seen)
                everyone = [torch.empty_like(mine) for _ in range(2)]
                torch.distributed.all_gather(everyone, mine)
                assert len(torch.cat(everyone).unique()) == 8

        make_trainer(ranks=2).fit(Recorder(), loader(vectors(64)))


class TestResume:
    @pytest.mark.parametrize("stop", [3, 11])
    def test_a_resumed_run_is_bit_identical(self, stop: int, tmp_path: Any) -> None:
        def run(**options: Any) -> Any:
            pl.seed_everything(7, verbose=False)
            return seeded(loss={"class_path": "ImbalancedNoisedTopKLoss", "init_args": {"epsilon": 1.0, "k": 3}})

        data = StatefulLoader(vectors(64), batch_size=8)
        whole = run()
        make_trainer(SaveAt(stop, tmp_path / "stopped.ckpt"), max_epochs=2).fit(whole, data)
        resumed = run()
        make_trainer(max_epochs=2).fit(resumed, data, ckpt_path=tmp_path / "stopped.ckpt")
        assert torch.equal(resumed.net.weight, whole.net.weight)

    def test_restored_counts_win(self, tmp_path: Any) -> None:
        model, trainer = Net(loss="ImbalancedNoisedTopKLoss", k=3), make_trainer()
        trainer.fit(model, loader(vectors(64)))
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        resumed = Net(loss="ImbalancedNoisedTopKLoss", k=3)
        make_trainer(max_epochs=2).fit(resumed, loader(vectors(200)), ckpt_path=tmp_path / "run.ckpt")
        assert torch.equal(resumed.topk_criterion.class_counts, model.topk_criterion.class_counts)


class Features(nn.Module):
    """A backbone that tells its number of features."""

    num_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)


class TestClassifier:
    def images(self, rows: int = 24) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(torch.randn(rows, 1, 16, 16), torch.arange(rows) % CLASSES)

    def test_trains_logs_and_loads(self, tmp_path: Any) -> None:
        model = TopKClassifier(
            "small_convnet",
            num_classes=CLASSES,
            loss=ImbalancedNoisedTopKLoss(k=3, epsilon=0.2),
            normalized_head=True,
            in_channels=1,
        )
        assert isinstance(model.head, NormalizedLinear)
        trainer = make_trainer(max_epochs=2)
        trainer.fit(model, loader(self.images()), loader(self.images()))
        for name in ("train_loss", "val_loss", "val_macro_top1", "val_macro_top3", "val_top3", "val_few_top3"):
            assert name in trainer.callback_metrics
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        stored = torch.load(tmp_path / "run.ckpt", weights_only=True)["hyper_parameters"]
        assert stored["loss"]["class_path"] == "lightning_topk.losses.ImbalancedNoisedTopKLoss"
        twin = TopKClassifier.load_from_checkpoint(tmp_path / "run.ckpt")
        assert repr(twin.topk_criterion) == repr(model.topk_criterion)
        inputs = torch.randn(3, 1, 16, 16)
        assert torch.equal(twin.eval()(inputs), model.eval()(inputs))
        predictions = make_trainer().predict(twin, loader(self.images()))
        assert predictions[0]["classes"].shape == (8, 3)
        assert torch.equal(predictions[0]["classes"][:, 0], predictions[0]["classes"][:, 0].clamp(0, CLASSES - 1))

    def test_checkpoints_load_across_losses(self, tmp_path: Any) -> None:
        def build(loss: Any) -> TopKClassifier:
            return TopKClassifier("small_convnet", num_classes=CLASSES, loss=loss, k=3, in_channels=1)

        trainer = make_trainer()
        trainer.fit(build("ImbalancedNoisedTopKLoss"), loader(self.images()))
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        for loss in ("CrossEntropyLoss", "NoisedTopKLoss", "ImbalancedNoisedTopKLoss"):
            make_trainer(max_epochs=2).fit(build(loss), loader(self.images()), ckpt_path=tmp_path / "run.ckpt")

    def test_a_module_as_backbone(self, tmp_path: Any) -> None:
        model = TopKClassifier(Features(), num_classes=CLASSES, loss="NoisedTopKLoss", k=3)
        trainer = make_trainer()
        trainer.fit(model, loader(vectors()), loader(vectors()))
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        twin = TopKClassifier.load_from_checkpoint(tmp_path / "run.ckpt", backbone=Features())
        assert torch.equal(twin.head.weight, model.head.weight)
        with pytest.raises(ValueError, match=r"was a module.*backbone=\.\.\.\)`\. Found None"):
            TopKClassifier.load_from_checkpoint(tmp_path / "run.ckpt")

    def test_the_learning_rate_ends_at_zero(self) -> None:
        model = TopKClassifier(Features(), num_classes=CLASSES, loss="CrossEntropyLoss", k=3, learning_rate=0.1)
        trainer = make_trainer(max_epochs=2)
        trainer.fit(model, loader(vectors()))
        assert trainer.optimizers[0].param_groups[0]["lr"] < 1e-5
        endless = make_trainer(max_epochs=-1, max_time="00:00:00:02")
        endless.fit(model, loader(vectors(8)))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"backbone": "resnet19"}, ValueError, r"`backbone` should be"),
            ({"backbone": nn.ReLU()}, ValueError, r"`num_features` or `out_features`\. Found neither in ReLU"),
            ({"num_classes": 1}, ValueError, r"`num_classes` should be an integer >= 2"),
            ({"learning_rate": 0.0}, ValueError, r"`learning_rate` should be a finite number > 0"),
            ({"weight_decay": -1.0}, ValueError, r"`weight_decay` should be a finite number >= 0"),
            ({"loss": "NoisedTopK"}, ValueError, r"Found 'NoisedTopK'; near: NoisedTopKLoss"),
            ({"loss": "os.nothing"}, ValueError, r"can be imported\. Found 'os\.nothing'"),
            ({"loss": "os.getcwd"}, TypeError, r"`loss` should be a name, a mapping with `class_path`"),
            ({"loss": {"class_path": "NoisedTopKLoss", "init_args": {"epsilom": 1}}}, TypeError, "near: epsilon"),
            ({"loss": {"name": "NoisedTopKLoss"}}, ValueError, r"keys `class_path` and `init_args`\. Found \['name'\]"),
            ({"loss": NoisedTopKLoss(k=2), "k": 3}, ValueError, r"`k` should be that of the loss\. Found `k = 3`"),
            ({"k": 0}, ValueError, r"`k` should be an integer >= 1"),
            ({"num_classes": 5, "k": 5}, ValueError, r"`k` should be in \[1, C\).* Found `k = 5` with `C = 5`"),
        ],
    )
    def test_bad_input(self, arguments: Any, error: Any, message: str) -> None:
        with pytest.raises(error, match=message):
            TopKClassifier(
                **{"backbone": SmallConvNet(1), "num_classes": CLASSES, "loss": "NoisedTopKLoss", **arguments}
            )


class TestPosthoc:
    def test_metrics_are_those_of_adjusted_logits_and_the_loss_is_not(self) -> None:
        train, val = vectors(200), vectors(61, seed=5)
        logged = {}
        for tau in (None, 1.5):
            model, trainer = seeded(loss="CrossEntropyLoss", k=3, log_loss=True, posthoc_tau=tau), make_trainer()
            trainer.fit(model, loader(train), loader(val))
            logged[tau] = dict(trainer.callback_metrics)
        assert logged[None]["val_loss"] == logged[1.5]["val_loss"]
        counts = torch.bincount(train.tensors[1], minlength=CLASSES)
        shifted = nn.Linear(6, CLASSES)
        shifted.weight.data = model.net.weight.data
        shifted.bias.data = posthoc_logit_adjustment(model.net.bias.data, counts, 1.5)
        adjusted = seeded(Net)
        adjusted.net = shifted
        for name, value in slow_scores(adjusted, val).items():
            assert math.isclose(logged[1.5][name].item(), value, rel_tol=1e-6), name
        assert logged[None]["val_macro_top3"] != logged[1.5]["val_macro_top3"]

    @pytest.mark.parametrize("loss", ["NoisedTopKLoss", "ImbalancedNoisedTopKLoss", "FocalLoss"])
    def test_predictions_of_any_loss_and_a_checkpoint_that_was_trained_without(self, loss: str, tmp_path: Any) -> None:
        model = TopKClassifier(Features(), num_classes=CLASSES, loss=loss, k=3)
        trainer = make_trainer()
        trainer.fit(model, loader(vectors(200)))
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        twin = TopKClassifier.load_from_checkpoint(tmp_path / "run.ckpt", backbone=Features(), posthoc_tau=1.0)
        assert twin.hparams["posthoc_tau"] == 1.0
        inputs, counts = vectors().tensors[0], torch.bincount(vectors(200).tensors[1], minlength=CLASSES)
        with torch.no_grad():
            best = posthoc_logit_adjustment(twin.eval()(inputs), counts).topk(3)
        predictions = make_trainer().predict(twin, loader(vectors()))
        assert torch.equal(torch.cat([batch["classes"] for batch in predictions]), best.indices)
        torch.testing.assert_close(torch.cat([batch["logits"] for batch in predictions]), best.values)

    def test_new_counts_change_the_adjustment(self) -> None:
        model = Net(loss="CrossEntropyLoss", k=2, posthoc_tau=1.0)
        for counts in ([1, 9], [5, 5]):
            model.topk_criterion.bind_class_counts(counts)
            logits = torch.randn(4, 2)
            torch.testing.assert_close(model.topk_scores(logits), posthoc_logit_adjustment(logits, counts))
        model.topk_posthoc_tau = None
        assert model.topk_scores(logits) is logits

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match=r"`posthoc_tau` should be a finite number\. Found `posthoc_tau = nan`"):
            Net(posthoc_tau=math.nan)
        with pytest.raises(RuntimeError, match=r"`posthoc_tau` needs .* Found none in CrossEntropyLoss: load"):
            make_trainer().validate(Net(loss="CrossEntropyLoss", k=3, posthoc_tau=1.0), loader(vectors()))
        with pytest.raises(ValueError, match=r"Found none for 1 of 9 classes: 8\."):
            model = Net(loss="CrossEntropyLoss", k=3, posthoc_tau=1.0, num_classes=CLASSES + 1)
            make_trainer().fit(model, loader(vectors()))
        model = Net(loss="CrossEntropyLoss", k=2, posthoc_tau=1.0)
        model.topk_criterion.bind_class_counts([1, 2])
        with pytest.raises(
            ValueError, match=r"`class_counts` should have one entry per class, shape \[3\]\. Found \[2\]"
        ):
            model.topk_scores(torch.zeros(1, 3))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_loss_trains_and_loads(case: Case, tmp_path: Any) -> None:
    """Through a checkpoint that is loaded with weights only, as Lightning does by itself."""
    torch.manual_seed(0)
    model = TopKClassifier(Features(), num_classes=CLASSES, loss=case.cls(**case.arguments), learning_rate=0.1)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(model, loader(vectors(64)), loader(vectors()))
    assert trainer.callback_metrics["val_loss"].isfinite()
    assert trainer.callback_metrics["train_loss"].isfinite()
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    twin = TopKClassifier.load_from_checkpoint(tmp_path / "run.ckpt", backbone=Features())
    assert repr(twin.topk_criterion) == repr(model.topk_criterion)
    inputs, targets = vectors().tensors
    expected = model.eval().topk_loss(model(inputs), targets)
    assert torch.equal(twin.eval().topk_loss(twin(inputs), targets), expected)
