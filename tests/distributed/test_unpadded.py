"""Evaluation without repeated samples: own numbers are exact too, and what would hang is refused on every process."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning
from pytorch_lightning.strategies import DDPStrategy as OtherDDPStrategy
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler
from torchmetrics import MeanMetric, SumMetric

from ddp import run_ranks
from distributed.processes import joined, sharded, values
from distributed.test_evaluation import LOADERS, EveryOther, close
from lightning_topk import TopKMixin
from lightning_topk.callbacks import UnpaddedEvaluation
from runs import CLASSES, Net, loader, make_trainer, seeded, vectors

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled:UserWarning"),  # on purpose
]


class Own(Net):
    """Logs a mean and a sum of its own beside the metrics of the mixin, with buffers that DDP hands round."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES))
        self.mean, self.rows = MeanMetric(), SumMetric()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self.net(batch[0])
        self.topk_loss(logits, batch[1])
        self.mean.update(logits.square().mean(), len(logits))
        self.rows.update(len(logits))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self.log("own_mean", self.mean)
        self.log("own_rows", self.rows)

    on_test_epoch_end = on_validation_epoch_end


def own() -> Any:
    return seeded(Own, log_loss=True, class_counts=False)


EVERY_OTHER: Callable[[Any], Any] = lambda data: DataLoader(  # noqa: E731
    data, batch_sampler=EveryOther(SequentialSampler(data), 8, False)
)


@pytest.mark.parametrize(("rows", "world_size"), [(65, 2), (4, 3)])
def test_own_numbers_are_those_of_one_process(rows: int, world_size: int) -> None:
    """65 rows are shares of 33 and 32, which are 5 and 4 batches."""
    kinds = {**LOADERS, "own order": EVERY_OTHER}
    del kinds["whole batches"]
    calls = [("validate", "in order"), *zip(["test", "validate"] * 4, kinds, strict=False)]

    def evaluate(trainers: Callable[[], Any]) -> list[dict[str, float]]:
        found = []
        for method, name in calls:
            trainer = trainers()
            getattr(trainer, method)(own(), kinds[name](vectors(rows)), verbose=False)
            found.append(values(trainer))
        return found

    one = evaluate(make_trainer)
    assert {each["own_rows"] for each in one} == {rows, rows + 33}
    results = run_ranks(lambda rank: evaluate(lambda: joined(rank, world_size, UnpaddedEvaluation())), world_size, 100)
    for several in results:
        for call, found, expected in zip(calls, several, one, strict=True):
            assert close(found, expected), call


def test_without_it_own_numbers_count_repeated_samples() -> None:
    def work(rank: int) -> float:
        trainer = joined(rank, 2)
        trainer.validate(own(), loader(vectors(65)), verbose=False)
        return values(trainer)["own_rows"]

    assert run_ranks(work) == [66.0, 66.0]


def test_inside_fit_and_in_a_second_run() -> None:
    def work(rank: int) -> Any:
        model, trainer = own(), joined(rank, 2, UnpaddedEvaluation(), max_epochs=2, val_check_interval=2)
        trainer.num_sanity_val_steps = 2
        trainer.fit(model, loader(vectors(64)), loader(vectors(65)))
        logged = values(trainer)
        trainer.validate(model, loader(vectors(65)), verbose=False)
        assert close(values(trainer), {name: logged[name] for name in values(trainer)})
        trainer.fit_loop.max_epochs = 3
        trainer.fit(model, loader(vectors(64)), loader(vectors(9)))
        assert values(trainer)["own_rows"] == 9
        assert "_prepare_dataloader" not in vars(trainer._data_connector)
        trainer.validate(model, loader(vectors(65)), verbose=False)
        return values(trainer), {name: value.clone() for name, value in model.state_dict().items()}

    for logged, state in run_ranks(work):
        model, alone = own(), make_trainer()
        model.load_state_dict(state)
        alone.validate(model, loader(vectors(65)), verbose=False)
        assert close(logged, values(alone))


