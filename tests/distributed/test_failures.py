"""An error that one process alone sees ends the run on all of them, at once and with its own words."""

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddp import run_ranks
from distributed.processes import joined, values
from lightning_topk.callbacks import ClassFrequencies, TopKReport
from lightning_topk.callbacks import _topk_report as report
from runs import CLASSES, Net, loader, make_trainer, seeded, vectors

pytestmark = pytest.mark.timeout(60)
SECONDS = 10  # the time-out of the process group is 20


class Read(Dataset):
    """Writes down each time that its labels are looked up."""

    def __init__(self) -> None:
        self.data = vectors()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    @property
    def targets(self) -> Tensor:
        with Path("reads.txt").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return self.data.tensors[1]


def test_labels_are_read_once_by_one_process() -> None:
    """Whoever asks for the counts: loss, metrics, sanity check, validations, report and a second epoch."""

    def work(rank: int) -> tuple[int, list[int]]:
        model = seeded(loss="ImbalancedNoisedTopKLoss", k=3, log_loss=True)
        trainer = joined(rank, 3, TopKReport(figures=False), max_epochs=2)
        trainer.fit(model, loader(Read()), loader(vectors(31)))
        return os.getpid(), model.topk_criterion.class_counts.tolist()

    results = run_ranks(work, 3)
    assert Path("reads.txt").read_text().split() == [str(results[0][0])]
    expected = torch.bincount(vectors().tensors[1], minlength=CLASSES).tolist()
    assert [counts for _, counts in results] == [expected] * 3


def failing(run: Any, expected: str) -> float:
    """Return how long a run takes to end by an error with a text that is expected."""
    start = time.monotonic()
    with pytest.raises(Exception, match=expected):
        run()
    return time.monotonic() - start


class LoaderFails(Net):
    where = 0

    def train_dataloader(self) -> Any:
        if self.global_rank == self.where:
            raise FileNotFoundError("labels.csv is not on this machine")
        return loader(vectors())


class BadLabel(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        targets = batch[1].clone()
        if self.global_rank == self.where and batch_idx == 2:
            targets[0] = CLASSES
        return self.topk_loss(self.net(batch[0]), targets)


class BadLabelOfZero(BadLabel):
    where = 0


class BadLabelOfOne(BadLabel):
    where = 1


class BadLabelInValidation(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.topk_loss(self.net(batch[0]), batch[1] + CLASSES * self.global_rank)


class LoaderFailsOnOne(LoaderFails):
    where = 1


class NoCounts(pl.Callback):
    """Comes between the processes while the first counts."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if trainer.global_rank == 1:
            raise OSError("a disk of the second machine is gone")


@pytest.mark.parametrize(
    ("kind", "callbacks", "expected"),
    [
        (LoaderFails, (), "labels.csv is not on this machine"),
        (LoaderFailsOnOne, (), "labels.csv is not on this machine"),
        (Net, (NoCounts(),), "a disk of the second machine is gone"),
        (BadLabelOfZero, (), rf"class indices in \[0, C\) .* Found {CLASSES} with `C = {CLASSES}`"),
        (BadLabelOfOne, (), rf"class indices in \[0, C\) .* Found {CLASSES} with `C = {CLASSES}`"),
        (BadLabelInValidation, (), r"class indices in \[0, C\)"),
    ],
)
def test_an_error_of_one_process_ends_the_run(kind: Any, callbacks: Any, expected: str) -> None:
    data = () if issubclass(kind, LoaderFails) else (loader(vectors()), loader(vectors(31)))
    model = seeded(kind, loss="ImbalancedNoisedTopKLoss", k=3)
    assert failing(lambda: make_trainer(*callbacks, ranks=2).fit(model, *data), expected) < SECONDS


class Recording(ClassFrequencies):
    """Writes the error of each process, and waits for the others."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        start = time.monotonic()
        try:
            super().setup(trainer, pl_module, stage)
        except Exception as error:
            seconds = time.monotonic() - start
            Path(f"rank{trainer.global_rank}.json").write_text(json.dumps([str(error), seconds]))
            trainer.strategy.barrier("all have failed")
            raise


def test_counting_that_fails_on_rank_zero_fails_alike_on_all() -> None:
    class Unreadable(Read):
        @property
        def targets(self) -> Tensor:
            time.sleep(1)  # as long as a large file takes
            raise OSError("the disk of the first machine is full of holes")

    def work(rank: int) -> str:
        with pytest.raises(OSError, match="full of holes") as caught:
            joined(rank, 3, Recording()).fit(seeded(loss="LDAMLoss", k=3), loader(Unreadable()))
        return f"{caught.typename}: {caught.value}"

    assert len(set(run_ranks(work, 3))) == 1
    for rank in range(3):
        message, seconds = json.loads(Path(f"rank{rank}.json").read_text())
        assert message == "the disk of the first machine is full of holes"
        assert seconds < 5


def test_a_report_that_fails_in_an_unforeseen_way_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk refuses costs a warning, on rank 0; a mistake of the writer is an error, and no process waits."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a mistake in the report")

    monkeypatch.setattr(report, "write_tables", broken)
    model = seeded(log_loss=True)

    def run() -> None:
        make_trainer(TopKReport(), ranks=2, max_epochs=3).fit(model, loader(vectors()), loader(vectors(31)))

    assert failing(run, "a mistake in the report") < SECONDS


@pytest.mark.parametrize("where", [0, 1])
def test_a_nan_of_one_process_reaches_all_and_hangs_nobody(where: int) -> None:
    """The averaged gradient is NaN everywhere: weights stay equal, and the loss shows it on all processes."""

    class Diverging(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.net(batch[0])
            if self.global_rank == where and batch_idx == 1:
                logits = logits * float("nan")
            loss = self.topk_loss(logits, batch[1])
            self.log("train_loss", loss, sync_dist=True)
            return loss

    def work(rank: int) -> Any:
        model = seeded(Diverging, log_loss=True)
        trainer = joined(rank, 2)
        trainer.fit(model, loader(vectors()), loader(vectors(31)))
        found = values(trainer)
        return model.net.weight.detach().clone(), found["val_loss"], found["train_loss"], found["val_top3"]

    for weight, val_loss, train_loss, accuracy in run_ranks(work):
        assert weight.isnan().all()
        assert val_loss != val_loss
        assert train_loss != train_loss
        assert accuracy == 0.0  # a NaN is no hit
