"""The command from end to end, on letters, in this process."""

from __future__ import annotations

import csv
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from cases import CASES
from commands import command
from compare.small import CONFIGS, CROSS_ENTROPY, NOISED, results, run_folders, write
from lightning_topk import TopKClassifier
from lightning_topk.cli._fit_parts import FitLauncher
from lightning_topk.compare import _run, _timing, read_comparison
from lightning_topk.compare._grid import Grid
from lightning_topk.compare._run import initial_weights, read_result

HERE = ("--jobs", "0", "--no_timing")
SHORT = ("--trainer.max_epochs", "1")


def compared(path: str, output: str = "out", *options: str) -> Any:
    return command("compare", path, "--output", output, *HERE, *options)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Columns and seeds of the runs that are trained, in their order."""
    seen: list[str] = []
    train = _run._train

    def noted(job: Any, *args: Any) -> Any:
        seen.append(f"{job.column} {job.seed}")
        return train(job, *args)

    monkeypatch.setattr(_run, "_train", noted)
    return seen


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Splits and variants that are evaluated."""
    seen: list[str] = []
    histograms = _run.histograms

    def noted(parts: Any, split: str, variants: list[str], *args: Any) -> Any:
        seen.extend(f"{split} {variant}" for variant in variants)
        return histograms(parts, split, variants, *args)

    monkeypatch.setattr(_run, "histograms", noted)
    return seen


def test_a_comparison_from_end_to_end(trained: list[str], tested: list[str]) -> None:
    path = write()
    printed = compared(path)
    assert printed.status == 0
    assert printed.last_line == "out"
    # Tuning by the first seed, then the other seed of the setting that was chosen; the test set once for each run.
    assert trained == ["cross entropy 0", "cross entropy 1", "noised 0", "noised 0", "noised 1"]
    assert tested.count("test plain") == 4
    assert tested.index("test plain") < len(tested) - 1
    found = results("out")
    noised = found["columns"]["noised"]
    best = max(noised["tried"], key=lambda each: each["validation"]["0"])
    assert noised["chosen"] == best["options"]
    assert (
        noised["config"]["model"]["init_args"]["loss"]["init_args"]["epsilon"] == best["options"]["model.loss.epsilon"]
    )
    # A fraction of the samples of each run, as `fit` and `test` would log it.
    macro = next(row for row in found["table"] if row["measure"] == "macro top-3")["cells"]["noised"]["values"]
    assert macro == {seed: run["test_macro_top3"] for seed, run in noised["runs"].items()}
    assert {row["measure"] for row in found["table"]} == {
        *(f"{group} top-{k}" for group in ("macro", "micro") for k in (1, 3, 5)),
        *("medium top-5", "few top-5"),
    }
    for folder in run_folders("out"):
        assert not (folder / "checkpoints").exists()
        assert (folder / "metrics.csv").is_file()
    for name in ("results.csv", "results.md", "figure.png", "configs/noised.yaml", "configs/cross_entropy.yaml"):
        assert Path("out", name).stat().st_size > 100
    assert found["command"] == ["lightning-topk", "compare", path, "--output", "out", *HERE]
    assert found["versions"]["torch"] == [torch.__version__]

    # The same command again makes no run, and the same table.
    before = Path("out", "results.csv").read_bytes()
    del trained[:], tested[:]
    assert compared(path).status == 0
    assert (trained, tested) == ([], [])
    assert Path("out", "results.csv").read_bytes() == before

    # Another seed and a further loss make the runs that are missing alone.
    wider = write(
        seeds=[0, 1, 2], losses={"cross entropy": CROSS_ENTROPY, "focal": {"loss": {"class_path": "FocalLoss"}}}
    )
    assert compared(wider, "out", "--losses", "cross entropy").status == 0
    assert trained == ["cross entropy 2"]


def test_a_run_is_what_fit_makes_of_its_configuration() -> None:
    losses = {"cross entropy": CROSS_ENTROPY}
    assert compared(write(losses=losses, seeds=[3]), "out", "--keep_checkpoints").status == 0
    (folder,) = run_folders("out")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    expected = torch.load(checkpoint, weights_only=True)["state_dict"]
    checkpoint.unlink()
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 3
    assert command("fit", "--config", str(folder / "config.yaml"), "--trainer.logger", "false").status == 0
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert expected.keys() == state.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