def test_the_other_namespace() -> None:
    class Other(TopKMixin, pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__(loss="CrossEntropyLoss", log_loss=True)
            self.net, self.rows = nn.Linear(6, CLASSES), SumMetric()

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.topk_loss(self.net(batch[0]), batch[1])
            self.rows.update(len(batch[0]))

        def on_test_epoch_end(self) -> None:
            self.log("own_rows", self.rows)

    def work(rank: int) -> float:
        trainer = joined(rank, 2, UnpaddedEvaluation(), strategy=OtherDDPStrategy(), namespace=pytorch_lightning)
        trainer.test(Other(), loader(vectors(65)), verbose=False)
        return values(trainer)["own_rows"]

    assert run_ranks(work) == [65.0, 65.0]


def test_it_leaves_alone_what_has_no_repeated_samples() -> None:
    trainer = make_trainer(UnpaddedEvaluation())
    trainer.validate(own(), iter([[*vectors(5)[:]]]), verbose=False)  # on one process any loader will do
    assert values(trainer)["own_rows"] == 5


def test_overfitting_takes_the_same_samples_of_each_process() -> None:
    def work(rank: int) -> float:
        trainer = joined(rank, 2, UnpaddedEvaluation(), overfit_batches=1)
        trainer.fit(own(), loader(vectors(16)), loader(vectors(15)))
        return values(trainer)["own_rows"]

    assert run_ranks(work) == [15.0, 15.0]


# --- what is refused


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(vectors(8))


class Step(Net):
    """Waits for the other process in every step."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("waits", self.net(batch[0]).sum(), on_step=True, on_epoch=True, sync_dist=True)


class Waiting(Net):
    """Has a metric of training that waits, which is allowed, and one of evaluation."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.trained, self.waits = SumMetric(dist_sync_on_step=True), SumMetric(dist_sync_on_step=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trained(1)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.waits(1)


REFUSED: list[tuple[Any, dict[str, Any], Callable[[], Any], str]] = [
    (Net, {}, lambda: loader(vectors(1)), "ValueError: .* a sample for every process. Found 1 for 2 processes"),
    (Net, {}, lambda: [loader(vectors(61)), loader(vectors(1))], "ValueError: .* Found 1 for 2 processes"),
    (Net, {}, lambda: loader(vectors(), drop_last=True), "ValueError: .* should have `drop_last=False` .* Found `drop"),
    (Net, {}, lambda: loader(Stream()), "TypeError: .* a DataLoader of a data set with a length.* Found Stream: take"),
    (Net, {}, lambda: [list(loader(vectors()))], "TypeError: .* a DataLoader of a data set with .* Found "),
    (
        Net,
        {},
        lambda: loader(vectors(), sampler=DistributedSampler(vectors(), 2, 0)),
        "TypeError: .* loaders without a distributed sampler.* Found DistributedSampler: leave",
    ),
    (
        Net,
        {},
        lambda: DataLoader(
            vectors(), batch_sampler=BatchSampler(DistributedSampler(vectors(), 2, 0), 8, drop_last=False)
        ),
        "TypeError: .* loaders without a distributed sampler.* Found DistributedSampler: leave",
    ),
    (
        Net,
        {"use_distributed_sampler": False},
        lambda: loader(vectors()),
        "ValueError: .* a trainer that shares out the samples. Found `use_distributed_sampler=False`",
    ),
    (
        Net,
        {"limit_val_batches": 0.5},
        lambda: loader(vectors()),
        "ValueError: Parameter `limit_val_batches` should be a number of batches .* Found `limit_val_batches = 0.5`",
    ),
    (
        Step,
        {},
        lambda: loader(vectors(65)),
        r"ValueError: .* should not be synchronised there .* Found `self.log\('waits', on_step=True, sync_dist=True\)",
    ),
    (
        Waiting,
        {},
        lambda: loader(vectors(65)),
        "ValueError: .* should not be synchronised in every step .* Found `dist_sync_on_step=True` in SumMetric",
    ),
]


@pytest.mark.parametrize("method", ["validate", "fit"])
def test_what_would_hang_is_refused_on_every_process_at_once(method: str) -> None:
    def work(rank: int) -> list[Any]:
        caught = []
        for kind, options, make, _ in REFUSED:
            trainer = joined(rank, 2, UnpaddedEvaluation(), **options)
            model = seeded(kind, class_counts=False)
            start = time.monotonic()
            with pytest.raises((TypeError, ValueError)) as error:
                if method == "fit":
                    trainer.fit(model, loader(vectors(16)), make())
                else:
                    trainer.validate(model, make(), verbose=False)
            clean = "_prepare_dataloader" not in vars(trainer._data_connector)
            early = trainer.global_step == 0 or kind is not Net  # before any training; the rest shows in a step
            caught.append((f"{error.typename}: {error.value}", time.monotonic() - start, clean, early))
        return caught

    first, second = run_ranks(work)
    for (message, seconds, clean, early), twin, (*_, expected) in zip(first, second, REFUSED, strict=True):
        assert message == twin[0]
        assert seconds < 5
        assert clean
        assert early
        with pytest.raises(ValueError, match=expected):
            raise ValueError(message)


def test_metrics_of_training_may_wait() -> None:
    class Trained(Waiting):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.topk_loss(self.net(batch[0]), batch[1])

    def work(rank: int) -> int:
        trainer = joined(rank, 2, UnpaddedEvaluation())
        trainer.fit(seeded(Trained), loader(vectors(64)), loader(vectors(65)))
        return trainer.global_step

    assert run_ranks(work) == [4, 4]


def test_a_sampler_that_repeats_nothing_may_be_there_already() -> None:
    from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler

    def work(rank: int) -> float:
        trainer = joined(rank, 2, UnpaddedEvaluation())
        sampler = UnrepeatedDistributedSampler(vectors(65), num_replicas=2, rank=rank, shuffle=False)
        trainer.validate(own(), loader(vectors(65), sampler=sampler), verbose=False)
        return values(trainer)["own_rows"]

    assert run_ranks(work) == [65.0, 65.0]


def test_sharded_parameters_are_refused() -> None:
    class Sharded(Net):
        def configure_model(self) -> None:
            from torch.distributed.fsdp import fully_shard

            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def work(rank: int) -> None:
        with pytest.raises(TypeError, match="waits for no other process: `ddp`. Found ModelParallelStrategy: choose"):
            joined(rank, 2, UnpaddedEvaluation(), strategy=sharded(2)).validate(seeded(Sharded), loader(vectors()))

    run_ranks(work)
