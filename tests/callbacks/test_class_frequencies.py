"""ClassFrequencies: every place of labels through a real fit, and what goes wrong there."""

import json
import logging
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from rich.progress import track as real_track
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, WeightedRandomSampler, random_split

from callbacks.class_frequencies_cases import (
    COUNTS,
    LABELS,
    CountedLoss,
    Data,
    FreeLoss,
    Model,
    Opaque,
    Stream,
    make_trainer,
    pairs,
    two_ranks,
)
from lightning_topk.callbacks import ClassFrequencies
from lightning_topk.callbacks._training_labels import count_by_iteration
from lightning_topk.imbalance import class_counts
from lightning_topk.losses import ImbalancedNoisedTopKLoss
from lightning_topk.metrics import GroupTopKAccuracy
from runs import StatefulLoader


def fit(data: Any, callback: ClassFrequencies | None = None, model: Model | None = None, **arguments: Any) -> Model:
    """Fit one step on a data module, a loader or a data set, and return the model."""
    callback, model = callback or ClassFrequencies(), model or Model()
    trainer = make_trainer(callback, **arguments)
    if isinstance(data, Data):
        trainer.fit(model, datamodule=data)
    else:
        trainer.fit(model, DataLoader(data, batch_size=4) if isinstance(data, Dataset) else data)
    if callback.counts is not None:
        assert model.group.seen == callback.counts.tolist()
    return model


def bound(model: Model) -> list[int]:
    return model.loss.class_counts.tolist()


class WithLoader(Model):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(pairs(), batch_size=4)


class WithSetup(Model):
    """The usual module that makes its data in ``setup``, which runs after that of the callbacks."""

    asked = 0

    def setup(self, stage: str) -> None:
        self.train_set = pairs()

    def train_dataloader(self) -> DataLoader:
        self.asked += 1
        return DataLoader(self.train_set, batch_size=16)


class Column:
    """A table with named columns, as Hugging Face data sets are."""

    column_names = ("x", "label")

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, key: Any) -> Any:
        return LABELS.tolist() if key == "label" else {"x": torch.rand(2), "label": LABELS[key]}


class Folder(Dataset):
    """Labels in ``targets``, as in torchvision."""

    classes = ("ant", "bee", "cat", "dog")

    def __init__(self, labels: Tensor = LABELS, **attributes: Any) -> None:
        self.targets = labels.tolist()
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(2), self.targets[index]


# --- where labels are found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Data(pairs()), COUNTS),
        (pairs(), COUNTS),
        (Subset(pairs(), [0, 1, 4, 7]), [2, 1, 1]),
        (ConcatDataset([pairs(), Subset(pairs(), [7, 7])]), [4, 3, 3]),
        (DataLoader(Column(), batch_size=4), COUNTS),
        (Folder(classes=None), COUNTS),
        (Folder(classes=None, class_counts=[9, 8, 7]), [9, 8, 7]),
        (Data(Stream(LABELS), class_counts=np.array([5, 4, 3])), [5, 4, 3]),
        ([DataLoader(pairs(), batch_size=4)], COUNTS),
    ],
    ids=["datamodule", "tensors", "subset", "concat", "columns", "targets", "attribute", "module_attribute", "list"],
)
def test_finds_labels(data: Any, expected: list[int]) -> None:
    callback = ClassFrequencies()
    model = Model()
    if isinstance(data, list):
        model.training_step = lambda batch, batch_idx: model.loss(model.net(batch[0][0]), batch[0][1])
    fit(data, callback, model)
    assert bound(model) == callback.counts.tolist() == expected
    assert model.loss.bound == 1


def test_random_split_counts_its_part() -> None:
    part, _ = random_split(pairs(LABELS.repeat(10)), [60, 20])
    assert bound(fit(part)) == class_counts(LABELS.repeat(10)[part.indices], 3).tolist()


@pytest.mark.parametrize("kind", [WithLoader, WithSetup])
def test_loaders_of_the_module(kind: type[Model]) -> None:
    callback, model = ClassFrequencies(), kind()
    make_trainer(callback).fit(model)
    assert bound(model) == callback.counts.tolist() == model.group.seen == COUNTS


def test_weighted_sampler_changes_nothing() -> None:
    sampler = WeightedRandomSampler([0.0] * 7 + [1.0], num_samples=8)
    assert bound(fit(DataLoader(pairs(), batch_size=4, sampler=sampler))) == COUNTS


