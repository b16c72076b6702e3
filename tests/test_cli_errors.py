"""A user's mistake on the command line ends in a few lines and the status 2; a crash keeps its traceback."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commands import GLYPHS, QUICKSTART, SHORT, SMALL, Printed, command
from lightning_topk._checks import check_int
from lightning_topk.cli._errors import report_mistake, user_mistake
from lightning_topk.schedules import Linear

# Arguments after `fit`; then what is found in the message, what is near, and the option that gives help.
ARGUMENTS = {
    "option": (["--trainer.max_epoch", "3"], "Found `--trainer.max_epoch`", "--trainer.max_epochs", "--help"),
    "root option": (["--modle", "x"], "Found `--modle`", "--model", "--help"),
    "stray word": (["word"], "Found `word`", None, "--help"),
    "data class": (["--data", "GlyfsDataModule"], "`--data` .* Found `GlyfsDataModule`", "GlyphsDataModule", "--help"),
    "far class": (
        ["--data", "Foo"],
        "Found `Foo`",
        "ArrayDataModule, GlyphsDataModule, ImageFolderDataModule",
        "--help",
    ),
    "module of class": (["--data", "lightning_topk.dat.GlyphsDataModule"], "Found", "GlyphsDataModule", "--help"),
    "name in module": (
        ["--data", "lightning_topk.data.Glyfs"],
        "Found `lightning_topk.data.Glyfs`",
        "GlyphsDataModule",
        "--help",
    ),
    "class of another kind": (["--data", "NoisedTopKLoss"], "Found `NoisedTopKLoss`", "GlyphsDataModule", "--help"),
    "model class": (["--model", "TopKClasifier"], "Found `TopKClasifier`", "TopKClassifier", "--help"),
    "loss": (["--model.loss", "NoisedTopKLos"], "Found `NoisedTopKLos`", "NoisedTopKLoss", "--help"),
    "loss and argument": (
        ["--model.loss", "NoisedTopKLos", "--model.loss.k", "3"],
        "Found",
        "NoisedTopKLoss",
        "--help",
    ),
    "optimizer": (["--optimizer", "SDG"], "Found `SDG`", "SGD", "--help"),
    "callback": (["--trainer.callbacks", "EpsilonSheduler"], "Found `EpsilonSheduler`", "EpsilonScheduler", "--help"),
    "model argument": (["--model.bakbone", "x"], "Found `bakbone`", "backbone", "--model.help TopKClassifier"),
    "data argument": (
        ["--data", "GlyphsDataModule", "--data.num_clases", "3"],
        "Found `num_clases`",
        "num_classes",
        "--data.help GlyphsDataModule",
    ),
    "loss argument": (
        ["--model.loss", "NoisedTopKLoss", "--model.loss.epsilom", "1"],
        "NoisedTopKLoss .* Found `epsilom`",
        "epsilon",
        "--model.loss.help NoisedTopKLoss",
    ),
    "missing argument": (
        ["--trainer.callbacks", "EpsilonScheduler"],
        r"EpsilonScheduler .*should be given `schedule`\. Found nothing",
        None,
        "--trainer.callbacks.help EpsilonScheduler",
    ),
    "type": (["--trainer.max_epochs", "abc"], r"of type int\. Found `abc`", None, "--help"),
    "type in class": (
        ["--data", "GlyphsDataModule", "--data.num_classes", "2.5"],
        r"`--data\.num_classes` should be of type int\. Found `2\.5`",
        None,
        "--data.help GlyphsDataModule",
    ),
    "no value": (
        ["--trainer.max_epochs"],
        r"`--trainer\.max_epochs` should be given a value\. Found none",
        None,
        "--help",
    ),
    "empty value": (["--trainer.max_epochs="], "of type int. Found nothing", None, "--help"),
    "none of the choices": (["--trainer.precision", "99"], "one of 64, 32, .* Found `99`", None, "--help"),
    "number or tensor": (
        ["--optimizer", "SGD", "--optimizer.lr", "fast"],
        r"`--optimizer\.lr` should be of type float.* Found `fast`",
        None,
        "--optimizer.help SGD",
    ),
    "argument of no class": (["--optimizer.lr", "1"], "`--optimizer` should name a class before", None, "--help"),
    "text in place of options": (["--trainer", "abc"], "`--trainer` should be given options.* `abc`", None, "--help"),
    "function": (["--model.loss", "os.system"], r"name a class that fits there.* Found `os\.system`", None, "--help"),
    "flag of print_config": (["--print_config=foo"], "foo", None, "--help"),
}
# Content of `bad.yaml`; then as above.
FILES = {
    "key": ("trainer:\n  max_epoch: 1\n", r"Found `trainer\.max_epoch`", "trainer.max_epochs", "--help"),
    "group": ("trainr:\n  max_epochs: 1\n", r"Found `trainr\.max_epochs`", "trainer.max_epochs", "--help"),
    "type": ("trainer:\n  max_epochs: soon\n", r"of type int\. Found `soon`", None, "--help"),
    "group of another form": ("trainer: [1]\n", r"Found:\ntrainer: \[1\]", None, "--help"),
    "argument": (
        "data:\n  class_path: GlyphsDataModule\n  init_args:\n    max_cont: 3\n",
        "Found `max_cont`",
        "max_count",
        "--data.help GlyphsDataModule",
    ),
    "argument beside class_path": (
        "data:\n  class_path: GlyphsDataModule\n  max_count: 3\n",
        "keys `class_path` and `init_args` alone",
        None,
        "--help",
    ),
    "class": ("data:\n  class_path: GlyfsDataModule\n", "Found `GlyfsDataModule`", "GlyphsDataModule", "--help"),
    "argument of the model": ("model:\n  init_args:\n    backbon: x\n", "Found `backbon`", "backbone", "--model.help"),
    "loss": ("model:\n  init_args:\n    loss: NoisedTopKLos\n", "Found `NoisedTopKLos`", "NoisedTopKLoss", "--help"),
    "argument of the loss": (
        "model:\n  init_args:\n    loss:\n      class_path: NoisedTopKLoss\n      init_args: {kk: 3}\n",
        "NoisedTopKLoss .*Found `kk`",
        "k",
        "--model.loss.help NoisedTopKLoss",
    ),
    "callback": (
        "trainer:\n  callbacks:\n    - class_path: EpsilonSheduler\n",
        "Found `EpsilonSheduler`",
        "EpsilonScheduler",
        "--help",
    ),
    "schedule in a callback": (
        "trainer:\n  callbacks:\n    - class_path: EpsilonScheduler\n      init_args:\n"
        "        schedule: {class_path: Cosin, init_args: {start: 1, end: 0}}\n",
        "Found `Cosin`",
        "Cosine",
        "--help",
    ),
    "argument of a callback": (
        "trainer:\n  callbacks:\n    - class_path: EpsilonScheduler\n      init_args:\n"
        "        schedul: {class_path: Cosine, init_args: {start: 1, end: 0}}\n",
        "EpsilonScheduler .*Found `schedul`",
        "schedule",
        "--trainer.callbacks.help EpsilonScheduler",
    ),
    "key given twice": (
        "model:\n  init_args:\n    k: 3\n    k: 4\n",
        "give each option once. Found `k` in the lines 3 and 4",
        None,
        "--help",
    ),
    "misspelt class_path": (
        "model:\n  clas_path: TopKClassifier\n",
        "`class_path` and `init_args` alone. Found `clas_path` in line 2",
        None,
        "--help",
    ),
    "no class": ("data:\n  class_path:\n", "`class_path` should have the name .* Found nothing", None, "--help"),
    "list of arguments": (
        "model:\n  init_args:\n  - k: 3\n",
        "`init_args` should have arguments below it, each as `name: value`. Found a list in line 3",
        None,
        "--help",
    ),
    "empty group": ("trainer:\n", "`trainer` should have options below it.* Found nothing", None, "--help"),
    "bytes": ("\x00\x01", "should hold options in YAML", None, "--help"),
    "list in place of a class": ("model: [1]\n", r"`--model` should name a class, .* Found `\[1\]`", None, "--help"),
    "class without a name": (
        "trainer:\n  callbacks:\n    - class_path: EpsilonScheduler\n      init_args:\n"
        "        schedule: {start: 1, end: 0}\n",
        r"`--trainer\.callbacks\.schedule` should name a class.* Found (no `class_path`|`start`|`{'start')",
        None,
        "--trainer.callbacks.help",
    ),
    "syntax": ("model:\n  - a: [1\n", "should hold options in YAML.*line 2, column 8", None, "--help"),
    "list": ("- 1\n- 2\n", "should hold options in YAML", None, "--help"),
    "text": ("just text", "should hold options in YAML", None, "--help"),
    "nothing": ("", "should hold options in YAML.*nothing", None, "--help"),
}


def check_lines(printed: Printed, found: str, near: str | None, help_on: str) -> None:
    lines = printed.err.splitlines()
    assert (printed.status, printed.out) == (2, "")
    assert 2 <= len(lines) <= 10
    assert lines[0].startswith("error: ")
    assert re.search(found, printed.err, re.DOTALL), printed.err
    shown = next((line for line in lines if line.startswith("near:  ")), None)
    # Each name of the list: classes that other tests have made may stand among them.
    assert shown is None if near is None else all(name in shown for name in near.split(", "))
    assert lines[-1].startswith(f"help:  lightning-topk fit {help_on}")


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case: str) -> None:
    args, *expected = ARGUMENTS[case]
    check_lines(command("fit", *args), *expected)


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, tmp_path: Path) -> None:
    content, *expected = FILES[case]
    (tmp_path / "bad.yaml").write_text(content)
    printed = command("fit", "--config", "bad.yaml")
    check_lines(printed, *expected)
    assert "in:    bad.yaml" in printed.err


def test_the_file_with_the_mistake_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("trainer:\n  max_epoch: 1\n")
    assert "in:    bad.yaml" in command("fit", "--config", "bad.yaml", *QUICKSTART).err


def test_no_file_is_named_for_a_mistake_of_the_command_line() -> None:
    printed = command("fit", *QUICKSTART, "--model.loss", "NoisedTopKLos")
    assert "Found `NoisedTopKLos`" in printed.err
    assert "in:  " not in printed.err


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()
    printed = command("fit", "--config", "quikstart.yaml")
    check_lines(printed, "File does not exist: `quikstart.yaml`", "quickstart.yaml", "--help")


def test_folder_in_place_of_a_file() -> None:
    check_lines(command("fit", "--config", "."), r"not a file: `\.`", None, "--help")


@pytest.mark.parametrize(("args", "found"), [(["fitt"], "`fitt`"), ([], "none"), (["--max", "3"], "`3`")])
def test_subcommands(args: list[str], found: str) -> None:
    printed = command(*args)
    law = "error: The subcommand should be one of fit, validate, test, predict."
    assert (printed.status, printed.err.splitlines()[0]) == (2, f"{law} Found {found}.")
    assert printed.err.splitlines()[-1] == "help:  lightning-topk --help"


# Arguments after `fit`, and the message: what only the constructed objects or the run can tell.
MISTAKES = {
    "no data": ([], "TopKClassifier should be given data"),
    "data": (["--data", "GlyphsDataModule", "--data.num_classes", "1"], r"`num_classes` .* Found `num_classes = 1`"),
    "data root": (["--data", "ArrayDataModule", "--data.root", "nowhere"], "Found no folder `nowhere`"),
    "data file": (["--data", "ArrayDataModule", "--data.file", "x.npz"], "Found no `x.npz`"),
    "loss": ([*GLYPHS, *SMALL, "--model.loss.k", "0"], r"Parameter `k` should be .* Found `k = 0`"),
    "loss and data": ([*GLYPHS, *SMALL, "--model.loss.k", "12"], r"Found `k = 12` with `C = 12`"),
    "backbone": ([*GLYPHS, "--model.backbone", "resnet1"], "Found `backbone = 'resnet1'`. Near: resnet18"),
    "seed": ([*GLYPHS, "--seed_everything", "-3"], "`seed_everything` should be an integer in .* = -3"),
    "devices": ([*GLYPHS, *SMALL, "--trainer.devices", "0"], r"`--trainer\.devices` should be a number .* Found `0`"),
    "null": ([*GLYPHS, *SMALL, "--model.normalized_head", "null"], "`normalized_head` of TopKClassifier .* Found null"),
    "value of Lightning's": (
        [*GLYPHS, *SMALL, "--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.mode", "maxx"],
        "`mode` can be min, max but got maxx Found `mode = 'maxx'`",
    ),
    "accelerator": ([*GLYPHS, *SMALL, "--trainer.accelerator", "tpuu"], "invalid accelerator name"),
    "checkpoint": ([*GLYPHS, *SMALL, "--ckpt_path", "x.ckpt"], "Checkpoint file not found: x.ckpt"),
    "class counts": ([*GLYPHS, *SMALL, "--model.class_counts", "[1,2]"], "Found 2"),
    "devices in words": (
        [*GLYPHS, *SMALL, "--trainer.devices", "abc"],
        r"`--trainer\.devices` should be a number .* Found `abc`",
    ),
    "early stopping": (
        [*GLYPHS, *SMALL, "--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val_macro_top55"],
        r"Option `monitor` .* should name a value that the run logs: .*`val_macro_top5`.* Found `val_macro_top55`\.",
    ),
    "monitor": (
        [*GLYPHS, *SMALL, "--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.monitor", "val_macro_top55"],
        r"Option `monitor` .* should name a value that the run logs: .*'val_macro_top5'.* Found `val_macro_top55`\.",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_that_the_objects_find(case: str) -> None:
    args, found = MISTAKES[case]
    printed = command("fit", *SHORT, *args)
    lines = printed.err.splitlines()
    assert printed.status == 2
    assert re.search(rf"^error: .*{found}", printed.err, re.DOTALL), printed.err
    assert "Traceback" not in printed.err
    assert len(lines) <= 8
    assert lines[-1] == "help:  LIGHTNING_TOPK_DEBUG=1 in the environment shows the traceback"


def test_debugging_raises_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_TOPK_DEBUG", "1")
    with pytest.raises(ValueError, match="should be given data"):
        command("fit")
    with pytest.raises(Exception, match="bakbone"):
        command("fit", "--model.bakbone", "x")


@pytest.mark.parametrize(
    ("line", "error"), [("1 / 0", ZeroDivisionError), ("len(3)", TypeError), ("raise ValueError('mine')", ValueError)]
)
@pytest.mark.parametrize("place", ["__init__", "training_step"])
def test_errors_of_the_users_own_code_keep_their_traceback(
    line: str, error: type[Exception], place: str, tmp_path: Path
) -> None:
    name = f"broken_{place.strip('_')}_{error.__name__}"
    (tmp_path / f"{name}.py").write_text(
        "from lightning_topk import TopKClassifier\n\n\nclass Broken(TopKClassifier):\n"
        f"    def {place}(self, *args, **options):\n        {line}\n"
    )
    backbone = () if place == "__init__" else ("--model.backbone", "small_convnet")
    with pytest.raises(Exception) as raised:  # noqa: PT011
        command("fit", *GLYPHS, "--model", f"{name}.Broken", *backbone, *SHORT)
    chain = [raised.value]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    assert isinstance(chain[-1], error)


def error_of(function: Callable[..., Any], *args: Any) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        function(*args)
    return raised.value


def test_a_check_is_told_from_an_operation_that_failed() -> None:
    assert user_mistake(error_of(check_int, "k", 0, 1)) == "Parameter `k` should be an integer >= 1. Found `k = 0`."
    # An error of the same type, within the package, but not raised by it.
    assert user_mistake(error_of(Linear._at, SimpleNamespace(start=1.0, end=0.0), "x")) is None
    assert user_mistake(error_of(int, "x")) is None


def test_other_ranks_say_who_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    report_mistake("Law. Found fact.")
    assert capsys.readouterr().err.startswith("error (rank 1): Law. Found fact.\n")
