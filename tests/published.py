"""Write small data sets in the layout in which the original ones are published."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def python2_pickle(value: Any) -> bytes:
    """Pickle a value by the very opcodes that Python 2 and NumPy 1 wrote into the files of CIFAR."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(each) for item in value.items() for each in item) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
    if isinstance(value, str | bytes):
        text = value.encode("latin1") if isinstance(value, str) else value
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<I", len(text)) + text
    if value.dtype != np.uint8:
        raise TypeError(value.dtype)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    shape = b"".join(map(_opcodes, value.shape)) + b"\x86"
    return empty + b"(K\x01" + shape + kind + b"\x89" + _opcodes(value.tobytes()) + b"tb"


def write_cifar100(root: Path, *, train: int = 10, test: int = 2, classes: int = 100, groups: int = 20) -> Path:
    """Write ``cifar-100-python`` with some images of each class; the superclass of a class is its index modulo 20."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        fine = random.permutation(np.arange(classes).repeat(count))
        batch = {
            "filenames": [f"image_{i}.png" for i in range(len(fine))],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": fine.tolist(),
            "coarse_labels": (fine % groups).tolist(),
            "data": random.integers(0, 256, (len(fine), 3072), dtype=np.uint8),
        }
        (folder / name).write_bytes(python2_pickle(batch))
    names = {"fine_label_names": [f"fine_{i:02d}" for i in range(classes)]}
    names["coarse_label_names"] = [f"coarse_{i:02d}" for i in range(groups)]
    (folder / "meta").write_bytes(python2_pickle(names))
    return root


def write_cifar10(root: Path, *, train: int = 20, test: int = 4) -> Path:
    """Write ``cifar-10-batches-py`` with some images of each class."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names, start=1):
        labels = random.permutation(np.arange(10).repeat(test if name == "test_batch" else train // 5))
        batch = {
            "batch_label": f"training batch {number} of 5",
            "labels": labels.tolist(),
            "data": random.integers(0, 256, (len(labels), 3072), dtype=np.uint8),
            "filenames": [f"image_{i}.png" for i in range(len(labels))],
        }
        (folder / name).write_bytes(python2_pickle(batch))
    kinds = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = {"num_cases_per_batch": 10000, "label_names": kinds, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return root


def write_image(path: Path, shade: int = 0, size: tuple[int, int] = (14, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade % 256, 0, 255 - shade % 256)).save(path)


def write_lists(root: Path, name: str, counts: Sequence[int], folders: Sequence[str], *, images: bool = False) -> Path:
    """Write the lists of ImageNet-LT or Places-LT, with two validation and two test images for each class."""
    root.mkdir(parents=True, exist_ok=True)
    splits = {"train": ("train", 0, counts), "val": ("train", 50_000, [2] * len(counts))}
    splits["test"] = ("val", 0, [2] * len(counts))
    for split, (top, first, numbers) in splits.items():
        lines = [
            (f"{top}/{folder}/{folder}_{first + i}.JPEG", label)
            for label, (folder, count) in enumerate(zip(folders, numbers, strict=True))
            for i in range(count)
        ]
        (root / f"{name}_{split}.txt").write_text("".join(f"{path} {label}\n" for path, label in lines))
        for path, label in lines if images else []:
            write_image(root / path, label)
    return root


def write_plantnet(root: Path, counts: Sequence[int] = (5, 3, 2), *, names: bool = True, held: int = 2) -> Path:
    """Write ``plantnet_300K``; the last class has no validation image."""
    ids = [str(1355868 + 777 * i) for i in range(len(counts))]
    metadata = {}
    for split in ("train", "val", "test"):
        for label, (species, count) in enumerate(zip(ids, counts, strict=True)):
            (root / "plantnet_300K" / "images" / split / species).mkdir(parents=True)
            number = {"train": count, "val": held * (label < len(counts) - 1), "test": held}[split]
            for i in range(number):
                key = f"{label:04x}{i:04x}{split}"
                write_image(root / "plantnet_300K" / "images" / split / species / f"{key}.jpg", label)
                metadata[key] = {"species_id": species, "obs_id": str(i), "organ": "flower", "split": split}
    (root / "plantnet_300K" / "plantnet300K_metadata.json").write_text(json.dumps(metadata))
    if names:
        table = {species: f"Planta {chr(122 - i)}. L." for i, species in enumerate(ids)}
        (root / "plantnet_300K" / "plantnet300K_species_id_2_name.json").write_text(json.dumps(table))
    return root


def write_inaturalist2021(root: Path, counts: Sequence[int] = (6, 4, 3)) -> Path:
    """Write ``2021_train`` and ``2021_valid``; the first two species are of one genus."""
    genera = ("Aporrectodea", "Aporrectodea", "Ursus")
    for version, numbers in (("2021_train", counts), ("2021_valid", [2] * len(counts))):
        for label, count in enumerate(numbers):
            genus = genera[min(label, 2)]
            tree = f"Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_{genus}_species{label}"
            for i in range(count):
                write_image(root / version / f"{label:05d}_{tree}" / f"{label}-{i}.jpg", label)
    return root


def write_inaturalist2018(root: Path, counts: Sequence[int] = (8, 6, 5)) -> Path:
    """Write ``2018`` and ``val2018.json``, which lists the first two images of each category."""
    listed = []
    for category, count in enumerate(counts):
        group = "Plantae" if category % 2 else "Aves"
        for i in range(count):
            write_image(root / "2018" / group / str(category) / f"{i}.jpg", category)
            if i < 2:
                listed.append({"id": len(listed), "file_name": f"train_val2018/{group}/{category}/{i}.jpg"})
    (root / "val2018.json").write_text(json.dumps({"images": listed, "annotations": []}))
    return root


def write_omniglot(root: Path, *, background: int = 3, evaluation: int = 2) -> Path:
    """Write ``omniglot-py`` with the drawings of all twenty drawers of some characters."""
    for part, alphabet, count in (
        ("images_background", "Greek", background),
        ("images_evaluation", "Angelic", evaluation),
    ):
        for character in range(1, count + 1):
            folder = root / "omniglot-py" / part / alphabet / f"character{character:02d}"
            folder.mkdir(parents=True)
            for drawer in range(1, 21):
                pixels = np.full((105, 105), 255, dtype=np.uint8)
                pixels[20 + drawer : 60, 40 : 40 + 5 * character] = 0
                Image.fromarray(pixels).convert("1").save(folder / f"{character:04d}_{drawer:02d}.png")
    return root


def write_features(root: Path) -> Path:
    """Write ``features.npz``."""
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "features.npz", x=np.random.default_rng(0).normal(size=(140, 12)), y=np.arange(140) % 7)
    return root


# By the file under `configs/data`: what writes enough for its data module, seven classes or more.
STAND_INS: dict[str, Callable[[Path], Path]] = {
    "cifar10_lt": lambda root: write_cifar10(root, train=50),
    "cifar100_lt": lambda root: write_cifar100(root, train=5),
    "cifar100_noise": lambda root: write_cifar100(root, train=20),
    "features": write_features,
    "imagenet_lt": lambda root: write_lists(root, "ImageNet_LT", [4] * 7, "abcdefg", images=True),
    "inaturalist": lambda root: write_inaturalist2021(root, [4] * 7),
    "omniglot_files": lambda root: write_omniglot(root, background=4, evaluation=3),
    "places_lt": lambda root: write_lists(root, "Places_LT", [4] * 7, "abcdefg", images=True),
    "plantnet300k": lambda root: write_plantnet(root, [4] * 7),
}