def test_several_loaders_are_refused() -> None:
    loaders = {"a": DataLoader(pairs(), batch_size=4), "b": DataLoader(pairs(), batch_size=4)}
    with pytest.raises(ValueError, match=r"counted in one training loader\. Found 2 in a dict\. Give the counts"):
        fit(loaders)
    with pytest.raises(ValueError, match="Found 2 in a dict"):
        fit(CombinedLoader(loaders, "min_size"))


def test_data_module_of_an_earlier_fit_is_forgotten() -> None:
    callback, model = ClassFrequencies(), Model()
    trainer = make_trainer(callback)
    trainer.fit(model, datamodule=Data(pairs(), class_counts=[9, 9, 9]))
    trainer.fit(model, DataLoader(pairs(), batch_size=4))
    assert bound(model) == callback.counts.tolist() == COUNTS


# --- explicit counts


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda c: torch.tensor(c, dtype=torch.float64)])
def test_given_counts(kind: Any) -> None:
    callback = ClassFrequencies(kind([5, 4, 3]))
    model = fit(Stream(LABELS), callback)
    assert bound(model) == [5, 4, 3]
    assert callback.counts.dtype == torch.int64
    assert json.loads(json.dumps(callback.state_dict())) == {"counts": [5, 4, 3]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"counts": [5, 4, 3]}'),
        ("c.json", '{"1": 4, "0": 5, "2": 3}'),
        ("c.csv", "class,count\n2,3\n0,5\n1,4"),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_counts_of_a_file(name: str, text: str, kind: Any) -> None:
    Path(name).write_text(text)
    assert bound(fit(pairs(), ClassFrequencies(kind(name)))) == [5, 4, 3]


def test_published_counts(shared_data: Path) -> None:
    callback = ClassFrequencies(shared_data / "class_counts" / "places_lt_train.json")
    fit(pairs(), callback, Model(365))
    assert (len(callback.counts), int(callback.counts.sum())) == (365, 62_500)
    assert (int(callback.counts.max()), int(callback.counts.min())) == (4_980, 5)


def test_pickle_is_refused_and_not_run() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("ran").absolute(),)

    for name in ("counts.pkl", "counts.json"):
        Path(name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError, match="class counts should be JSON"):
            fit(pairs(), ClassFrequencies(name))
    assert not Path("ran").exists()


def test_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"Found none at `nowhere\.json`"):
        fit(pairs(), ClassFrequencies("nowhere.json"))


def test_wrong_length() -> None:
    with pytest.raises(ValueError, match="Found 2 counts for 3 classes"):
        ClassFrequencies([1, 2], num_classes=3)
    with pytest.raises(ValueError, match="Found 4 counts for 3 classes"):
        fit(Data(pairs(), class_counts=[1, 2, 3, 4]), ClassFrequencies(num_classes=3))
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        fit(pairs(), ClassFrequencies(num_classes=2))
    with pytest.raises(ValueError, match=r"in \[0, C\) with `C = 2`\. Found 2"):
        fit(Stream(LABELS), ClassFrequencies(num_classes=2, iterate=True))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"counts": [1, -1]}, ValueError, "Found -1 for class 1"),
        ({"counts": [0, 0]}, ValueError, "At least one should be positive"),
        ({"counts": [[1], [2]]}, ValueError, r"Found shape \[2, 1\]"),
        ({"num_classes": 0}, ValueError, "`num_classes` should be an integer >= 1"),
        ({"zero_counts": "skip"}, ValueError, "`zero_counts` should be one of 'error', 'clamp'"),
        ({"get_targets": len}, ValueError, "`get_targets` should come with `iterate=True`"),
        ({"get_targets": 1, "iterate": True}, TypeError, "`get_targets` should be a function of a batch"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ClassFrequencies(**arguments)


# --- classes and zeros


def named(**attributes: Any) -> Any:
    def make() -> Model:
        model = Model()
        for name, value in attributes.items():
            setattr(model, name, value)
        return model

    return make


@pytest.mark.parametrize(
    ("data", "callback", "model"),
    [
        (lambda: pairs(), ClassFrequencies(num_classes=5), Model),
        (lambda: pairs(), ClassFrequencies(), named(num_classes=5)),
        (lambda: pairs(), ClassFrequencies(), named(metric=GroupTopKAccuracy(num_classes=5, k=1))),
        (lambda: Data(pairs(), num_classes=5), ClassFrequencies(), Model),
        (lambda: Folder(classes=list("abcde")), ClassFrequencies(), Model),
        (lambda: Stream(LABELS), ClassFrequencies(num_classes=5, iterate=True), Model),
    ],
    ids=["argument", "module", "metric", "datamodule", "names", "iterate"],
)
def test_missing_classes_are_padded_and_then_an_error(data: Any, callback: ClassFrequencies, model: Any) -> None:
    with pytest.raises(ValueError, match=r"Found none for 2 of 5 classes: 3( \(d\))?, 4( \(e\))?\."):
        fit(data(), callback, model())


def test_number_of_classes_of_the_hyper_parameters() -> None:
    class Saved(Model):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes)
            self.save_hyperparameters()

    with pytest.raises(ValueError, match="Found none for 1 of 4 classes: 3"):
        fit(pairs(), model=Saved(4))


