"""Images in one folder per class, with or without folders for the splits."""

import os
from functools import cached_property
from pathlib import Path

from lightning_topk.data._class_folders import ClassFoldersDataModule

_LAYOUT = (
    "Parameter `root` should name a folder with `train/<class>/<image>` and, if they are fixed, `val/<class>/<image>` "
    "and `test/<class>/<image>`, or with `<class>/<image>` alone."
)


class ImageFolderDataModule(ClassFoldersDataModule):
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

    layout = _LAYOUT

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
        self.set_fractions(test_fraction, val_fraction)
        self.set_images(image_size, augment, on_corrupt, check_files)

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Folder of each split that has one; without any, the root is that of the training images."""
        root = Path(self.root)
        if not root.is_dir():
            raise FileNotFoundError(f"{self.layout} Found no folder `{root}`.")
        if not (root / "train").is_dir():
            return {"train": root}
        return {split: root / split for split in ("train", "val", "test") if (root / split).is_dir()}
