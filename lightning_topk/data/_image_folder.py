"""Images in one folder per class, with or without folders for the splits."""

import os
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_topk._checks import check_choice, check_int
from lightning_topk.data._base import LongTailDataModule
from lightning_topk.data._image_files import ImageFiles, list_images, unreadable

_LAYOUT = (
    "Parameter `root` should name a folder with `train/<class>/<image>` and, if they are fixed, `val/<class>/<image>` "
    "and `test/<class>/<image>`, or with `<class>/<image>` alone."
)
# Statistics of ImageNet, which the pretrained weights of torchvision expect.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolderDataModule(LongTailDataModule):
    """Image files in one folder per class, in the layout of ``torchvision.datasets.ImageFolder``.

    With a folder ``root/train``, the splits are the folders ``train``, ``val`` and ``test``; otherwise ``root`` holds
    the folders of the classes. A split without a folder is drawn from the training images, class by class, and leaves
    each class at least one training image. Classes are the folders of the training set in alphabetical order.

    Images become RGB, upright by their EXIF orientation, grey images of 16 bits by their upper 8; they are resized and
    cropped to a square, and normalised with the statistics of ImageNet. Hidden files and folders are passed over.

    All files are looked at once, before they are counted, so that no epoch ends in a file that cannot be read: one
    that is empty, is no image, or declares so many pixels that it may be a decompression bomb. ``on_corrupt`` says
    what becomes of it. Each process looks by itself, and as the splits are drawn from what is left, counts and splits
    agree on all ranks that see the same files. A file that can no longer be read when its turn comes is a
    ``CorruptImageError`` that names it or, with ``on_corrupt="skip"``, gives its place to the next readable image of
    its class in its split, with a warning: class counts and the length of the epoch stay as they were.

    Args:
        root: Folder of the data.
        image_size: Height and width after cropping, in [8, 16384].
        test_fraction: Share of every class to hold out for the test where there is no folder for it, in (0, 0.9].
        val_fraction: Share of every class to hold out for the validation where there is no folder, in (0, 0.9].
        imbalance_factor: Ratio of the largest training count to the smallest; 1 keeps all training images.
        profile: ``"exp"`` or ``"step"``, see :func:`~lightning_topk.data.long_tail_counts`.
        order: Which class is frequent: ``"index"`` (the first folder most) or ``"shuffled"`` (by the seed).
        seed: Seed of the splits and of the long tail.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader; decoding images is worth some.
        augment: Whether training images are cropped and mirrored at random.
        on_corrupt: What an image file that cannot be read does: ``"error"`` names it, ``"skip"`` leaves it out, with a
            warning that has the number of such files.
        check_files: How files are looked at: ``"header"`` reads their first bytes (0.03 ms for each, and what the disk
            takes), ``"decode"`` all of them (1 ms for 400 x 300 pixels), which also finds files that end too early,
            ``"none"`` looks at none.

    Attributes:
        skipped: Path and reason of each file that was left out.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, folders that do not have the layout above, or files that cannot be read.
        FileNotFoundError: No such folder, or no images in it.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for i in range(12):
        ...     path = pathlib.Path(folder.name, "cat" if i % 2 else "dog", f"{i}.png")
        ...     path.parent.mkdir(exist_ok=True)
        ...     Image.new("RGB", (10, 10)).save(path)
        >>> data = ImageFolderDataModule(folder.name, image_size=8, test_fraction=0.2, val_fraction=0.2)
        >>> data.class_names, data.class_counts
        (['cat', 'dog'], tensor([4, 4]))
        >>> folder.cleanup()
    """

    def __init__(
        self,
        root: str = ".",
        image_size: int = 224,
        test_fraction: float = 0.2,
        val_fraction: float = 0.1,
        imbalance_factor: float = 1.0,
        profile: str = "exp",
        order: str = "index",
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        augment: bool = True,
        on_corrupt: str = "error",
        check_files: str = "header",
    ) -> None:
        root = os.fspath(root)  # strings alone may reach the hyper-parameters
        super().__init__(imbalance_factor, profile, order, seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self.root = root
        self.image_size = check_int("image_size", image_size, 8, 16384)
        self.set_fractions(test_fraction, val_fraction)
        self.augment = augment
        self.on_corrupt = check_choice("on_corrupt", on_corrupt, ("error", "skip"))
        self.check_files = check_choice("check_files", check_files, ("header", "decode", "none"))
        self.skipped: dict[str, str] = {}

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Folder of each split that has one; without any, the root is that of the training images."""
        root = Path(self.root)
        if not root.is_dir():
            raise FileNotFoundError(f"{_LAYOUT} Found no folder `{root}`.")
        if not (root / "train").is_dir():
            return {"train": root}
        return {split: root / split for split in ("train", "val", "test") if (root / split).is_dir()}

    def read_names(self) -> list[str]:
        names = _subfolders(self._folders["train"])
        if not names:
            raise FileNotFoundError(f"{_LAYOUT} Found no folder of a class in `{self._folders['train']}`.")
        for split, folder in self._folders.items():
            unknown = sorted(set(_subfolders(folder)) - set(names))
            if unknown:
                raise ValueError(
                    f"Classes of `{folder}` should be those of the training set. Found {', '.join(unknown[:10])} "
                    f"in the {split} set alone."
                )
        return names

    def read_shape(self) -> tuple[int, ...]:
        return (3, self.image_size, self.image_size)

    @cached_property
    def _files(self) -> dict[str, list[tuple[str, int]]]:
        """Path and label of each image, for each split that has a folder."""
        files = {split: _images(folder, self.class_names) for split, folder in self._folders.items()}
        number = sum(map(len, files.values()))
        if self.check_files != "none":
            paths = [path for samples in files.values() for path, _ in samples]
            self.skipped = unreadable(paths, decode=self.check_files == "decode")
        if self.skipped:
            shown = [f"`{path}`: {reason}" for path, reason in list(self.skipped.items())[:5]]
            fact = f"Found {len(self.skipped)} of {number} that are not" + ", such as" * (len(self.skipped) > 5)
            fact = "; ".join([f"{fact} {shown[0]}", *shown[1:]])
            if self.on_corrupt == "error":
                raise ValueError(f'Image files should be readable, or be left out by `on_corrupt="skip"`. {fact}.')
            rank_zero_warn(f"Image files should be readable. {fact}. They are left out.")
            files = {
                split: [each for each in samples if each[0] not in self.skipped] for split, samples in files.items()
            }
        for split, samples in files.items():
            if not samples:
                raise FileNotFoundError(
                    f"{_LAYOUT} Found no image ({', '.join(IMG_EXTENSIONS)}) in `{self._folders[split]}`."
                )
        return files

    @cached_property
    def rows(self) -> dict[str, tuple[str, Tensor]]:
        """Split whose folder holds the files, and positions among its files, for each split."""
        rows = {split: (split, torch.arange(len(files))) for split, files in self._files.items()}
        return self.draw(rows, "train", _labels(self._files["train"]), rows["train"][1])

    def read_train_labels(self) -> Tensor:
        return _labels(self._files["train"])[self.rows["train"][1]]

    def build(self, split: str) -> Dataset[Any]:
        source, rows = self.rows[split]
        samples = [self._files[source][row] for row in rows.tolist()]
        return ImageFiles(samples, self.class_names, self._transform(split), replace=self.on_corrupt == "skip")

    def _transform(self, split: str) -> transforms.Compose:
        if split == "train" and self.augment:
            crop = [transforms.RandomResizedCrop(self.image_size, scale=(0.3, 1.0)), transforms.RandomHorizontalFlip()]
        else:
            crop = [transforms.Resize(self.image_size), transforms.CenterCrop(self.image_size)]
        return transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])


def _labels(samples: list[tuple[str, int]]) -> Tensor:
    return torch.tensor([label for _, label in samples], dtype=torch.long)


def _images(folder: Path, names: list[str]) -> list[tuple[str, int]]:
    try:
        return list_images(folder, names)
    except OSError as error:
        raise type(error)(f"{_LAYOUT} `{error.filename}` cannot be read: {error.strerror}.") from error


def _subfolders(folder: Path) -> list[str]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise type(error)(f"{_LAYOUT} `{folder}` cannot be read: {error.strerror}.") from error
    for name in names:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise ValueError(
                "The folder of a class should have a name in UTF-8 without control characters, as reports hold it. "
                f"Found {name!a} in `{folder}`."
            )
    return names
