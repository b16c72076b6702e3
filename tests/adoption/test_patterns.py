"""Modules as the projects of others write them, before and after they adopt the mixin, trained for real.

Each pattern is a diff, as in the README: its left side is the user's module and trains by itself, its right side is the
same module with the mixin. What is logged is compared with a direct computation on the weights at the end of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from lightning_topk.callbacks import ClassFrequencies
from metrics.slow_metrics import slow_macro, slow_micro
from runs import CLASSES, SaveAt, loader, make_trainer, vectors
from test_adoption import side

HERE = Path(__file__).parent
COUNTS = torch.bincount(vectors(200).tensors[1], minlength=CLASSES)


class Dictionaries(Dataset):
    """Samples as dictionaries, whose labels cannot be looked up without reading them."""

    def __init__(self, data: TensorDataset, features: str, label: str) -> None:
        self.data, self.features, self.label = data, features, label

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = self.data[index]
        return {self.features: x, self.label: y}


def images(data: TensorDataset) -> TensorDataset:
    """Make noise images, of a colour for each class, in place of vectors."""
    y = data.tensors[1]
    generator = torch.Generator().manual_seed(len(y))
    noise = torch.rand(len(y), 3, 9, 9, generator=generator)
    return TensorDataset(noise + F.one_hot(y, CLASSES)[:, :3, None, None] + y.view(-1, 1, 1, 1) / 4, y)


def masks(data: TensorDataset) -> TensorDataset:
    """Make images with a class for each pixel, of which some are not labelled."""
    x, y = images(data).tensors
    pixels = y.view(-1, 1, 1).repeat(1, 9, 9)
    pixels[:, :, 0] = 255
    return TensorDataset(x, pixels)


def partly_labelled(data: TensorDataset) -> TensorDataset:
    """Take the label from every ninth sample."""
    x, y = data.tensors
    return TensorDataset(x, torch.where(torch.arange(len(y)) % 9 == 8, -1, y))


@dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern of adoption, and what is special to it."""

    name: str
    #: Lines of the diff that are new in the module: the base, and one for each place where a loss is computed.
    lines: int = 2
    namespace: Any = pl
    data: Callable[[TensorDataset], Any] = field(default=lambda data: data)
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Callbacks and other options that the run needs beside the lines in the module, made anew for each run.
    callbacks: Callable[[], list[Any]] = list
    ignored: int = -100
    counted: bool = True
    prepare: Callable[[Any], Any] = field(default=lambda batch: batch[0])
    labels: Callable[[Any], Tensor] = field(default=lambda batch: batch[1])

    def __str__(self) -> str:
        return self.name

    @property
    def diff(self) -> str:
        return (HERE / f"{self.name}.diff").read_text()

    def module(self, sign: str) -> Any:
        torch.manual_seed(0)
        return side(self.diff, sign)["Model"](**self.arguments)


PATTERNS = [
    Pattern("criterion"),
    Pattern("shared_step", namespace=pytorch_lightning),
    Pattern("param_groups"),
    Pattern("manual"),
    Pattern(
        "dictionaries",
        lines=3,
        data=lambda data: Dictionaries(data, "features", "label"),
        callbacks=lambda: [ClassFrequencies(iterate=True)],
        prepare=lambda batch: batch,
        labels=lambda batch: batch["label"],
    ),
    Pattern(
        "one_hot",
        data=lambda data: TensorDataset(data.tensors[0], F.one_hot(data.tensors[1], CLASSES).float()),
        counted=False,
        labels=lambda batch: batch[1].argmax(-1),
    ),
    Pattern("mixup", lines=3, data=images),
    Pattern("collection", lines=3),
    Pattern(
        "cross_entropy_options",
        lines=3,
        data=partly_labelled,
        arguments={"class_weights": [1.0] * 4 + [2.0] * 4},
        ignored=-1,
    ),
    Pattern("label_smoothing", lines=3),
    Pattern("linear_probe", lines=3),
    Pattern("feature_extractor", data=images),
    Pattern(
        "model_outputs",
        data=lambda data: Dictionaries(data, "pixel_values", "labels"),
        callbacks=lambda: [ClassFrequencies(iterate=True)],
        prepare=lambda batch: batch["pixel_values"],
        labels=lambda batch: batch["labels"],
    ),
    Pattern("segmentation", lines=3, data=masks, ignored=255, counted=False),
]


