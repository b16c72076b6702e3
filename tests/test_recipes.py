"""The recipes of published experiments, run for one batch on small files in the layout of the original data."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from commands import CONFIGS, QUIET, command, config_of
from lightning_topk.lr_schedulers import WarmUpMultiStepLR
from published import write_cifar100, write_lists, write_plantnet

RECIPES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
ONE = ("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.strategy", "auto", *QUIET)
COLUMNS = ("ce", "focal", "ldam", "noised_balanced", "noised_imbalanced", "smooth_topk")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_plantnet(folder, [3] * 7)
    write_cifar100(folder, train=10, test=1)
    return write_lists(folder, "ImageNet_LT", [3] * 7, "abcdefg", images=True)


def small(name: str, files: Path) -> list[str]:
    """Options for the files, in the place of what a small run does not need."""
    recipe = config_of("--config", str(CONFIGS / "recipes" / f"{name}.yaml"))
    options = ["--config", str(CONFIGS / "recipes" / f"{name}.yaml"), "--data.root", str(files), *ONE]
    options += ["--data.batch_size", "4", "--data.num_workers", "0"]
    if "image_size" in recipe["data"]["init_args"]:
        options += ["--data.image_size", "32"]
    if "imbalance_factor" in recipe["data"]["init_args"]:
        options += ["--data.imbalance_factor", "2"]
    if "weights" in recipe["model"]["init_args"]:
        options += ["--model.weights", "null"]
    return options


def test_every_column_of_the_table_of_plantnet_has_one() -> None:
    assert [name for name in RECIPES if name.startswith("plantnet300k")] == [f"plantnet300k_{c}" for c in COLUMNS]


@pytest.mark.parametrize("name", RECIPES)
def test_the_head_of_a_recipe(name: str) -> None:
    text = (CONFIGS / "recipes" / f"{name}.yaml").read_text()
    head = text[: text.index("\nseed_everything")].splitlines()
    assert all(line.startswith("# ") and len(line) <= 120 for line in head)
    assert re.findall(r"^# (\w+): ", "\n".join(head), re.MULTILINE) == [
        *("Source", "Expected", "Hardware", "Differs", "Run")
    ]  # fmt: skip
    assert f"lightning-topk fit --config configs/recipes/{name}.yaml --data.root FOLDER" in head[-2]
    assert yaml.safe_load(text)["trainer"]["logger"]["init_args"]["name"] == name


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name: str, files: Path) -> None:
    shallow = ["--model.backbone", "resnet18"] if name.startswith("plantnet") else []  # the deep one is tested below
    printed = command("fit", *small(name, files), *shallow, "--trainer.fast_dev_run", "true")
    assert (printed.status, printed.err) == (0, "")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["plantnet300k_noised_imbalanced", "cifar100_noise_ce", "cifar100_lt_ldam_drw"])
def test_checkpoints_and_the_test_set(name: str, files: Path) -> None:
    """What is monitored is logged, and the checkpoint is tested with the same file."""
    one = [
        "--trainer.limit_train_batches",
        "1",
        "--trainer.limit_val_batches",
        "2",
        "--trainer.limit_test_batches",
        "2",
    ]
    options = [*small(name, files), *one, "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    printed = command("fit", *options)
    assert (printed.status, printed.err) == (0, "")
    folder = Path(printed.last_line, "checkpoints")
    assert {path.name for path in folder.iterdir()} == {"epoch=0-step=1.ckpt", "last.ckpt"}
    printed = command("test", *options, "--ckpt_path", str(folder / "last.ckpt"))
    assert (printed.status, printed.err) == (0, "")
    assert "test_macro_top5" in printed.out or "top-5" in printed.out


def test_values_of_the_authors() -> None:
    """The losses, as the command lines and codes of the authors give their parameters."""
    expected = {
        "plantnet300k_ldam": {"max_margin": 0.2, "scale": 40},
        "plantnet300k_focal": {"gamma": 2.0},
        "plantnet300k_smooth_topk": {"k": 5, "tau": 0.1},
        "plantnet300k_noised_balanced": {"k": 5, "epsilon": 1.0, "num_samples": 5, "margin": 1.0, "scale": 1.0},
        "plantnet300k_noised_imbalanced": {"k": 5, "epsilon": 0.01, "num_samples": 5, "max_margin": 0.2, "scale": 60},
        "cifar100_noise_noised_balanced": {"k": 5, "epsilon": 0.2, "num_samples": 10, "margin": 1.0},
        "cifar100_noise_smooth_topk": {"k": 5, "tau": 1.0},
        "cifar100_lt_ldam_drw": {"max_margin": 0.5, "scale": 30},
    }
    for name, values in expected.items():
        model = config_of("--config", str(CONFIGS / "recipes" / f"{name}.yaml"), "--print_config=full")["model"]
        given = model["init_args"]["loss"]["init_args"]
        assert {key: given[key] for key in values} == values, name
        assert model["init_args"]["normalized_head"] is ("ldam" in name or "imbalanced" in name)


def test_the_learning_rate_is_that_of_ldam() -> None:
    """Five epochs of rise; a hundredth from epoch 160 on, and a ten-thousandth from 180 on."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = WarmUpMultiStepLR(optimizer, [160, 180], gamma=0.01, warm_up=5)
    rates = []
    for epoch in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if epoch == 100:  # resumed
            state = scheduler.state_dict()
            scheduler = WarmUpMultiStepLR(torch.optim.SGD([parameter], lr=0.1), [1], gamma=0.5)
            scheduler.load_state_dict(state)
            scheduler.optimizer = optimizer

    def ldam(epoch: int) -> float:
        epoch += 1
        if epoch <= 5:
            return 0.1 * epoch / 5
        return 0.1 * (0.0001 if epoch > 180 else 0.01 if epoch > 160 else 1)

    assert rates == pytest.approx([ldam(epoch) for epoch in range(200)], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"milestones": [3, -1]}, "`milestones` should be an integer >= 0"),
        ({"milestones": [3], "gamma": 0.0}, "`gamma` should be a finite number > 0"),
        ({"milestones": [3], "warm_up": 0}, "`warm_up` should be an integer >= 1"),
    ],
)
def test_bad_schedulers(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmUpMultiStepLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), **arguments)  # type: ignore[arg-type]
