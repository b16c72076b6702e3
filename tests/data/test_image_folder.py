"""Images in one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_topk.data import ImageFolderDataModule, find_class_counts, long_tail_counts


def fill(root: Path, counts: dict[str, int]) -> None:
    """Write images whose shade is their number in the class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (14, 10), (i, i, i)).save(root / name / f"{i:03d}.png")


SMALL: dict[str, Any] = {"image_size": 8, "augment": False, "batch_size": 4}


def files(data: ImageFolderDataModule, split: str) -> list[str]:
    return [str(Path(path).relative_to(data.root)) for path, _ in data.dataset(split).samples]


def test_a_single_folder_is_split_by_the_seed(tmp_path: Path) -> None:
    fill(tmp_path, {"bee": 20, "ant": 10, "cat": 3})
    data = ImageFolderDataModule(str(tmp_path), **SMALL)
    assert data.class_names == ["ant", "bee", "cat"]
    assert (data.num_classes, data.num_channels, data.input_shape) == (3, 3, (3, 8, 8))
    assert data.class_counts.tolist() == [7, 14, 1]
    assert not data._datasets
    parts = [files(data, split) for split in ("train", "val", "test")]
    assert sorted(sum(parts, [])) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))  # noqa: RUF017
    again, other = ImageFolderDataModule(tmp_path, **SMALL), ImageFolderDataModule(tmp_path, **SMALL, seed=1)  # type: ignore[arg-type]
    assert [files(again, split) for split in ("train", "val", "test")] == parts
    assert [files(other, split) for split in ("train", "val", "test")] != parts


def test_folders_of_the_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"ant": 6, "bee": 5, "cat": 4})
    fill(tmp_path / "val", {"ant": 2, "bee": 2, "cat": 2})
    fill(tmp_path / "test", {"cat": 3})  # the other classes are missing: the labels do not shift
    data = ImageFolderDataModule(str(tmp_path), **SMALL)
    assert data.class_counts.tolist() == [6, 5, 4]
    assert find_class_counts(data.dataset("val"), 3).tolist() == [2, 2, 2]
    assert find_class_counts(data.dataset("test"), 3).tolist() == [0, 0, 3]


def test_a_missing_folder_is_drawn_from_the_training_images(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"ant": 10, "bee": 10})
    fill(tmp_path / "val", {"ant": 2, "bee": 2})
    data = ImageFolderDataModule(str(tmp_path), **SMALL)
    assert data.class_counts.tolist() == [8, 8]
    assert all(name.startswith("train") for name in files(data, "test"))
    assert not set(files(data, "test")) & set(files(data, "train"))


def test_only_the_training_set_becomes_long_tailed(tmp_path: Path) -> None:
    fill(tmp_path, dict.fromkeys(("ant", "bee", "cat"), 20))
    plain = ImageFolderDataModule(str(tmp_path), **SMALL)
    tailed = ImageFolderDataModule(str(tmp_path), **SMALL, imbalance_factor=7)
    assert tailed.class_counts.tolist() == long_tail_counts(3, 14, 7)
    for split in ("val", "test"):
        assert files(plain, split) == files(tailed, split)
    assert set(files(tailed, "train")) < set(files(plain, "train"))


@pytest.mark.parametrize("augment", [False, True])
def test_the_loaders_deliver_images_and_labels(tmp_path: Path, augment: bool) -> None:
    fill(tmp_path, {"ant": 8, "bee": 8})
    data = ImageFolderDataModule(str(tmp_path), image_size=8, augment=augment, batch_size=5)
    data.setup()
    for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        images, labels = map(torch.cat, zip(*loader, strict=True))
        assert images.shape[1:] == (3, 8, 8)
        assert images.dtype == torch.float32
        assert labels.bincount().equal(find_class_counts(data.dataset(split)))
    image, label = data.dataset("test")[0]
    path, expected = data.dataset("test").samples[0]
    shade = int(Path(path).stem) / 255
    assert label == expected
    assert float(image[0, 4, 4]) == pytest.approx((shade - 0.485) / 0.229, abs=1e-5)


def test_hyperparameters_are_primitives(tmp_path: Path) -> None:
    data = ImageFolderDataModule(tmp_path)  # type: ignore[arg-type]
    torch.save(dict(data.hparams), tmp_path / "hparams.pt")
    assert torch.load(tmp_path / "hparams.pt", weights_only=True)["root"] == str(tmp_path)


def test_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`root` should name a folder with `train/<class>/<image>`.*no folder"):
        _ = ImageFolderDataModule(str(tmp_path / "none")).num_classes
    with pytest.raises(FileNotFoundError, match="Found no folder of a class in"):
        _ = ImageFolderDataModule(str(tmp_path)).num_classes
    (tmp_path / "ant").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Found no image \(.jpg, .jpeg, .png"):
        _ = ImageFolderDataModule(str(tmp_path)).class_counts


def test_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:  # permissions do not hold for the superuser
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError, match=r"`root` should name a folder with .* cannot be read: Permission denied"):
        _ = ImageFolderDataModule(str(tmp_path)).num_classes


def test_a_class_without_training_images(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"ant": 6, "bee": 0})
    with pytest.raises(ValueError, match=r"at least one training sample.*Found none for 1 of 2 classes: 1 \(bee\)"):
        _ = ImageFolderDataModule(str(tmp_path)).class_counts


def test_a_class_of_the_test_set_alone(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"ant": 6, "bee": 6})
    fill(tmp_path / "test", {"ant": 2, "wasp": 2})
    with pytest.raises(ValueError, match=r"should be those of the training set. Found wasp in the test set alone"):
        _ = ImageFolderDataModule(str(tmp_path)).num_classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 4}, r"`image_size` should be an integer in \[8, 16384\]. Found `image_size = 4`"),
        ({"image_size": 10**6}, "Found `image_size = 1000000`"),
        ({"num_workers": 10**6}, r"`num_workers` should be an integer in \[0, 1024\]"),
        ({"val_fraction": 0.0}, "`val_fraction` should be a finite number > 0"),
        ({"test_fraction": float("nan")}, "`test_fraction` should be a finite number > 0"),
        ({"imbalance_factor": 0}, "`imbalance_factor` should be a finite number >= 1"),
        ({"profile": "zipf"}, "`profile` should be one of"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(".", **options)
