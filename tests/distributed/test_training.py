"""Training on two processes: every loss, equal weights, and gradients that are those of the joined batch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import CASES, Case, within
from ddp import run_ranks
from distributed.processes import in_order, joined, spread, values, weights
from lightning_topk.losses import AverageTopKLoss
from runs import CLASSES, Net, loader, make_trainer, seeded, vectors

pytestmark = pytest.mark.timeout(120)


class EveryParameter(Net):
    """Trains the loss too, without decay: an optimizer of the simplest kind shows differences of gradients."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def train(case: Case, trainer: Any, train_loader: Any) -> tuple[list[Tensor], dict[str, float]]:
    model = seeded(EveryParameter, loss=case.cls(**case.arguments), log_loss=True)
    trainer.fit(model, train_loader, loader(vectors(31)))
    return weights(model), values(trainer)


@pytest.fixture(scope="module")
def two_processes() -> dict[str, Any]:
    """Train every loss of the table for one epoch, on two processes with batches of 8 each."""

    def work(rank: int) -> list[Any]:
        return [train(case, joined(rank, 2), in_order(vectors(64), rank)) for case in CASES]

    return dict(zip(map(str, CASES), zip(*run_ranks(work, 2, 100), strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_loss_ends_with_equal_weights_and_a_finite_loss(case: Case, two_processes: dict[str, Any]) -> None:
    (first, logged), (second, same) = two_processes[str(case)]
    start = weights(seeded(EveryParameter, loss=case.cls(**case.arguments)))
    assert spread((first, second)) == 0
    assert spread((first, start)) > 0
    assert all(weight.isfinite().all() for weight in first)
    assert logged == same
    assert math.isfinite(logged["val_loss"])


# Unweighted rows under "mean": the mean of the means of equal halves is the mean. A pool of the largest losses of
# each half is not one of the whole, and the noise of two processes is not that of one.
LINEAR = [case for case in CASES if not case.noisy and case.cls is not AverageTopKLoss]


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_the_averaged_gradient_is_that_of_the_joined_batch(case: Case, two_processes: dict[str, Any]) -> None:
    """Process r takes rows r, r + 2, ...: batches of 8 on two are those of 16 on one, so all steps are the same."""
    expected, _ = train(case, make_trainer(), loader(vectors(64), 16))
    assert spread((two_processes[str(case)][0][0], expected)) < 2e-6


def test_average_topk_pools_in_each_process(two_processes: dict[str, Any]) -> None:
    case = next(case for case in CASES if case.cls is AverageTopKLoss and not case.noisy)
    expected, _ = train(case, make_trainer(), loader(vectors(64), 16))
    assert spread((two_processes[str(case)][0][0], expected)) > 1e-3


class Shares(EveryParameter):
    """Trains on what is left of a batch on each process, or with its rows ignored."""

    ignored: Any = None  # the process whose targets are all ignored in the second batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        if batch_idx == 1 and self.global_rank == self.ignored:
            targets = torch.full_like(targets, -100)
        return self.topk_loss(self.net(inputs), targets)


def test_a_process_with_ignored_labels_alone_disturbs_nobody() -> None:
    """For no loss does anything hang or become NaN, whichever process has nothing to learn in the second batch."""
    cases = list({case.cls: case for case in CASES}.values())

    def work(rank: int) -> list[list[Tensor]]:
        ends = []
        for number, case in enumerate(cases):
            model = seeded(Shares, loss=case.cls(**case.arguments))
            model.ignored = number % 2
            joined(rank, 2).fit(model, in_order(vectors(48), rank))
            ends.append(weights(model))
        return ends

    first, second = run_ranks(work, 2, 100)
    assert len(first) == len(cases)
    for pair in zip(first, second, strict=True):
        assert spread(pair) == 0
        assert all(weight.isfinite().all() for weight in pair[0])


class Half(EveryParameter):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) / 2


def test_the_step_of_a_process_without_labels_is_half_of_the_other() -> None:
    class OneSide(EveryParameter):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            targets = torch.full_like(batch[1], -100) if self.global_rank == 1 else batch[1]
            return self.topk_loss(self.net(batch[0]), targets)

    def work(rank: int) -> list[Tensor]:
        model = seeded(OneSide, loss="CrossEntropyLoss", k=3)
        joined(rank, 2).fit(model, in_order(vectors(16), rank))
        return weights(model)

    alone = seeded(Half, loss="CrossEntropyLoss", k=3)
    even = torch.utils.data.Subset(vectors(16), range(0, 16, 2))
    make_trainer().fit(alone, loader(even, 8))
    assert spread((run_ranks(work)[0], weights(alone))) < 1e-6


def test_sums_are_averaged_over_processes() -> None:
    loss = within("CrossEntropyLoss", reduction="sum")

    def work(rank: int) -> list[Tensor]:
        model = seeded(EveryParameter, loss=loss, k=3)
        joined(rank, 2).fit(model, in_order(vectors(16), rank))
        return weights(model)

    alone = seeded(Half, loss=loss, k=3)
    make_trainer().fit(alone, loader(vectors(16), 16))
    assert spread((run_ranks(work)[0], weights(alone))) < 1e-5


UNEVEN: list[tuple[int, dict[str, Any], dict[str, Any], int]] = [
    # rows, options of the trainer and of the loader, optimizer steps of an epoch with batches of 8 on two processes
    (61, {}, {}, 4),  # 31 rows each, one of them repeated: the last batch has 7
    (61, {"accumulate_grad_batches": 3}, {}, 2),
    (61, {"limit_train_batches": 3}, {}, 3),
    (61, {"limit_train_batches": 0.5}, {}, 2),
    (61, {}, {"drop_last": True}, 3),
    (61, {"gradient_clip_val": 0.05}, {}, 4),
    (2, {}, {}, 1),
    (1, {}, {}, 1),
]


def test_uneven_data_and_options() -> None:
    """Two epochs end, on both processes with equal weights and values, after as many steps as there are."""

    def work(rank: int) -> list[Any]:
        ends = []
        for name in ("STkLoss", "NoisedTopKLoss"):
            for rows, options, loading, _ in UNEVEN:
                model = seeded(EveryParameter, loss=name, k=3, log_loss=True, class_counts=False)
                trainer = joined(rank, 2, max_epochs=2, **options)
                trainer.fit(model, loader(vectors(rows), **loading), loader(vectors(31)))
                ends.append((weights(model), trainer.global_step, values(trainer)))
        return ends

    ends = list(zip(*run_ranks(work, 2, 100), strict=True))
    assert len(ends) == 2 * len(UNEVEN)
    for ((first, steps, logged), second), (*_, expected) in zip(ends, 2 * UNEVEN, strict=True):
        assert spread((first, second[0])) == 0
        assert steps == second[1] == 2 * expected
        assert logged == second[2]
        assert math.isfinite(logged["val_loss"])


def test_accumulated_batches_are_one_large_batch() -> None:
    """Two processes that accumulate two batches of 8 take the step of one process with a batch of 32."""

    def work(rank: int) -> list[Tensor]:
        model = seeded(EveryParameter, loss="STkLoss", k=3)
        joined(rank, 2, accumulate_grad_batches=2).fit(model, in_order(vectors(64), rank))
        return weights(model)

    alone = seeded(EveryParameter, loss="STkLoss", k=3)
    make_trainer().fit(alone, loader(vectors(64), 32))
    assert spread((run_ranks(work)[0], weights(alone))) < 1e-6


class Normalized(Net):
    """Has batch normalisation, whose statistics are buffers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES))


def test_batch_normalisation_without_synchronisation() -> None:
    """Evaluation is by the statistics of rank 0, which DDP hands to all: metrics are those of its checkpoint."""

    def work(rank: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        model = seeded(Normalized, log_loss=True)
        trainer = joined(rank, 2)
        trainer.fit(model, loader(vectors(61)), loader(vectors(31)))
        return values(trainer), {name: value.clone() for name, value in model.state_dict().items()}

    (logged, state), (twin, _) = run_ranks(work)
    assert logged == twin
    model = seeded(Normalized, log_loss=True)
    model.load_state_dict(state)
    alone = make_trainer()
    alone.validate(model, loader(vectors(31)), verbose=False)
    for name, value in values(alone).items():
        assert math.isclose(logged[name], value, rel_tol=1e-6, abs_tol=1e-6), name


def test_sync_batchnorm_needs_a_gpu_and_says_so() -> None:
    """torch has it for GPUs alone; every process gets the error, and none waits."""

    def work(rank: int) -> str:
        with pytest.raises(ValueError, match="SyncBatchNorm layers only work with GPU modules") as caught:
            joined(rank, 2, sync_batchnorm=True).fit(seeded(Normalized), loader(vectors(61)))
        return str(caught.value)

    assert len(set(run_ranks(work))) == 1