class Order(Callback):
    """Notes a digest of the images of each training batch, and the weights before the first."""

    seen: dict[str, list[float]] = {}  # noqa: RUF012
    weights: dict[str, dict[str, str]] = {}  # noqa: RUF012

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        name = type(pl_module.topk_criterion).__name__
        self.weights[name] = initial_weights(pl_module)
        self.seen[name] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen[type(pl_module.topk_criterion).__name__].append(float(batch[0].double().sum()))


def test_losses_get_the_same_weights_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {
        "cross entropy": CROSS_ENTROPY,
        "noised": {"loss": {"class_path": "NoisedTopKLoss", "init_args": {"k": 3}}},
        "stk": {"loss": {"class_path": "STkLoss", "init_args": {"fraction": 0.9}}},
        "ldam": {"loss": {"class_path": "LDAMLoss"}, "config": {"model.normalized_head": True}},
    }
    monkeypatch.setattr(Order, "seen", {})
    launcher = FitLauncher()
    build = launcher.build

    def with_order(config: Any) -> Any:
        parts = build(config)
        parts.trainer.callbacks.append(Order())
        return parts

    monkeypatch.setattr(FitLauncher, "build", lambda self, config: with_order(config))
    assert compared(write(losses=losses, seeds=[1]), "out", *SHORT).status == 0
    first = Order.seen["CrossEntropyLoss"]
    assert len(set(first)) == len(first) > 5
    assert all(order == first for order in Order.seen.values())
    assert len(Order.seen) == 4
    backbones = {weights["backbone"] for weights in Order.weights.values()}
    heads = {name: weights["head"] for name, weights in Order.weights.items()}
    assert len(backbones) == 1
    assert heads["CrossEntropyLoss"] == heads["NoisedTopKLoss"] == heads["STkLoss"] != heads["LDAMLoss"]
    reported = {column["runs"]["1"]["initial_weights"]["backbone"] for column in results("out")["columns"].values()}
    assert reported == backbones


