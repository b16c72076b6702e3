"""Metrics and loss of evaluation on two and three processes are those of one, whatever the sampler repeats."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, SubsetRandomSampler

from ddp import run_ranks
from distributed.processes import joined, values
from lightning_topk import TopKClassifier
from runs import CLASSES, loader, make_trainer, seeded, vectors

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled:UserWarning"),  # on purpose
]
COUNTS = [300, 200, 120, 90, 40, 19, 10, 3]
SIZES = [(61, 2), (2, 3)]


class InOrder(BatchSampler):
    """A batch sampler of a project, as one with a log: its batches are those of its base."""


class EveryOther(BatchSampler):
    """A batch sampler whose batches do not follow the order of its sampler."""

    def __iter__(self) -> Iterator[list[int]]:
        drawn = list(self.sampler)
        for start in range(0, len(drawn), self.batch_size):
            yield drawn[len(drawn) - 1 - start :: -1][: self.batch_size]


def batched(sampler: type[BatchSampler]) -> Callable[[Any], DataLoader]:
    return lambda data: DataLoader(data, batch_sampler=sampler(SequentialSampler(data), 8, False))


def whole_batches(data: Any) -> DataLoader:
    """Return a loader of a data set whose samples are batches."""
    return DataLoader([tuple(batch) for batch in loader(data, 5)], batch_size=None)


LOADERS: dict[str, Callable[[Any], Any]] = {
    "in order": loader,
    "one by one": lambda data: loader(data, 1),
    "shuffled": lambda data: loader(data, shuffle=True),
    "own sampler": lambda data: loader(data, sampler=SubsetRandomSampler(range(len(data)))),
    "batch sampler": batched(InOrder),
    "whole batches": whole_batches,
    "several": lambda data: [loader(data), loader(vectors(33))],
    "named": lambda data: {"first": loader(data), "second": loader(vectors(33), 5)},
}


class Classifier(TopKClassifier):
    def __init__(self, loss: Any) -> None:
        net = torch.nn.Linear(6, 16)
        super().__init__(net, num_classes=CLASSES, k=3, loss=loss, class_counts=COUNTS, metrics=[1, 3, 5])


def classifier(loss: Any = "ImbalancedNoisedTopKLoss") -> Classifier:
    model = seeded(lambda: Classifier(loss))
    model.topk_criterion.bind_class_counts(COUNTS)
    return model


def close(found: dict[str, float], expected: dict[str, float]) -> bool:
    assert found.keys() == expected.keys()
    return all(
        math.isclose(found[name], value, rel_tol=1e-6, abs_tol=1e-6) or (value != value != found[name])
        for name, value in expected.items()
    )


@pytest.mark.parametrize(("rows", "world_size"), SIZES)
def test_validate_and_test_give_the_values_of_one_process(rows: int, world_size: int) -> None:
    """Both methods on the first loader, and in turn on the others."""
    calls = [("validate", "in order"), *zip(["test", "validate"] * 4, LOADERS, strict=True)]

    def evaluate(trainers: Callable[[], Any]) -> list[dict[str, float]]:
        found = []
        for method, name in calls:
            trainer = trainers()
            getattr(trainer, method)(classifier(), LOADERS[name](vectors(rows)), verbose=False)
            found.append(values(trainer))
        return found

    one = evaluate(make_trainer)
    assert all(len(expected) >= 7 for expected in one)
    for several in run_ranks(lambda rank: evaluate(lambda: joined(rank, world_size)), world_size, 100):
        for call, found, expected in zip(calls, several, one, strict=True):
            assert close(found, expected), call


@pytest.mark.parametrize(("rows", "world_size"), SIZES)
def test_inside_fit(rows: int, world_size: int) -> None:
    """What the last validation logs is what one process finds for the same weights."""
    often = {"val_check_interval": 1, "num_sanity_val_steps": 1}
    runs: list[tuple[str, dict[str, Any]]] = [("in order", often), ("batch sampler", {}), ("named", {})]

    def work(rank: int) -> list[Any]:
        ends = []
        for name, options in runs:
            model = classifier("STkLoss")
            trainer = joined(rank, world_size, max_epochs=2, **options)
            trainer.fit(model, loader(vectors(16 * world_size)), LOADERS[name](vectors(rows)))
            logged = {name: value for name, value in values(trainer).items() if name != "train_loss"}
            ends.append((logged, {name: value.clone() for name, value in model.state_dict().items()}))
        return ends

    for ends in run_ranks(work, world_size, 100):
        for (logged, state), (name, _) in zip(ends, runs, strict=True):
            model, alone = classifier("STkLoss"), make_trainer()
            model.load_state_dict(state)
            alone.validate(model, LOADERS[name](vectors(rows)), verbose=False)
            assert close(logged, values(alone)), name


@pytest.mark.parametrize("limit", [1, 0.5])
def test_limited_batches_count_what_was_seen(limit: float) -> None:
    """The first batches of each process, less what is repeated: here 2 x 8 rows a batch, all of them real."""

    def work(rank: int) -> dict[str, float]:
        trainer = joined(rank, 2, limit_val_batches=limit)
        trainer.validate(classifier(), loader(vectors(61)), verbose=False)
        return values(trainer)

    rows = {1: 16, 0.5: 32}[limit]  # half of four batches
    trainer = make_trainer()
    trainer.validate(classifier(), loader(torch.utils.data.Subset(vectors(61), range(rows))), verbose=False)
    for logged in run_ranks(work):
        assert close(logged, values(trainer))


def test_dropped_batches_are_those_of_the_shares() -> None:
    """``drop_last`` leaves out 61 - 2 x 24 rows, among them all that are repeated."""

    def work(rank: int) -> dict[str, float]:
        trainer = joined(rank, 2)
        trainer.validate(classifier(), loader(vectors(61), drop_last=True), verbose=False)
        return values(trainer)

    trainer = make_trainer()
    trainer.validate(classifier(), loader(torch.utils.data.Subset(vectors(61), range(48))), verbose=False)
    assert close(run_ranks(work)[0], values(trainer))


def test_a_batch_sampler_of_an_own_order_is_named() -> None:
    def work(rank: int, rows: int) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            joined(rank, 2).validate(classifier(), batched(EveryOther)(vectors(rows)), verbose=False)
        return [str(each.message) for each in caught if "order of its sampler" in str(each.message)]

    (message,), others = run_ranks(work, 2, 60, 61)
    assert not others
    assert "Found EveryOther: 61 samples are counted as 62. The callback UnpaddedEvaluation" in message
    assert run_ranks(work, 2, 60, 64) == [[], []]  # nothing is repeated


def test_the_loss_in_a_step_is_that_of_real_rows() -> None:
    """What ``topk_loss`` returns to a step leaves repeated rows out, too."""

    class Steps(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            seen.append(float(self.topk_loss(self(batch[0]), batch[1])))

    seen: list[float] = []

    def work(rank: int) -> list[float]:
        joined(rank, 3).validate(seeded(lambda: Steps("CrossEntropyLoss")), loader(vectors(2)), verbose=False)
        return seen

    model = classifier("CrossEntropyLoss").eval()
    inputs, targets = vectors(2).tensors
    with torch.no_grad():
        expected = [model.topk_criterion(model(inputs[i : i + 1]), targets[i : i + 1]).item() for i in range(2)]
    found: list[Tensor] = run_ranks(work, 3)
    assert [each[0] for each in found] == pytest.approx([*expected, 0.0], abs=1e-6)
