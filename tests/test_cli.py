"""The command: help, configurations, links between data and model, and whole cycles of runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from commands import GLYPHS, QUICKSTART, QUIET, SHORT, SMALL, command, config_of
from lightning_topk import TopKClassifier
from lightning_topk.cli import TopKCLI
from lightning_topk.losses import NoisedTopKLoss

MINE = """
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_topk import TopKMixin


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(12))
        self.net(torch.zeros(1, 1, 28, 28))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Mixed(TopKMixin, Plain):
    def __init__(self, width: int = 3, **options) -> None:
        super().__init__(**options)
        print("classes:", self.topk_num_classes, self.topk_criterion)

    def training_step(self, batch, batch_idx):
        return self.topk_loss(self.net(batch[0]), batch[1])

    validation_step = training_step


class Bare(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(16, 3, 8, 8), torch.arange(16) % 8), batch_size=8)
"""


@pytest.fixture
def mine(tmp_path: Path) -> None:
    """A file with a user's classes in the current folder."""
    (tmp_path / "mine.py").write_text(MINE)
    sys.modules.pop("mine", None)


def test_help_shows_an_example_first() -> None:
    printed = command("--help")
    lines = printed.out.splitlines()
    assert printed.status == 0
    assert lines[0] == "examples:"
    assert lines[1].strip() == "lightning-topk fit --config configs/quickstart.yaml"
    assert len(lines) < 22
    assert all(f"  {name} " in printed.out for name in ("fit", "validate", "test", "predict"))


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_help_of_a_subcommand(subcommand: str) -> None:
    printed = command(subcommand, "--help")
    assert printed.status == 0
    assert printed.out.startswith(f"examples:\n  lightning-topk {subcommand} ")
    assert "usage:" not in printed.out
    assert "--trainer.max_epochs" in printed.out


def test_help_on_a_loss_prints_its_arguments() -> None:
    printed = command("fit", "--model.loss.help", "NoisedTopKLoss")
    assert "Number of guesses K in [1, C)" in printed.out
    assert "--model.loss.num_samples" in printed.out or "--loss.num_samples" in printed.out


def test_help_on_the_model_lists_no_hundred_classes() -> None:
    printed = command("fit", "--model.help", "TopKClassifier")
    assert "Number of classes C" in printed.out
    assert len(printed.out.splitlines()) < 90


def test_version() -> None:
    printed = command("--version")
    assert (printed.status, printed.out) == (0, "lightning-topk 0.1.0\n")


def test_print_config_prints_what_differs_from_the_defaults() -> None:
    expected = {
        "model": {"class_path": "lightning_topk.TopKClassifier", "init_args": {"k": 3}},
        "trainer": {"max_epochs": 2, "callbacks": {"class_path": "lightning_topk.callbacks.TopKReport"}},
    }
    given = ("--model.k", "3", "--trainer.max_epochs", "2", "--trainer.callbacks", "TopKReport")
    assert config_of(*given) == expected


def test_print_config_full_and_back(tmp_path: Path) -> None:
    short, full = config_of(*QUICKSTART), config_of(*QUICKSTART, "--print_config=full")
    assert full["model"]["init_args"]["weight_decay"] == 0.01
    for name, config in (("short.yaml", short), ("full.yaml", full)):
        (tmp_path / name).write_text(yaml.safe_dump(config))
        assert config_of("--config", name) == short


def test_defaults() -> None:
    full = config_of("--print_config=full")
    assert full["seed_everything"] == 0
    assert full["model"]["class_path"] == "lightning_topk.TopKClassifier"
    assert full["trainer"]["logger"]["init_args"]["save_dir"] == "logs"


