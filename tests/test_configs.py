"""Every file under `configs` runs, alone or over the quickstart, on small data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from commands import CONFIGS, GLYPHS, QUICKSTART, SHORT, SMALL, Printed, command, config_of
from published import STAND_INS

ALL = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
LOSSES = [name for name in ALL if name.startswith("loss/")]
DATA = [name for name in ALL if name.startswith("data/")]
NEEDS_FILES = {"data/plankton.yaml": "plankton32.npz", "data/omniglot_lt.yaml": "omniglot28.npz"}
RUN = (*SHORT, "--trainer.log_every_n_steps", "1")
SMALLER = ("--data.num_classes", "12", "--data.max_count", "30")


def config(name: str) -> tuple[str, str]:
    return "--config", str(CONFIGS / name)


def check(printed: Printed) -> None:
    assert (printed.status, printed.err) == (0, "")
    assert re.fullmatch(r"logs/\w+/version_0", printed.last_line)
    assert Path(printed.last_line, "report", "val_table.json").is_file()


def folder_of_images(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("a", "b", "c", "d", "e", "f", "g"):
        for index in range(6):
            path = folder / "train" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return folder


def test_nothing_is_forgotten() -> None:
    assert {name.rpartition("/")[0] for name in ALL} == {"", "loss", "data", "trainer", "recipes", "compare"}
    assert [name for name in ALL if "/" not in name] == ["quickstart.yaml"]


def test_quickstart() -> None:
    check(command("fit", *QUICKSTART, *SMALLER, *RUN))
    metrics = Path("logs/quickstart/version_0/metrics.csv").read_text()
    assert {"epsilon", "train_loss", "val_macro_top5"} <= set(metrics.splitlines()[0].split(","))
    saved = [path.name for path in Path("logs/quickstart/version_0/checkpoints").iterdir()]
    assert sorted(saved) == ["epoch=0-step=1.ckpt", "last.ckpt"]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_over_the_quickstart(name: str, caplog: pytest.LogCaptureFixture) -> None:
    check(command("fit", *QUICKSTART, *config(name), *SMALLER, *RUN))
    without = "no loss has a scalar `epsilon`; nothing is scheduled" in caplog.text
    header = Path("logs/quickstart/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert ("epsilon" in header) is not without
    assert without == ("epsilon" not in (CONFIGS / name).read_text())


@pytest.mark.parametrize("name", LOSSES)
def test_losses_alone(name: str) -> None:
    printed = command("fit", *config(name), *GLYPHS, *SMALL, *RUN)
    assert (printed.status, printed.err) == (0, "")


@pytest.mark.parametrize("name", LOSSES)
def test_losses_over_the_quickstart_are_those_of_their_file(name: str) -> None:
    alone, over = (
        config_of(*config(name), "--print_config=full"),
        config_of(*QUICKSTART, *config(name), "--print_config=full"),
    )
    for key in ("loss", "normalized_head"):
        assert alone["model"]["init_args"][key] == over["model"]["init_args"][key]


@pytest.mark.parametrize("name", DATA)
def test_data_over_the_quickstart_are_those_of_their_file(name: str) -> None:
    """No argument of the quickstart's data slips into others, such as its imbalance factor into natural data."""
    alone = config_of(*config(name), "--print_config=full")
    assert config_of(*QUICKSTART, *config(name), "--print_config=full")["data"] == alone["data"]


@pytest.mark.parametrize("name", DATA)
def test_data_over_the_quickstart(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    own: tuple[str, ...] = SMALLER
    if name in NEEDS_FILES:
        folder = request.getfixturevalue("shared_data")
        if not (folder / NEEDS_FILES[name]).is_file():
            pytest.skip(f"needs the file {NEEDS_FILES[name]} among the real data")
        own = ("--data.root", str(folder), "--data.batch_size", "16")
    elif name != "data/glyphs.yaml":
        options = config_of(*config(name), "--print_config=full")["data"]["init_args"]
        smaller = {"image_size": "32", "num_workers": "0", "batch_size": "16", "imbalance_factor": "2"}
        pairs = [(f"--data.{key}", value) for key, value in smaller.items() if key in options]
        write = STAND_INS.get(Path(name).stem, folder_of_images)
        own = ("--data.root", str(write(tmp_path / "files")), *(word for pair in pairs for word in pair))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        check(command("fit", *QUICKSTART, *config(name), *own, *RUN))


def test_one_process_on_the_cpu() -> None:
    short = [each for each in RUN if each not in ("--trainer.accelerator", "cpu")]
    check(command("fit", *QUICKSTART, *config("trainer/cpu.yaml"), *SMALLER, *short))


@pytest.mark.timeout(60)
def test_two_processes_on_the_cpu(repository: Path) -> None:
    short = [each for each in RUN if each not in ("--trainer.accelerator", "cpu")]
    args = [*QUICKSTART, *config("trainer/ddp_cpu.yaml"), *SMALLER, *short]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_topk", "fit", *args],
        capture_output=True,
        text=True,
        timeout=55,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "logs/quickstart/version_0"
    assert done.stdout.count("all, macro") == 1
    assert [path.name for path in Path("logs/quickstart").iterdir()] == ["version_0"]
    for noise in ("Warning", "Tip:", "deprecated", "bottleneck"):
        assert noise not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ALL)
def test_files_are_yaml_that_says_what_it_is_for(name: str) -> None:
    text = (CONFIGS / name).read_text()
    assert text.startswith("# ")
    assert isinstance(yaml.safe_load(text), dict)
    for mentioned in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (CONFIGS.parent / mentioned).is_file()
