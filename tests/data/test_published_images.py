"""Pl@ntNet-300K, iNaturalist and Omniglot in the folders in which they are published."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import datasets

from lightning_topk.data import (
    ArrayDataModule,
    INaturalistDataModule,
    OmniglotDataModule,
    PlantNet300KDataModule,
    find_class_counts,
    find_labels,
    long_tail_counts,
)
from published import write_inaturalist2018, write_inaturalist2021, write_omniglot, write_plantnet


def check_splits(data: Any, channels: int = 3) -> None:
    """Sizes told beforehand are those of the data sets, no file is in two, and every split gives batches."""
    counts, sizes = data.class_counts, data.split_sizes
    assert not data._datasets
    assert int(counts.sum()) == sizes["train"]
    seen: list[str] = []
    for split, size in sizes.items():
        dataset = data.dataset(split)
        assert len(dataset) == size
        assert dataset.classes == data.class_names
        seen += [path for path, _ in dataset.samples]
    assert len(seen) == len(set(seen))
    assert find_class_counts(data.dataset("train"), data.num_classes).equal(counts)
    assert data.input_shape == (channels, 8, 8)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader))[0].shape[1:] == data.input_shape


# Pl@ntNet-300K


def test_plantnet(tmp_path: Path) -> None:
    write_plantnet(tmp_path)
    data = PlantNet300KDataModule(str(tmp_path), image_size=8)
    assert data.class_counts.tolist() == [5, 3, 2]
    assert data.split_sizes == {"train": 10, "val": 4, "test": 6}
    assert data.class_names == ["Planta z. L.", "Planta y. L.", "Planta x. L."]  # in the order of the ids
    check_splits(data)
    for split in ("train", "val", "test"):
        expected = datasets.ImageFolder(
            str(tmp_path / "plantnet_300K" / "images" / split), allow_empty=True
        )  # as the code of the authors reads it
        assert data.species_ids == expected.classes
        assert data.dataset(split).samples == expected.samples  # type: ignore[attr-defined]
    metadata = json.loads((tmp_path / "plantnet_300K" / "plantnet300K_metadata.json").read_text())
    for split in ("train", "val", "test"):
        for path, label in data.dataset(split).samples:  # type: ignore[attr-defined]
            entry = metadata[Path(path).stem]
            assert (entry["split"], entry["species_id"]) == (split, data.species_ids[label])


def test_plantnet_itself_and_without_names(tmp_path: Path) -> None:
    write_plantnet(tmp_path, names=False)
    data = PlantNet300KDataModule(str(tmp_path / "plantnet_300K"), image_size=8)
    assert data.class_names == data.species_ids == ["1355868", "1356645", "1357422"]
    assert data.split_sizes["test"] == 6


def test_plantnet_is_cropped_as_in_the_experiments(tmp_path: Path) -> None:
    write_plantnet(tmp_path)
    data = PlantNet300KDataModule(str(tmp_path), image_size=224)
    names = [[repr(step).partition("(")[0] for step in data.transform(split).transforms] for split in ("train", "val")]
    assert names == [
        ["Resize", "RandomCrop", "ToTensor", "Normalize"],
        ["Resize", "CenterCrop", "ToTensor", "Normalize"],
    ]
    assert {data.transform(split).transforms[0].size for split in ("train", "val")} == {256}
    torch.manual_seed(0)
    assert data.dataset("train")[0][0].shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[1, 2]", "the name of each species by its id. Found something else"),
        ('{"1355868": 3}', "Found something else"),
        ('{"1355868": "a"}', "Found no name of 1356645"),
    ],
)
def test_plantnet_with_bad_names(content: str, message: str, tmp_path: Path) -> None:
    write_plantnet(tmp_path)
    (tmp_path / "plantnet_300K" / "plantnet300K_species_id_2_name.json").write_text(content)
    with pytest.raises(ValueError, match=f"species_id_2_name.json` .*{message}"):
        PlantNet300KDataModule(str(tmp_path)).num_classes  # noqa: B018


def test_plantnet_that_is_not_there(tmp_path: Path) -> None:
    page = r"had at https://doi.org/10.5281/zenodo.4726653\. Found no folder `.*images/train`"
    with pytest.raises(FileNotFoundError, match=f"`root` should name the folder `plantnet_300K` with .*{page}"):
        PlantNet300KDataModule(str(tmp_path)).num_classes  # noqa: B018


# iNaturalist


def test_inaturalist_2021(tmp_path: Path) -> None:
    write_inaturalist2021(tmp_path)
    (tmp_path / "2021_train" / "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Aporrectodea_species0"
     / ".DS_Store").touch()  # fmt: skip
    data = INaturalistDataModule(str(tmp_path), image_size=8, val_fraction=0.25)
    assert data.class_names == ["Aporrectodea species0", "Aporrectodea species1", "Ursus species2"]
    assert data.class_counts.tolist() == [4, 3, 2]
    assert data.split_sizes == {"train": 9, "val": 4, "test": 6}
    assert all("2021_valid" in path for path, _ in data.dataset("test").samples)  # type: ignore[attr-defined]
    check_splits(INaturalistDataModule(str(tmp_path), image_size=8, val_fraction=0.25))


def test_inaturalist_2021_with_the_small_training_set(tmp_path: Path) -> None:
    write_inaturalist2021(tmp_path)
    (tmp_path / "2021_train").rename(tmp_path / "2021_train_mini")
    assert INaturalistDataModule(str(tmp_path), version="2021_mini").split_sizes["test"] == 6


def test_inaturalist_by_genus(tmp_path: Path) -> None:
    write_inaturalist2021(tmp_path)
    data = INaturalistDataModule(str(tmp_path), image_size=8, target_type="genus")
    assert data.class_names == ["Aporrectodea", "Ursus"]
    assert find_labels(data.dataset("test")).tolist() == [0, 0, 0, 0, 1, 1]  # type: ignore[union-attr]
    check_splits(INaturalistDataModule(str(tmp_path), image_size=8, target_type="genus"))


def test_inaturalist_2018_with_the_published_split(tmp_path: Path) -> None:
    write_inaturalist2018(tmp_path)
    arguments: dict[str, Any] = {"version": "2018", "image_size": 8, "val_fraction": 0.2}
    data = INaturalistDataModule(str(tmp_path), test_list="val2018.json", **arguments)
    assert data.class_names == ["Aves/0", "Plantae/1", "Aves/2"]
    assert data.split_sizes == {"train": 10, "val": 3, "test": 6}
    assert {Path(path).stem for path, _ in data.dataset("test").samples} == {"0", "1"}  # type: ignore[attr-defined]
    check_splits(INaturalistDataModule(str(tmp_path), test_list="val2018.json", **arguments))
    drawn = INaturalistDataModule(str(tmp_path), **arguments, test_fraction=0.3)
    assert drawn.split_sizes == {"train": 10, "val": 3, "test": 6}
    check_splits(drawn)


def test_inaturalist_does_not_follow_the_order_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inaturalist2021(tmp_path)
    first = INaturalistDataModule(str(tmp_path)).dataset("val").samples  # type: ignore[attr-defined]
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listed(path), reverse=True))
    assert INaturalistDataModule(str(tmp_path)).dataset("val").samples == first  # type: ignore[attr-defined]


def test_inaturalist_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "data"
    page = "`2021_train/<category>/<image>` and `2021_valid/.*to be had at https://github.com/visipedia/inat_comp"
    with pytest.raises(FileNotFoundError, match=f"{page}.* Found no folder `.*2021_train`"):
        INaturalistDataModule(str(missing)).num_classes  # noqa: B018
    assert not missing.exists()
    (tmp_path / "2021_train" / "wrong_name").mkdir(parents=True)
    (tmp_path / "2021_valid").mkdir()
    with pytest.raises(ValueError, match="cannot be read: Unexpected category name wrong_name"):
        INaturalistDataModule(str(tmp_path)).num_classes  # noqa: B018


def test_arguments_of_inaturalist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`version` should be one of .*Found `version = '2020'`"):
        INaturalistDataModule(version="2020")
    with pytest.raises(ValueError, match="`target_type` should be one of .*Found `target_type = 'super'`"):
        INaturalistDataModule(target_type="super")
    with pytest.raises(ValueError, match="`test_list` should be given for the versions 2017 to 2019 alone"):
        INaturalistDataModule(test_list="val2018.json")
    write_inaturalist2018(tmp_path)
    options: dict[str, Any] = {"version": "2018", "test_list": "val.json"}
    with pytest.raises(FileNotFoundError, match="`test_list` should name a file of annotations.*Found no `.*val.json`"):
        INaturalistDataModule(str(tmp_path), **options).class_counts  # noqa: B018
    for content, message in (
        ("{", "cannot be read"),
        ('{"images": [3]}', "cannot be read"),
        ('{"images": []}', "none"),
    ):
        (tmp_path / "val.json").write_text(content)
        with pytest.raises(ValueError, match=f"`test_list` should name .*{message}"):
            INaturalistDataModule(str(tmp_path), **options).class_counts  # noqa: B018


# Omniglot


def test_omniglot(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    data = OmniglotDataModule(str(tmp_path), image_size=8, imbalance_factor=1)
    assert data.class_names == [
        *(f"Angelic/character0{i}" for i in (1, 2)),
        *(f"Greek/character0{i}" for i in (1, 2, 3)),
    ]
    assert data.split_sizes == {"train": 5 * 13, "val": 5 * 2, "test": 5 * 5}
    for path, label in data.dataset("test").samples:  # type: ignore[attr-defined]
        assert int(Path(path).stem[-2:]) >= 16
        assert "/".join(Path(path).parts[-3:-1]) == data.class_names[label]
    check_splits(OmniglotDataModule(str(tmp_path), image_size=8, imbalance_factor=1), channels=1)
    tail = OmniglotDataModule(str(tmp_path), image_size=8)
    assert sorted(tail.class_counts.tolist(), reverse=True) == long_tail_counts(5, 13, 13)
    check_splits(tail, channels=1)


def test_parts_of_omniglot(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    assert OmniglotDataModule(str(tmp_path / "omniglot-py"), part="background").num_classes == 3
    assert OmniglotDataModule(str(tmp_path), part="evaluation").class_names[0].startswith("Angelic")


def test_ink_of_omniglot_is_bright(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    image, _ = OmniglotDataModule(str(tmp_path), augment=False).dataset("test")[-1]  # type: ignore[misc]
    ink = image * 0.2721 + 0.0805
    assert float(ink.min()) == pytest.approx(0, abs=1e-4)
    assert float(ink.max()) == pytest.approx(1, abs=1e-4)
    assert float(ink.mean()) < 0.2


def test_omniglot_has_the_counts_and_the_scale_of_the_array(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "omniglot28.npz").is_file():
        pytest.skip("needs the file omniglot28.npz among the real data")
    array = ArrayDataModule(
        str(shared_data), "omniglot28.npz", "drawer", [16, 17, 18, 19, 20], imbalance_factor=13, order="shuffled"
    )
    files = OmniglotDataModule(str(tmp_path))
    write_omniglot(tmp_path, background=1, evaluation=1)
    folders = dict.fromkeys(array.class_names, tmp_path)
    files.__dict__["_characters"] = folders
    files.__dict__["files"] = {
        "train": [(f"{label + 1:04d}_{drawer:02d}.png", label) for label in range(1623) for drawer in range(1, 21)]
    }
    assert files.class_names == array.class_names  # the same order of characters
    assert files.class_counts.equal(array.class_counts)
    assert files.split_sizes == array.split_sizes
    ink = array.archive.read("x").astype("float64") / 255
    assert (ink.mean(), ink.std()) == pytest.approx((0.0805, 0.2721), abs=1e-4)


def test_omniglot_that_is_not_there(tmp_path: Path) -> None:
    page = "to be had at https://github.com/brendenlake/omniglot.* Found no folder `.*images_background`"
    with pytest.raises(FileNotFoundError, match=f"omniglot-py/images_background/<alphabet>.*{page}"):
        OmniglotDataModule(str(tmp_path)).num_classes  # noqa: B018
    for part in ("images_background", "images_evaluation"):
        (tmp_path / part).mkdir()
    with pytest.raises(FileNotFoundError, match="Found no folder of a character"):
        OmniglotDataModule(str(tmp_path)).num_classes  # noqa: B018
    write_omniglot(tmp_path)
    folder = tmp_path / "omniglot-py" / "images_background" / "Greek" / "character01"
    (folder / "0001_01.png").rename(folder / "first.png")
    with pytest.raises(ValueError, match="name of a file should be `<number>_<drawer>.png`. Found `.*first.png`"):
        OmniglotDataModule(str(tmp_path)).class_counts  # noqa: B018
    (folder / "first.png").unlink()
    for path in (tmp_path / "omniglot-py").rglob("*_[12]*.png"):
        if int(path.stem[-2:]) >= 16:
            path.unlink()
    with pytest.raises(ValueError, match="Found no drawing of a drawer from 16 to 20"):
        OmniglotDataModule(str(tmp_path)).class_counts  # noqa: B018
