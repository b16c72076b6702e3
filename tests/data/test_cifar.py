"""CIFAR from its pickles, with long tails and label noise."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from lightning_topk.data import CIFAR10DataModule, CIFAR100DataModule, find_labels
from lightning_topk.data._augment import ShiftAndMirror
from lightning_topk.data._cifar import _MEAN, _STD
from lightning_topk.data._label_noise import noisy_labels
from lightning_topk.data._resumable import Keyed
from published import python2_pickle, write_cifar10, write_cifar100


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar10(write_cifar100(tmp_path_factory.mktemp("cifar")))


class Plain10(datasets.CIFAR10):
    """torchvision's reader without the checksums of the published files."""

    train_list = tuple((name, None) for name, _ in datasets.CIFAR10.train_list)
    test_list = tuple((name, None) for name, _ in datasets.CIFAR10.test_list)
    meta = datasets.CIFAR10.meta | {"md5": None}


class Plain100(datasets.CIFAR100):
    train_list = tuple((name, None) for name, _ in datasets.CIFAR100.train_list)
    test_list = tuple((name, None) for name, _ in datasets.CIFAR100.test_list)
    meta = datasets.CIFAR100.meta | {"md5": None}


def images_of(dataset: Any) -> torch.Tensor:
    """Undo the normalisation."""
    stacked = torch.stack([image for image, _ in dataset])
    return (stacked * _STD.view(-1, 1, 1) + _MEAN.view(-1, 1, 1)) * 255


@pytest.mark.parametrize(("kind", "plain"), [(CIFAR10DataModule, Plain10), (CIFAR100DataModule, Plain100)])
@pytest.mark.filterwarnings("ignore:dtype\\(\\):")  # NumPy >= 2.4 of the pickles of NumPy 1, in torchvision's reader
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_images_labels_and_names_are_those_of_torchvision(kind: Any, plain: Any, root: Path) -> None:
    data = kind(str(root), val_fraction=0.0)
    for split, train in (("train", True), ("test", False)):
        expected = plain(str(root), train=train)
        assert data.class_names == expected.classes
        assert data.dataset(split).targets.tolist() == expected.targets
        images = images_of(data.dataset(split)).round().byte()
        assert images.permute(0, 2, 3, 1).equal(torch.from_numpy(expected.data))


def test_python_3_writes_the_same_layout(root: Path, tmp_path: Path) -> None:
    expected = CIFAR100DataModule(root)  # type: ignore[arg-type]
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(dict(expected._read(name)), protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": expected.class_names}, protocol=4))
    data = CIFAR100DataModule(str(tmp_path))
    assert data.class_counts.equal(expected.class_counts)
    assert data.dataset("test")[3][0].equal(expected.dataset("test")[3][0])


def test_facts_are_known_without_images(root: Path) -> None:
    data = CIFAR100DataModule(str(root), val_fraction=0.2)
    assert (data.num_classes, data.num_channels, data.input_shape) == (100, 3, (3, 32, 32))
    assert data.class_counts.tolist() == [8] * 100
    assert data.split_sizes == {"train": 800, "val": 200, "test": 200}
    assert not data._datasets
    for split, size in data.split_sizes.items():
        assert len(data.dataset(split)) == size  # type: ignore[arg-type]
    images, targets = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, targets.dtype) == ((128, 3, 32, 32), torch.float32, torch.int64)
    rows = [set(data.rows[split][1].tolist()) for split in ("train", "val")]
    assert not rows[0] & rows[1]