def test_error_names_the_first_ten() -> None:
    with pytest.raises(ValueError, match=r"Found none for 12 of 15 classes: 3 \(c3\), .*, 12 \(c12\), \.\.\.\."):
        fit(Data(pairs(), class_names=[f"c{c}" for c in range(15)]))
    with pytest.raises(ValueError, match=r"Found none for 1 of 4 classes: 3 \(dog\)"):
        fit(Subset(Folder(), range(8)))


def test_clamp_warns_and_counts_one() -> None:
    with pytest.warns(UserWarning, match="Found none for 2 of 5 classes"):
        model = fit(pairs(), ClassFrequencies(num_classes=5, zero_counts="clamp"), Model(5))
    assert bound(model) == [4, 3, 1, 1, 1]


def test_a_loss_that_clamps_gets_the_zeros() -> None:
    callback = ClassFrequencies(num_classes=5)
    model = fit(pairs(), callback, Model(5, ImbalancedNoisedTopKLoss(k=2, zero_counts="clamp")))
    assert bound(model) == callback.counts.tolist() == [4, 3, 1, 0, 0]
    assert model.loss.margins[3] == model.loss.margins[2]


def test_ignored_labels_are_not_counted() -> None:
    labels = LABELS.clone()
    labels[0] = -100
    assert bound(fit(pairs(labels))) == [3, 3, 1]
    assert bound(fit(Stream(labels), ClassFrequencies(iterate=True))) == [3, 3, 1]


def test_losses_that_need_no_counts_get_them_too() -> None:
    model = fit(pairs(), model=Model(loss=FreeLoss()))
    assert model.loss.class_counts.tolist() == COUNTS
    assert model.group.seen == COUNTS


def test_without_required_the_run_goes_on() -> None:
    callback = ClassFrequencies(required=False)
    model = fit(Stream(LABELS), callback, Model(loss=FreeLoss()))
    assert callback.counts is None
    assert model.loss.class_counts is None
    callback = ClassFrequencies(num_classes=5, required=False)
    assert fit(pairs(), callback, Model(5, FreeLoss())).loss.class_counts.tolist() == [*COUNTS, 0, 0]
    with pytest.raises(RuntimeError, match="no counts"):  # the loss says that it needs them
        fit(pairs(), ClassFrequencies(num_classes=5, required=False), Model(5))


# --- one pass over the data


def test_streams_need_counts_or_a_pass() -> None:
    with pytest.raises(
        ValueError, match=r"(?s)`Stream`.*`ClassFrequencies\(counts=.*`ClassFrequencies\(iterate=True\)`"
    ):
        fit(Stream(LABELS))
    assert bound(fit(Stream(LABELS), ClassFrequencies(iterate=True))) == COUNTS


def test_unknown_data_sets_need_counts_or_a_pass() -> None:
    with pytest.raises(ValueError, match=r"(?s)`Opaque`.*iterate=True"):
        fit(Opaque(LABELS))
    assert bound(fit(Opaque(LABELS), ClassFrequencies(iterate=True))) == COUNTS


@pytest.mark.parametrize("key", ["target", "targets", "label", "labels", "y"])
def test_pass_knows_the_usual_keys(key: str) -> None:
    assert count_by_iteration(DataLoader(Opaque(LABELS, key), batch_size=3)).tolist() == COUNTS


