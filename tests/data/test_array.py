"""Images and feature vectors from ``.npz`` files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_topk.data import ArrayDataModule, find_class_counts, long_tail_counts

COUNTS = [40, 30, 20, 3]


def labels_of(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))


def save(folder: Path, **arrays: Any) -> ArrayDataModule:
    """Write a file and return the module on it; arguments of the module come under `options`."""
    options = arrays.pop("options", {})
    np.savez_compressed(folder / "toy.npz", **arrays)
    return ArrayDataModule(str(folder), "toy.npz", **options)


def toy(folder: Path, **options: Any) -> ArrayDataModule:
    """Images whose every pixel is their position, so that a sample can be traced to its row."""
    y = labels_of(COUNTS)
    x = np.broadcast_to(np.arange(len(y), dtype=np.uint8)[:, None, None], (len(y), 8, 6))
    return save(folder, x=x, y=y, names=np.array(["ant", "bee", "cat", "dog"]), options=options)


def positions(data: ArrayDataModule, split: str) -> list[int]:
    return data.rows[split][1].tolist()


def test_facts_are_known_before_the_set_up(tmp_path: Path) -> None:
    data = toy(tmp_path)
    assert data.num_classes == 4
    assert data.class_names == ["ant", "bee", "cat", "dog"]
    assert data.input_shape == (1, 8, 6)
    assert data.num_channels == 1
    assert data.class_counts.tolist() == [29, 22, 14, 1]  # 20 % test and 10 % of the rest, at least one each
    assert not data._arrays
    assert not data._datasets


def test_drawn_splits_are_disjoint_complete_and_stratified(tmp_path: Path) -> None:
    data = toy(tmp_path)
    rows = [positions(data, split) for split in ("train", "val", "test")]
    assert sorted(sum(rows, [])) == list(range(93))  # noqa: RUF017
    y = torch.from_numpy(labels_of(COUNTS))
    assert y[rows[1]].bincount().tolist() == [3, 2, 2, 1]
    assert y[rows[2]].bincount().tolist() == [8, 6, 4, 1]


def test_two_constructions_are_equal_and_the_seed_matters(tmp_path: Path) -> None:
    first = toy(tmp_path, imbalance_factor=5)
    torch.manual_seed(77)
    again, other = toy(tmp_path, imbalance_factor=5), toy(tmp_path, imbalance_factor=5, seed=1)
    for split in ("train", "val", "test"):
        assert positions(first, split) == positions(again, split)
        assert positions(first, split) != positions(other, split)
    assert first.class_counts.equal(again.class_counts)


def test_the_loaders_deliver_the_rows(tmp_path: Path) -> None:
    data = toy(tmp_path, batch_size=16)
    data.setup()
    pixels = data.dataset("train").array[positions(data, "train")] / 255
    mean, std = pixels.mean(), pixels.std()
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        images = torch.cat([images for images, _ in loader])
        assert images.shape[1:] == (1, 8, 6)
        rows = torch.tensor(positions(data, split))
        torch.testing.assert_close(images[:, 0, 0, 0], ((rows / 255 - mean) / std).float(), atol=1e-5, rtol=1e-5)
        assert torch.cat([labels for _, labels in loader]).equal(torch.from_numpy(labels_of(COUNTS))[rows])
    images, labels = zip(*data.train_dataloader(), strict=True)
    assert torch.cat(labels).bincount(minlength=4).equal(data.class_counts)
    assert abs(float(torch.cat(images).mean())) < 1e-5


def test_one_sample_equals_its_row_of_a_batch(tmp_path: Path) -> None:
    dataset = toy(tmp_path).dataset("train")
    batch = dataset.__getitems__([3, 0, -1])
    for index, (image, label) in zip([3, 0, -1], batch, strict=True):
        assert dataset[index][0].equal(image)
        assert int(dataset[index][1]) == int(label)


def test_only_the_training_set_becomes_long_tailed(tmp_path: Path) -> None:
    y = labels_of([50] * 5)
    arrays = {"x": np.zeros((250, 4, 4), np.uint8), "y": y}
    balanced = save(tmp_path, **arrays)
    tailed = save(tmp_path, **arrays, options={"imbalance_factor": 10})
    assert balanced.class_counts.tolist() == [36] * 5
    assert tailed.class_counts.tolist() == long_tail_counts(5, 36, 10)
    for split in ("val", "test"):
        assert positions(balanced, split) == positions(tailed, split)
    assert set(positions(tailed, "train")) < set(positions(balanced, "train"))
    shuffled = save(tmp_path, **arrays, options={"imbalance_factor": 10, "order": "shuffled", "profile": "step"})
    assert sorted(shuffled.class_counts.tolist()) == [3] * 3 + [36] * 2


@pytest.mark.parametrize("values", [None, [16, 17]])
def test_a_key_marks_the_test_samples(tmp_path: Path, values: list[int] | None) -> None:
    y = labels_of(COUNTS)
    drawer = np.arange(len(y)) % 18
    marks = drawer if values else drawer >= 16
    options = {"test_key": "who", "test_values": values}
    data = save(tmp_path, x=np.zeros((len(y), 4, 4), np.uint8), y=y, who=marks, options=options)
    assert positions(data, "test") == np.flatnonzero(drawer >= 16).tolist()


SPLITS = {
    "x_train": np.zeros((30, 5), np.float32),
    "y_train": np.arange(30) % 3,
    "x_val": np.ones((6, 5), np.float32),
    "y_val": np.arange(6) % 3,
    "x_test": np.full((9, 5), 2, np.float32),
    "y_test": np.arange(9) % 3,
}


def test_named_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    data = save(tmp_path, **SPLITS)
    assert data.class_counts.tolist() == [10] * 3
    assert data.class_names == ["0", "1", "2"]
    assert data.input_shape == (5,)
    assert data.num_channels == 5
    for split, value in (("val", 1.0), ("test", 2.0)):
        vectors, labels = data.dataset(split).__getitems__(list(range(6)))[0]
        assert vectors.tolist() == [value] * 5
        assert int(labels) == 0
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [30, 6, 9]


@pytest.mark.parametrize("missing", [("val",), ("test",), ("val", "test")])
def test_a_missing_split_is_drawn_from_the_training_samples(tmp_path: Path, missing: tuple[str, ...]) -> None:
    arrays = {key: array for key, array in SPLITS.items() if key[2:] not in missing}
    data = save(tmp_path, **arrays)
    for split in missing:
        assert data.rows[split][0] == "x_train"
        assert not set(positions(data, split)) & set(positions(data, "train"))
    drawn = sum(len(positions(data, split)) for split in ("train", *missing))
    assert drawn == 30


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((8, 6, 5), np.uint8), (1, 6, 5)),
        (np.zeros((8, 6, 5, 3), np.uint8), (3, 6, 5)),
        (np.zeros((8, 6, 5, 1), np.uint8), (1, 6, 5)),
        (np.zeros((8, 3, 6, 5), np.uint8), (3, 6, 5)),
        (np.zeros((8, 1, 6, 5), np.float32), (1, 6, 5)),
        (np.zeros((8, 6, 5), np.float64), (1, 6, 5)),
        (np.zeros((8, 7), np.float16), (7,)),
        (np.zeros((8, 7), np.uint8), (7,)),
    ],
)
def test_shapes_and_dtypes_of_samples(tmp_path: Path, array: np.ndarray, shape: tuple[int, ...]) -> None:
    data = save(tmp_path, x=array, y=np.arange(8) % 2, options={"test_fraction": 0.3, "val_fraction": 0.3})
    assert data.input_shape == shape
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape[1:] == shape
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_channels_last_images_keep_their_pixels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), dtype=np.uint8)
    data = save(tmp_path, x=x, y=np.arange(8) % 2)
    assert np.array_equal(data.dataset("train").array, np.moveaxis(x, 3, 1))
    pixels = x[positions(data, "train")] / 255
    images = torch.stack([image for image, _ in data.dataset("train")])
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    torch.testing.assert_close(images, torch.from_numpy(np.moveaxis(expected, 3, 1)).float(), atol=1e-4, rtol=1e-4)


def test_floating_point_samples_are_taken_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(5, 3, (8, 4)).astype(np.float32)
    data = save(tmp_path, x=x, y=np.arange(8) % 2)
    rows = positions(data, "train")
    assert torch.stack([vector for vector, _ in data.dataset("train")]).equal(torch.from_numpy(x[rows]))


def test_constant_images_stay_finite(tmp_path: Path) -> None:
    data = save(tmp_path, x=np.full((8, 4, 4), 9, np.uint8), y=np.arange(8) % 2)
    images, _ = next(iter(data.train_dataloader()))
    assert torch.isfinite(images).all()


def test_augmentation_changes_training_images_alone(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    data = save(tmp_path, x=x, y=np.arange(40) % 2, options={"augment": True, "flip": True})
    torch.manual_seed(1)
    first, again = (next(iter(data.train_dataloader()))[0] for _ in range(2))
    assert not first.equal(again)
    torch.manual_seed(1)
    assert next(iter(data.train_dataloader()))[0].equal(first)
    assert next(iter(data.val_dataloader()))[0].equal(next(iter(data.val_dataloader()))[0])


@pytest.mark.timeout(60)
def test_workers_deliver_the_same(tmp_path: Path) -> None:
    plain, parallel = toy(tmp_path, batch_size=5), toy(tmp_path, batch_size=5, num_workers=1)
    for (x, y), (u, v) in zip(plain.test_dataloader(), parallel.test_dataloader(), strict=True):
        assert x.equal(u)
        assert y.equal(v)


def test_images_are_read_once_and_shared(tmp_path: Path) -> None:
    data = toy(tmp_path)
    data.setup()
    arrays = {id(data.dataset(split).array) for split in ("train", "val", "test")}
    assert len(arrays) == 1
    assert data.dataset("train").array.dtype == np.uint8


def test_stages_build_what_they_need(tmp_path: Path) -> None:
    for stage, splits in (("fit", {"train", "val"}), ("validate", {"val"}), ("test", {"test"}), ("predict", {"test"})):
        data = toy(tmp_path)
        data.setup(stage)
        assert set(data._datasets) == splits


def test_hyperparameters_are_primitives(tmp_path: Path) -> None:
    toy(tmp_path)
    data = ArrayDataModule(tmp_path, "toy.npz", test_key=None)  # type: ignore[arg-type]
    torch.save(dict(data.hparams), tmp_path / "hparams.pt")
    assert torch.load(tmp_path / "hparams.pt", weights_only=True)["root"] == str(tmp_path)


def test_an_empty_tail_class_of_one_sample_survives(tmp_path: Path) -> None:
    data = save(tmp_path, x=np.zeros((12, 4, 4), np.uint8), y=np.array([0] * 10 + [1, 2]))
    assert data.class_counts.tolist() == [7, 1, 1]


def test_errors_name_the_folder_and_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"`root` should name a folder that holds .*`x.npz`.*no folder `.*/none`"
    ):
        _ = ArrayDataModule(str(tmp_path / "none"), "x.npz").num_classes
    with pytest.raises(
        FileNotFoundError, match=r"`file` should name an `.npz` or `.parquet` file.*no `x.npz`, nor any other"
    ):
        _ = ArrayDataModule(str(tmp_path), "x.npz").num_classes
    toy(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Found no `x.npz`; there are toy.npz\."):
        _ = ArrayDataModule(str(tmp_path), "x.npz").class_counts


def test_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # permissions do not hold for the superuser
    with pytest.raises(PermissionError, match=r"`root` should name a readable folder. Found `.*`, which is not"):
        _ = ArrayDataModule(str(tmp_path), "x.npz").num_classes


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "toy.npz").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"should be an `.npz` archive as written by `numpy.savez`. `.*` cannot be read"
    ):
        _ = ArrayDataModule(str(tmp_path), "toy.npz").num_classes


def test_a_damaged_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", x=np.zeros((200, 8, 8), np.uint8), y=np.arange(200) % 4)
    content = bytearray((tmp_path / "toy.npz").read_bytes())
    content[5000:5100] = b"\xff" * 100
    (tmp_path / "toy.npz").write_bytes(content)
    data = ArrayDataModule(str(tmp_path), "toy.npz")
    assert data.num_classes == 4
    with pytest.raises(ValueError, match=r"The array `x` of `.*toy.npz` cannot be read: .*CRC"):
        data.setup()


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    data = save(tmp_path, x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, {"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"The array `y` .* cannot be read: Object arrays cannot be loaded"):
        _ = data.num_classes


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "toy.npz", "w") as archive:
        archive.writestr("x.npy", b"text")
        archive.writestr("y.npy", b"text")
    with pytest.raises(ValueError, match=r"The array `x` of .* cannot be read"):
        _ = ArrayDataModule(str(tmp_path), "toy.npz").num_classes


X, Y = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2


@pytest.mark.parametrize(
    ("arrays", "error", "fact"),
    [
        ({"x": X}, ValueError, r"Found no `y` in `.*toy.npz`, but x\."),
        ({"text_train": Y, "y_train": Y}, ValueError, r"Found no `x` in .*, but text_train, y_train\."),
        ({"x_train": X, "y": Y}, ValueError, "Found no `y_train`"),
        ({**SPLITS, "y_val": None}, ValueError, "Found one of `x_val` and `y_val`"),
        ({"x": X, "y": Y[:5]}, ValueError, "Found 6 samples in `x` and 5 labels in `y`"),
        ({"x": X, "y": Y.astype(float)}, TypeError, r"Found `y` of float64 \[6\]"),
        ({"x": X, "y": np.eye(6, dtype=int)}, TypeError, r"Found `y` of int64 \[6, 6\]"),
        ({"x": X.astype(np.int32), "y": Y}, TypeError, r"Found `x` of int32 \[6, 4, 4\]"),
        ({"x": X[:, 0, 0], "y": Y}, TypeError, r"Found `x` of uint8 \[6\]"),
        ({"x": np.zeros((6, 5, 4, 7), np.uint8), "y": Y}, TypeError, r"Found `x` of uint8 \[6, 5, 4, 7\]"),
        ({"x": X[:0], "y": Y[:0]}, TypeError, r"Found `x` of uint8 \[0, 4, 4\]"),
        ({"x": X, "y": Y - 1}, ValueError, "Found the label -1 with 1 classes beside `x`"),
        ({"x": X, "y": Y, "names": np.array(["only"])}, ValueError, "Found the label 1 with 1 classes"),
        ({"x": X, "y": Y, "names": np.array([1, 2])}, TypeError, r"Found `names` of int64 \[2\]"),
        ({"x": X, "y": Y * 2}, ValueError, r"at least one training sample.*Found none for 1 of 3 classes: 1 \(1\)"),
        (
            {"x": X, "y": Y, "names": np.array(["a", "b", "elk"])},
            ValueError,
            r"Found none for 1 of 3 classes: 2 \(elk\)",
        ),
        ({**SPLITS, "x_test": np.zeros((9, 4), np.float32)}, ValueError, r"Found `x_train` of \[30, 5\] and `x_test`"),
        ({**SPLITS, "y_test": np.full(9, 7)}, ValueError, "at least one training sample.*: 3 .3., 4 .4., 5 .5."),
    ],
)
def test_files_without_the_layout(tmp_path: Path, arrays: dict[str, Any], error: type[Exception], fact: str) -> None:
    data = save(tmp_path, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(error, match=fact) as caught:
        _ = data.class_counts, data.input_shape
    assert "should" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"test_key": "nope"}, ValueError, r"`test_key` should name an array.* Found `test_key = 'nope'` with .*x, y"),
        ({"test_key": "y"}, ValueError, r"of 93 booleans, or come with `test_values`. Found `y` of int64 \[93\]"),
        (
            {"test_key": "y", "test_values": [17]},
            ValueError,
            r"mark at least one test sample. Found none in `y`.*\[17\]",
        ),
        ({"test_key": "names", "test_values": [1]}, ValueError, r"Found `names` of bool \[4\]"),
        ({"test_values": [1]}, ValueError, "`test_values` should come with `test_key`"),
        ({"val_fraction": 0.0}, ValueError, "`val_fraction` should be a finite number > 0 and <= 0.9"),
        ({"test_fraction": 1.0}, ValueError, "`test_fraction` should be a finite number > 0 and <= 0.9"),
        ({"imbalance_factor": 0.1}, ValueError, "`imbalance_factor` should be a finite number >= 1"),
        ({"imbalance_factor": float("nan")}, ValueError, "`imbalance_factor` should be a finite number >= 1"),
        ({"profile": "none"}, ValueError, "`profile` should be one of"),
        ({"order": "none"}, ValueError, "`order` should be one of"),
        ({"batch_size": 0}, ValueError, "`batch_size` should be an integer >= 1"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _ = toy(tmp_path, **options).class_counts


def test_plankton_as_the_config_reads_it(shared_data: Path) -> None:
    data = ArrayDataModule(str(shared_data), "plankton32.npz", test_key="is_test")
    assert data.num_classes == 121
    assert data.class_names[0] == "acantharia_protist"
    assert int(data.class_counts.min()) == 5
    data.setup("fit")
    assert find_class_counts(data.dataset("train"), 121).equal(data.class_counts)
    assert find_class_counts(data.dataset("val"), 121).min() >= 1
    assert len(data.dataset("train")) + len(data.dataset("val")) + len(positions(data, "test")) == 30_336
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (128, 1, 32, 32)


def test_omniglot_as_the_config_reads_it(shared_data: Path) -> None:
    options: dict[str, Any] = {"test_key": "drawer", "test_values": [16, 17, 18, 19, 20]}
    data = ArrayDataModule(
        str(shared_data), "omniglot28.npz", **options, imbalance_factor=13, order="shuffled", augment=True
    )
    assert data.num_classes == 1623
    assert sorted(data.class_counts.tolist(), reverse=True) == long_tail_counts(1623, 13, 13)
    data.setup("test")
    assert find_class_counts(data.dataset("test")).tolist() == [5] * 1623
    assert torch.isfinite(next(iter(data.test_dataloader()))[0]).all()
