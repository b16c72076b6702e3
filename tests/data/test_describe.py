"""``lightning-topk data describe``, and the curve of class frequencies."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from commands import CONFIGS, GLYPHS, QUICKSTART, SHORT, SMALL, command
from lightning_topk.plot import plot_class_counts
from published import write_cifar100, write_image, write_lists

OTHER = """
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class Bare(pl.LightningDataModule):
    def setup(self, stage):
        self.made = TensorDataset(torch.zeros(9, 3), torch.tensor([0, 0, 0, 0, 0, 2, 2, 1, 1]))

    def train_dataloader(self):
        return DataLoader(self.made, batch_size=2)

    def val_dataloader(self):
        return DataLoader(torch.utils.data.Subset(self.made, range(4)))


class Stream(pl.LightningDataModule):
    def train_dataloader(self):
        class Endless(IterableDataset):
            def __iter__(self):
                yield 0

        return DataLoader(Endless())
"""


def describe(*args: str) -> list[str]:
    printed = command("data", "describe", *args)
    assert (printed.status, printed.err) == (0, "")
    return printed.out.splitlines()


def test_what_is_printed(tmp_path: Path) -> None:
    counts = {"ant": 120, "bee": 30, "cat": 4}
    for name, count in counts.items():
        for i in range(count):
            write_image(tmp_path / "train" / name / f"{i}.png", i)
            if i < 2:
                write_image(tmp_path / "val" / name / f"{i}.png", i)
                write_image(tmp_path / "test" / name / f"{i}.png", i)
    assert describe("--data", "ImageFolderDataModule", "--data.root", str(tmp_path)) == [
        "data       ImageFolderDataModule, 3 x 224 x 224",
        "classes    3",
        "samples    train 154   val 6   test 6",
        "counts     largest 120 (ant)   median 30   smallest 4 (cat)",
        "imbalance  30",
        "",
        "group            classes  training samples",
        "many (> 100)           1               120",
        "medium (20-100)        1                30",
        "few (< 20)             1                 4",
    ]


def test_published_data(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    lines = describe(
        *("--data", "CIFAR100DataModule", "--data.root", str(tmp_path), "--data.val_fraction", "0"),
        *("--data.imbalance_factor", "5"),
    )
    assert lines[:2] == ["data       CIFAR100DataModule, 3 x 32 x 32", "classes    100"]
    assert lines[2] == f"samples    train {sum(int(10 * 0.2 ** (i / 99)) for i in range(100))}   val 200   test 200"
    assert lines[3:5] == ["counts     largest 10 (fine_00)   median 4   smallest 2 (fine_75)", "imbalance  5"]


def test_images_are_not_needed(tmp_path: Path) -> None:
    write_lists(tmp_path, "Places_LT", (4, 2), ("airfield", "alcove"))
    assert "counts     largest 4 (airfield)   median 3   smallest 2 (alcove)" in describe(
        "--data", "PlacesLTDataModule", "--data.root", str(tmp_path)
    )


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_figure(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"counts.{suffix}"
    lines = describe(*QUICKSTART, *GLYPHS, "--figure", str(file))
    assert lines[-1] == str(file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    if suffix == "png":
        with Image.open(file) as image:
            assert image.size[0] > 1000
    else:
        assert file.read_bytes()[:5] in (b"<?xml", b"%PDF-")


def test_the_configuration_of_a_run(tmp_path: Path) -> None:
    printed = command("fit", *GLYPHS, *SMALL, *SHORT)
    assert printed.status == 0, printed.err
    lines = describe("--config", f"{printed.last_line}/config.yaml")
    assert lines == describe(*GLYPHS)
    assert lines[1] == "classes    12"


def test_every_file_of_data_can_be_given() -> None:
    for path in sorted((CONFIGS / "data").glob("*.yaml")):
        printed = command("data", "describe", "--config", str(path), "--print_config")
        assert (printed.status, printed.err) == (0, "")
        assert "class_path: lightning_topk.data" in printed.out


def test_data_modules_of_others(tmp_path: Path) -> None:
    Path("others.py").write_text(OTHER)
    lines = describe("--data", "others.Bare")
    assert lines[:5] == [
        "data       Bare",
        "classes    3",
        "samples    train 9   val 4",
        "counts     largest 5 (0)   median 2   smallest 2 (1)",
        "imbalance  2.5",
    ]
    printed = command("data", "describe", "--data", "others.Stream")
    assert printed.status == 2
    assert re.match("error: A data module should have `class_counts`.* Found neither in Stream", printed.err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "The subcommand should be one of describe. Found none."),
        (["descrbe"], "Found `descrbe`."),
        (["describe"], "`lightning-topk data describe` should be given data.* Found none."),
        (["describe", "--data", "GlyphDataModule"], "Found `GlyphDataModule`"),
        (["describe", *GLYPHS, "--data.num_clases", "3"], "Found `num_clases`"),
        (["describe", "--data", "GlyphsDataModule", "--data.num_classes", "1"], "Found `num_classes = 1`"),
        (["describe", *GLYPHS, "--figur", "a.png"], "Found `--figur`"),
        (["describe", *GLYPHS, "--figure", "a.xyz"], "file that ends in .pdf, .png, .svg. Found `a.xyz`"),
        (["describe", *GLYPHS, "--figure", "nowhere/a.png"], "A file should lie in a folder that can be written"),
        (["describe", "--config", "nowhere.yaml"], "File does not exist: `nowhere.yaml`"),
        (["describe", "--data", "CIFAR100DataModule"], "to be had at https://www.cs.toronto.edu/~kriz/cifar.html"),
    ],
)
def test_mistakes(args: list[str], message: str) -> None:
    printed = command("data", *args)
    assert printed.status == 2
    assert re.match(f"error: .*{message}", printed.err), printed.err
    assert len(printed.err.splitlines()) <= 4
    assert not list(Path().glob("*.png"))


def test_help() -> None:
    printed = command("data", "--help")
    assert (printed.status, printed.err) == (0, "")
    assert "describe   print classes" in printed.out
    assert "lightning-topk data describe --help" in command("--help").out
    printed = command("data", "describe", "--help")
    assert "--figure" in printed.out
    assert "lightning-topk data describe --config configs/quickstart.yaml --figure counts.png" in printed.out


def test_the_curve_falls_and_is_filled_by_group() -> None:
    counts = torch.tensor([5, 300, 50, 120, 20, 19, 101, 1])
    figure, axes = plot_class_counts(counts, title="eight")
    assert isinstance(figure, Figure)
    heights = axes.lines[-1].get_ydata()
    assert heights.tolist() == [*counts.sort(descending=True).values.tolist(), 1]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "many-shot\n(3 classes)", "medium-shot\n(2 classes)", "few-shot\n(3 classes)"
    ]  # fmt: skip
    assert [patch.get_paths()[0].get_extents().x1 for patch in axes.collections] == [3, 5, 8]
    figure.canvas.draw()
    own = Figure().add_subplot()
    again, same = plot_class_counts([3, 0], ax=own)
    assert (again, same) == (own.figure, own)
    again.canvas.draw()
    with pytest.raises(ValueError, match="Class counts should be a list"):
        plot_class_counts(np.array([-1, 2]))
