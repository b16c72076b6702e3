"""A run as a configuration, and the key that it is found again by."""

import hashlib
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What is done to be seen, or to be able to go on, and has no say in what a run gives.
_CALLBACKS = ("TopKReport", "ModelCheckpoint", "RichProgressBar", "TQDMProgressBar", "RichModelSummary", "ModelSummary")
_TRAINER = (
    "logger",
    "default_root_dir",
    "enable_progress_bar",
    "enable_model_summary",
    "enable_checkpointing",
    "profiler",
)
_TOP = ("ckpt_path", "weights_only")

#: The weights as they were trained, in the place of the strength of an adjustment.
PLAIN = "plain"


@dataclass(frozen=True)
class Job:
    """A run to make, or to go on with.

    Attributes:
        column: Name of the column that it is for, for messages.
        seed: Its seed.
        key: Hash of all that its result depends on.
        folder: Where it lies.
        config: The complete configuration.
        checkpoint: ``"last"`` or ``"best"``.
        monitor: The value that the best checkpoint is chosen by.
        max_k: The largest K that is counted.
        val: What is evaluated on the validation set: ``"plain"`` and strengths of the adjustment, as text.
        test: What is evaluated on the test set; nothing before settings are chosen.
        keep: Whether the weights are kept when the test set has been evaluated.
    """

    column: str
    seed: int
    key: str
    folder: Path
    config: Mapping[str, Any]
    checkpoint: str
    monitor: str
    max_k: int
    val: tuple[str, ...] = (PLAIN,)
    test: tuple[str, ...] = ()
    keep: bool = False


def essential(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result depends on: a configuration without output, progress and checkpoints."""
    kept = deepcopy({name: value for name, value in config.items() if name not in _TOP})
    kept["trainer"] = {name: value for name, value in kept["trainer"].items() if name not in _TRAINER}
    callbacks = kept["trainer"].get("callbacks") or []
    kept["trainer"]["callbacks"] = [each for each in _listed(callbacks) if _name_of(each) not in _CALLBACKS]
    return kept


def key_of(config: Mapping[str, Any], checkpoint: str, monitor: str) -> str:
    """Return a short hash of all that a result depends on.

    Example:
        >>> key_of({"seed_everything": 0, "trainer": {"max_epochs": 2}}, "last", "val_macro_top5")
        '557e708ab5e6'
        >>> key_of({"trainer": {"logger": None, "max_epochs": 2}, "seed_everything": 0}, "last", "val_macro_top1")
        '557e708ab5e6'
    """
    what = [essential(config), checkpoint, monitor if checkpoint == "best" else None]
    return _no_number(hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12])


def _no_number(key: str) -> str:
    """Change digits that YAML would read as a number, such as 166e89930085, which is infinite."""
    return f"x{key[1:]}" if re.fullmatch(r"\d+(e\d+)?", key) else key


def config_of_run(job: Job) -> dict[str, Any]:
    """Return the configuration that a run is made from: quiet, and with its files in its folder."""
    config = essential(job.config)
    trainer = config["trainer"]
    checkpoints = str(job.folder / "checkpoints")
    added = [{"filename": "last", "save_top_k": 1, "monitor": None, "mode": "min"}]
    if job.checkpoint == "best":
        added.append({"filename": "best", "save_top_k": 1, "monitor": job.monitor, "mode": "max"})
    trainer["callbacks"] += [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {**options, "dirpath": checkpoints, "enable_version_counter": False},
        }
        for options in added
    ]
    if "SeedEveryBatch" not in map(_name_of, trainer["callbacks"]):
        # Dropout and the like are then the same for all losses, and in a run that goes on.
        trainer["callbacks"].append({"class_path": "lightning_topk.callbacks.SeedEveryBatch"})
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": True}
    trainer["logger"] = {
        "class_path": "lightning_topk.durable.ResumableCSVLogger",
        "init_args": {"save_dir": str(job.folder.parent), "name": "", "version": job.folder.name},
    }
    return config


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _name_of(callback: Any) -> str:
    path = callback.get("class_path", "") if isinstance(callback, Mapping) else callback
    return str(path).rpartition(".")[2]