@pytest.mark.parametrize("case", CASES, ids=str)
def test_making_a_loss_draws_nothing(case: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    case.cls(**case.arguments)
    assert torch.equal(torch.rand(3), expected)


def test_weights_of_another_seed_differ() -> None:
    torch.manual_seed(0)
    one = initial_weights(TopKClassifier("small_convnet", num_classes=9, k=3, loss="CrossEntropyLoss"))
    torch.manual_seed(1)
    other = initial_weights(TopKClassifier("small_convnet", num_classes=9, k=3, loss="CrossEntropyLoss"))
    assert one.keys() == other.keys() == {"backbone", "head"}
    assert all(one[name] != other[name] for name in one)


def test_adjustment_after_training_is_a_column_of_its_own(trained: list[str], tested: list[str]) -> None:
    losses = {"cross entropy": CROSS_ENTROPY, "noised": {**NOISED, "posthoc_tau": []}}
    path = write(
        losses={"cross entropy": losses["cross entropy"]}, posthoc_tau=[0.5, 1.0], ks=[1, 3], select="val_top3"
    )
    assert compared(path, "out", "--keep_checkpoints").status == 0
    assert trained == ["cross entropy 0", "cross entropy 1"]
    found = results("out")
    column = found["columns"]["cross entropy + post-hoc"]
    tau = column["chosen"]["posthoc_tau"]
    assert tau == max(column["tried"], key=lambda each: each["validation"]["0"])["options"]["posthoc_tau"]
    assert sorted(each for each in tested if each.startswith("test")) == sorted(["test plain", f"test {tau}"] * 2)
    # The values of a pass over the test set by hand.
    run = Path("out", "runs", column["runs"]["1"]["run"])
    parts = FitLauncher().build(run / "config.yaml")
    parts.model.load_state_dict(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    parts.datamodule.setup("test")
    images, targets = (torch.cat(each) for each in zip(*parts.datamodule.test_dataloader(), strict=True))
    with torch.no_grad():
        logits = parts.model.eval()(images)
    counts = parts.datamodule.class_counts
    for name, strength in (("cross entropy", 0.0), ("cross entropy + post-hoc", tau)):
        scores = logits - strength * (counts / counts.sum()).log()
        hits = (scores.topk(3).indices == targets[:, None]).any(1)
        by_class = [hits[targets == label].double().mean() for label in range(len(counts))]
        logged = found["columns"][name]["runs"]["1"]
        assert logged["test_macro_top3"] == pytest.approx(float(sum(by_class) / len(by_class)))
        assert logged["test_micro_top3"] == pytest.approx(float(hits.double().mean()))


def test_the_best_checkpoint_on_validation_data() -> None:
    path = write(losses={"cross entropy": CROSS_ENTROPY}, checkpoint="best", seeds=[0])
    assert compared(path, "out", "--keep_checkpoints").status == 0
    (folder,) = run_folders("out")
    result = read_result(folder)
    assert result is not None
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    logged = [row["val_macro_top5"] for row in rows if row["val_macro_top5"]]
    assert result["best_score"] == pytest.approx(max(map(float, logged)))
    run = results("out")["columns"]["cross entropy"]["runs"]["0"]
    assert run["val_macro_top5"] == pytest.approx(max(map(float, logged)))
    assert "weights of the best validation" in Path("out", "results.md").read_text()


def test_a_failed_run_lets_the_others_go_on() -> None:
    broken = {"loss": {"class_path": "NoisedTopKLoss", "init_args": {"k": 12}}, "grid": {"model.loss.epsilon": [1, 2]}}
    path = write(losses={"broken": broken, "cross entropy": CROSS_ENTROPY}, seeds=[0])
    printed = compared(path, "out", *SHORT)
    assert printed.status == 1
    assert "broken !" in printed.out
    assert "! broken: 2 failed: ValueError: Parameter `k` should be in [1, C)" in printed.out.replace("\n", " ")
    found = results("out")
    assert found["columns"]["broken"]["chosen"] is None
    assert found["columns"]["cross entropy"]["runs"]["0"]["test_macro_top5"] > 0
    errors = [path.read_text() for path in Path("out", "runs").glob("*/error.txt")]
    assert len(errors) == 2
    assert all("Traceback" in error and "Found `k = 12` with `C = 12`." in error for error in errors)


def test_a_run_that_is_told_to_stop_goes_on_to_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(losses={"noised": {"loss": NOISED["loss"]}}, seeds=[0])
    assert compared(path, "whole").status == 0
    build = FitLauncher.build

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    def with_stop(self: Any, config: Any) -> Any:
        parts = build(self, config)
        parts.trainer.callbacks.append(Stop())
        return parts

    with monkeypatch.context() as patched:
        patched.setattr(FitLauncher, "build", with_stop)
        printed = compared(path, "stopped")
    assert (printed.status, printed.err.splitlines()[-1]) == (143, "Stopped. The same command goes on where it was.")
    (folder,) = run_folders("stopped")
    assert [file.name for file in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert read_result(folder) is None
    assert compared(path, "stopped").status == 0
    assert Path("stopped", "results.csv").read_bytes() == Path("whole", "results.csv").read_bytes()
    first, second = (read_result(folder) for (folder,) in (run_folders("whole"), run_folders("stopped")))
    assert first is not None
    assert second is not None
    assert (first["parts"], second["parts"]) == (1, 2)
    assert all(first[split] == second[split] for split in ("val", "test"))


def test_a_larger_k_than_was_counted_makes_the_run_again(trained: list[str]) -> None:
    losses = {"cross entropy": CROSS_ENTROPY}
    assert compared(write(losses=losses, seeds=[0]), "out", *SHORT).status == 0
    assert compared(write(losses=losses, seeds=[0], ks=[1, 2], select="val_top4"), "out", *SHORT).status == 0
    assert trained == ["cross entropy 0"]
    assert compared(write(losses=losses, seeds=[0], ks=[1, 8]), "out", *SHORT).status == 0
    assert trained == ["cross entropy 0", "cross entropy 0"]


def test_time_per_step_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timing, "_ROUNDS", 3)
    losses = {"noised": {"loss": NOISED["loss"]}, "ldam": {"loss": {"class_path": "LDAMLoss"}}}
    path = write(losses=losses, seeds=[0])
    printed = command("compare", path, "--output", "out", "--jobs", "0", *SHORT)
    assert printed.status == 0
    times = results("out")["step_time"]
    assert (times["reference"], times["clock"]) == ("cross-entropy", "process time, one thread")
    assert times["relative"].keys() == {"noised", "ldam"}
    assert all(0.3 < value < 10 for value in times["relative"].values())
    assert re.search(r"time per step +\d\.\d\d x +\d\.\d\d x", printed.out)
    before = Path("out", "step_time.json").read_bytes()
    assert command("compare", path, "--output", "out", "--jobs", "0", *SHORT).status == 0
    assert Path("out", "step_time.json").read_bytes() == before


def test_a_dry_run_says_what_is_left(trained: list[str]) -> None:
    path = write()
    assert compared(path, "out", "--losses", "cross entropy", "--seeds", "0").status == 0
    del trained[:]
    printed = compared(path, "out", "--dry_run")
    assert printed.status == 0
    rows = [line.split() for line in printed.out.splitlines()]
    assert next(row for row in rows if row[:1] == ["cross"])[:5] == ["cross", "entropy", "1", "2", "1"]
    assert next(row for row in rows if row[:1] == ["noised"])[:4] == ["noised", "2", "3", "0"]
    assert re.fullmatch(r"4 runs to make, about \d+ s of training with 1 at a time.", printed.last_line)
    assert trained == []
    assert not list(Path("out", "runs").glob("*/timing.yaml"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--jobs", "-1"), "Option `--jobs` should be an integer >= 0. Found `-1`."),
        (("--losses", "nois"), "`--losses` should name columns of the comparison: .* Found `nois`; near: noised."),
        (("--model.learning_rat", "3"), "(?s)learning_rat.*at: +column `cross entropy` of the comparison"),
    ],
)
def test_mistakes_on_the_command_line(options: tuple[str, ...], message: str) -> None:
    printed = command("compare", write(), "--output", "out", *options)
    assert printed.status == 2
    assert re.search(message, printed.err)
    assert "Traceback" not in printed.err


def test_mistakes_that_only_a_run_shows() -> None:
    path = write(losses={"cross entropy": CROSS_ENTROPY}, seeds=[0], ks=[1, 13])
    printed = compared(path)
    assert printed.status == 1
    assert "Parameter `ks` should hold K in [1, C]. Found `ks` with 13, and `C = 12` classes." in printed.out
    printed = compared(write(losses={"cross entropy": CROSS_ENTROPY}, seeds=[0]), "out", "--trainer.devices", "2")
    assert printed.status == 1
    assert "should have one device" in printed.out
    assert "Found 2 processes." in printed.out


def test_a_configuration_that_cannot_be_parsed_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("trainer: {max_epoch: 3}\n")
    with pytest.raises(ValueError, match="max_epoch"):
        FitLauncher().build(path)
    assert "max_epoch" in capsys.readouterr().err


def test_a_model_that_counts_no_ranks() -> None:
    path = write(
        losses={"other": {"config": {"model": {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"}}}}
    )
    Path("base.yaml").write_text("trainer: {max_epochs: 1, accelerator: cpu}")
    printed = compared(path)
    assert printed.status == 1
    assert (
        "needs a LightningModule with TopKMixin, which counts the ranks of the labels. Found BoringModel."
        in printed.out
    )


def test_a_grid_over_what_a_schedule_sets() -> None:
    scheduler = {"class_path": "EpsilonScheduler", "init_args": {"schedule": {"class_path": "Constant"}}}
    scheduler["init_args"]["schedule"]["init_args"] = {"value": 0.1}
    path = write(losses={"noised": NOISED}, config={"trainer.callbacks": [scheduler]})
    printed = compared(path)
    assert printed.status == 2
    assert "Found `model.loss.epsilon` in column `noised`, while an EpsilonScheduler sets `epsilon`" in printed.err


@pytest.mark.parametrize("path", sorted((CONFIGS / "compare").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_comparisons_are_understood(path: Path) -> None:
    launcher = FitLauncher()
    launcher.prepare()
    comparison = read_comparison(path)
    # One setting of each column has every option of its grid.
    columns = [
        replace(each, grid={name: values[:1] for name, values in each.grid.items()}) for each in comparison.columns
    ]
    grid = Grid(replace(comparison, columns=tuple(columns)), Path("runs"), launcher)
    keys = [key for setting in grid.settings for key in setting.keys.values()]
    assert len(set(keys)) == len(keys), "two columns are the same run"
    assert path.read_text().startswith("#")
