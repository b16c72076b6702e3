"""Scalars of the loss follow their schedule."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import IterableDataset

from lightning_topk.callbacks import EpsilonScheduler
from lightning_topk.schedules import Constant, Linear, Piecewise
from runs import Net, SaveAt, loader, make_trainer, vectors


class Recorder(pl.Callback):
    """Collects a scalar of the loss at every batch."""

    def __init__(self, name: str = "epsilon") -> None:
        self.name, self.seen = name, []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(getattr(pl_module.topk_criterion, self.name))


def test_by_step_over_the_whole_run() -> None:
    recorder, model = Recorder(), Net()
    trainer = make_trainer(EpsilonScheduler(Linear(1.0, 0.0)), recorder, max_epochs=2)
    trainer.fit(model, loader(vectors(40)))
    assert recorder.seen == pytest.approx([1 - step / 10 for step in range(10)])
    assert trainer.callback_metrics["epsilon"].item() == pytest.approx(0.1)


def test_by_epoch() -> None:
    recorder = Recorder()
    schedule = EpsilonScheduler(Piecewise([1], [0.5, 0.25]), interval="epoch")
    make_trainer(schedule, recorder, max_epochs=2).fit(Net(), loader(vectors(16)))
    assert recorder.seen == [0.5, 0.5, 0.25, 0.25]


def test_another_scalar() -> None:
    recorder, model = Recorder("max_margin"), Net(loss="ImbalancedNoisedTopKLoss", k=3)
    make_trainer(EpsilonScheduler(Linear(0.4, 0.0), parameter="max_margin"), recorder).fit(model, loader(vectors(32)))
    assert recorder.seen == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert model.topk_criterion.margins.max().item() == pytest.approx(0.1)


def test_constant_within_a_window_of_accumulation() -> None:
    seen = []

    class Each(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append(self.topk_criterion.epsilon)
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(EpsilonScheduler(Linear(1.0, 0.0)), accumulate_grad_batches=2)
    trainer.fit(Each(), loader(vectors(32)))
    assert seen == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resume_in_the_middle_of_an_epoch(stop: int, tmp_path: Any) -> None:
    whole, rest, data = Recorder(), Recorder(), vectors(40)
    trainer = make_trainer(EpsilonScheduler(Linear(1.0, 0.0)), whole, SaveAt(stop, tmp_path / "run.ckpt"), max_epochs=2)
    trainer.fit(Net(), loader(data))
    trainer = make_trainer(EpsilonScheduler(Linear(1.0, 0.0)), rest, max_epochs=2)
    trainer.fit(Net(), loader(data), ckpt_path=tmp_path / "run.ckpt")
    assert rest.seen == whole.seen[stop:]


def test_endless_runs_need_a_length() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(vectors())

    with pytest.raises(ValueError, match=r"needs a run of known length\. Found -1 steps to come: give the schedule"):
        make_trainer(EpsilonScheduler(Linear(1.0, 0.0))).fit(Net(), loader(Stream()))
    make_trainer(EpsilonScheduler(Linear(1.0, 0.0, length=3))).fit(Net(), loader(Stream()))


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"`schedule` should be a schedule of lightning_topk\.schedules\. Found 0\.5"):
        EpsilonScheduler(0.5)
    with pytest.raises(ValueError, match=r"`interval` should be one of 'step', 'epoch'"):
        EpsilonScheduler(Constant(1.0), interval="batch")
    with pytest.raises(ValueError, match=r"needs a loss with a scalar `epsilon` .* Found CrossEntropyLoss in Net"):
        make_trainer(EpsilonScheduler(Constant(1.0))).fit(Net(loss="CrossEntropyLoss"), loader(vectors()))
    with pytest.raises(ValueError, match=r"`epsilon` should be a finite number >= 0\. Found `epsilon = -0\.5`"):
        make_trainer(EpsilonScheduler(Linear(1.0, -1.0, length=4))).fit(Net(), loader(vectors()))


def test_logging_can_be_switched_off() -> None:
    for log in (True, False):
        trainer = make_trainer(EpsilonScheduler(Constant(0.5), log=log))
        trainer.fit(Net(), loader(vectors(16)))
        assert ("epsilon" in trainer.callback_metrics) == log
