"""Feature vectors from parquet files, beside those from npz files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import command
from lightning_topk.data import ArrayDataModule

LAW = "A data file in parquet should hold labels in the column `y` or `label`"


@pytest.fixture(scope="module")
def arrow() -> Any:
    return pytest.importorskip("pyarrow")


def write(arrow: Any, path: Path, **columns: Any) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table(columns), path, row_group_size=16)


def vectors(arrow: Any, count: int, dtype: str = "float32", *, fixed: bool = True) -> tuple[np.ndarray[Any, Any], Any]:
    values = np.random.default_rng(0).integers(-100, 100, (count, 6)).astype(dtype)
    flat = arrow.array(values.ravel())
    if fixed:
        return values, arrow.FixedSizeListArray.from_arrays(flat, 6)
    return values, arrow.ListArray.from_arrays(arrow.array(np.arange(count + 1) * 6, arrow.int32()), flat)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16"])
@pytest.mark.parametrize("fixed", [True, False])
def test_lists_are_read_like_an_array(dtype: str, fixed: bool, arrow: Any, tmp_path: Path) -> None:
    values, column = vectors(arrow, 60, dtype, fixed=fixed)
    labels = np.arange(60) % 3
    write(arrow, tmp_path / "a.parquet", features=column, label=labels)
    np.savez(tmp_path / "a.npz", x=values.astype("float32"), y=labels)
    data, expected = ArrayDataModule(tmp_path, "a.parquet"), ArrayDataModule(tmp_path, "a.npz")  # type: ignore[arg-type]
    assert (data.input_shape, data.num_classes, data.num_channels) == ((6,), 3, 6)
    assert data.class_counts.equal(expected.class_counts)
    assert data.split_sizes == expected.split_sizes
    for split in ("train", "val", "test"):
        for (x, y), (x_expected, y_expected) in zip(data.dataset(split), expected.dataset(split), strict=True):  # type: ignore[call-overload]
            assert x.dtype == torch.float32
            assert x.equal(x_expected)
            assert y == y_expected


def test_columns_of_numbers_and_labels_of_texts(arrow: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"age": rng.random(40), "height": rng.random(40).astype("float32"), "is_test": np.arange(40) < 10}
    names = ["wolf", "ant", "bee", "cat"]
    write(arrow, tmp_path / "t.parquet", **columns, y=[names[i % 4] for i in range(40)], id=np.arange(40))
    data = ArrayDataModule(str(tmp_path), "t.parquet", test_key="is_test", imbalance_factor=2)
    assert data.class_names == ["ant", "bee", "cat", "wolf"]
    assert data.input_shape == (2,)
    assert data.split_sizes["test"] == 10
    assert sorted(data.class_counts.tolist()) == [3, 4, 5, 6]
    image, label = data.dataset("test")[0]  # type: ignore[misc]
    expected = torch.tensor([columns["age"][0], columns["height"][0]]).float()
    assert image.equal(expected)
    assert data.class_names[int(label)] == "wolf"


def test_a_column_says_the_split(arrow: Any, tmp_path: Path) -> None:
    values, column = vectors(arrow, 60)
    split = np.array(["train"] * 40 + ["test"] * 20)
    write(arrow, tmp_path / "s.parquet", x=column, y=np.arange(60) % 3, split=split)
    data = ArrayDataModule(str(tmp_path), "s.parquet", val_fraction=0.25)
    assert data.split_sizes == {"train": 30, "val": 10, "test": 20}
    found = torch.stack([x for x, _ in data.dataset("test")])  # type: ignore[attr-defined]
    assert found.equal(torch.from_numpy(values[40:]))
    assert "split" not in data.archive


def test_bad_files(arrow: Any, tmp_path: Path) -> None:
    _, good = vectors(arrow, 8)
    labels = np.arange(8) % 2
    ragged = [[1.0]] * 4 + [[1.0, 2.0]] * 4
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "no labels": ({"x": good}, "Found x in"),
        "no features": ({"y": labels, "id": labels}, "Found y, id in"),
        "ragged": ({"x": ragged, "y": labels}, "lists of different length"),
        "holes": ({"x": [[1.0, None]] * 8, "y": labels}, "empty places"),
        "no list": ({"x": [[1.0]] * 7 + [None], "y": labels}, "Found 1 empty places in `x`"),
        "no label": ({"x": good, "y": [0, 1, None, 1, 0, 1, 0, 1]}, "Found 1 empty places in `y`"),
        "texts": ({"x": [["a"]] * 8, "y": labels}, "Found `x` of list<"),
        "numbers": ({"x": labels, "y": labels}, "Found `x` of int64"),
        "split": ({"x": good, "y": labels, "split": ["train"] * 7 + ["dev"]}, "train, val and test. Found `dev`"),
        "no training": ({"x": good, "y": labels, "split": ["test"] * 8}, "Found no `train`"),
    }
    for name, (columns, message) in cases.items():
        write(arrow, tmp_path / "bad.parquet", **columns)
        with pytest.raises(ValueError, match=f"{LAW}.*{message}"):
            ArrayDataModule(str(tmp_path), "bad.parquet").dataset("train")
            pytest.fail(name)
    write(arrow, tmp_path / "bad.parquet", x=good, y=labels + 0.5)
    with pytest.raises(TypeError, match="Found `y` of double|Found `y` of float64"):
        ArrayDataModule(str(tmp_path), "bad.parquet").dataset("train")
    whole = (tmp_path / "bad.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[: len(whole) // 2]):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=f"{LAW}.*cannot be read"):
            ArrayDataModule(str(tmp_path), "bad.parquet").dataset("train")


def test_more_than_fits_into_memory_is_refused(arrow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(arrow, tmp_path / "a.parquet", x=vectors(arrow, 200)[1], y=np.arange(200) % 2)
    monkeypatch.setattr("lightning_topk.data._parquet.memory", lambda: 1000)
    with pytest.raises(ValueError, match="should fit into memory of 1000 bytes"):
        ArrayDataModule(str(tmp_path), "a.parquet").num_classes  # noqa: B018


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    for name in ("pyarrow", "pyarrow.lib", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    printed = command("fit", "--data", "ArrayDataModule", "--data.root", str(tmp_path), "--data.file", "a.parquet")
    assert printed.status == 2
    assert "read where pyarrow is (`pip install lightning-topk[parquet]`). Found no pyarrow" in printed.err
