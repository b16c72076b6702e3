"""Labels of the data sets of torchvision, each built from small files in its original layout.

The law for all: what `find_labels` says is what the samples say.
"""

from __future__ import annotations

import bz2
import csv
import json
import pickle
import struct
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision import datasets

from lightning_topk.data import find_class_counts, find_labels


def image(path: Path, size: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def idx(path: Path, array: np.ndarray, kind: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes())


def trust(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str = "_check_integrity") -> None:
    """Switch off the comparison with the checksum of the original file."""
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: True)


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.cifar, "check_integrity")
    folder = root / "cifar-100-python"
    folder.mkdir()
    entry = {"data": np.zeros((5, 3072), np.uint8), "fine_labels": [3, 1, 3, 0, 2]}
    (folder / "train").write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b", "c", "d"]}))
    return datasets.CIFAR100(root)


def cifar10(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.cifar, "check_integrity")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for batch in range(1, 6):
        entry = {"data": np.zeros((2, 3072), np.uint8), "labels": [batch, 0]}
        (folder / f"data_batch_{batch}").write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdef")}))
    return datasets.CIFAR10(root)


def mnist(root: Path, patch: pytest.MonkeyPatch, kind: type = datasets.MNIST) -> Any:
    folder = root / kind.__name__ / "raw"
    idx(folder / "train-images-idx3-ubyte", np.zeros((4, 28, 28), np.uint8))
    idx(folder / "train-labels-idx1-ubyte", np.array([7, 0, 7, 9], np.uint8))
    idx(folder / "t10k-images-idx3-ubyte", np.zeros((1, 28, 28), np.uint8))
    idx(folder / "t10k-labels-idx1-ubyte", np.array([5], np.uint8))
    return kind(root)


def fashion(root: Path, patch: pytest.MonkeyPatch) -> Any:
    return mnist(root, patch, datasets.FashionMNIST)


def qmnist(root: Path, patch: pytest.MonkeyPatch) -> Any:
    folder = root / "QMNIST" / "raw"
    idx(folder / "qmnist-train-images-idx3-ubyte", np.zeros((3, 28, 28), np.uint8))
    columns = np.array([[5, 0, 1, 2, 3, 4, 0, 0], [1, 9, 9, 9, 9, 9, 0, 0], [5, 1, 1, 1, 1, 1, 0, 0]], ">i4")
    idx(folder / "qmnist-train-labels-idx2-int", columns, kind=12)
    return datasets.QMNIST(root, train=True)


def svhn(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.SVHN)
    content = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.array([[1], [10], [2], [10]], np.uint8)}
    scipy.io.savemat(root / "train_32x32.mat", content)
    return datasets.SVHN(root)


def stl10(root: Path, patch: pytest.MonkeyPatch, split: str = "train") -> Any:
    trust(patch, datasets.STL10)
    folder = root / "stl10_binary"
    folder.mkdir()
    for name, count in (("train_X", 3), ("unlabeled_X", 2)):
        (folder / f"{name}.bin").write_bytes(np.zeros((count, 3, 96, 96), np.uint8).tobytes())
    (folder / "train_y.bin").write_bytes(np.array([1, 10, 1], np.uint8).tobytes())
    return datasets.STL10(root, split=split)


def stl10_unlabelled(root: Path, patch: pytest.MonkeyPatch) -> Any:
    return stl10(root, patch, "train+unlabeled")


def usps(root: Path, patch: pytest.MonkeyPatch) -> Any:
    pixels = " ".join(f"{i}:0.0" for i in range(1, 257))
    (root / "usps.bz2").write_bytes(bz2.compress(f"3 {pixels}\n1 {pixels}\n".encode()))
    return datasets.USPS(root)


def semeion(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.SEMEION)
    np.savetxt(root / "semeion.data", np.hstack([np.zeros((3, 256)), np.eye(10)[[4, 0, 9]]]))
    return datasets.SEMEION(root, download=False)


def fer2013(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.fer2013, "check_integrity")
    rows = "".join(f"{label},{' '.join(['0'] * 2304)}\n" for label in (6, 2, 6))
    text(root / "fer2013" / "train.csv", "emotion,pixels\n" + rows)
    return datasets.FER2013(root)


def image_folder(root: Path, patch: pytest.MonkeyPatch) -> Any:
    for name in ("cat/1.png", "dog/1.png", "dog/2.png", "ant/1.png"):
        image(root / name)
    return datasets.ImageFolder(root)


def eurosat(root: Path, patch: pytest.MonkeyPatch) -> Any:
    for name in ("River/1.jpg", "Forest/1.jpg", "River/2.jpg"):
        image(root / "eurosat" / "2750" / name)
    return datasets.EuroSAT(root)


def omniglot(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.Omniglot)
    for name in ("Greek/character01/1.png", "Greek/character02/1.png", "Latin/character01/1.png"):
        image(root / "omniglot-py" / "images_background" / name)
    return datasets.Omniglot(root)


