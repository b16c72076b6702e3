"""Class weights that set in late in training."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_topk.callbacks import DeferredReweighting
from lightning_topk.imbalance import class_balanced_weights
from lightning_topk.losses import FocalLoss, LDAMLoss, PriorAdjustedLoss
from runs import CLASSES, Net, SaveAt, StatefulLoader, loader, make_trainer, seeded, vectors

COUNTS = torch.bincount(vectors(64).tensors[1], minlength=CLASSES)


def ldam(**options: Any) -> Any:
    return seeded(loss=LDAMLoss(scale=1.0), k=3, log_loss=True, **options)


class Recorder(pl.Callback):
    """Collects the class weights of the loss in training batches and in evaluation."""

    def __init__(self) -> None:
        self.training: list[Any] = []
        self.evaluation: list[Any] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.training.append(pl_module.topk_criterion.weight)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.evaluation.append(pl_module.topk_criterion.weight)


def test_weights_set_in_at_the_epoch_and_hold_in_training_alone() -> None:
    recorder, model = Recorder(), ldam()
    trainer = make_trainer(DeferredReweighting(2, beta=0.99), recorder, max_epochs=4)
    trainer.fit(model, loader(vectors(64)), loader(vectors()))
    assert len(recorder.training) == 32
    assert all(weight is None for weight in recorder.training[:16])
    expected = class_balanced_weights(COUNTS, 0.99)
    assert all(torch.equal(weight, expected) for weight in recorder.training[16:])
    assert recorder.evaluation
    assert all(weight is None for weight in recorder.evaluation)
    assert model.topk_criterion.weight is None
    alone = make_trainer()
    alone.validate(model, loader(vectors()), verbose=False)
    assert alone.callback_metrics["val_loss"] == trainer.callback_metrics["val_loss"]


def test_it_is_training_with_a_weighted_loss() -> None:
    expected = ldam()
    expected.topk_criterion.weight = class_balanced_weights(COUNTS)
    make_trainer(max_epochs=2).fit(expected, loader(vectors(64)))
    model = ldam()
    make_trainer(DeferredReweighting(0), max_epochs=2).fit(model, loader(vectors(64)))
    assert torch.equal(model.net.weight, expected.net.weight)
    never = ldam()
    make_trainer(DeferredReweighting(2), max_epochs=2).fit(never, loader(vectors(64)))
    assert not torch.equal(model.net.weight, never.net.weight)


@pytest.mark.parametrize("stop", [3, 11])
def test_a_resumed_run_is_bit_identical(stop: int, tmp_path: Any) -> None:
    """Before the epoch with weights, and in the middle of it."""
    data = StatefulLoader(vectors(64), batch_size=8)
    whole = ldam()
    make_trainer(DeferredReweighting(1), SaveAt(stop, tmp_path / "run.ckpt"), max_epochs=2).fit(whole, data)
    resumed = ldam()
    make_trainer(DeferredReweighting(1), max_epochs=2).fit(resumed, data, ckpt_path=tmp_path / "run.ckpt")
    assert torch.equal(resumed.net.weight, whole.net.weight)
    assert not torch.load(tmp_path / "run.ckpt", weights_only=True)["callbacks"].get("DeferredReweighting")


def test_any_epoch_and_what_is_logged() -> None:
    logged = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            logged.append(trainer.callback_metrics["reweighted"].item())

    make_trainer(DeferredReweighting(160), Watch(), max_epochs=322).fit(ldam(metrics=False), loader(vectors(8), 8))
    assert logged == [0.0] * 160 + [1.0] * 162
    trainer = make_trainer(DeferredReweighting(0, log=False))
    trainer.fit(ldam(), loader(vectors()))
    assert "reweighted" not in trainer.callback_metrics


def test_own_weights_hold_before_and_in_evaluation() -> None:
    own = [1.0, 2.0] * (CLASSES // 2)
    recorder, model = Recorder(), Net(loss=FocalLoss(weight=own), k=3)
    make_trainer(DeferredReweighting(1), recorder, max_epochs=2).fit(model, loader(vectors(64)), loader(vectors()))
    assert [weight.tolist() == own for weight in recorder.training] == [True] * 8 + [False] * 8
    assert all(weight.tolist() == own for weight in recorder.evaluation)
    assert model.topk_criterion.weight.tolist() == own


def test_several_losses_and_losses_in_losses() -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__(loss=PriorAdjustedLoss(LDAMLoss(scale=1.0)), k=3)
            self.auxiliary = FocalLoss()
            self.seen: list[Any] = []

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            logits = self.net(batch[0])
            outer = self.topk_criterion
            self.seen.append((outer.weight, outer.loss.weight, self.auxiliary.weight))
            return self.topk_loss(logits, batch[1]) + self.auxiliary(logits, batch[1])

    model = Two()
    make_trainer(DeferredReweighting(0, beta=1.0)).fit(model, loader(vectors(64)))
    outer, inner, auxiliary = model.seen[-1]
    assert torch.equal(outer, class_balanced_weights(COUNTS, 1.0))
    assert inner is None
    assert torch.equal(auxiliary, outer)


def test_an_interrupted_run_leaves_no_weights() -> None:
    class Breaks(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise ArithmeticError("stop")

    model = Breaks(loss=LDAMLoss(scale=1.0), k=3)
    with pytest.raises(ArithmeticError, match="stop"):
        make_trainer(DeferredReweighting(0)).fit(model, loader(vectors()))
    assert model.topk_criterion.weight is None


def test_classes_without_samples_are_a_choice() -> None:
    counts = [9, 0, *range(1, CLASSES - 1)]
    with pytest.raises(ValueError, match=rf"Found none for 1 of {CLASSES} classes: 1\."):
        make_trainer(DeferredReweighting(0)).fit(_with_zero(counts), loader(vectors()))
    model = _with_zero(counts)
    make_trainer(DeferredReweighting(0, zero_counts="clamp")).fit(model, loader(vectors()))
    assert model.net.weight.isfinite().all()


def _with_zero(counts: list[int]) -> Net:
    model = Net(loss=FocalLoss(), k=3, class_counts=False)
    model.topk_criterion.bind_class_counts(counts)
    return model


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`start_epoch` should be an integer >= 0\. Found `start_epoch = -1`"):
        DeferredReweighting(-1)
    with pytest.raises(ValueError, match=r"`beta` should be a finite number >= 0 and <= 1\. Found `beta = 2"):
        DeferredReweighting(beta=2.0)
    with pytest.raises(ValueError, match=r"`zero_counts` should be one of 'error', 'clamp'"):
        DeferredReweighting(zero_counts="drop")
    with pytest.raises(ValueError, match=r"needs a loss of lightning_topk\.losses\. Found none in Net"):
        make_trainer(DeferredReweighting()).fit(Net(loss=nn.CrossEntropyLoss(), k=3), loader(vectors()))
    with pytest.raises(RuntimeError, match=r"needs losses that know the training counts.*Found none in FocalLoss"):
        make_trainer(DeferredReweighting()).fit(Net(loss="FocalLoss", k=3, class_counts=False), loader(vectors()))
    assert repr(DeferredReweighting()) == "DeferredReweighting(start_epoch=160, beta=0.9999, zero_counts='error')"