def test_pass_leaves_samplers_out_and_random_state_alone() -> None:
    sampler = WeightedRandomSampler([0.0] * 7 + [1.0], num_samples=3)
    own = torch.utils.data.BatchSampler(sampler, batch_size=2, drop_last=True)
    for loader in (
        DataLoader(Opaque(LABELS), batch_size=5, sampler=sampler, drop_last=True),
        DataLoader(Opaque(LABELS), batch_sampler=own),
        DataLoader(Opaque(LABELS), batch_size=None, sampler=sampler),
    ):
        state = torch.get_rng_state()
        assert count_by_iteration(loader).tolist() == COUNTS
        assert torch.equal(state, torch.get_rng_state())


def test_pass_shows_progress_where_the_trainer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = []

    def track(batches: Any, description: str, total: int | None, transient: bool) -> Any:
        totals.append((description, total))
        return real_track(batches, description=description, total=total, transient=transient)

    monkeypatch.setattr("lightning_topk.callbacks._training_labels.track", track)
    for data in (Opaque(LABELS), Stream(LABELS)):
        fit(data, ClassFrequencies(iterate=True))
        fit(data, ClassFrequencies(iterate=True), enable_progress_bar=True)
    assert totals == [("Counting classes", 2), ("Counting classes", None)]


def test_pass_takes_a_function() -> None:
    callback = ClassFrequencies(iterate=True, get_targets=lambda batch: 2 - batch[1])
    assert bound(fit(pairs(), callback)) == COUNTS[::-1]


