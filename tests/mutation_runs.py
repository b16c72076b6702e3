"""Run a mutated configuration up to the point where training would start, and judge what the command says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from PIL import Image

from commands import GLYPHS, QUICKSTART, SHORT, SMALL, Printed, command
from lightning_topk.cli import TopKCLI
from mutations import Mutation, read
from published import STAND_INS

LONGEST = 12  # lines on stderr
# Kinds of mistakes of which some show in the first steps alone.
RUN = ("out of range", "misspelt value", "wrong type", "null", "command line: nonsense for the trainer")
# Options of which such a value has a meaning, and which.
HARMLESS: dict[str | int, str] = {
    "batch_size": "all samples in one batch",
    "end": "checked against the range of what is scheduled when the schedule gets there",
    "image_size": "a large image",
    "imbalance_factor": "no class has less than one sample",
    "learning_rate": "large steps",
    "log_every_n_steps": "read by Lightning as a period",
    "max_count": "as many samples as asked for",
    "max_epochs": "that many epochs, or none",
    "name": "any name of a folder",
    "save_dir": "any name of a folder",
    "default_root_dir": "any name of a folder",
    "model_registry": "any name of a model",
    "seed": "any number from 0 on",
    "seed_everything": "any number from 0 to 2^32 - 1",
    "start": "checked against the range of what is scheduled when the schedule gets there",
    "tau": "any strength",
}


@dataclass
class Verdict:
    """What became of a mutation: its outcome, and in what the message falls short of the law."""

    mutation: Mutation
    outcome: str
    faults: list[str] = field(default_factory=list)
    message: str = ""


def make_data(folder: Path) -> None:
    """Write small data of the names and layouts that the data files of `configs` ask for."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 6
    images = random.integers(0, 255, (120, 12, 12), dtype=np.uint8)
    np.savez(folder / "plankton32.npz", x=images, y=labels, is_test=np.arange(120) % 5 == 0)
    np.savez(folder / "omniglot28.npz", x=images, y=labels, drawer=1 + np.arange(120) // 6)
    for index in range(60):
        path = folder / "train" / f"class_{index % 6}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(path)
    for name, write in STAND_INS.items():
        write(folder / name)


def arguments(mutation: Mutation, folder: Path) -> list[str]:
    """Return the options of `fit` that make a whole of the mutated file, which is written for it."""
    return [*_of_file(mutation, folder), *mutation.args]


def _of_file(mutation: Mutation, folder: Path) -> list[str]:
    path = folder / "bad.yaml"
    path.unlink(missing_ok=True)
    if mutation.content is not None:
        path.write_bytes(mutation.content)
    own = ["--config", str(path)]
    kind = mutation.file.partition("/")[0]
    if kind == "loss":
        return [*own, *GLYPHS, *SMALL]
    if kind == "data":
        name = Path(mutation.file).stem
        root = folder / name if name in STAND_INS else folder
        return [*QUICKSTART, *own, "--data.root", str(root)] if name != "glyphs" else [*QUICKSTART, *own]
    if kind != "trainer":
        return own
    # Without its accelerator a file is read, and nothing is made of it.
    return [*QUICKSTART, *own, *["--print_config"] * (read(mutation.file)["trainer"]["accelerator"] == "gpu")]


@contextmanager
def before_training() -> Iterator[dict[str, Any]]:
    """Let `fit` make all objects and then stop; yield a mapping that gets the configuration."""
    seen: dict[str, Any] = {}

    def remember(cli: TopKCLI) -> None:
        seen["config"] = cli.config[cli.subcommand].as_dict()

    with (
        # Not the method itself, whose signature is read, and not beyond the launcher, which starts processes.
        mock.patch("lightning.pytorch.trainer.call._call_and_handle_interrupt"),
        mock.patch.object(TopKCLI, "after_instantiate_classes", remember),
        mock.patch.object(TopKCLI, "after_fit"),
    ):
        yield seen


def judge(mutation: Mutation, folder: Path) -> Verdict:
    """Run the command on a mutation, and hold its answer against the law."""
    args = arguments(mutation, folder)
    try:
        with before_training() as seen:
            printed = command("fit", *args)
        if printed.status == 0 and mutation.kind in RUN and not mutation.file.startswith("trainer/"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                printed = command("fit", *args, *_short(mutation))
    except Exception as error:
        return Verdict(mutation, "crashed", [f"{type(error).__name__}"], str(error))
    if printed.status == 0 and "--print_config" in args:
        return Verdict(mutation, "read alone")
    if printed.status == 0:
        faults = _misread(mutation, seen["config"])
        return Verdict(mutation, "harmless" if not faults else "passed over", faults)
    return Verdict(mutation, "refused", _faults(mutation, printed), printed.err)


def _short(mutation: Mutation) -> list[str]:
    """Return options of a short run, without the one that is mutated."""
    own = ".".join(str(key) for key in mutation.path if key != "init_args")
    pairs = [
        *zip(SHORT[::2], SHORT[1::2], strict=True),
        ("--trainer.log_every_n_steps", "1"),
        ("--trainer.max_steps", "2"),
    ]
    glyphs = mutation.file in ("quickstart.yaml", "data/glyphs.yaml")
    pairs += [("--data.num_classes", "12"), ("--data.max_count", "30")] if glyphs else []
    options = read(mutation.file).get("data", {}).get("init_args", {})
    pairs += [(f"--data.{key}", value) for key, value in (("num_workers", "0"), ("image_size", "32")) if key in options]
    return [word for name, value in pairs if name.lstrip("-") != own for word in (name, value)]


def _faults(mutation: Mutation, printed: Printed) -> list[str]:
    lines = [line for line in printed.err.splitlines() if line.startswith(("error", "in:", "near:", "help:")) or line]
    checks = {
        "status": printed.status == 2,
        "traceback": "Traceback" not in printed.err,
        "lines": 2 <= len(lines) <= LONGEST,
        "error": lines[0].startswith("error: "),
        # Lightning has words of its own for what is allowed.
        "law": re.search("should|must be|can be|can only be|Available|Allowed|Expected", printed.err) is not None,
        "fact": re.search("Found|does not exist|not a file|expected|not a valid|could not", printed.err) is not None,
        "help": lines[-1].startswith("help:"),
    }
    for names in mutation.names:
        shown = (names,) if isinstance(names, str) else names
        checks[f"names {' or '.join(shown)}"] = any(name in printed.err for name in shown)
    return [name for name, kept in checks.items() if not kept]


def _misread(mutation: Mutation, config: dict[str, Any]) -> list[str]:
    value: Any = config
    for key in mutation.path:
        value = value[key]
    if mutation.kind == "number in quotes":
        # Of some options Lightning reads the text itself.
        same = value == mutation.meant[0] or (mutation.path[-1] == "devices" and value == str(mutation.meant[0]))
    elif mutation.kind == "boolean in words":
        same = value is mutation.meant[0]
    elif mutation.kind.startswith("broken YAML"):
        same = yaml.safe_load(mutation.content or b"") == read(mutation.file)
    elif mutation.kind == "null":  # of an option that may be None, or it would have been refused
        same = value is None
    elif mutation.kind in RUN:
        same = mutation.path[-1] in HARMLESS
    else:
        same = mutation.kind == "missing" or mutation.path[-1] == "logger"
    return [] if same else [f"read as {value!r}"]