@pytest.fixture(params=PATTERNS, ids=str)
def pattern(request: Any) -> Pattern:
    return request.param


def test_every_diff_is_a_pattern() -> None:
    assert {path.stem for path in HERE.glob("*.diff")} == {pattern.name for pattern in PATTERNS}


def fitted(pattern: Pattern, sign: str, *callbacks: Any, **options: Any) -> SimpleNamespace:
    model = pattern.module(sign)
    own = pattern.callbacks() if sign == "+" else []
    trainer = make_trainer(*own, *callbacks, namespace=pattern.namespace, max_epochs=2, **options)
    validation = loader(pattern.data(vectors(61, seed=5)), batch_size=16)
    trainer.fit(model, loader(pattern.data(vectors(200)), batch_size=16), validation)
    return SimpleNamespace(model=model, trainer=trainer, validation=validation, logged=dict(trainer.callback_metrics))


@cache
def finished(pattern: Pattern, sign: str) -> SimpleNamespace:
    """Return the run of a pattern, for tests that only look at it."""
    return fitted(pattern, sign)


def scored(pattern: Pattern, run: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Return logits [N, C] and labels [N] of the validation set, without those that are ignored."""
    run.model.eval()
    with torch.no_grad():
        found = []
        for batch in run.validation:
            logits = run.model(pattern.prepare(batch))
            logits = logits["logits"] if isinstance(logits, dict) else logits
            logits = logits.movedim(1, -1).reshape(-1, CLASSES)
            labels = pattern.labels(batch).flatten()
            found.append((logits[labels != pattern.ignored], labels[labels != pattern.ignored]))
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def test_it_takes_the_documented_lines(pattern: Pattern) -> None:
    added = [line[1:] for line in pattern.diff.splitlines() if line.startswith("+")]
    assert len([line for line in added if not line.startswith("from lightning_topk")]) == pattern.lines
    assert sum("TopKMixin, " in line for line in added) == 1


def test_the_module_as_it_was_trains(pattern: Pattern) -> None:
    logged = finished(pattern, "-").logged
    assert any("loss" in name for name in logged)
    assert not any("macro" in name for name in logged)


def test_the_adopted_module_trains_and_logs_what_a_direct_computation_gives(pattern: Pattern) -> None:
    run = finished(pattern, "+")
    logits, labels = scored(pattern, run)
    assert logits.isfinite().all()
    k = run.model.topk_k
    for each in run.model.topk_ks:
        assert math.isclose(run.logged[f"val_top{each}"].item(), slow_micro(logits, labels, each), rel_tol=1e-6)
        assert math.isclose(run.logged[f"val_macro_top{each}"].item(), slow_macro(logits, labels, each), rel_tol=1e-6)
    if pattern.counted:
        counts = run.model.topk_criterion.class_counts
        if pattern.name != "cross_entropy_options":
            assert torch.equal(counts, COUNTS)
        few = {c for c in range(CLASSES) if counts[c] < 20}
        expected = slow_macro(logits, labels, k, few)
        assert math.isclose(run.logged[f"val_few_top{k}"].item(), expected, rel_tol=1e-6)
    else:
        assert run.model.topk_criterion.class_counts is None
    assert run.logged.get("val_loss", run.logged.get("val/loss")).isfinite()
    untrained = pattern.module("+")
    changed = [
        name
        for name, value in run.model.named_parameters()
        if not torch.equal(value, dict(untrained.named_parameters())[name])
    ]
    assert set(changed) == {name for name, value in run.model.named_parameters() if value.requires_grad}


def test_what_the_module_logged_it_still_logs(pattern: Pattern) -> None:
    before, after = (finished(pattern, sign).logged for sign in "-+")
    assert before.keys() <= after.keys()


def adopted(name: str) -> Pattern:
    return next(pattern for pattern in PATTERNS if pattern.name == name)


def test_own_metrics_keep_their_values() -> None:
    run = finished(adopted("collection"), "+")
    logits, labels = scored(adopted("collection"), run)
    assert math.isclose(run.logged["val_acc"].item(), slow_micro(logits, labels, 1), rel_tol=1e-6)
    assert math.isclose(run.logged["val_acc"].item(), run.logged["val_top1"].item(), rel_tol=1e-6)


@pytest.mark.parametrize("name", ["shared_step", "feature_extractor"])
def test_hyper_parameters_are_those_of_the_module_and_load(name: str, tmp_path: Path) -> None:
    pattern = adopted(name)
    run = fitted(pattern, "+")
    plain = pattern.module("-")
    assert dict(run.model.hparams) == dict(plain.hparams)
    run.trainer.save_checkpoint(tmp_path / "run.ckpt")
    twin = type(run.model).load_from_checkpoint(tmp_path / "run.ckpt")
    assert torch.equal(twin.topk_criterion.class_counts, COUNTS)
    inputs = next(iter(run.validation))[0]
    assert torch.equal(twin.eval()(inputs), run.model.eval()(inputs))


def test_a_checkpoint_from_before_the_adoption_is_resumed(tmp_path: Path) -> None:
    """Also where the optimizer of the adopted module trains a parameter of the loss."""
    for name in ("criterion", "shared_step", "param_groups"):
        pattern = adopted(name)
        run = fitted(pattern, "-", SaveAt(7, tmp_path / "run.ckpt"))
        model = pattern.module("+")
        trainer = make_trainer(namespace=pattern.namespace, max_epochs=2)
        trainer.fit(model, loader(vectors(200), batch_size=16), run.validation, ckpt_path=tmp_path / "run.ckpt")
        assert trainer.global_step == run.trainer.global_step
        assert torch.equal(model.topk_criterion.class_counts, COUNTS)
        logits, labels = scored(pattern, SimpleNamespace(model=model, validation=run.validation))
        logged = trainer.callback_metrics["val_macro_top5"].item()
        assert math.isclose(logged, slow_macro(logits, labels, 5), rel_tol=1e-6)


def test_class_weights_and_ignored_samples_reach_the_loss() -> None:
    pattern = adopted("cross_entropy_options")
    run = finished(pattern, "+")
    logits, labels = scored(pattern, run)
    loss = run.model.topk_criterion
    assert loss.class_counts.sum() == int((partly_labelled(vectors(200)).tensors[1] != -1).sum())
    weight = torch.tensor(pattern.arguments["class_weights"])
    each = torch.stack([loss(row[None], label[None]) for row, label in zip(logits, labels, strict=True)])
    expected = (weight[labels] * each).sum() / weight[labels].sum()
    torch.testing.assert_close(loss(logits, labels), expected)


def test_the_loss_of_the_other_layout_is_a_clear_error() -> None:
    model = adopted("segmentation").module("+")
    x, y = masks(vectors(16)).tensors
    with pytest.raises(ValueError, match=r"`targets` of class indices should have the shape of the logits without the"):
        model.topk_loss(model(x), y)


def test_an_output_object_in_place_of_logits_is_a_clear_error() -> None:
    model = adopted("model_outputs").module("+")
    model.topk_criterion.bind_class_counts(COUNTS)
    x, y = vectors(16).tensors
    with pytest.raises(TypeError, match=r"`logits` should be a tensor \[\.\.\., C\]\. Found Output"):
        model.topk_loss(model.model(x), y)


@pytest.mark.parametrize("name", ["dictionaries", "model_outputs"])
def test_labels_that_cannot_be_looked_up_need_counts_or_another_loss(name: str) -> None:
    """The third line that dictionaries need is in the message."""
    pattern = adopted(name)
    data = loader(pattern.data(vectors(200)), batch_size=16)
    with pytest.raises(ValueError, match=r"`ClassFrequencies\(iterate=True\)`"):
        make_trainer().fit(pattern.module("+"), data)


def test_counts_by_hand_take_the_place_of_the_pass_over_the_data() -> None:
    pattern = adopted("one_hot")
    data = loader(pattern.data(vectors(200)), batch_size=16)
    model, trainer = pattern.module("+"), make_trainer(ClassFrequencies(COUNTS))
    trainer.fit(model, data, data)
    assert torch.equal(model.topk_criterion.class_counts, COUNTS)
    assert "val_few_top5" in trainer.callback_metrics
