"""Finished runs that are found again although a class has got new options."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from compare.small import BASE
from lightning_topk.compare._found import FoundRuns, continues
from lightning_topk.compare._jobs import Job, config_of_run

LOSS = "lightning_topk.losses.NoisedTopKLoss"


def job(config: Any, key: str = "new", checkpoint: str = "last") -> Job:
    return Job("a", 0, key, Path("runs", key), config, checkpoint, "val_macro_top5", 5)


def finished(config: Any, key: str, checkpoint: str = "last") -> None:
    folder = Path("runs", key)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of_run(job(config, key, checkpoint))))
    (folder / "result.json").write_text("{}")


def with_loss(**arguments: Any) -> dict[str, Any]:
    config = deepcopy(BASE)
    config["model"]["init_args"]["loss"] = {"class_path": LOSS, "init_args": {"k": 3, **arguments}}
    return config


def test_a_new_option_at_its_default_is_the_same_run() -> None:
    finished(with_loss(), "old")
    assert FoundRuns(Path("runs")).key_of(job(with_loss(epsilon=1.0))) == "old"
    assert FoundRuns(Path("runs")).key_of(job(with_loss(epsilon=0.5))) == "new"
    assert FoundRuns(Path("runs")).key_of(job({**with_loss(), "seed_everything": 1})) == "new"


def test_a_default_that_has_changed_is_another_run() -> None:
    finished(with_loss(epsilon=2.0), "old")
    assert FoundRuns(Path("runs")).key_of(job(with_loss(epsilon=1.0))) == "new"
    assert FoundRuns(Path("runs")).key_of(job(with_loss())) == "new"


def test_only_finished_runs_of_the_weights_at_the_end_count() -> None:
    finished(with_loss(), "best", "best")
    assert FoundRuns(Path("runs")).key_of(job(with_loss())) == "new"
    Path("runs", "best", "result.json").unlink()
    assert FoundRuns(Path("runs")).key_of(job(with_loss())) == "new"
    assert FoundRuns(Path("none")).key_of(job(with_loss())) == "new"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ([{"class_path": LOSS}], [{"class_path": LOSS}, {}], False),
    ],
)
def test_parts_of_configurations(old: Any, new: Any, same: bool) -> None:
    assert continues(old, new) == same
