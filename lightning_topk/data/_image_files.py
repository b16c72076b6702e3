"""Find, check and read image files that may be damaged, and deliver a class label with each."""

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

_ORIENTATION = 0x0112  # the tag of EXIF
_THREADS = 8  # they wait for the disk, or decode outside of Python's lock


class CorruptImageError(ValueError):
    """An image file that cannot be read; the message names the file and the reason.

    A worker process of a loader hands on its errors with a traceback in the message, of which this class keeps the
    message alone.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def list_images(folder: Path, names: Sequence[str]) -> list[tuple[str, int]]:
    """Return path and label of each image below the folders of the classes, in the order of torchvision's ImageFolder.

    A class may lack a folder. Hidden files and folders are passed over, such as the shadows that some systems leave
    beside a file. Folders that are links are followed, but none is entered twice for one class.

    Raises:
        OSError: A folder that cannot be read.
    """
    found = []
    for label, name in ((label, name) for label, name in enumerate(names) if (folder / name).is_dir()):
        entered: set[str] = set()
        folders = []
        for path, inner, files in os.walk(folder / name, followlinks=True, onerror=_raise):
            real = os.path.realpath(path)
            inner[:] = sorted(each for each in inner if not each.startswith(".")) if real not in entered else []
            if real not in entered:
                folders.append((path, files))
            entered.add(real)
        for path, files in sorted(folders):
            images = sorted(each for each in files if each.lower().endswith(IMG_EXTENSIONS) and each[0] != ".")
            found += [(os.path.join(path, each), label) for each in images]
    return found


def _raise(error: OSError) -> None:
    raise error


def read_image(path: str) -> Image.Image:
    """Return an image as RGB, upright by its EXIF orientation; of several frames the first.

    Grey images of 16 bits keep their 8 upper bits. Pixels without a known range (32 bits, floats) are refused, as
    they would come out black or white.

    Raises:
        CorruptImageError: A file that cannot be read, or that declares more than twice ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    return _opened(path, _decoded)


def why_unreadable(path: str, *, decode: bool) -> str | None:
    """Return why an image cannot be read, from its header or by decoding all of it, or None."""
    try:
        _opened(path, _decoded if decode else _check_mode)
    except CorruptImageError as error:
        return str(error).partition(": ")[2]
    return None


def unreadable(paths: Sequence[str], *, decode: bool) -> dict[str, str]:
    """Return the paths that cannot be read, each with its reason, in the given order."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow's, of tags and palettes that change nothing here
        reasons = list(pool.map(lambda path: why_unreadable(path, decode=decode), paths))
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}


def _opened(path: str, read: Callable[[Image.Image], Any]) -> Any:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("it is no regular file")  # a pipe would be waited for
        with open(path, "rb") as file:
            return read(Image.open(file))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds on bytes that they do not expect
        reason = _reason(error, path)
    raise CorruptImageError(f"Image files should be readable. Found `{path}`, which is not: {reason}")


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty" if os.path.getsize(path) == 0 else "it has no image in a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"it may be a decompression bomb, as it declares more pixels than Pillow allows. {error}"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error) or type(error).__name__


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"its pixels of mode {image.mode} have no known range")


def _decoded(image: Image.Image) -> Image.Image:
    _check_mode(image)
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # or Pillow warns
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return image.convert("RGB")


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files with their labels.

    Args:
        samples: Path and label of each image.
        classes: Names of the classes.
        transform: What becomes of an image.
        replace: Whether a file that cannot be read gives its place to the next one of the same class that can,
            with a warning; otherwise it is an error.

    Attributes:
        targets: Label of each image.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        classes: Sequence[str],
        transform: Callable[[Image.Image], Any],
        *,
        replace: bool = False,
    ) -> None:
        self.samples = list(samples)
        self.classes = list(classes)
        self.transform = transform
        self.replace = replace
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        try:
            image = read_image(path)
        except CorruptImageError as error:
            if not self.replace:
                raise
            image = self._other(index, error)
        return self.transform(image), label

    def _other(self, index: int, error: CorruptImageError) -> Image.Image:
        """Return the next readable image of the same class, in the order of the files and around the end."""
        label = self.targets[index]
        order = chain(range(index + 1, len(self)), range(index))
        for other in (each for each in order if self.targets[each] == label):
            try:
                image = read_image(self.samples[other][0])
            except CorruptImageError:
                continue
            warnings.warn(f"{error}. Taken in its place: `{self.samples[other][0]}`.", stacklevel=2)
            return image
        raise error
