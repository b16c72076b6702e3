"""The data overlays, read as the command line reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from lightning_topk import data

CONFIGS = {
    "cifar10_lt": data.CIFAR10DataModule,
    "cifar100_lt": data.CIFAR100DataModule,
    "cifar100_noise": data.CIFAR100DataModule,
    "features": data.ArrayDataModule,
    "glyphs": data.GlyphsDataModule,
    "image_folder": data.ImageFolderDataModule,
    "imagenet_lt": data.ImageNetLTDataModule,
    "inaturalist": data.INaturalistDataModule,
    "omniglot_files": data.OmniglotDataModule,
    "omniglot_lt": data.ArrayDataModule,
    "places_lt": data.PlacesLTDataModule,
    "plankton": data.ArrayDataModule,
    "plantnet300k": data.PlantNet300KDataModule,
}


def parser() -> ArgumentParser:
    result = ArgumentParser(exit_on_error=False)
    result.add_argument("--config", action="config")
    result.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
    result.add_argument("--model", type=dict)
    return result


@pytest.mark.parametrize("name", CONFIGS)
def test_an_overlay_builds_its_data_module(name: str, repository: Path) -> None:
    path = repository / "configs" / "data" / f"{name}.yaml"
    assert path.read_text().startswith("# ")
    config = parser().parse_args([f"--config={path}", "--data.batch_size=7"])
    module = parser().instantiate_classes(config).data
    assert type(module) is CONFIGS[name]
    assert module.batch_size == 7
    assert dict(module.hparams)["batch_size"] == 7


def test_every_overlay_is_tested(repository: Path) -> None:
    assert {path.stem for path in (repository / "configs" / "data").glob("*.yaml")} == set(CONFIGS)


def test_every_overlay_names_its_class_in_full(repository: Path) -> None:
    for name, kind in CONFIGS.items():
        content: dict[str, Any] = yaml.safe_load((repository / "configs" / "data" / f"{name}.yaml").read_text())
        assert content["data"]["class_path"] == f"lightning_topk.data.{kind.__name__}"


@pytest.mark.parametrize(("name", "classes"), [("plankton", 121), ("omniglot_lt", 1623)])
def test_the_root_comes_from_the_command_line(name: str, classes: int, repository: Path, shared_data: Path) -> None:
    path = repository / "configs" / "data" / f"{name}.yaml"
    config = parser().parse_args([f"--config={path}", f"--data.root={shared_data}"])
    assert parser().instantiate_classes(config).data.num_classes == classes


def test_a_misspelt_argument_is_an_error(repository: Path) -> None:
    path = repository / "configs" / "data" / "glyphs.yaml"
    with pytest.raises(Exception, match="num_clases"):
        parser().parse_args([f"--config={path}", "--data.num_clases=7"])
