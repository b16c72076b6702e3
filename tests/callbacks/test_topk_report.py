"""TopKReport: what it says agrees with slow loops, and it holds through every kind of run and of end."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from torch.utils.data import DataLoader, TensorDataset

from lightning_topk import TopKMixin
from lightning_topk.callbacks import TopKReport
from lightning_topk.losses import NoisedTopKLoss
from report.report_cases import (
    COUNTS,
    GROUPS,
    NUM_CLASSES,
    PNG,
    Net,
    fit,
    loader,
    make_trainer,
    read_csv,
    read_json,
    samples,
    slow_accuracy,
    slow_ranks,
    two_ranks,
)

# Several runs of one test share a log directory on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Experiment logs directory")

LOGS = Path("logs", "run", "version_0")
REPORT = LOGS / "report"
FIGURES = {
    "val_accuracy_by_count.png",
    "val_accuracy_by_k.png",
    "val_coverage.png",
    "val_average_k.png",
    "learning_curves.png",
}
PAGE = {"report.html", "val_look_alikes.csv", "val_average_k.csv"}
TABLES = {"val_table.csv", "val_table.json", "val_classes.csv", "history.csv"}
# Shared by tests: a run leaves nothing in a callback that the next one would see.
QUIET = TopKReport(figures=False)


def names(folder: Path = REPORT) -> set[str]:
    return {path.name for path in folder.iterdir()}


def parsed(folder: Path = REPORT) -> dict[str, Any]:
    """Read every file of a report; one that is not whole raises."""
    found: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.suffix == ".json":
            found[path.name] = read_json(path)
        elif path.suffix == ".csv":
            found[path.name] = read_csv(path)
            assert all(None not in row and None not in row.values() for row in found[path.name])
    return found


def last_line(text: str) -> str:
    return text.splitlines()[-1]


class At(Callback):
    """Does something at the start of a training batch."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.action()


