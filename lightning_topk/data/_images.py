"""What data modules over image files share: checks, splits by rows, and transforms."""

from abc import abstractmethod
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

# Statistics of ImageNet, which the pretrained weights of torchvision expect.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Samples = list[tuple[str, int]]


class ImageFilesDataModule(LongTailDataModule):
    """Base of the data modules over image files: a subclass finds the files and the names of the classes.

    Attributes:
        skipped: Path and reason of each file that was left out.
    """

    @property
    @abstractmethod
    def layout(self) -> str:
        """What the folder should hold, and for a published data set where it is to be had."""

    def set_images(self, image_size: int, augment: bool, on_corrupt: str, check_files: str) -> None:
        """Check and keep the arguments that every subclass has."""
        self.image_size = check_int("image_size", image_size, 8, 16384)
        self.augment = augment
        self.on_corrupt = check_choice("on_corrupt", on_corrupt, ("error", "skip"))
        self.check_files = check_choice("check_files", check_files, ("header", "decode", "none"))
        self.skipped: dict[str, str] = {}

    @abstractmethod
    def find_files(self) -> dict[str, Samples]:
        """Return path and label of each image, for each source: a given split, or what splits are drawn from."""

    def read_shape(self) -> tuple[int, ...]:
        return (3, self.image_size, self.image_size)

    @cached_property
    def files(self) -> dict[str, Samples]:
        """Path and label of each image of each source, without those that are left out."""
        files = self.find_files()
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
                    f"{self.layout} Found no image ({', '.join(IMG_EXTENSIONS)}) {self.where(split)}."
                )
        return files

    def where(self, source: str) -> str:
        """Say where the files of a source were looked for."""
        return f"for the split `{source}`"

    @cached_property
    def rows(self) -> dict[str, tuple[str, Tensor]]:
        """Source of the files, and positions among its files, for each split."""
        rows = {split: (split, torch.arange(len(files))) for split, files in self.files.items()}
        return self.draw(rows, "train", labels_of(self.files["train"]), rows["train"][1])

    def read_sizes(self) -> dict[str, int]:
        return {split: len(rows) for split, (_, rows) in self.rows.items()}

    def read_train_labels(self) -> Tensor:
        source, rows = self.rows["train"]
        return labels_of(self.files[source])[rows]

    def build(self, split: str) -> Dataset[Any]:
        source, rows = self.rows[split]
        samples = [self.files[source][row] for row in rows.tolist()]
        return ImageFiles(samples, self.class_names, self.transform(split), replace=self.on_corrupt == "skip")

    def transform(self, split: str) -> transforms.Compose:
        """Return what becomes of an image."""
        crop = self.training_crop() if split == "train" and self.augment else self.crop()
        return transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])

    def training_crop(self) -> list[Any]:
        """Return the random transforms of training images."""
        return [transforms.RandomResizedCrop(self.image_size, scale=(0.3, 1.0)), transforms.RandomHorizontalFlip()]

    def crop(self) -> list[Any]:
        """Return what makes a square of an image."""
        return [transforms.Resize(self.image_size), transforms.CenterCrop(self.image_size)]


class PublishedImagesDataModule(ImageFilesDataModule):
    """Base of the published data sets of photographs: evaluated on the central 7/8 of an image, as they are."""

    def crop(self) -> list[Any]:
        return [transforms.Resize(round(self.image_size * 256 / 224)), transforms.CenterCrop(self.image_size)]

    def build(self, split: str) -> Dataset[Any]:
        source, rows = self.rows[split]
        for row in rows[:1].tolist():  # `check_files` looks at all of them; one tells a wrong folder
            if not Path(self.files[source][row][0]).exists():
                raise FileNotFoundError(f"{self.layout} Found no `{self.files[source][row][0]}`.")
        return super().build(split)


def labels_of(samples: Samples) -> Tensor:
    """Return the labels of pairs of path and label."""
    return torch.tensor([label for _, label in samples], dtype=torch.long)


def images_below(folder: Path, names: list[str], law: str) -> Samples:
    """Return path and label of the images below the folders of the classes."""
    try:
        return list_images(folder, names)
    except OSError as error:
        raise type(error)(f"{law} `{error.filename}` cannot be read: {error.strerror}.") from error