@pytest.mark.parametrize(
    ("batches", "kind", "message"),
    [
        (Opaque(LABELS, "klass"), TypeError, r"a dictionary with the keys \['x', 'klass'\]"),
        (LABELS, TypeError, "Found a Tensor"),
        (pairs(LABELS.float()), TypeError, "should hold integer class indices"),
        (pairs(LABELS - 1), ValueError, "Found -1"),
        (Stream(LABELS[:0]), ValueError, "at least one labelled sample"),
    ],
)
def test_pass_refuses(batches: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        count_by_iteration(DataLoader(batches, batch_size=4))


def test_pass_needs_a_data_loader() -> None:
    with pytest.raises(TypeError, match=r"should be a torch DataLoader.* Found list"):
        count_by_iteration([1, 2])


# --- with the rest of a run


def test_second_fit_counts_again_where_that_is_cheap_or_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        passes.append(1)
        return count_by_iteration(*args, **kwargs)

    monkeypatch.setattr("lightning_topk.callbacks._class_frequencies.count_by_iteration", spy)
    callback, model = ClassFrequencies(iterate=True), Model()
    trainer = make_trainer(callback)
    data = Opaque(LABELS)
    for _ in range(2):
        trainer.fit(model, DataLoader(data, batch_size=4))
    assert len(passes) == 1
    data.hidden = torch.cat([LABELS, LABELS])
    trainer.fit(model, DataLoader(data, batch_size=4))
    assert len(passes) == 2
    assert bound(model) == [8, 6, 2]
    trainer.fit(model, DataLoader(Opaque(data.hidden.flip(0).clamp(max=1)), batch_size=4))
    assert len(passes) == 3
    assert bound(model) == [8, 8]
    folder = Folder(classes=None)
    for count in (1, 2):
        folder.targets[:] = [*LABELS[:-count].tolist(), *[2] * count]
        trainer.fit(model, DataLoader(folder, batch_size=4))
        assert bound(model) == [4, 4 - count, count]
    assert len(passes) == 3


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({}, 1),
        ({"max_steps": -1, "max_epochs": 3}, 1),
        ({"max_steps": -1, "max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}, 3),
        ({"overfit_batches": 1}, 1),
        ({"limit_train_batches": 1}, 1),
        ({"fast_dev_run": True}, 1),
        ({"limit_train_batches": 0}, 0),
    ],
)
def test_loader_is_made_as_often_as_without(arguments: dict[str, Any], asked: int) -> None:
    data, plain = Data(pairs()), Data(pairs())
    callback = ClassFrequencies()
    fit(data, callback, **arguments)
    make_trainer(**arguments).fit(Model(loss=FreeLoss()), datamodule=plain)
    assert data.asked == plain.asked == asked
    assert callback.counts is None if asked == 0 else callback.counts.tolist() == COUNTS


def test_nothing_happens_outside_fit() -> None:
    class Validated(Model):
        validation_step = Model.test_step

    callback, model = ClassFrequencies(), Validated()
    loader = DataLoader(Stream(LABELS), batch_size=4)
    trainer = make_trainer(callback)
    trainer.validate(model, loader, verbose=False)
    trainer.test(model, loader, verbose=False)
    assert callback.counts is model.loss.class_counts is model.group.seen is None


def save(model: Model, callback: ClassFrequencies, data: Any) -> Path:
    trainer = make_trainer(callback)
    trainer.fit(model, None if data is None else DataLoader(data, batch_size=16))
    trainer.save_checkpoint("run.ckpt")
    return Path("run.ckpt")


@pytest.mark.parametrize("labels", [LABELS.repeat(2), torch.arange(5)], ids=["other counts", "more classes"])
def test_resume_keeps_restored_counts(labels: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    path = save(Model(5), ClassFrequencies(), pairs())
    callback, model = ClassFrequencies(), Model(5)
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            seen.append(bound(pl_module))

    with caplog.at_level(logging.INFO):
        make_trainer(callback, Look(), max_steps=2).fit(model, DataLoader(pairs(labels), batch_size=16), ckpt_path=path)
    assert seen == [COUNTS]
    assert bound(model) == callback.counts.tolist() == model.group.seen == COUNTS
    assert "counts of the checkpoint differ" in caplog.text


def test_resume_of_a_module_that_makes_its_data() -> None:
    class Changed(WithSetup):
        def setup(self, stage: str) -> None:
            self.train_set = pairs(LABELS.repeat(2))

    path = save(WithSetup(), ClassFrequencies(), None)
    callback, model = ClassFrequencies(), Changed()
    make_trainer(callback, max_steps=2).fit(model, ckpt_path=path)
    assert bound(model) == callback.counts.tolist() == model.group.seen == COUNTS
    assert model.asked == 1


def test_restored_counts_reach_test_too() -> None:
    path = save(Model(), ClassFrequencies(), pairs())
    callback, model = ClassFrequencies(), Model()
    make_trainer(callback).test(model, DataLoader(pairs(), batch_size=4), ckpt_path=path, verbose=False)
    assert bound(model) == callback.counts.tolist() == model.group.seen == COUNTS


@pytest.mark.parametrize("callbacks", [(), (ClassFrequencies(),)], ids=["without", "with"])
def test_stateful_loader_goes_on_in_mid_epoch(callbacks: tuple[Callback, ...]) -> None:
    data = pairs()
    steps: list[float] = []

    class Recorder(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            steps.append(batch[0][0, 0].item())
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(*callbacks, max_steps=3)
    trainer.fit(Recorder(loss=FreeLoss()), StatefulLoader(data, batch_size=2))
    trainer.save_checkpoint("run.ckpt")
    trainer = make_trainer(*callbacks, max_steps=4)
    trainer.fit(Recorder(loss=FreeLoss()), StatefulLoader(data, batch_size=2), ckpt_path="run.ckpt")
    assert steps == data.tensors[0][::2, 0].tolist()


def test_restoring_in_mid_run_keeps_the_loader() -> None:
    class Restore(Callback):
        """What a learning rate finder does at its milestones."""

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint("now.ckpt")
                trainer._checkpoint_connector.restore("now.ckpt")

    data = Data(pairs(LABELS[[0, 4, 7]]))
    make_trainer(ClassFrequencies(), Restore(), max_steps=-1, max_epochs=3).fit(Model(), datamodule=data)
    assert data.asked == 1


def test_state_keys_differ() -> None:
    callbacks = [
        ClassFrequencies(),
        ClassFrequencies([1, 2]),
        ClassFrequencies([2, 1]),
        ClassFrequencies("a.json"),
        ClassFrequencies(num_classes=2),
        ClassFrequencies(zero_counts="clamp"),
        ClassFrequencies(iterate=True),
    ]
    assert len({callback.state_key for callback in callbacks}) == len(callbacks)
    make_trainer(*callbacks)


def test_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(pairs(torch.arange(3).repeat_interleave(torch.tensor([150, 50, 10]))))
    lines = [record.message for record in caplog.records if "ClassFrequencies" in record.message]
    assert lines == [
        "ClassFrequencies: 3 classes, 210 samples, largest 150, smallest 10, imbalance factor 15, "
        "many/medium/few 1/1/1."
    ]


def test_works_in_a_pytorch_lightning_trainer() -> None:
    pl = pytest.importorskip("pytorch_lightning")

    class Old(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = torch.nn.Linear(2, 3), CountedLoss()

        training_step = Model.training_step
        configure_optimizers = Model.configure_optimizers

    callback, model = ClassFrequencies(), Old()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(model, DataLoader(pairs(), batch_size=4))
    assert bound(model) == COUNTS


@pytest.mark.parametrize(
    ("given", "expected"),
    [([5, 4, 3], [5, 4, 3]), ("counts.csv", "counts.csv"), (None, None)],
    ids=["list", "file", "none"],
)
def test_parsed_from_a_config(given: Any, expected: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    init_args = {"counts": given, "zero_counts": "clamp", "iterate": True, "get_targets": "torch.argmax"}
    entry = {"class_path": "lightning_topk.callbacks.ClassFrequencies", "init_args": init_args}
    callback = parser.instantiate_classes(parser.parse_object({"callbacks": [entry]})).callbacks[0]
    assert repr(callback).startswith("ClassFrequencies(counts=" + ("[3 values]" if given == [5, 4, 3] else repr(given)))
    same = ClassFrequencies(expected, zero_counts="clamp", iterate=True, get_targets=torch.argmax)
    assert callback.state_key == same.state_key
    assert callback.get_targets is torch.argmax
    with pytest.raises(Exception, match=r"zero_counts"):
        parser.parse_object({"callbacks": [{**entry, "init_args": {"zero_counts": "skip"}}]})


# --- two processes


class Report(Callback):
    """Write what each rank holds."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        held = [bound(pl_module), pl_module.group.seen]
        Path(f"rank{trainer.global_rank}.json").write_text(json.dumps(held))


class Recording(ClassFrequencies):
    """Write the error of each rank, and wait for the other: the first to end has all others killed."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        try:
            super().setup(trainer, pl_module, stage)
        except Exception as error:
            Path(f"rank{trainer.global_rank}.txt").write_text(f"{type(error).__name__}: {error}")
            trainer.strategy.barrier("both have failed")
            raise


@pytest.mark.timeout(60)
@pytest.mark.parametrize("iterate", [False, True])
def test_two_ranks_hold_the_same(iterate: bool) -> None:
    data = Opaque(LABELS) if iterate else pairs()
    two_ranks(ClassFrequencies(iterate=iterate), Report()).fit(Model(), DataLoader(data, batch_size=2))
    for rank in range(2):
        assert json.loads(Path(f"rank{rank}.json").read_text()) == [COUNTS, COUNTS]


@pytest.mark.timeout(60)
def test_two_ranks_with_a_module_that_makes_its_data() -> None:
    two_ranks(ClassFrequencies(), Report()).fit(WithSetup())
    for rank in range(2):
        assert json.loads(Path(f"rank{rank}.json").read_text()) == [COUNTS, COUNTS]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (Recording(num_classes=4), "ValueError: Every class should have a training sample"),
        (Recording("nowhere.csv"), "FileNotFoundError: A file of class counts should exist"),
    ],
)
def test_failure_on_rank_zero_ends_both_ranks(callback: ClassFrequencies, expected: str) -> None:
    start = time.monotonic()
    with pytest.raises(Exception, match=expected):
        two_ranks(callback).fit(Model(), DataLoader(pairs(), batch_size=2))
    assert time.monotonic() - start < 10
    for rank in range(2):
        assert Path(f"rank{rank}.txt").read_text().startswith(expected)


@pytest.mark.timeout(60)
def test_error_of_an_unknown_kind_ends_both_ranks() -> None:
    class StrangeError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one + two)

    def fail(batch: Any) -> Any:
        raise StrangeError(1, 2)

    with pytest.raises(Exception, match="StrangeError"):
        two_ranks(Recording(iterate=True, get_targets=fail)).fit(Model(), DataLoader(pairs(), batch_size=2))
    assert Path("rank0.txt").read_text() == "StrangeError: 3"
    assert Path("rank1.txt").read_text() == "RuntimeError: StrangeError: 3"