def raising(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


# --- what it says


def test_tables_agree_with_slow_loops() -> None:
    _, net = fit()
    assert names() == TABLES | PAGE | FIGURES
    facts = read_json(REPORT / "val_table.json")
    pairs = slow_ranks(net, samples(30, seed=1))
    assert facts["ks"] == [1, 3]
    rows = {row["group"]: row for row in facts["rows"]}
    for k in (1, 3):
        assert rows["micro"][f"top{k}"] == pytest.approx(slow_accuracy(pairs, k), abs=1e-14)
        for group, classes in {"macro": list(range(NUM_CLASSES)), **GROUPS}.items():
            assert rows[group][f"top{k}"] == pytest.approx(slow_accuracy(pairs, k, classes), abs=1e-14)
    for group, classes in GROUPS.items():
        assert rows[group]["classes"] == len(classes)
        assert rows[group]["training_samples"] == sum(COUNTS[c] for c in classes)
        assert rows[group]["samples"] == sum(label in classes for label, _ in pairs)
    best = {row["group"]: row for row in facts["best"]["rows"]}
    for row in read_csv(REPORT / "val_table.csv"):
        assert float(row["top3"]) == rows[row["group"]]["top3"]
        assert float(row["best_top3"]) == best[row["group"]]["top3"]
    for row in read_csv(REPORT / "val_classes.csv"):
        own = [pair for pair in pairs if pair[0] == int(row["class"])]
        assert (int(row["samples"]), int(row["training_samples"])) == (len(own), COUNTS[int(row["class"])])
        assert row["top3"] == ("" if not own else repr(sum(rank < 3 for _, rank in own) / len(own)))


def test_json_tells_the_circumstances() -> None:
    trainer, _ = fit(QUIET)
    facts = read_json(REPORT / "val_table.json")
    assert (facts["stage"], facts["function"], facts["epoch"], facts["step"]) == ("val", "fit", 1, 10)
    assert facts["loss"]["class_path"] == "lightning_topk.losses.ImbalancedNoisedTopKLoss"
    assert facts["loss"]["init_args"]["k"] == 3
    assert facts["class_counts"] == {
        "classes": 8,
        "samples": sum(COUNTS),
        "largest": 150,
        "smallest": 3,
        "imbalance_factor": 50.0,
    }
    assert facts["versions"]["torch"] == torch.__version__
    assert set(facts["versions"]) == {"lightning_topk", "lightning", "torch"}
    assert facts["seeds"]["torch"] == torch.initial_seed()
    assert facts["date"][:2] == "20"
    assert trainer.callback_metrics["val_macro_top3"].item() == pytest.approx(facts["rows"][0]["top3"], abs=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_history_has_one_row_for_each_validation(accumulate: int) -> None:
    trainer, net = fit(QUIET, max_epochs=3, accumulate_grad_batches=accumulate)
    rows = read_csv(REPORT / "history.csv")
    assert list(rows[0])[:5] == ["epoch", "step", "train_loss", "val_loss", "epsilon"]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert int(rows[-1]["step"]) == trainer.global_step
    for epoch, row in enumerate(rows):
        own = net.losses[5 * epoch : 5 * epoch + 5]
        assert float(row["train_loss"]) == pytest.approx(sum(own) / 5, rel=1e-6)
        assert float(row["epsilon"]) == net.topk_criterion.epsilon
    assert float(rows[-1]["val_loss"]) == trainer.callback_metrics["val_loss"].item()
    facts = read_json(REPORT / "val_table.json")
    assert float(rows[-1]["val_macro_top3"]) == facts["rows"][0]["top3"]
    assert float(rows[-1]["val_top1"]) == facts["rows"][1]["top1"]
    assert float(rows[-1]["val_few_top3"]) == pytest.approx(facts["rows"][4]["top3"], abs=1e-6)
    macros = [float(row["val_macro_top3"]) for row in rows]
    assert facts["best"]["value"] == max(macros)
    assert facts["best"]["epoch"] == macros.index(max(macros))
    assert facts["best"]["monitor"] == "val_macro_top3"


def test_several_validations_an_epoch() -> None:
    fit(max_epochs=2, val_check_interval=2)
    assert [row["step"] for row in read_csv(REPORT / "history.csv")] == ["2", "4", "7", "9"]


def test_validations_at_one_step_share_a_row() -> None:
    fit(QUIET, max_epochs=2, val_check_interval=1, accumulate_grad_batches=5)
    assert [row["step"] for row in read_csv(REPORT / "history.csv")] == ["0", "1", "2"]


def test_class_names_are_those_of_the_data_set() -> None:
    data = samples(30, seed=1)
    data.classes = [f"class {c}" for c in range(NUM_CLASSES)]
    make_trainer(QUIET).validate(Net(), DataLoader(data, batch_size=8), verbose=False)
    assert [row["name"] for row in read_csv(REPORT / "val_classes.csv")] == data.classes


def test_without_counts_groups_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    fit(net=Net(loss=NoisedTopKLoss(k=3), class_counts=False))
    assert names() == TABLES | PAGE | FIGURES - {"val_accuracy_by_count.png"}
    assert [row["group"] for row in read_csv(REPORT / "val_table.csv")] == ["macro", "micro"]
    assert read_json(REPORT / "val_table.json")["class_counts"] is None
    assert "few" not in capsys.readouterr().out


def test_classes_that_were_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    net = Net()
    make_trainer().validate(net, loader(20, classes=[0, 2, 3]), verbose=False)
    few = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("few")]
    assert few == [["few", "(<", "20)", "0/3", "18", "-", "-"]]
    assert read_json(REPORT / "val_table.json")["rows"][4]["top3"] is None
    assert read_csv(REPORT / "val_table.csv")[4]["top3"] == ""


def test_other_ks() -> None:
    fit(TopKReport(ks=[2, 2, 1], figures=False), net=Net(metrics=[3]))
    facts = read_json(REPORT / "val_table.json")
    assert facts["ks"] == [1, 2]
    assert facts["best"]["monitor"] == "val_macro_top3"
    assert {"val_macro_top2", "val_macro_top3"} <= set(read_csv(REPORT / "history.csv")[0])


# --- what it prints, and where


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar, None])
@pytest.mark.parametrize("function", ["fit", "validate", "test"])
def test_the_log_directory_is_the_last_line(function: str, bar: Any, capfd: pytest.CaptureFixture[str]) -> None:
    callbacks = [QUIET] if bar is None else [QUIET, bar()]
    trainer = make_trainer(*callbacks, enable_progress_bar=bar is not None)
    run = {"fit": lambda net: trainer.fit(net, loader(), loader(seed=1))}
    run.get(function, lambda net: getattr(trainer, function)(net, loader(seed=1)))(Net())
    out = capfd.readouterr().out
    assert last_line(out) == os.path.join("logs", "run", "version_0")
    assert out.count(str(LOGS)) == 1
    assert out.count("all, macro") == 1
    assert QUIET in trainer.callbacks
    assert len(trainer.callbacks) == len(set(map(id, trainer.callbacks)))