def counts_of_ldam(classes: int, largest: int, kind: str, factor: float) -> list[int]:
    """The counts as the code of the paper makes them."""
    if kind == "step":
        return [int(largest)] * (classes // 2) + [int(largest * factor)] * (classes // 2)
    return [int(largest * factor ** (index / (classes - 1.0))) for index in range(classes)]


@pytest.mark.parametrize("factor", [10, 50, 100, 200])
@pytest.mark.parametrize("profile", ["exp", "step"])
@pytest.mark.parametrize(
    ("kind", "classes", "largest"), [(CIFAR10DataModule, 10, 5000), (CIFAR100DataModule, 100, 500)]
)
def test_long_tails_have_the_counts_of_ldam(kind: Any, classes: int, largest: int, profile: str, factor: int) -> None:
    data = kind(val_fraction=0.0, imbalance_factor=factor, profile=profile)
    labels = torch.arange(classes).repeat(largest).tolist()
    images = np.broadcast_to(np.uint8(0), (len(labels), 3, 32, 32))
    data.__dict__["class_names"] = [str(label) for label in range(classes)]
    data.__dict__["_sources"] = {"train": {"data": images, data.labels_key: labels}}
    data.__dict__["_sources"]["test"] = {"data": images[:classes], data.labels_key: labels[:classes]}
    assert data.class_counts.tolist() == counts_of_ldam(classes, largest, profile, 1 / factor)
    assert data.split_sizes["val"] == data.split_sizes["test"] == classes


@pytest.mark.parametrize(("noise", "group"), [("ids", lambda y: y // 5), ("superclass", lambda y: y % 20)])
def test_noise_stays_within_its_group_and_on_training_labels(noise: str, group: Any, root: Path) -> None:
    clean = CIFAR100DataModule(str(root), augment=False)
    data = CIFAR100DataModule(str(root), augment=False, noise=noise, noise_fraction=0.5)
    assert [data.rows[s][1].tolist() for s in ("train", "val")] == [clean.rows[s][1].tolist() for s in ("train", "val")]
    before, after = (find_labels(each.dataset("train"), strict=True) for each in (clean, data))
    assert group(before).equal(group(after))
    assert 0.3 < float((before != after).float().mean()) < 0.5  # 0.8 of 0.5
    for split in ("val", "test"):
        assert data.dataset(split).targets.equal(clean.dataset(split).targets)  # type: ignore[attr-defined]
    assert data.class_counts.tolist() == after.bincount(minlength=100).tolist()
    assert not data.class_counts.equal(clean.class_counts)
    tail = CIFAR100DataModule(str(root), augment=False, noise=noise, noise_fraction=0.5, imbalance_factor=5)
    kept = {int(row): int(label) for row, label in zip(data.rows["train"][1], after, strict=True)}
    assert [kept[int(row)] for row in tail.rows["train"][1]] == tail.dataset("train").targets.tolist()  # type: ignore[attr-defined]


def test_noise_is_drawn_as_in_the_experiments() -> None:
    """With probability p, y becomes y - y % 5 + U{0, ..., 4}."""
    labels = torch.arange(100).repeat(2000)
    noisy = noisy_labels(labels, torch.arange(100) // 5, 0.2, seed=3)
    moved = (noisy - labels)[noisy != labels]
    assert abs(len(moved) / len(labels) - 0.16) < 0.003  # three standard errors are 0.0025
    shares = torch.bincount(noisy % 5, minlength=5) / len(labels)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.004, rtol=0)
    zero = noisy[labels == 10]
    expected = torch.tensor([0.84, 0.04, 0.04, 0.04, 0.04])
    torch.testing.assert_close(torch.bincount(zero - 10, minlength=5) / len(zero), expected, atol=0.03, rtol=0)
    assert noisy_labels(labels, torch.arange(100) // 5, 0.2, seed=3).equal(noisy)
    assert not noisy_labels(labels, torch.arange(100) // 5, 0.2, seed=4).equal(noisy)
    assert noisy_labels(labels, torch.arange(100) // 5, 0.0, seed=3).equal(labels)


def test_groups_of_different_size() -> None:
    groups = torch.tensor([2, 0, 2, 2, 1])
    noisy = noisy_labels(torch.arange(5).repeat(400), groups, 1.0, seed=0).view(400, 5)
    assert [sorted(set(noisy[:, label].tolist())) for label in range(5)] == [[0, 2, 3], [1], [0, 2, 3], [0, 2, 3], [4]]


class Payload:
    def __reduce__(self) -> Any:
        return open, ("broken_in", "w")


GOOD = {"fine_labels": [0, 1] * 100, "coarse_labels": [0, 1] * 100, "data": np.zeros((200, 3072), np.uint8)}
BROKEN = {
    "code": (pickle.dumps(GOOD | {"more": Payload()}, 2), "plain values and arrays alone. Found `"),
    "code in place of the whole": (pickle.dumps(Payload(), 2), "plain values and arrays alone"),
    "a function of builtins": (b"cbuiltins\neval\n(U\x012tR.", "Found `builtins.eval`"),
    "state of a function": (b"c_codecs\nencode\n(N}U\x0c__defaults__(U\x01atstb.", "change nothing outside of itself"),
    "state of a class": (b"cnumpy\nndarray\n(K\x01K\x01\x85cnumpy\ndtype\n\x89U\x01atb.", "cannot be read"),
    "objects": (pickle.dumps(GOOD | {"data": np.array([Payload()])}, 2), "cannot be read"),
    "floats": (pickle.dumps(GOOD | {"data": np.zeros((200, 3072), np.float32)}, 2), "should hold uint8"),
    "too few bytes": (
        python2_pickle(GOOD).replace(b"(K\x01K\xc8J\0\x0c\0\0\x86", b"(K\x01K\xc9J\0\x0c\0\0\x86"),
        "uint8",
    ),
    "cut short": (python2_pickle(GOOD)[:4000], "cannot be read"),
    "empty": (b"", "cannot be read"),
    "no pickle": (b"PK\3\4 and so on", "cannot be read"),
    "a list": (python2_pickle([1, 2]), "a dictionary. Found list"),
    "no images": (python2_pickle({"fine_labels": [0]}), r"should hold `data` \[N, 3072\] of uint8. Found none"),
    "other images": (python2_pickle(GOOD | {"data": np.zeros((200, 784), np.uint8)}), r"Found \[200, 784\]"),
    "no labels": (python2_pickle({"data": GOOD["data"]}), "`fine_labels`, N whole numbers. Found none"),
    "few labels": (python2_pickle(GOOD | {"fine_labels": [0, 1]}), "Found 2 entries for 200 images"),
    "texts": (python2_pickle(GOOD | {"fine_labels": ["a"] * 200}), "whole numbers. Found 200 entries"),
    "large labels": (python2_pickle(GOOD | {"fine_labels": [0, 100] * 100}), "labels from 0 to 99. Found others"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused(case: str, root: Path, tmp_path: Path) -> None:
    content, message = BROKEN[case]
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("test", "meta"):
        (folder / name).write_bytes((root / folder.name / name).read_bytes())
    (folder / "train").write_bytes(content)
    with pytest.raises(ValueError, match=f"`root` should name a folder with `cifar-100-python/`.*{message}"):
        CIFAR100DataModule(str(tmp_path)).class_counts  # noqa: B018
    assert not Path("broken_in").exists()


def test_what_is_missing_is_named_with_the_page(root: Path, tmp_path: Path) -> None:
    page = r"which holds train, test, meta, .* to be had at https://www.cs.toronto.edu/~kriz/cifar.html\."
    with pytest.raises(FileNotFoundError, match=f"{page} Found no folder `.*cifar-100-python`"):
        CIFAR100DataModule(str(tmp_path)).num_classes  # noqa: B018
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(FileNotFoundError, match=r"data_batch_5, test_batch, batches.meta.* Found no `.*batches.meta`"):
        CIFAR10DataModule(str(tmp_path)).num_classes  # noqa: B018
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(python2_pickle({"label_names": []}))
    with pytest.raises(ValueError, match="should hold `label_names`, a list of names. Found none"):
        CIFAR10DataModule(str(tmp_path)).num_classes  # noqa: B018


def test_arguments(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='"ids" or None for CIFAR-10, which has no superclasses'):
        CIFAR10DataModule(noise="superclass")
    with pytest.raises(ValueError, match="Parameter `noise` should be one of .*'ids', 'superclass'"):
        CIFAR100DataModule(noise="salt")
    with pytest.raises(ValueError, match="Parameter `noise_fraction` should be .*1.5"):
        CIFAR100DataModule(noise="ids", noise_fraction=1.5)
    with pytest.raises(ValueError, match="Parameter `val_fraction` should be .*0.95"):
        CIFAR100DataModule(val_fraction=0.95)
    folder = write_cifar100(tmp_path, classes=20) / "cifar-100-python"
    batch = CIFAR100DataModule(str(tmp_path))._read("train")
    batch["coarse_labels"][0] += 1
    (folder / "train").write_bytes(python2_pickle(batch))
    with pytest.raises(ValueError, match="Each of the `fine_labels` should have one of the `coarse_labels`"):
        CIFAR100DataModule(str(tmp_path), noise="superclass").class_counts  # noqa: B018


def test_shifted_images_are_crops_of_the_padded_ones() -> None:
    fill = torch.tensor([-1.0, -2.0])
    images = torch.rand(64, 2, 8, 6)
    collate = ShiftAndMirror(2, fill=fill)
    changed = collate.augment(images, torch.Generator().manual_seed(0))
    padded = fill[:, None, None].repeat(64, 1, 12, 10)
    padded[:, :, 2:-2, 2:-2] = images
    seen = set()
    for image, result in zip(padded, changed, strict=True):
        crops = {(u, v, m): image[:, u : u + 8, v : v + 6].flip(2) if m else image[:, u : u + 8, v : v + 6]
                 for u in range(5) for v in range(5) for m in (False, True)}  # fmt: skip
        matching = [key for key, crop in crops.items() if crop.equal(result)]
        assert len(matching) == 1
        seen.add(matching[0])
    assert len(seen) > 30  # of 50
    samples = Keyed(zip(images, torch.arange(64), strict=True), 7)
    (first, targets), (again, _) = collate(samples), collate(samples)
    assert first.equal(again)
    assert targets.equal(torch.arange(64))
    assert repr(collate) == "ShiftAndMirror(shift=2)"


def test_the_padding_is_black(root: Path) -> None:
    data = CIFAR10DataModule(str(root))
    images, _ = next(iter(data.train_dataloader()))
    values = (images * _STD.view(-1, 1, 1) + _MEAN.view(-1, 1, 1)) * 255
    assert float(values.min()) == pytest.approx(0, abs=1e-4)
    assert float((values.abs() < 1e-3).float().mean()) > 0.05