def gtsrb(root: Path, patch: pytest.MonkeyPatch) -> Any:
    for name in ("00000/0.ppm", "00002/0.ppm", "00002/1.ppm", "00001/0.ppm"):
        image(root / "gtsrb" / "GTSRB" / "Training" / name)
    return datasets.GTSRB(root)


def gtsrb_test(root: Path, patch: pytest.MonkeyPatch) -> Any:
    for name in ("0.ppm", "1.ppm"):
        image(root / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / name)
    with open(root / "gtsrb" / "GT-final_test.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["Filename", "ClassId"], ["0.ppm", 12], ["1.ppm", 3]])
    return datasets.GTSRB(root, split="test")


def food101(root: Path, patch: pytest.MonkeyPatch) -> Any:
    entries = {"pizza": ["pizza/1", "pizza/2"], "apple_pie": ["apple_pie/1"]}
    text(root / "food-101" / "meta" / "train.json", json.dumps(entries))
    for name in chain.from_iterable(entries.values()):
        image(root / "food-101" / "images" / f"{name}.jpg")
    return datasets.Food101(root)


def flowers102(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.Flowers102)
    folder = root / "flowers-102"
    for i in range(1, 5):
        image(folder / "jpg" / f"image_{i:05d}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([2, 1, 3, 2], np.uint8)})
    scipy.io.savemat(
        folder / "setid.mat", {"trnid": np.array([4, 2, 3]), "valid": np.array([1]), "tstid": np.array([1])}
    )
    return datasets.Flowers102(root)


def dtd(root: Path, patch: pytest.MonkeyPatch) -> Any:
    names = ("dotted/d_1.jpg", "banded/b_1.jpg", "dotted/d_2.jpg")
    text(root / "dtd" / "dtd" / "labels" / "train1.txt", "\n".join(names))
    for name in names:
        image(root / "dtd" / "dtd" / "images" / name)
    return datasets.DTD(root)


def aircraft(root: Path, patch: pytest.MonkeyPatch) -> Any:
    data = root / "fgvc-aircraft-2013b" / "data"
    text(data / "variants.txt", "707-320\n727-200\n")
    text(data / "images_variant_trainval.txt", "0001 727-200\n0002 707-320\n")
    for name in ("0001", "0002"):
        image(data / "images" / f"{name}.jpg")
    return datasets.FGVCAircraft(root)


def pets(root: Path, patch: pytest.MonkeyPatch, kind: str | list[str] = "category") -> Any:
    folder = root / "oxford-iiit-pet"
    text(folder / "annotations" / "trainval.txt", "Birman_1 2 1 1\npug_1 3 2 1\nAbyssinian_1 1 1 1\n")
    for name in ("Birman_1", "pug_1", "Abyssinian_1"):
        image(folder / "images" / f"{name}.jpg")
    return datasets.OxfordIIITPet(root, target_types=kind)


def pets_binary(root: Path, patch: pytest.MonkeyPatch) -> Any:
    return pets(root, patch, "binary-category")


def sun397(root: Path, patch: pytest.MonkeyPatch) -> Any:
    text(root / "SUN397" / "ClassName.txt", "/a/abbey\n/a/airport/inside\n")
    for name in ("a/airport/inside/sun_a.jpg", "a/abbey/sun_b.jpg"):
        image(root / "SUN397" / name)
    return datasets.SUN397(root)


def stanford_cars(root: Path, patch: pytest.MonkeyPatch) -> Any:
    folder = root / "stanford_cars"
    cars = np.array([("1.jpg", 2), ("2.jpg", 1)], dtype=[("fname", "O"), ("class", "O")])
    (folder / "devkit").mkdir(parents=True)
    scipy.io.savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": cars})
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["audi", "bmw"], object)})
    for name in ("1.jpg", "2.jpg"):
        image(folder / "cars_train" / name)
    return datasets.StanfordCars(root)


def caltech101(root: Path, patch: pytest.MonkeyPatch, kind: str | list[str] = "category") -> Any:
    trust(patch, datasets.Caltech101)
    folder = root / "caltech101" / "101_ObjectCategories"
    for name in ("BACKGROUND_Google/image_0001.jpg", "ant/image_0001.jpg", "bee/image_0001.jpg", "bee/image_0002.jpg"):
        image(folder / name)
    return datasets.Caltech101(root, target_type=kind)


def caltech256(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.Caltech256)
    for name in ("001.ant/001_0001.jpg", "002.bee/002_0001.jpg", "002.bee/002_0002.jpg"):
        image(root / "caltech256" / "256_ObjectCategories" / name)
    return datasets.Caltech256(root)


def inaturalist(root: Path, patch: pytest.MonkeyPatch, kind: str | list[str] = "full") -> Any:
    ranks = ("Plantae_P_C_O_F_G_alba", "Animalia_P_C_O_F_G_rubra", "Plantae_P_C_O_F_G_nigra")
    for i, rank in enumerate(ranks):
        for file in range(i + 1):
            image(root / "2021_train_mini" / f"{i:05d}_{rank}" / f"{file}.jpg")
    return datasets.INaturalist(root, version="2021_train_mini", target_type=kind)