@pytest.mark.timeout(60)
def test_the_log_directory_is_the_last_line_of_a_process(repository: Path) -> None:
    code = (
        "from report.report_cases import *\n"
        "trainer = make_trainer(enable_progress_bar=True)\n"
        "trainer.fit(Net(), loader(), loader(seed=1))"
    )
    path = os.pathsep.join([str(repository), str(repository / "tests")])
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
    assert last_line(done.stdout) == str(LOGS)
    assert "Validation accuracy in %" in done.stdout
    assert names() >= FIGURES


def test_last_and_best_epoch_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    class Unlearn(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 2:
                pl_module.net.bias.data[5:] += 100.0

    fit(QUIET, Unlearn(), max_epochs=3)
    out = capsys.readouterr().out
    facts = read_json(REPORT / "val_table.json")
    assert facts["best"]["epoch"] < 2
    assert f"last epoch 2, best epoch {facts['best']['epoch']} by val_macro_top3" in out
    row = [f"{100 * each['rows'][0][f'top{k}']:.1f}" for each in (facts, facts["best"]) for k in (1, 3)]
    assert [line.split()[-4:] for line in out.splitlines() if line.startswith("all, macro")] == [row]


def test_a_table_that_is_too_wide_names_the_best_epoch_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    fit(TopKReport(ks=range(1, 8), figures=False), net=Net(metrics=[7]), max_epochs=3)
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line.startswith("few (<")]
    facts = read_json(REPORT / "val_table.json")
    assert lines[0][-7:] == [f"{100 * facts['rows'][4][f'top{k}']:.1f}" for k in range(1, 8)]
    assert "…" not in out


def test_without_logger_the_root_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(QUIET, logger=False, default_root_dir="here")
    assert names(tmp_path / "here" / "report") == TABLES
    assert last_line(capsys.readouterr().out) == "here"
    fit(QUIET, logger=False)
    assert last_line(capsys.readouterr().out) == str(tmp_path)


def test_dirpath(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(TopKReport(dirpath=tmp_path.parent / "elsewhere", figures=False))
    assert names(tmp_path.parent / "elsewhere" / "report") == TABLES
    assert last_line(capsys.readouterr().out) == str(tmp_path.parent / "elsewhere")
    assert not REPORT.exists()


def test_a_logger_without_log_dir_gets_a_folder_of_its_own() -> None:
    class Remote(Logger):
        name, version = "project", "run-7"

        def log_metrics(self, *_: Any, **__: Any) -> None: ...

        def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    make_trainer(QUIET, logger=Remote(), default_root_dir="root").validate(Net(), loader(), verbose=False)
    assert names(Path("root/project/run-7/report")) == {"val_table.csv", "val_table.json", "val_classes.csv"}


def test_test_after_fit_in_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, net = fit()
    trainer.test(net, loader(25, seed=2), verbose=False)
    new = {"test_table.csv", "test_table.json", "test_classes.csv", "test_accuracy_by_count.png"}
    new |= {"test_coverage.png", "test_average_k.png", "test_average_k.csv", "test_look_alikes.csv"}
    assert names() == TABLES | PAGE | FIGURES | new | {"test_accuracy_by_k.png"}
    assert capsys.readouterr().out.count(str(LOGS)) == 2
    facts = read_json(REPORT / "test_table.json")
    assert (facts["function"], facts["best"], facts["step"], facts["epoch"]) == ("test", None, 10, None)


def test_evaluation_of_a_checkpoint_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, _ = fit(QUIET)
    trainer.save_checkpoint("some [x].ckpt")
    capsys.readouterr()
    make_trainer(QUIET).test(Net(), loader(), ckpt_path="some [x].ckpt", verbose=False)
    facts = read_json(REPORT / "test_table.json")
    assert facts["checkpoint"].endswith("some [x].ckpt")
    assert facts["step"] is None
    assert facts["class_counts"]["samples"] == sum(COUNTS)
    assert "Test accuracy in %, some [x].ckpt" in capsys.readouterr().out


def test_several_dataloaders(capsys: pytest.CaptureFixture[str]) -> None:
    net = Net()
    make_trainer().fit(net, loader(), [loader(30, seed=1), loader(20, seed=2)])
    stems = {"val_dataloader_0", "val_dataloader_1"}
    ends = {"_table.csv", "_table.json", "_classes.csv", "_accuracy_by_count.png", "_accuracy_by_k.png"}
    ends |= {"_coverage.png", "_average_k.png", "_average_k.csv", "_look_alikes.csv"}
    once = {"history.csv", "learning_curves.png", "report.html"}
    assert names() == {stem + end for stem in stems for end in ends} | once
    for number, data in enumerate([samples(30, seed=1), samples(20, seed=2)]):
        facts = read_json(REPORT / f"val_dataloader_{number}_table.json")
        value = slow_accuracy(slow_ranks(net, data), 3, range(NUM_CLASSES))
        assert facts["rows"][0]["top3"] == pytest.approx(value, abs=1e-14)
        row = read_csv(REPORT / "history.csv")[-1]
        assert float(row[f"val_macro_top3/dataloader_idx_{number}"]) == facts["rows"][0]["top3"]
    out = capsys.readouterr().out
    assert "dataloader 1" in out
    assert out.count(str(LOGS)) == 1


def test_a_run_without_validation_prints_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(limit_val_batches=0).fit(Net(), loader())
    assert capsys.readouterr().out.splitlines() == [str(LOGS)]


def test_fast_dev_run_leaves_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(fast_dev_run=True)
    assert list(tmp_path.rglob("*")) == []
    assert "all, macro" in capsys.readouterr().out


def test_predict_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Predictor(Net):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch[0])

    make_trainer().predict(Predictor(), loader())
    assert capsys.readouterr().out == ""


