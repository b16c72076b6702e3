"""Images in one folder per class, with or without folders for the splits."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_topk._checks import check_int
from lightning_topk.data._base import LongTailDataModule

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

    Images become RGB, are resized and cropped to a square, and are normalised with the statistics of ImageNet.

    Args:
        root: Folder of the data.
        image_size: Height and width after cropping, >= 8.
        test_fraction: Share of every class to hold out for the test where there is no folder for it, in (0, 0.9].
        val_fraction: Share of every class to hold out for the validation where there is no folder, in (0, 0.9].
        imbalance_factor: Ratio of the largest training count to the smallest; 1 keeps all training images.
        profile: ``"exp"`` or ``"step"``, see :func:`~lightning_topk.data.long_tail_counts`.
        order: Which class is frequent: ``"index"`` (the first folder most) or ``"shuffled"`` (by the seed).
        seed: Seed of the splits and of the long tail.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader; decoding images is worth some.
        augment: Whether training images are cropped and mirrored at random.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or folders that do not have the layout above.
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
    ) -> None:
        root = os.fspath(root)  # strings alone may reach the hyper-parameters
        super().__init__(imbalance_factor, profile, order, seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self.root = root
        self.image_size = check_int("image_size", image_size, 8)
        self.set_fractions(test_fraction, val_fraction)
        self.augment = augment

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
    def _files(self) -> dict[str, "_ClassFolders"]:
        files = {split: _ClassFolders(folder, self.class_names) for split, folder in self._folders.items()}
        for split, images in files.items():
            if not images.samples:
                raise FileNotFoundError(
                    f"{_LAYOUT} Found no image ({', '.join(IMG_EXTENSIONS)}) in `{self._folders[split]}`."
                )
        return files

    @cached_property
    def rows(self) -> dict[str, tuple[str, Tensor]]:
        """Split whose folder holds the files, and positions among its files, for each split."""
        rows = {split: (split, torch.arange(len(files))) for split, files in self._files.items()}
        return self.draw(rows, "train", torch.tensor(self._files["train"].targets), rows["train"][1])

    def read_train_labels(self) -> Tensor:
        return torch.tensor(self._files["train"].targets)[self.rows["train"][1]]

    def build(self, split: str) -> Dataset[Any]:
        source, rows = self.rows[split]
        names, folder = self.class_names, self._folders[source]
        return Subset(_ClassFolders(folder, names, self._transform(split)), rows.tolist())

    def _transform(self, split: str) -> transforms.Compose:
        if split == "train" and self.augment:
            crop = [transforms.RandomResizedCrop(self.image_size, scale=(0.3, 1.0)), transforms.RandomHorizontalFlip()]
        else:
            crop = [transforms.Resize(self.image_size), transforms.CenterCrop(self.image_size)]
        return transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])


class _ClassFolders(ImageFolder):
    """An ImageFolder whose classes are given, so that a class that a split lacks does not shift the labels."""

    def __init__(self, root: Path, names: list[str], transform: Any = None) -> None:
        self._names = names
        super().__init__(str(root), transform=transform, allow_empty=True)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        return self._names, {name: index for index, name in enumerate(self._names)}


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise type(error)(f"{_LAYOUT} `{folder}` cannot be read: {error.strerror}.") from error
