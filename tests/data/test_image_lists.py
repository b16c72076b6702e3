"""ImageNet-LT and Places-LT from their lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_topk.data import ImageNetLTDataModule, PlacesLTDataModule, find_class_counts
from lightning_topk.data._image_files import CorruptImageError
from published import write_lists

COUNTS = (6, 3, 1, 2)
WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lists(tmp_path_factory.mktemp("lists"), "ImageNet_LT", COUNTS, WNIDS, images=True)


def test_splits_are_those_of_the_lists(root: Path) -> None:
    data = ImageNetLTDataModule(str(root), image_size=8, batch_size=4)
    assert data.class_names == list(WNIDS)
    assert (data.num_classes, data.input_shape) == (4, (3, 8, 8))
    assert data.class_counts.tolist() == list(COUNTS)
    assert data.split_sizes == {"train": 12, "val": 8, "test": 8}
    assert not data._datasets
    for split in ("train", "val", "test"):
        lines = (root / f"ImageNet_LT_{split}.txt").read_text().splitlines()
        samples = [f"{Path(path).relative_to(root)} {label}" for path, label in data.dataset(split).samples]  # type: ignore[attr-defined]
        assert samples == lines
    assert find_class_counts(data.dataset("train")).equal(data.class_counts)  # type: ignore[union-attr]
    torch.manual_seed(0)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, targets = next(iter(loader))
        assert images.shape == (4, 3, 8, 8)
        assert targets.dtype == torch.int64


def test_lists_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    write_lists(tmp_path, "ImageNet_LT", (2, 2), WNIDS[:2])
    data = ImageNetLTDataModule(str(root), lists=str(tmp_path), image_size=8)
    assert data.class_counts.tolist() == [2, 2]
    assert data.dataset("train")[0][1] == 0


@pytest.mark.parametrize(
    ("kind", "file"), [(ImageNetLTDataModule, "imagenet_lt_train"), (PlacesLTDataModule, "places_lt_train")]
)
def test_counts_of_the_published_size_need_no_image(kind: Any, file: str, shared_data: Path, tmp_path: Path) -> None:
    expected = json.loads((shared_data / "class_counts" / f"{file}.json").read_text())
    write_lists(tmp_path, kind.name, expected["counts"], [f"class{i:04d}" for i in range(len(expected["counts"]))])
    data = kind(str(tmp_path))
    assert data.class_counts.tolist() == expected["counts"]
    assert data.split_sizes["train"] == expected["total"] == {"ImageNet_LT": 115846, "Places_LT": 62500}[kind.name]
    assert data.num_classes == expected["num_classes"]
    with pytest.raises(FileNotFoundError, match=r"`root` the folder that these paths start from.*no `.*class0000"):
        data.setup("fit")


def test_what_is_missing_is_named_with_the_page(tmp_path: Path) -> None:
    page = (
        "ImageNet_LT_test.txt` .to be had at https://liuziwei7.github.io/.*images: https://www.image-net.org/download"
    )
    with pytest.raises(FileNotFoundError, match=f"Parameter `lists` .*{page}.* Found no `.*ImageNet_LT_train.txt`"):
        ImageNetLTDataModule(str(tmp_path)).num_classes  # noqa: B018
    with pytest.raises(FileNotFoundError, match=r"images: http://places2.csail.mit.edu/.* Found no `.*Places_LT_train"):
        PlacesLTDataModule(str(tmp_path)).num_classes  # noqa: B018


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Found no line in"),
        (b"train/a/1.JPEG\n", "Found 'train/a/1.JPEG' in line 1 of"),
        (b"train/a/1.JPEG 0\ntrain/a/2.JPEG -1\n", "Found 'train/a/2.JPEG -1' in line 2"),
        (b"train/a/1.JPEG 1.0\n", "in line 1"),
        ("train/a/1.JPEG \u00b2\n".encode(), "in line 1"),
        (b"../../a/1.JPEG 0\n", "in line 1"),
        (b"/etc/passwd 0\n", "in line 1"),
        (b"\xff\xfe\n", "cannot be read"),
        (b"train/a/1.JPEG 99999999999\n", "Found the label 99999999999 among 17 lines"),
    ],
)
def test_bad_lists(content: bytes, message: str, root: Path, tmp_path: Path) -> None:
    write_lists(tmp_path, "ImageNet_LT", COUNTS, WNIDS)
    (tmp_path / "ImageNet_LT_train.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"lines `path label`.*{message}"):
        ImageNetLTDataModule(str(tmp_path)).class_counts  # noqa: B018


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    write_lists(tmp_path, "ImageNet_LT", (2, 0, 1), WNIDS[:3])
    with pytest.raises(ValueError, match=r"at least one training sample.*1 \(n01443537\)"):
        ImageNetLTDataModule(str(tmp_path)).class_counts  # noqa: B018


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write_lists(tmp_path, "ImageNet_LT", COUNTS, WNIDS, images=True)
    broken = tmp_path / "train" / WNIDS[0] / f"{WNIDS[0]}_3.JPEG"
    broken.write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=f"Found `.*{broken.name}`"):
        list(ImageNetLTDataModule(str(tmp_path), image_size=8).dataset("train"))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="Image files should be readable.*Found 1 of 28 that are not"):
        ImageNetLTDataModule(str(tmp_path), check_files="header").class_counts  # noqa: B018
    with pytest.warns(UserWarning, match="They are left out"):
        data = ImageNetLTDataModule(str(tmp_path), check_files="header", on_corrupt="skip")
        assert data.class_counts.tolist() == [5, 3, 1, 2]
