"""Runs that are killed, told to stop, or get no room on the disk: what is there stays whole, and they go on."""

from __future__ import annotations

import csv
import hashlib
import importlib
import multiprocessing
import os
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from commands import GLYPHS, QUICKSTART, SHORT, SMALL, command
from ddp import run_ranks
from lightning_topk.cli import main
from lightning_topk.data import GlyphsDataModule
from lightning_topk.durable import AtomicCheckpointIO, ResumableCSVLogger, SafeStop
from runs import Net, loader, make_trainer, vectors

FASTER = ("--data.num_classes=12", "--data.max_count=30", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=2")


@pytest.fixture
def kill_points(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    return importlib.import_module("kill_points")


def in_a_process(work: Callable[..., Any], *args: Any) -> int:
    """Call a function in a fork of this process; return the exit status, which is -n after the signal n."""

    def body() -> None:
        signal.alarm(100)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        work(*args)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()
    return int(process.exitcode or 0)


def fit(kill_points: Any, loss: str, kill: dict[str, Any] | None) -> None:
    if kill is not None:
        kill_points.place({"delay": 0.0, **kill})
    main([*kill_points.arguments(loss, Path("logs")), *FASTER])


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
@pytest.mark.parametrize(
    ("loss", "kills"),
    [
        (
            "imbalanced",
            [
                {"signal": "SIGKILL", "place": "batch", "number": 3},  # before there is any checkpoint
                {"signal": "SIGTERM", "place": "batch", "number": 5},
                {"signal": "SIGKILL", "place": "checkpoint", "number": 2},
            ],
        ),
        ("stk", [{"signal": "SIGTERM", "place": "validation", "number": 2}]),
    ],
)
def test_a_run_that_is_stopped_ends_as_one_that_is_not(
    loss: str, kills: list[dict[str, Any]], kill_points: Any
) -> None:
    folders = [Path("whole").resolve(), Path("stopped").resolve()]
    for folder in folders:
        folder.mkdir()
    os.chdir(folders[0])
    assert in_a_process(fit, kill_points, loss, None) == 0
    os.chdir(folders[1])
    for kill in kills:
        status = in_a_process(fit, kill_points, loss, kill)
        assert status == {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143}[kill["signal"]]
        assert kill_points.torn(Path("logs")) == []
    assert in_a_process(fit, kill_points, loss, None) == 0
    runs = [folder / "logs/quickstart/version_0" for folder in folders]
    assert [path.name for path in (folders[1] / "logs/quickstart").iterdir()] == ["version_0"]
    assert kill_points.compare(*runs) == []
    assert kill_points.torn(runs[1]) == []


class Told(pl.Callback):
    """Sends this process SIGTERM at the start of a batch, of training or of validation."""

    def __init__(self, stage: str, epoch: int, batch_idx: int) -> None:
        self.when = stage, epoch, batch_idx

    def tell(self, stage: str, trainer: Any, batch_idx: int) -> None:
        if (stage, trainer.current_epoch, batch_idx) == self.when and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.tell("train", trainer, batch_idx)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.tell("val", trainer, batch_idx)


class Pixels(Net):
    """Scores are linear in the pixels; logs its loss, and has an optimizer with a state."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def train(name: str, *callbacks: Any, resumed: bool = False, **options: Any) -> Any:
    """Train on 30 images in 8 batches of 4; return the trainer."""
    pl.seed_everything(3, verbose=False)
    data = GlyphsDataModule(12, 2.0, "exp", 4, 1, 1, image_size=8, batch_size=4, augment=True)
    logger = ResumableCSVLogger(name, version="run")
    saver = ModelCheckpoint(f"{name}/checkpoints", save_last=True)
    trainer = make_trainer(
        SafeStop(),
        *callbacks,
        saver,
        **{"max_epochs": 2, "logger": logger, "log_every_n_steps": 1, "enable_checkpointing": True, **options},
        plugins=[AtomicCheckpointIO()],
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Pixels(loss={"class_path": "NoisedTopKLoss", "init_args": {"k": 3}})
    trainer.fit(model, datamodule=data, ckpt_path="last" if resumed else None)
    return trainer


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(
    ("told", "steps", "options"),
    [
        pytest.param(Told("train", 0, 3), 4, {}, id="batch"),
        pytest.param(Told("train", 0, 7), 8, {}, id="last batch of an epoch"),
        pytest.param(Told("val", 0, 1), 8, {}, id="validation"),
        pytest.param(Told("val", 1, 0), 12, {"val_check_interval": 0.5}, id="validation in mid-epoch"),
        pytest.param(Told("train", 1, 3), 12, {"val_check_interval": 4}, id="before a validation"),
        pytest.param(Told("train", 0, 3), 2, {"accumulate_grad_batches": 3}, id="accumulating"),
        pytest.param(Told("train", 1, 6), 6, {"accumulate_grad_batches": 3}, id="accumulating at the end"),
    ],
)
def test_a_stop_comes_where_the_run_can_go_on(told: Told, steps: int, options: dict[str, Any]) -> None:
    whole = train("whole", **options)
    regular = told.when[:2] == ("train", 1) and steps == whole.global_step
    if regular:  # what is left to the end of the last epoch is done
        trainer = train("stopped", told, **options)
    else:
        with pytest.raises(SIGTERMException):
            train("stopped", told, **options)
        stopped = torch.load("stopped/checkpoints/last.ckpt", weights_only=True)
        assert stopped["global_step"] == steps
        trainer = train("stopped", resumed=True, **options)
    assert trainer.global_step == whole.global_step
    for mine, theirs in zip(trainer.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert Path("stopped/lightning_logs/run/metrics.csv").read_text() == (
        Path("whole/lightning_logs/run/metrics.csv").read_text()
    )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("told", [0, 1])
def test_all_ranks_stop_at_the_same_batch_whichever_was_told(told: int) -> None:
    def work(rank: int, name: str, stops: bool, resumed: bool) -> tuple[int, str]:
        group = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        os.environ |= {key: str(value) for key, value in group.items()}
        os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        callbacks = [Told("train", 0, 1)] if stops and rank == told else []
        try:
            trainer = train(name, *callbacks, resumed=resumed, devices=2, strategy="ddp")
        except SIGTERMException:
            return -1, ""
        weight = trainer.lightning_module.net[1].weight.detach()
        return trainer.global_step, hashlib.sha256(weight.numpy()).hexdigest()

    whole = run_ranks(work, 2, 60, "whole", False, False)
    assert run_ranks(work, 2, 60, "stopped", True, False) == [(-1, "")] * 2
    assert torch.load("stopped/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert run_ranks(work, 2, 60, "stopped", False, True) == whole
    assert len(set(whole)) == 1
    files = [Path(name, "lightning_logs/run/metrics.csv").read_text() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_without_a_place_for_checkpoints_a_stop_is_a_stop() -> None:
    with pytest.raises(SIGTERMException):
        make_trainer(SafeStop(), Told("train", 0, 0)).fit(Net(), loader(vectors()))


def limited(size: int) -> None:
    """Let no file of this process grow beyond a size; the error is that of a full disk but for its number."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_checkpoint_that_finds_no_room_leaves_the_old_one() -> None:
    def write(words: int) -> None:
        AtomicCheckpointIO().save_checkpoint({"weight": torch.full((words,), float(words))}, "a/last.ckpt")

    def fail() -> None:
        limited(40_000)
        with pytest.raises(
            OSError, match="should lie in a folder that can be written, with room for it: `a/last.ckpt`"
        ):
            write(100_000)

    write(10)
    assert in_a_process(fail) == 0
    assert [path.name for path in Path("a").iterdir()] == ["last.ckpt"]
    assert torch.equal(AtomicCheckpointIO().load_checkpoint("a/last.ckpt")["weight"], torch.full((10,), 10.0))


def test_what_a_killed_writer_left_is_taken_over() -> None:
    Path(".last.ckpt.tmp").write_text("half of a checkpoint")
    AtomicCheckpointIO().save_checkpoint({"a": 1}, "last.ckpt")
    assert [path.name for path in Path().iterdir()] == ["last.ckpt"]
    AtomicCheckpointIO().save_checkpoint({"a": 2}, "memory://last.ckpt")  # Lightning's own way
    assert AtomicCheckpointIO().load_checkpoint("memory://last.ckpt") == {"a": 2}


@pytest.mark.parametrize("size", [3_000, 200_000])
def test_a_full_disk_ends_the_command_with_one_error_and_keeps_what_is_there(size: int, kill_points: Any) -> None:
    args = ("fit", *QUICKSTART, *GLYPHS, *SHORT)
    assert command(*args).status == 0
    before = {path: path.read_bytes() for path in Path("logs").rglob("*") if path.is_file()}

    def full() -> None:
        limited(size)
        printed = command(*args)
        assert printed.status == 2
        assert printed.err.startswith("error: A file should lie in a folder that can be written, with room for it")
        assert "File too large" in printed.err

    assert in_a_process(full) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert kill_points.torn(Path("logs")) == []


@pytest.mark.parametrize("place", ["a_file", "/proc/nowhere"])
def test_a_log_directory_that_cannot_be_made_is_one_error(place: str) -> None:
    Path("a_file").write_text("kept")
    printed = command("fit", *QUICKSTART, *GLYPHS, *SHORT, "--trainer.logger.save_dir", place)
    assert printed.status == 2
    assert (
        f"should lie in a folder that can be written, with room for it: `{place}/quickstart/version_0`" in printed.err
    )
    assert len(printed.err.splitlines()) <= 12
    assert Path("a_file").read_text() == "kept"


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_last_is_the_latest_run_of_the_folder() -> None:
    args = ("fit", *QUICKSTART, *GLYPHS, *SMALL, *SHORT)
    last = ("--ckpt_path", "last")
    with pytest.warns(UserWarning, match="there is no last checkpoint available"):
        assert command(*args, *last).last_line == "logs/quickstart/version_0"
    assert command(*args).last_line == "logs/quickstart/version_1"
    printed = command(*args, *last, "--trainer.max_epochs", "2")
    assert printed.last_line == "logs/quickstart/version_1"
    rows = csv.DictReader(Path("logs/quickstart/version_1/metrics.csv").read_text().splitlines())
    assert [row["epoch"] for row in rows if row["val_loss"]] == ["0", "1"]
    assert "version: null" in Path("logs/quickstart/version_1/config.yaml").read_text()
    test = ("test", *QUICKSTART, *GLYPHS, *SMALL, *SHORT, *last)
    assert command(*test).last_line == "logs/quickstart/version_2"
    assert Path("logs/quickstart/version_2/report/test_table.csv").exists()
    # A folder in which a test was is not the latest run of a second test, nor of a fit that goes on.
    assert command(*test).last_line == "logs/quickstart/version_3"
    assert command(*args, *last, "--trainer.max_epochs", "3").last_line == "logs/quickstart/version_1"


def test_an_evaluation_needs_the_last_checkpoint_of_some_run() -> None:
    printed = command("test", *QUICKSTART, *GLYPHS, *SMALL, *SHORT, "--ckpt_path", "last")
    assert printed.status == 2
    assert "in the folder of the latest training run below `logs/quickstart`. Found no run." in printed.err
    assert not list(Path("logs").glob("**/version_*"))


def test_a_run_with_a_name_goes_on_in_its_folder() -> None:
    args = ("fit", *QUICKSTART, *GLYPHS, *SMALL, *SHORT, "--trainer.logger.version", "mine", "--ckpt_path", "last")
    with pytest.warns(UserWarning, match="there is no last checkpoint available"):
        assert command(*args).last_line == "logs/quickstart/mine"
    assert command(*args, "--trainer.max_epochs", "2").status == 0
    assert [path.name for path in Path("logs/quickstart").iterdir()] == ["mine"]


class TestLogger:
    def write(self, *rows: tuple[int, float], resumed: bool | None = None) -> str:
        logger = ResumableCSVLogger("logs", version="run")
        if resumed is not None:
            logger.experiment.begin(resumed=resumed)
        for step, loss in rows:
            logger.log_metrics({"loss": loss}, step)
        logger.finalize("success")
        return Path("logs/lightning_logs/run/metrics.csv").read_text()

    def test_rows_that_come_once_more_are_replaced(self) -> None:
        whole = self.write((0, 3.0), (1, 1 / 3), (2, 1.0), (2, 0.5))
        assert whole == "loss,step\n3.0,0\n0.3333333333333333,1\n1.0,2\n0.5,2\n"
        assert self.write((2, 1.0), (2, 0.5), resumed=True) == whole
        assert self.write((1, 1 / 3), (2, 1.0), (2, 0.5), resumed=True) == whole

    def test_a_run_from_the_start_replaces_the_file_with_a_warning(self) -> None:
        self.write((5, 3.0))
        with pytest.warns(UserWarning, match="should have a folder of its own. Found 1 rows of a run before"):
            assert self.write((0, 1.0), resumed=False) == "loss,step\n1.0,0\n"

    def test_half_a_row_is_dropped(self) -> None:
        self.write((0, 3.0))
        path = Path("logs/lightning_logs/run/metrics.csv")
        path.write_text("a,loss,step\n1,2.0,0\n,1.")
        assert self.write((1, 1.0)) == "a,loss,step\n1,2.0,0\n,1.0,1\n"

    def test_new_names_get_a_column(self) -> None:
        logger = ResumableCSVLogger("logs", name=None, version=3, prefix="x", flush_logs_every_n_steps=1)
        logger.log_metrics({"b": torch.tensor(1.5)}, 0)
        logger.log_metrics({"a": 2}, 1)
        assert Path("logs/version_3/metrics.csv").read_text() == "step,x-a,x-b\n0,,1.5\n1,2,\n"

    def test_rewriting_the_file_costs_little_in_a_long_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logger, written = ResumableCSVLogger("logs", flush_logs_every_n_steps=1), []
        monkeypatch.setattr(
            "lightning_topk.durable._csv_logger.write_atomically", lambda path, text: written.append(len(text))
        )
        for step in range(2000):
            logger.log_metrics({"loss": 1.0}, step)
        assert sum(written) <= 12 * max(written)

    def test_a_folder_of_another_machine_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match="`save_dir` should be a folder of this machine. Found `save_dir = s3://a`"
        ):
            ResumableCSVLogger("s3://a")