# --- figures


def test_figures_are_pictures_and_pyplot_is_left_alone() -> None:
    fit()
    for name in FIGURES:
        assert (REPORT / name).read_bytes().startswith(PNG)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


class Experiment:
    def __init__(self, broken: bool) -> None:
        self.shown: list[tuple[str, int]] = []
        self.broken = broken

    def add_figure(self, tag: str, figure: Any, global_step: int) -> None:
        assert figure.axes
        assert (REPORT / f"{tag.partition('/')[2]}.png").exists(), "files come first"
        if self.broken:
            raise ConnectionError("gone")
        self.shown.append((tag, global_step))


class FigureLogger(CSVLogger):
    """A logger that takes figures, as that of TensorBoard does."""

    figures: Experiment

    @property
    def experiment(self) -> Any:
        return self.figures

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def save(self) -> None: ...

    def finalize(self, status: str) -> None: ...


def test_loggers_get_the_figures() -> None:
    logger = FigureLogger("logs", name="run", version=0)
    logger.figures = Experiment(broken=False)
    fit(logger=logger)
    assert {tag for tag, _ in logger.figures.shown} == {"report/" + name.removesuffix(".png") for name in FIGURES}
    assert {step for _, step in logger.figures.shown} == {10}


def test_a_logger_that_fails_ends_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    logger = FigureLogger("logs", name="run", version=0)
    logger.figures = Experiment(broken=True)
    with pytest.warns(UserWarning, match=r"should be drawn at the end of a run.*gone"):
        fit(logger=logger)
    assert names() == TABLES | PAGE | FIGURES
    assert last_line(capsys.readouterr().out) == str(LOGS)


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # of pytorch_lightning itself
def test_the_other_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    pytorch_lightning = pytest.importorskip("pytorch_lightning")

    class Other(TopKMixin, pytorch_lightning.LightningModule, loss="NoisedTopKLoss", k=3, class_counts=False):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(6, NUM_CLASSES)

        configure_optimizers = Net.configure_optimizers

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.topk_loss(self.net(batch[0]), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.topk_loss(self.net(batch[0]), batch[1])

    trainer = pytorch_lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[QUIET],
        default_root_dir="there",
    )
    trainer.fit(Other(), loader(), loader(30, seed=1))
    assert names(Path("there/report")) == TABLES
    assert last_line(capsys.readouterr().out) == "there"


# --- two processes


@pytest.mark.timeout(60)
def test_two_ranks_report_what_one_does(capfd: pytest.CaptureFixture[str]) -> None:
    net = Net()
    trainer = make_trainer(QUIET, devices=2, strategy=two_ranks())
    trainer.validate(net, loader(31, seed=1), verbose=False)  # an odd number: the sampler repeats one sample
    two = read_json(REPORT / "val_table.json")
    assert last_line(capfd.readouterr().out) == str(LOGS)
    make_trainer(QUIET).validate(net, loader(31, seed=1), verbose=False)
    assert two["rows"] == read_json(REPORT / "val_table.json")["rows"]


