"""Image files that are damaged, strange or hostile: found before training, or named when their turn comes."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from commands import SMALL, command
from lightning_topk.data import ImageFolderDataModule, find_class_counts
from lightning_topk.data._image_files import CorruptImageError, list_images, read_image, why_unreadable

CLASSES = ("ant", "bee", "cat")
OPTIONS: dict[str, Any] = {"image_size": 8, "augment": False, "batch_size": 4}


def picture(size: tuple[int, int] = (14, 10), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images in each of three classes."""
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(12):
            picture(seed=index).save(tmp_path / "images" / name / f"{index:02d}.png")
    return tmp_path / "images"


def png_header(width: int, height: int) -> bytes:
    """A PNG of 60-odd bytes that declares any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def cut(path: Path, kind: str, share: float) -> None:
    picture((60, 40)).save(path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def text_bomb(path: Path) -> None:
    """A PNG whose comment unpacks to 8 MB."""
    data = b"Comment\0\0" + zlib.compress(b"\0" * 8_000_000, 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    content = png_header(8, 8)
    path.write_bytes(content[:33] + chunk + content[33:])


# What is written in the place of an image, and whether its header gives it away.
BROKEN: dict[str, tuple[Callable[[Path], Any], str, bool]] = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty", True),
    "text": (lambda path: path.write_text("<html>404</html>"), "no image in a known format", True),
    "random": (lambda path: path.write_bytes(bytes(range(256)) * 40), "no image in a known format", True),
    "script": (lambda path: path.write_text("#!/bin/sh\ntouch made-by-an-image\n"), "no image in a known format", True),
    "signature alone": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), ".", True),
    "huge": (lambda path: path.write_bytes(png_header(60_000, 60_000)), r"decompression bomb.*3600000000 pixels", True),
    "comment of 8 MB": (text_bomb, "too large", True),
    "broken link": (lambda path: path.symlink_to("nowhere.png"), "No such file", True),
    "link to itself": (lambda path: path.symlink_to(path), "symbolic link", True),
    "pipe": (lambda path: os.mkfifo(path), "no regular file", True),
    "folder of that name": (lambda path: path.symlink_to(path.parent), "no regular file", True),
    "32 bits": (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "mode F have no known range", True),
    "half of a PNG": (lambda path: cut(path, "PNG", 0.5), "truncated|broken", False),
    "most of a JPEG": (lambda path: cut(path, "JPEG", 0.9), "truncated", False),
    "half of a WebP": (lambda path: cut(path, "WEBP", 0.5), ".", False),
    "half of a BMP": (lambda path: cut(path, "BMP", 0.5), "truncated", False),
    "half of a TIFF": (lambda path: cut(path, "TIFF", 0.5), ".", False),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_or_left_out_before_training(case: str, images: Path) -> None:
    make, reason, by_header = BROKEN[case]
    path = images / "bee" / ("05.png" if case != "folder of that name" else "12.png")
    if case != "folder of that name":
        path.unlink()
    make(path)
    if case == "folder of that name":  # it is walked into, once, as every link to a folder is
        assert ImageFolderDataModule(str(images), **OPTIONS).class_counts.tolist() == [9, 9, 9]
        return
    check = "header" if by_header and "PNG" not in case else "decode"
    with pytest.raises(ValueError, match=rf'on_corrupt="skip"`. Found 1 of 36 .*bee/05.png`: .*{reason}'):
        _ = ImageFolderDataModule(str(images), **OPTIONS, check_files=check).class_counts

    data = ImageFolderDataModule(str(images), **OPTIONS, on_corrupt="skip", check_files=check)
    with pytest.warns(UserWarning, match=r"Found 1 of 36 that are not .*left out"):
        assert data.class_counts.tolist() == [9, 8, 9]
    assert list(data.skipped) == [str(path)]
    data.setup()
    labels = torch.cat([labels for _, labels in data.train_dataloader()])
    assert labels.bincount().equal(data.class_counts)
    assert sum(len(data.dataset(split)) for split in ("train", "val", "test")) == 35


@pytest.mark.parametrize("case", [case for case in BROKEN if case != "folder of that name"])
def test_the_header_tells_what_it_can(case: str, tmp_path: Path) -> None:
    make, _, by_header = BROKEN[case]
    make(tmp_path / "x.png")
    assert why_unreadable(str(tmp_path / "x.png"), decode=True) is not None
    assert not by_header or case == "signature alone" or why_unreadable(str(tmp_path / "x.png"), decode=False)


def test_skipping_is_the_same_whoever_looks(images: Path) -> None:
    for name in ("ant", "cat"):
        (images / name / "03.png").write_bytes(b"")
    runs = [ImageFolderDataModule(str(images), **OPTIONS, on_corrupt="skip") for _ in range(2)]
    with pytest.warns(UserWarning, match=r"Found 2 of 36 that are not `.*ant/03.png`: it is empty; `.*cat/03.png`"):
        first, second = [[data.dataset(split).samples for split in ("train", "val", "test")] for data in runs]
    assert first == second
    assert not {str(images / "ant" / "03.png")} & {path for part in first for path, _ in part}


def test_a_class_that_loses_all_its_files_is_named(images: Path) -> None:
    for path in (images / "bee").iterdir():
        path.write_bytes(b"")
    data = ImageFolderDataModule(str(images), **OPTIONS, on_corrupt="skip")
    with (
        pytest.warns(UserWarning, match=r"Found 12 of 36 that are not, such as"),
        pytest.raises(ValueError, match=r"Found none for 1 of 3 classes: 1 \(bee\)"),
    ):
        _ = data.class_counts


def late(images: Path, **options: Any) -> ImageFolderDataModule:
    """A data module that has looked at its files, of which one of class bee is then overwritten."""
    data = ImageFolderDataModule(str(images), **OPTIONS, **options)
    data.setup()
    data.broken = next(path for path, label in data.dataset("train").samples if label == 1)  # type: ignore[attr-defined]
    Path(data.broken).write_bytes(Path(data.broken).read_bytes()[:90])  # type: ignore[attr-defined]
    return data


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_during_the_run_is_named(images: Path, workers: int) -> None:
    data = late(images, num_workers=workers)
    with pytest.raises(CorruptImageError) as raised:
        list(data.train_dataloader())
    assert str(raised.value).startswith(f"Image files should be readable. Found `{data.broken}`, which is not: ")  # type: ignore[attr-defined]
    assert len(str(raised.value).splitlines()) == 1


def test_a_file_that_breaks_during_the_run_gives_its_place_to_one_of_its_class(images: Path) -> None:
    data = late(images, on_corrupt="skip")
    dataset = data.dataset("train")
    order = [path for path, label in dataset.samples if label == 1]
    at = [path for path, _ in dataset.samples].index(order[0])
    with pytest.warns(UserWarning, match=rf"{order[0]}`, which is not: .*Taken in its place: `{order[1]}`"):
        image, label = dataset[at]
    assert label == 1
    assert torch.equal(image, dataset[[path for path, _ in dataset.samples].index(order[1])][0])
    with pytest.warns(UserWarning, match="Taken in its place"):
        labels = torch.cat([labels for _, labels in DataLoader(dataset, batch_size=4)])
    assert labels.bincount().equal(data.class_counts)
    for path in order:
        Path(path).write_bytes(b"")
    with pytest.raises(CorruptImageError, match=f"Found `{order[0]}`"):
        dataset[at]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_command_ends_in_one_line_when_a_file_breaks(images: Path, workers: str) -> None:
    for path in (images / "bee").iterdir():
        path.write_bytes(path.read_bytes()[:90])  # a header alone: not found by looking at headers
    data = ("--data", "ImageFolderDataModule", "--data.root", str(images), "--data.image_size", "8")
    quiet = ("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.logger", "false")
    quiet += ("--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false")
    quiet += ("--trainer.enable_model_summary", "false", "--trainer.num_sanity_val_steps", "0")
    loss = ("--model.loss", "CrossEntropyLoss", "--model.k", "2", "--data.num_workers", workers)
    printed = command("fit", *data, *SMALL, *loss, *quiet, "--trainer.log_every_n_steps", "1")
    assert printed.status == 2, printed.err
    assert printed.err.startswith(f"error: Image files should be readable. Found `{images / 'bee'}")
    assert len(printed.err.splitlines()) <= 3


def save(path: Path, image: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray[Any, Any]:
    image.save(path, kind, **options)
    return np.asarray(read_image(str(path)))


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    plain = np.asarray(picture((12, 9)))
    assert np.array_equal(save(path, picture((12, 9))), plain)
    assert np.array_equal(save(path, picture((12, 9)).convert("RGBA")), plain)
    assert save(path, picture((12, 9)).convert("CMYK"), "JPEG").shape == (9, 12, 3)
    assert save(path, picture((12, 9)).convert("YCbCr"), "JPEG").shape == (9, 12, 3)
    for mode in ("1", "L", "LA", "P"):
        converted = picture((12, 9)).convert(mode)
        assert np.array_equal(save(path, converted), np.asarray(converted.convert("RGB")))
    save(path, picture((12, 9)).convert("P"), transparency=b"\x00\x80\xff")
    frames = [picture((12, 9)), picture((12, 9), seed=1)]
    assert np.array_equal(save(path, frames[0], "TIFF", save_all=True, append_images=frames[1:]), plain)
    assert np.array_equal(save(path, frames[0], "PNG", save_all=True, append_images=frames[1:]), plain)
    webp = save(path, frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(webp, plain)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_images_of_16_bits_keep_their_upper_bits(tmp_path: Path, kind: str) -> None:
    """Pillow's own conversion makes white of every value beyond 255."""
    values = (np.arange(64, dtype=np.uint16) * 1023).reshape(8, 8)
    if kind == "PPM":
        (tmp_path / "x.pgm").write_bytes(b"P5\n8 8\n65535\n" + values.astype(">u2").tobytes())
        found = np.asarray(read_image(str(tmp_path / "x.pgm")))
    else:
        found = save(tmp_path / "x.png", Image.fromarray(values), kind)
    assert np.array_equal(found, np.repeat((values >> 8)[..., None], 3, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    image = picture((12, 9))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    found = save(tmp_path / "x.png", image, exif=exif)
    expected = image if turned is None else image.transpose(Image.Transpose(turned))
    assert np.array_equal(found, np.asarray(expected))


def test_links_hidden_files_and_odd_names(images: Path) -> None:
    (images / "ant" / "back").symlink_to(images / "ant", target_is_directory=True)
    (images / "ant" / "up").symlink_to(images, target_is_directory=True)
    (images / "ant" / "._00.png").write_bytes(b"\0\5\x16\7")
    (images / ".trash").mkdir()
    (images / "bee" / ".cache").mkdir()
    picture().save(images / "bee" / ".cache" / "x.png")
    (images / "notes.txt").write_text("not a class")
    for name in ("wasp, common", "\u00e9t\u00e9 \u8702", "a'b\"c", "[bold]d", "-e", "f%s{0}"):
        (images / name).mkdir()
        for index in range(3):
            picture().save(images / name / f"x \u00fc\n{index}.JPG", "JPEG")
    data = ImageFolderDataModule(str(images), **OPTIONS)
    assert {"wasp, common", "\u00e9t\u00e9 \u8702", "a'b\"c", "[bold]d", "-e", "f%s{0}"} < set(data.class_names)
    counts = dict(zip(data.class_names, data.class_counts.tolist(), strict=True))
    assert (counts["bee"], counts["cat"], counts["-e"]) == (9, 9, 1)
    # The links lead to every class once more, but round no circle.
    paths = [path for path, label in list_images(images, ["ant"])]
    assert len({os.path.realpath(path) for path in paths}) == len(paths)
    assert len(paths) < 80


def test_the_order_is_that_of_torchvision(images: Path) -> None:
    from torchvision.datasets import ImageFolder

    for inner in ("sub", "sub/deeper", "a"):
        (images / "bee" / inner).mkdir()
        picture().save(images / "bee" / inner / "z.png")
    assert list_images(images, CLASSES) == ImageFolder(str(images)).samples


@pytest.mark.parametrize("name", [b"bad\xff", b"two\nlines"])
def test_class_names_that_no_report_can_hold(images: Path, name: bytes) -> None:
    os.mkdir(os.path.join(os.fsencode(images), name))
    with pytest.raises(ValueError, match=r"name in UTF-8 without control characters, .*Found '(bad|two)"):
        _ = ImageFolderDataModule(str(images)).num_classes


def test_a_folder_of_a_class_that_cannot_be_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: Any) -> Any:  # permissions do not hold for the superuser
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"`root` should name .*bee` cannot be read: Permission denied"):
        _ = ImageFolderDataModule(str(images)).class_counts


def test_looking_can_be_turned_off(images: Path) -> None:
    (images / "bee" / "05.png").write_bytes(b"")
    data = ImageFolderDataModule(str(images), **OPTIONS, check_files="none")
    assert data.class_counts.tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_corrupt": "ignore"}, "`on_corrupt` should be one of 'error', 'skip'. Found `on_corrupt = 'ignore'`"),
        ({"check_files": "yes"}, "`check_files` should be one of 'header', 'decode', 'none'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(".", **options)


def test_counts_are_those_of_the_files_that_are_left(images: Path) -> None:
    (images / "cat" / "00.png").write_bytes(b"x")
    data = ImageFolderDataModule(str(images), **OPTIONS, on_corrupt="skip", imbalance_factor=3)
    with pytest.warns(UserWarning, match="left out"):
        counts = data.class_counts
    assert find_class_counts(data.dataset("train"), 3).equal(counts)
