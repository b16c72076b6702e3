"""Keys of runs: what changes them, and what does not."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from compare.small import BASE
from lightning_topk.compare._jobs import Job, _no_number, config_of_run, essential, key_of

SCHEDULER = {"class_path": "lightning_topk.callbacks.EpsilonScheduler", "init_args": {"parameter": "epsilon"}}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = deepcopy(BASE)
    *parents, last = path.split(".")
    place: Any = config
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return config


def key(config: dict[str, Any], checkpoint: str = "last", monitor: str = "val_macro_top5") -> str:
    return key_of(config, checkpoint, monitor)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trainer.logger", {"class_path": "ResumableCSVLogger", "init_args": {"save_dir": "elsewhere"}}),
        ("trainer.default_root_dir", "elsewhere"),
        ("trainer.enable_progress_bar", True),
        ("trainer.callbacks", [{"class_path": "lightning_topk.callbacks.TopKReport"}]),
        ("trainer.callbacks", [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {}}]),
        ("trainer.callbacks", None),
        ("ckpt_path", "last"),
    ],
)
def test_output_leaves_the_key_as_it_is(path: str, value: Any) -> None:
    assert key(changed(path, value)) == key(BASE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed_everything", 1),
        ("trainer.max_epochs", 3),
        ("trainer.callbacks", [SCHEDULER]),
        ("model.init_args.loss.init_args.reduction", "sum"),
        ("data.init_args.seed", 1),
        ("data.init_args.root", "elsewhere"),
        ("optimizer", {"class_path": "torch.optim.SGD"}),
    ],
)
def test_all_else_changes_the_key(path: str, value: Any) -> None:
    assert key(changed(path, value)) != key(BASE)


def test_the_order_of_options_has_no_say() -> None:
    assert key(dict(reversed(BASE.items()))) == key(BASE)


def test_the_weights_that_are_evaluated_are_part_of_the_key() -> None:
    assert key(BASE, "best") != key(BASE)
    assert key(BASE, "best", "val_macro_top1") != key(BASE, "best")
    assert key(BASE, "last", "val_macro_top1") == key(BASE)


def test_the_run_is_quiet_and_writes_into_its_folder() -> None:
    config = changed("trainer.callbacks", [SCHEDULER, {"class_path": "lightning_topk.callbacks.TopKReport"}])
    before = deepcopy(config)
    job = Job("a", 0, "k", Path("out", "runs", "k"), config, "best", "val_macro_top5", 5)
    made = config_of_run(job)["trainer"]
    assert config == before
    assert [callback["class_path"].rpartition(".")[2] for callback in made["callbacks"]] == [
        *("EpsilonScheduler", "ModelCheckpoint", "ModelCheckpoint", "SeedEveryBatch")
    ]
    assert {callback["init_args"]["dirpath"] for callback in made["callbacks"][1:3]} == {
        str(Path("out", "runs", "k", "checkpoints"))
    }
    assert made["callbacks"][2]["init_args"]["monitor"] == "val_macro_top5"
    assert made["logger"]["init_args"] == {"save_dir": str(Path("out", "runs")), "name": "", "version": "k"}
    assert (made["enable_progress_bar"], made["enable_model_summary"], made["max_epochs"]) == (False, False, 2)
    assert essential(config_of_run(job))["trainer"]["max_epochs"] == 2


@pytest.mark.parametrize("key", ["166e89930085", "123456789012", "000000000e12"])
def test_no_key_is_read_as_a_number(key: str) -> None:
    assert isinstance(yaml.safe_load(_no_number("abcdef123456")), str)
    assert isinstance(yaml.safe_load(_no_number(key)), str)
    assert _no_number(key)[1:] == key[1:]