@pytest.mark.timeout(60)
def test_two_ranks_fit(capfd: pytest.CaptureFixture[str]) -> None:
    fit(devices=2, strategy=two_ranks())
    assert names() == TABLES | PAGE | FIGURES
    assert [row["step"] for row in read_csv(REPORT / "history.csv")] == ["3", "6"]
    out = capfd.readouterr().out
    assert last_line(out) == str(LOGS)
    assert out.count("all, macro") == 1


@pytest.mark.timeout(60)
def test_the_training_loss_is_the_mean_over_ranks() -> None:
    class Constant(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * 0.0 + 1.0 + self.global_rank

    fit(QUIET, net=Constant(), devices=2, strategy=two_ranks())
    assert [float(row["train_loss"]) for row in read_csv(REPORT / "history.csv")] == [1.5, 1.5]


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:The folder of TopKReport")
def test_a_folder_that_rank_zero_cannot_write_stops_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    REPORT.parent.mkdir(parents=True)
    REPORT.write_text("a file in the way")
    fit(devices=2, strategy=two_ranks())
    assert "all, macro" in capfd.readouterr().out


# --- interruption


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=["exception", "interrupt"])
def test_an_interrupted_run_leaves_what_was_measured(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((RuntimeError, SystemExit)):
        fit(At(12, raising(error)), TopKReport(), RichProgressBar(), max_epochs=5, enable_progress_bar=True)
    assert [row["step"] for row in read_csv(REPORT / "history.csv")] == ["5", "10"]
    assert set(parsed()) - PAGE == TABLES
    out = capsys.readouterr().out
    if isinstance(error, KeyboardInterrupt):
        assert names() >= FIGURES
        assert "all, macro" in out
        assert last_line(out) == str(LOGS)
    else:
        assert "all, macro" not in out


def test_an_exception_before_anything_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        fit(At(2, raising(RuntimeError("boom"))), TopKReport())
    assert not REPORT.exists()
    assert str(LOGS) not in capsys.readouterr().out


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_whole_files(sign: signal.Signals) -> None:
    def run() -> None:
        signal.alarm(50)
        warnings.simplefilter("ignore")
        fit(TopKReport(), max_epochs=-1, num_sanity_val_steps=0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    try:
        deadline = time.monotonic() + 40
        while not (REPORT / "history.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(process.pid or 0, sign)
        process.join(20)
        assert process.exitcode is not None
    finally:
        process.kill()
        process.join()
    found = parsed()
    assert {name for name in found if not name.startswith(".")} == TABLES
    steps = [int(row["step"]) for row in found["history.csv"]]
    assert steps == list(range(5, 5 * len(steps) + 1, 5))
    assert found["val_table.json"]["step"] - steps[-1] in (0, 5)


# --- folders that cannot be written


def test_a_folder_that_cannot_be_made_costs_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    REPORT.parent.mkdir(parents=True)
    REPORT.write_text("a file in the way")
    with pytest.warns(UserWarning, match=r"The folder of TopKReport should be one that can be written.*report") as seen:
        trainer, _ = fit(max_epochs=3)
    assert sum("TopKReport" in str(warning.message) for warning in seen) == 1
    assert trainer.global_step == 15
    out = capsys.readouterr().out
    assert "all, macro" in out
    assert last_line(out) == str(LOGS)


@pytest.mark.parametrize("dirpath", ["/dev/null/here", "s3://bucket/run", "null\0character"])
def test_a_dirpath_that_is_none(dirpath: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="`dirpath` names another folder"):
        fit(TopKReport(dirpath=dirpath), logger=False)
    assert "all, macro" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_one_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fit(QUIET, max_epochs=1)
    before = parsed()
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left") as seen:
        patch.setattr(os, "fsync", full)
        fit(max_epochs=2)
    assert sum("TopKReport" in str(warning.message) for warning in seen) == 1
    assert parsed() == before
    assert capsys.readouterr().out.count("all, macro") == 2


# --- resume


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")  # ModelCheckpoint is not needed
def test_a_resumed_run_continues_the_history() -> None:
    torch.manual_seed(3)
    fit(QUIET, ModelCheckpoint("ckpt", save_top_k=-1, filename="{epoch}"), max_epochs=4, enable_checkpointing=True)
    whole, facts = read_csv(REPORT / "history.csv"), read_json(REPORT / "val_table.json")
    for epoch in (0, 2):
        callback = TopKReport(figures=False, dirpath="again")
        fit(callback, max_epochs=4, ckpt_path=f"ckpt/epoch={epoch}.ckpt")
        again = read_csv(Path("again/report/history.csv"))
        assert [row["step"] for row in again] == ["5", "10", "15", "20"]
        assert again[: epoch + 1] == whole[: epoch + 1]
        for one, other in zip(whole, again, strict=True):
            assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-5)
        assert read_json(Path("again/report/val_table.json"))["best"]["epoch"] == facts["best"]["epoch"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_the_state_is_primitive_and_holds_the_middle_of_an_epoch() -> None:
    keep = ModelCheckpoint("ckpt", filename="mid", every_n_train_steps=8, save_top_k=-1)
    _, net = fit(QUIET, keep, enable_checkpointing=True)
    state = torch.load("ckpt/mid.ckpt", weights_only=True)["callbacks"]["TopKReport"]
    assert json.loads(json.dumps(state)) == state
    assert state["loss"] == [pytest.approx(sum(net.losses[5:8]), rel=1e-6), 3]
    resumed = Net()
    fit(TopKReport(figures=False), net=resumed, max_epochs=2, ckpt_path="ckpt/mid.ckpt")
    row = read_csv(REPORT / "history.csv")[-1]
    assert row["step"] == "10"
    assert float(row["train_loss"]) == pytest.approx((sum(net.losses[5:8]) + sum(resumed.losses)) / 5, rel=1e-6)


def test_a_second_run_from_the_start_forgets_the_first() -> None:
    callback = TopKReport(figures=False)
    fit(callback, max_epochs=3, val_check_interval=1, accumulate_grad_batches=5)
    assert read_csv(REPORT / "history.csv")[0]["step"] == "0"
    best = read_json(REPORT / "val_table.json")["best"]
    fit(callback, max_epochs=1)
    assert [row["step"] for row in read_csv(REPORT / "history.csv")] == ["5"]
    assert read_json(REPORT / "val_table.json")["best"]["step"] == 5 != best["step"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_going_back_to_a_checkpoint_without_history_doubles_nothing() -> None:
    bare, _ = fit(Callback(), max_epochs=1)
    bare.save_checkpoint("bare.ckpt")
    trainer, net = fit(QUIET, max_epochs=3)
    trainer.fit(net, loader(), loader(30, seed=1), ckpt_path="bare.ckpt")
    rows = read_csv(REPORT / "history.csv")
    assert [row["step"] for row in rows] == ["5", "10", "15"]
    assert float(rows[-1]["val_macro_top3"]) == read_json(REPORT / "val_table.json")["rows"][0]["top3"]


def test_a_trainer_that_goes_on_keeps_its_history() -> None:
    trainer, net = fit(QUIET, max_epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, loader(), loader(30, seed=1))
    assert [row["step"] for row in read_csv(REPORT / "history.csv")] == ["5", "10", "15"]


# --- bad input


def test_a_module_without_the_mixin() -> None:
    class Plain(LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

    with pytest.raises(TypeError, match=r"needs a module with TopKMixin first among its bases\. Found Plain"):
        make_trainer().test(Plain(), loader())


def test_metrics_that_are_switched_off() -> None:
    with pytest.raises(ValueError, match=r"needs the metrics of TopKMixin.*Found `metrics=False` in Net"):
        fit(net=Net(metrics=False))


def test_ks_beyond_the_metrics() -> None:
    with pytest.raises(ValueError, match=r"should be in \[1, max\(metrics\)\].*Found `ks = \[1, 5\]`"):
        fit(TopKReport(ks=[5, 1]))


@pytest.mark.parametrize(
    ("ks", "error", "message"),
    [
        ([], ValueError, "at least one K. Found none"),
        ([0], ValueError, "Found `ks = 0`"),
        ([1.5], TypeError, "integer"),
    ],
)
def test_ks_that_are_none(ks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TopKReport(ks=ks)


def test_the_command_line_can_build_it() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(TopKReport, "report")
    parsed_arguments = parser.parse_args(["--report.ks=[1,5]", "--report.dirpath=x", "--report.figures=false"])
    assert (
        repr(parser.instantiate_classes(parsed_arguments).report) == "TopKReport(ks=[1, 5], dirpath='x', figures=False)"
    )


def test_an_empty_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    ignored = TensorDataset(torch.randn(4, 6), torch.full((4,), -100))
    make_trainer().validate(Net(), DataLoader(ignored, batch_size=4), verbose=False)
    assert [row["top1"] for row in read_csv(REPORT / "val_table.csv")] == [""] * 5
    assert "0/8" in capsys.readouterr().out