def inaturalist_kingdom(root: Path, patch: pytest.MonkeyPatch) -> Any:
    return inaturalist(root, patch, "kingdom")


def inaturalist_2017(root: Path, patch: pytest.MonkeyPatch) -> Any:
    for name in ("Aves/crow/1.jpg", "Aves/owl/1.jpg", "Fungi/agaric/1.jpg"):
        image(root / "2017" / name)
    return datasets.INaturalist(root, version="2017")


def places365(root: Path, patch: pytest.MonkeyPatch) -> Any:
    trust(patch, datasets.Places365)
    text(root / "categories_places365.txt", "/a/abbey 0\n/a/airport 1\n")
    text(root / "places365_train_standard.txt", "/a/airport/1.jpg 1\n/a/abbey/1.jpg 0\n")
    for name in ("airport/1.jpg", "abbey/1.jpg"):
        image(root / "data_large_standard" / "a" / name)
    return datasets.Places365(root)


def imagenette(root: Path, patch: pytest.MonkeyPatch) -> Any:
    for name in ("n02979186/1.JPEG", "n01440764/1.JPEG", "n02979186/2.JPEG"):
        image(root / "imagenette2" / "train" / name)
    return datasets.Imagenette(root)


BUILDERS: tuple[Callable[[Path, pytest.MonkeyPatch], Any], ...] = (
    aircraft,
    caltech101,
    caltech256,
    cifar10,
    cifar100,
    dtd,
    eurosat,
    fashion,
    fer2013,
    flowers102,
    food101,
    gtsrb,
    gtsrb_test,
    image_folder,
    imagenette,
    inaturalist,
    inaturalist_2017,
    inaturalist_kingdom,
    mnist,
    omniglot,
    pets,
    pets_binary,
    places365,
    qmnist,
    semeion,
    stanford_cars,
    stl10,
    stl10_unlabelled,
    sun397,
    svhn,
    usps,
)


@pytest.fixture(params=BUILDERS, ids=lambda builder: builder.__name__)
def dataset(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return request.param(tmp_path, monkeypatch)


def delivered(dataset: Any) -> list[int]:
    labels = []
    for i in range(len(dataset)):
        sample, label = dataset[i]
        if hasattr(sample, "close"):
            sample.close()  # some of torchvision's data sets leave the file open
        labels.append(int(label))
    return labels


def test_labels_are_those_of_the_samples(dataset: Any) -> None:
    labels = find_labels(dataset)
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == delivered(dataset)


def test_parts_of_a_data_set_have_their_own_labels(dataset: Any) -> None:
    backwards = Subset(dataset, list(range(len(dataset)))[::-1][:2])
    both = ConcatDataset([backwards, dataset])
    assert find_labels(backwards, strict=True).tolist() == delivered(dataset)[::-1][:2]
    assert find_labels(both, strict=True).tolist() == delivered(dataset)[::-1][:2] + delivered(dataset)


def test_a_target_transform_changes_the_labels(dataset: Any) -> None:
    if not hasattr(dataset, "target_transform"):
        pytest.skip("takes no target_transform")
    dataset.target_transform = lambda label: 10 - label
    dataset.transforms = datasets.vision.StandardTransform(None, dataset.target_transform)
    assert find_labels(dataset, strict=True).tolist() == delivered(dataset)


def test_samples_without_a_label_are_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = stl10_unlabelled(tmp_path, monkeypatch)
    assert find_labels(dataset, strict=True).tolist() == [0, 9, 0, -1, -1]
    with pytest.raises(ValueError, match=r"class indices >= 0, or `ignore_index = -100`.*Found -1 in `STL10`"):
        find_class_counts(dataset)
    assert find_class_counts(dataset, 10, ignore_index=-1).tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("builder", "kind", "reason"),
    [
        (pets, ["category", "binary-category"], r"targets \['category', 'binary-category'\] instead of one class"),
        (pets, "segmentation", "a target of the kind 'segmentation' is no class index"),
        (caltech101, "annotation", "a target of the kind 'annotation' is no class index"),
        (inaturalist, ["full", "kingdom"], r"targets \['full', 'kingdom'\] instead of one class"),
    ],
)
def test_other_kinds_of_target_are_no_labels(
    builder: Callable[..., Any], kind: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = builder(tmp_path, monkeypatch, kind)
    assert find_labels(dataset) is None
    with pytest.raises(ValueError, match=reason):
        find_labels(dataset, strict=True)


def test_all_columns_of_qmnist_are_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = qmnist(tmp_path, monkeypatch)
    dataset.compat = False
    with pytest.raises(ValueError, match=r"`targets` has shape \[3, 8\], as one-hot or multi-label targets have"):
        find_labels(dataset, strict=True)


def test_fake_data_has_no_labels_before_it_is_read() -> None:
    dataset = datasets.FakeData(size=3)
    assert find_labels(dataset) is None
    with pytest.raises(ValueError, match="Found `FakeData`: none of the known places of labels is there"):
        find_labels(dataset, strict=True)