class TestAnotherClassStartsFromItsOwnDefaults:
    def test_on_the_command_line_over_a_default(self) -> None:
        config = config_of("--model.loss", "NoisedTopKLoss", "--print_config=full")
        assert config["model"]["init_args"]["loss"]["init_args"]["epsilon"] == 1.0

    def test_on_the_command_line_over_a_file(self) -> None:
        config = config_of(*QUICKSTART, "--data", "ArrayDataModule", "--data.root", "x")
        assert config["data"] == {"class_path": "lightning_topk.data.ArrayDataModule", "init_args": {"root": "x"}}

    def test_file_over_file(self, tmp_path: Path) -> None:
        first = {"class_path": "GlyphsDataModule", "init_args": {"num_classes": 9, "imbalance_factor": 7, "seed": 5}}
        second = {"class_path": "lightning_topk.data.ArrayDataModule", "init_args": {"file": "a.npz"}}
        (tmp_path / "first.yaml").write_text(yaml.safe_dump({"data": first}))
        (tmp_path / "second.yaml").write_text(yaml.safe_dump({"data": second}))
        assert config_of("--config", "first.yaml", "--config", "second.yaml")["data"] == second

    def test_in_a_callback(self, tmp_path: Path) -> None:
        linear = {"class_path": "Linear", "init_args": {"start": 1, "end": 0, "length": 7}}
        callback = {"class_path": "EpsilonScheduler", "init_args": {"schedule": linear}}
        (tmp_path / "a.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        linear.update(class_path="Cosine", init_args={"start": 2, "end": 1})
        (tmp_path / "b.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        (found,) = config_of("--config", "a.yaml", "--config", "b.yaml")["trainer"]["callbacks"]
        assert found["init_args"]["schedule"]["init_args"] == {"start": 2.0, "end": 1.0}

    @pytest.mark.parametrize("name", ["GlyphsDataModule", "lightning_topk.data._glyphs.GlyphsDataModule"])
    def test_but_the_same_class_keeps_its_arguments(self, name: str) -> None:
        config = config_of("--data", "lightning_topk.data.GlyphsDataModule", "--data.seed", "5", "--data", name)
        assert config["data"]["init_args"] == {"seed": 5}


@pytest.mark.usefixtures("mine")
class TestLinks:
    def test_the_data_say_how_many_classes_and_channels(self) -> None:
        printed = command("fit", *GLYPHS, *SMALL, "--model.k", "5", *SHORT, "--trainer.fast_dev_run", "1")
        assert printed.status == 0, printed.err

    def test_a_model_with_the_mixin_is_told_through_its_keywords(self) -> None:
        chosen = ("--model", "mine.Mixed", "--model.loss", "NoisedTopKLoss", "--model.loss.k", "2")
        printed = command("fit", *GLYPHS, *chosen, *QUIET, "--trainer.fast_dev_run", "1")
        assert "classes: 12 NoisedTopKLoss(k=2, epsilon=1.0, num_samples=5)" in printed.out

    def test_a_model_that_does_not_ask(self) -> None:
        printed = command("fit", *GLYPHS, "--model", "mine.Plain", *QUIET, "--trainer.fast_dev_run", "1")
        assert printed.status == 0, printed.err

    def test_data_that_do_not_say(self) -> None:
        data = ("--data", "mine.Bare", *SMALL, *QUIET, "--trainer.fast_dev_run", "1")
        assert command("fit", *data, "--model.num_classes", "8").status == 0
        printed = command("fit", *data)
        assert printed.status == 2
        assert "be an attribute `num_classes` of the data module" in printed.err

    def test_a_contradiction(self) -> None:
        printed = command("fit", *GLYPHS, "--model.num_classes", "8")
        assert printed.status == 2
        assert "should be that of the data, 12. Found 8." in printed.err


def test_fit_validate_test_predict(tmp_path: Path) -> None:
    """A checkpoint alone names backbone, loss and head; the data are those of the command."""
    loss = ("--model.loss", "NoisedTopKLoss", "--model.loss.k", "3", "--model.normalized_head", "true")
    fit = command("fit", *GLYPHS, *SMALL, *loss, *SHORT, "--trainer.callbacks", "TopKReport")
    assert (fit.status, fit.last_line) == (0, "logs/default/version_0")
    (checkpoint,) = Path("logs/default/version_0/checkpoints").glob("*.ckpt")

    validate = command("validate", *GLYPHS, "--ckpt_path", str(checkpoint), *SHORT, "--trainer.callbacks", "TopKReport")
    assert (validate.status, validate.last_line) == (0, "logs/default/version_1")
    rows = [Path(f"logs/default/version_{n}/report/val_table.csv").read_text().splitlines()[1] for n in (0, 1)]
    assert rows[0].startswith(rows[1])  # after a fit there are also the columns of its best epoch

    test = command("test", *GLYPHS, "--ckpt_path", str(checkpoint), *SHORT)
    assert "test_macro_top3" in test.out
    assert test.last_line == "logs/default/version_2"  # also without a report
    assert test.err == ""

    predict = command("predict", *GLYPHS, "--ckpt_path", str(checkpoint), *SHORT)
    assert predict.last_line == "logs/default/version_3/predictions.pt"
    found = torch.load(predict.last_line)
    assert found["classes"].shape == found["logits"].shape == (240, 3)

    # What is asked for on the command line wins over what the checkpoint says.
    asked = ("--model.posthoc_tau", "5", "--model.loss.epsilon=0.5")
    adjusted = command("test", *GLYPHS, "--ckpt_path", str(checkpoint), *SHORT, *asked)
    written = yaml.safe_load(Path(adjusted.last_line, "config.yaml").read_text())["model"]["init_args"]
    inner = written["loss"]["init_args"]
    assert (written["posthoc_tau"], inner["epsilon"], inner["k"]) == (5.0, 0.5, 3)
    assert adjusted.out.partition("test_macro_top3")[2][:30] != test.out.partition("test_macro_top3")[2][:30]
    gone = command("test", *GLYPHS, "--ckpt_path", str(checkpoint), *SHORT, "--model.loss.max_margin=0.1")
    assert gone.status == 2
    assert "`--model.loss.max_margin` should be one of the model in the checkpoint" in gone.err

    model = TopKClassifier.load_from_checkpoint(checkpoint)
    assert isinstance(model.topk_criterion, NoisedTopKLoss)
    assert (model.topk_k, model.head.weight.shape[0]) == (3, 12)

    config = ("--config", "logs/default/version_0/config.yaml")
    resumed = command("fit", *config, "--ckpt_path", str(checkpoint), "--trainer.max_epochs", "2")
    assert (resumed.status, resumed.last_line) == (0, "logs/default/version_5")
    assert yaml.safe_load(Path("logs/default/version_5/config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_a_version_that_is_named_is_overwritten() -> None:
    args = ("fit", *GLYPHS, *SMALL, *SHORT, "--trainer.enable_checkpointing", "false", "--trainer.logger.version", "7")
    assert command(*args).last_line == "logs/default/version_7"
    with pytest.warns(UserWarning, match="should have a folder of its own"):
        assert command(*args).last_line == "logs/default/version_7"


def test_without_a_logger_nothing_is_written_into_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 3\n")
    args = ("--config", "config.yaml", *GLYPHS, *SMALL, *SHORT, "--trainer.enable_checkpointing", "false")
    printed = command("fit", *args, "--trainer.logger", "false")
    assert (printed.status, printed.out) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "seed_everything: 3\n"


def test_optimizer_and_scheduler_of_the_command_line_are_used_without_a_warning() -> None:
    chosen = (
        "--optimizer",
        "SGD",
        "--optimizer.lr",
        "0.1",
        "--lr_scheduler",
        "StepLR",
        "--lr_scheduler.step_size",
        "1",
    )
    printed = command("fit", *GLYPHS, *SMALL, *chosen, *SHORT)
    assert (printed.status, printed.err) == (0, "")
    (checkpoint,) = Path("logs").rglob("*.ckpt")
    state = torch.load(checkpoint)["optimizer_states"][0]["param_groups"][0]
    assert (state["initial_lr"], "momentum" in state) == (0.1, True)


def test_as_a_class_without_subcommands() -> None:
    cli = TopKCLI([*GLYPHS, *SMALL, *QUIET], run=False)
    assert (cli.model.topk_num_classes, cli.datamodule.num_classes, cli.trainer.max_epochs) == (12, 12, None)
    assert "--model" in cli.parser.format_help()


@pytest.mark.timeout(60)
def test_as_a_program(tmp_path: Path, repository: Path) -> None:
    args = [*QUICKSTART, *GLYPHS, *SHORT[:-4], "--trainer.log_every_n_steps", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_topk", "fit", *args],
        capture_output=True,
        text=True,
        timeout=55,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "logs/quickstart/version_0"
    for name in ("epsilon", "train_loss", "val_macro_top5", "all, macro"):
        assert name in done.stdout
    for noise in ("Warning", "Tip", "deprecated", "bottleneck", "Traceback"):
        assert noise not in done.stdout + done.stderr
    assert sorted(path.name for path in Path("logs/quickstart/version_0/checkpoints").iterdir())[-1] == "last.ckpt"
