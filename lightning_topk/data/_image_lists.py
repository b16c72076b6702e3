"""ImageNet-LT and Places-LT from their published lists of files."""

import os
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from torchvision import transforms

from lightning_topk.data._images import PublishedImagesDataModule, Samples

_SPLITS = ("train", "val", "test")


class ImageNetLTDataModule(PublishedImagesDataModule):
    r"""ImageNet-LT: 1,000 classes, 115,846 training images, 1,280 to 5 for each class.

    The splits are those of the lists ``ImageNet_LT_train.txt``, ``ImageNet_LT_val.txt`` (20,000 images, taken from the
    training images of ImageNet) and ``ImageNet_LT_test.txt`` (50,000, its validation images), with a line ``path
    label`` for each image and paths below ``root``, such as ``train/n01440764/n01440764_10043.JPEG``. Names, counts and
    splits come from the lists alone. Classes are named by the folders of their images.

    Training images are cropped at random to 8 to 100 % of their area, mirrored, and changed in brightness, contrast and
    saturation by up to 40 %, as in the code of Liu et al.; others are resized to 256/224 of ``image_size`` and cropped
    in the centre.

    Args:
        root: Folder with the folders ``train`` and ``val`` of the images, each with one folder for a class.
        lists: Folder of the lists; ``root`` when not given.
        image_size: Height and width after cropping, in [8, 16384].
        seed: Without effect on the splits, which are given.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader; decoding images is worth some.
        augment: Whether training images are changed at random.
        on_corrupt: See :class:`~lightning_topk.data.ImageFolderDataModule`.
        check_files: As there. ``"none"``, the default for published files, names a file when its turn comes.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or a list that does not have the layout above.
        FileNotFoundError: No such list or images.

    References:
        Liu, Miao, Zhan, Wang, Gong, Yu, "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> for split, numbers in (("train", (1, 2, 3, 4)), ("val", (5, 6)), ("test", (7, 8))):
        ...     lines = [f"train/{'cat' if n % 3 else 'dog'}/{n}.JPEG {int(n % 3 == 0)}" for n in numbers]
        ...     _ = Path(folder.name, f"ImageNet_LT_{split}.txt").write_text("\n".join(lines))
        >>> data = ImageNetLTDataModule(folder.name)
        >>> data.class_names, data.class_counts, data.split_sizes
        (['cat', 'dog'], tensor([3, 1]), {'train': 4, 'val': 2, 'test': 2})
        >>> folder.cleanup()
    """

    name = "ImageNet_LT"
    page = "https://liuziwei7.github.io/projects/LongTail.html"
    images_page = "https://www.image-net.org/download.php"

    def __init__(
        self,
        root: str = ".",
        lists: str | None = None,
        image_size: int = 224,
        seed: int = 0,
        batch_size: int = 256,
        num_workers: int = 0,
        augment: bool = True,
        on_corrupt: str = "error",
        check_files: str = "none",
    ) -> None:
        root, lists = os.fspath(root), os.fspath(root if lists is None else lists)
        super().__init__(1.0, "exp", "index", seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self.root, self.lists = root, lists
        self.set_images(image_size, augment, on_corrupt, check_files)

    @property
    def layout(self) -> str:
        """What the folders should hold."""
        names = ", ".join(f"`{self.name}_{split}.txt`" for split in _SPLITS)
        return (
            f"Parameter `lists` should name a folder with {names} (to be had at {self.page}), lines `path label`, and "
            f"`root` the folder that these paths start from (images: {self.images_page})."
        )

    @cached_property
    def _lines(self) -> dict[str, list[tuple[str, int]]]:
        """Path and label of each line of each list."""
        return {split: self._read(Path(self.lists, f"{self.name}_{split}.txt")) for split in _SPLITS}

    def _read(self, path: Path) -> list[tuple[str, int]]:
        if not path.is_file():
            raise FileNotFoundError(f"{self.layout} Found no `{path}`.")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.layout} `{path}` cannot be read: {error}.") from error
        found = []
        for number, line in enumerate(lines, start=1):
            image, _, label = line.strip().rpartition(" ")
            below = PurePosixPath(image)
            if not (label.isascii() and label.isdigit()) or not image or below.is_absolute() or ".." in below.parts:
                raise ValueError(f"{self.layout} Found {line[:80]!r} in line {number} of `{path}`.")
            found.append((image, int(label)))
        if not found:
            raise ValueError(f"{self.layout} Found no line in `{path}`.")
        return found

    def read_names(self) -> list[str]:
        lines = [line for split in _SPLITS for line in self._lines[split]]
        largest = max(label for _, label in lines)
        if largest >= len(lines):
            raise ValueError(f"{self.layout} Found the label {largest} among {len(lines)} lines.")
        names = [""] * (largest + 1)
        for image, label in reversed(lines):
            names[label] = PurePosixPath(image).parent.name
        return names

    def find_files(self) -> dict[str, Samples]:
        return {
            split: [(os.path.join(self.root, image), label) for image, label in lines]
            for split, lines in self._lines.items()
        }

    def training_crop(self) -> list[Any]:
        return [
            transforms.RandomResizedCrop(self.image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        ]


class PlacesLTDataModule(ImageNetLTDataModule):
    """Places-LT: 365 classes, 62,500 training images, 4,980 to 5 for each class.

    The splits are those of the lists ``Places_LT_train.txt``, ``Places_LT_val.txt`` (7,300 images) and
    ``Places_LT_test.txt`` (36,500), with paths below ``root`` such as ``train/airfield/00004851.jpg``: the "easy
    directory structure" of Places365-Standard. Everything else is as in :class:`ImageNetLTDataModule`.

    Example:
        >>> PlacesLTDataModule("nowhere").class_counts
        Traceback (most recent call last):
            ...
        FileNotFoundError: Parameter `lists` should name a folder with `Places_LT_train.txt`, ...
    """

    name = "Places_LT"
    images_page = "http://places2.csail.mit.edu/download.html"
