"""Omniglot with a long tail, from its image files."""

import os
import re
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torchvision import transforms

from lightning_topk._checks import check_choice
from lightning_topk.data._augment import AugmentingCollate
from lightning_topk.data._class_folders import subfolders
from lightning_topk.data._images import ImageFilesDataModule, Samples, images_below, labels_of

_PARTS = {
    "all": ("images_background", "images_evaluation"),
    "background": ("images_background",),
    "evaluation": ("images_evaluation",),
}
_FIRST_TEST_DRAWER = 16
_MEAN, _STD = 0.0805, 0.2721  # of the ink in black and white drawings of 28 x 28 pixels


class OmniglotDataModule(ImageFilesDataModule):
    """Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by the same 20 people, made long-tailed.

    ``root`` holds ``omniglot-py/images_background`` and ``omniglot-py/images_evaluation`` as torchvision leaves them,
    or these two folders themselves, with files ``<alphabet>/<character>/<number>_<drawer>.png``. The drawings of
    drawers 16 to 20 are the test set, the validation set is drawn from the others by the seed, class by class, and the
    rest is cut to a long tail. Classes are the characters in alphabetical order, ``<alphabet>/<character>``.

    Images are grey, the ink bright, resized and normalised.

    Args:
        root: Folder that holds the images.
        part: ``"all"``, or the 964 characters of the ``"background"`` or the 659 of the ``"evaluation"`` alone.
        image_size: Height and width, in [8, 16384].
        val_fraction: Share of every class to hold out for the validation, in (0, 0.9].
        imbalance_factor: Ratio of the largest training count to the smallest; 1 keeps all training images.
        profile: ``"exp"`` or ``"step"``, see :func:`~lightning_topk.data.long_tail_counts`.
        order: Which class is frequent: ``"index"`` or ``"shuffled"`` (by the seed).
        seed: Seed of what is drawn.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader.
        augment: Whether to turn, shift and scale the training images a little, anew in every epoch.
        on_corrupt: See :class:`~lightning_topk.data.ImageFolderDataModule`.
        check_files: As there. ``"none"``, the default for published files, names a file when its turn comes.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or files that do not have the layout above.
        FileNotFoundError: No such folder, or no images in it.

    References:
        Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction", Science
        2015.

    Example:
        >>> OmniglotDataModule("nowhere").class_counts
        Traceback (most recent call last):
            ...
        FileNotFoundError: Parameter `root` should name a folder with `omniglot-py/images_background/<alphabet>/...
    """

    layout = (
        "Parameter `root` should name a folder with `omniglot-py/images_background/<alphabet>/<character>/<image>.png` "
        "and likewise `images_evaluation`, as torchvision.datasets.Omniglot leaves them; the archives are to be had at "
        "https://github.com/brendenlake/omniglot."
    )

    def __init__(
        self,
        root: str = ".",
        part: str = "all",
        image_size: int = 28,
        val_fraction: float = 0.1,
        imbalance_factor: float = 13.0,
        profile: str = "exp",
        order: str = "shuffled",
        seed: int = 0,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: bool = True,
        on_corrupt: str = "error",
        check_files: str = "none",
    ) -> None:
        root = os.fspath(root)  # strings alone may reach the hyper-parameters
        super().__init__(imbalance_factor, profile, order, seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self.root = root
        self.part = check_choice("part", part, tuple(_PARTS))
        self.set_fractions(0.25, val_fraction)
        self.set_images(image_size, augment, on_corrupt, check_files)
        self.train_collate = AugmentingCollate() if augment else None

    @cached_property
    def _characters(self) -> dict[str, Path]:
        """Folder of the part that each character lies in."""
        inner = Path(self.root, "omniglot-py")
        top = inner if inner.is_dir() else Path(self.root)
        found = {}
        for part in _PARTS[self.part]:
            if not (top / part).is_dir():
                raise FileNotFoundError(f"{self.layout} Found no folder `{top / part}`.")
            for alphabet in subfolders(top / part, self.layout):
                for character in subfolders(top / part / alphabet, self.layout):
                    found[f"{alphabet}/{character}"] = top / part
        if not found:
            raise FileNotFoundError(f"{self.layout} Found no folder of a character in `{top}`.")
        return found

    def read_names(self) -> list[str]:
        return sorted(self._characters)

    def read_shape(self) -> tuple[int, ...]:
        return (1, self.image_size, self.image_size)

    def find_files(self) -> dict[str, Samples]:
        found = []
        for label, name in enumerate(self.class_names):
            found += [(path, label) for path, _ in images_below(self._characters[name], [name], self.layout)]
        return {"train": found}

    @cached_property
    def rows(self) -> dict[str, tuple[str, Tensor]]:
        labels = labels_of(self.files["train"])
        is_test = torch.tensor([self._drawer(path) >= _FIRST_TEST_DRAWER for path, _ in self.files["train"]])
        if not is_test.any():
            raise ValueError(f"{self.layout} Found no drawing of a drawer from {_FIRST_TEST_DRAWER} to 20.")
        kept = torch.arange(len(labels))
        return self.draw({"test": ("train", kept[is_test])}, "train", labels, kept[~is_test])

    def _drawer(self, path: str) -> int:
        match = re.fullmatch(r"\d+_(\d{2})\.png", os.path.basename(path))
        if match is None:
            raise ValueError(f"{self.layout} The name of a file should be `<number>_<drawer>.png`. Found `{path}`.")
        return int(match[1])

    def transform(self, split: str) -> transforms.Compose:
        size = (self.image_size, self.image_size)
        # The ink is black on white: what is turned around is turned around by the sign of the scale.
        steps = [transforms.Grayscale(), transforms.Resize(size), transforms.ToTensor()]
        return transforms.Compose([*steps, transforms.Normalize(1.0 - _MEAN, -_STD)])
