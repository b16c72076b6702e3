"""iNaturalist, through torchvision."""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import INaturalist
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_topk._checks import check_choice
from lightning_topk.data._images import PublishedImagesDataModule, Samples, labels_of

_VERSIONS = ("2017", "2018", "2019", "2021", "2021_mini")
_RANKS = ("full", "kingdom", "phylum", "class", "order", "family", "genus", "super")
_PAGE = "https://github.com/visipedia/inat_comp"


class INaturalistDataModule(PublishedImagesDataModule):
    """iNaturalist 2017, 2018, 2019 or 2021, in the folders of ``torchvision.datasets.INaturalist``.

    For 2021 the training images lie in ``root/2021_train`` (or ``root/2021_train_mini``), and the test set is
    ``root/2021_valid``, as the labels of the published test images are not public. The archives of 2017 to 2019, in
    ``root/<version>``, hold training and validation images together: ``test_list``, such as ``val2018.json``, says
    which are the published validation images, and these are the test set; without it a share of every class is. The
    validation set is drawn from the training images, class by class.

    Args:
        root: Folder that holds the folders of the versions.
        version: ``"2017"``, ``"2018"``, ``"2019"``, ``"2021"`` or ``"2021_mini"``.
        target_type: What a class is: ``"full"`` (the species); for 2021 also ``"kingdom"``, ``"phylum"``, ``"class"``,
            ``"order"``, ``"family"`` or ``"genus"``, before also ``"super"``.
        test_list: File in ``root`` with the annotations of the test images, for 2017 to 2019.
        test_fraction: Share of every class to hold out for the test where nothing says which, in (0, 0.9].
        val_fraction: Share of every class to hold out for the validation, in (0, 0.9].
        image_size: Height and width after cropping, in [8, 16384].
        imbalance_factor: Ratio of the largest training count to the smallest; 1 keeps all training images.
        profile: ``"exp"`` or ``"step"``, see :func:`~lightning_topk.data.long_tail_counts`.
        order: Which class is frequent: ``"index"`` or ``"shuffled"``.
        seed: Seed of what is drawn.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader; decoding images is worth some.
        augment: Whether training images are cropped and mirrored at random.
        on_corrupt: See :class:`~lightning_topk.data.ImageFolderDataModule`.
        check_files: As there. ``"none"``, the default for published files, names a file when its turn comes.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or folders that do not have the layout above.
        FileNotFoundError: No such folder, or no images in it.

    Example:
        >>> INaturalistDataModule("nowhere").class_counts
        Traceback (most recent call last):
            ...
        FileNotFoundError: Parameter `root` should name a folder with `2021_train/<category>/<image>` and ...
    """

    def __init__(
        self,
        root: str = ".",
        version: str = "2021",
        target_type: str = "full",
        test_list: str | None = None,
        test_fraction: float = 0.1,
        val_fraction: float = 0.1,
        image_size: int = 224,
        imbalance_factor: float = 1.0,
        profile: str = "exp",
        order: str = "index",
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
        self.version = check_choice("version", version, _VERSIONS)
        self.recent = version.startswith("2021")
        ranks = tuple(rank for rank in _RANKS if rank == "full" or (rank == "super") != self.recent)
        self.target_type = check_choice("target_type", target_type, ranks)
        self.test_list = test_list
        if test_list is not None and self.recent:
            law = "Parameter `test_list` should be given for the versions 2017 to 2019 alone."
            raise ValueError(f"{law} Found `test_list = {test_list!r}` with `version = {version!r}`.")
        self.set_fractions(test_fraction, val_fraction)
        self.set_images(image_size, augment, on_corrupt, check_files)

    @property
    def layout(self) -> str:
        """What the folder should hold."""
        category = "<category>" if self.recent else "<supercategory>/<category>"
        folders = " and ".join(f"`{folder}/{category}/<image>`" for folder in self._folders.values())
        return (
            f"Parameter `root` should name a folder with {folders}, as torchvision.datasets.INaturalist leaves them; "
            f"the archives are to be had at {_PAGE}."
        )

    @property
    def _folders(self) -> dict[str, str]:
        if not self.recent:
            return {"train": self.version}
        return {"train": "2021_train" + self.version.removeprefix("2021"), "test": "2021_valid"}

    @cached_property
    def _datasets_of(self) -> dict[str, INaturalist]:
        found = {}
        for split, folder in self._folders.items():
            if not Path(self.root, folder).is_dir():  # torchvision would make the root
                raise FileNotFoundError(f"{self.layout} Found no folder `{Path(self.root, folder)}`.")
            try:
                found[split] = INaturalist(self.root, folder, self.target_type)
            except (RuntimeError, OSError) as error:
                raise ValueError(f"{self.layout} `{Path(self.root, folder)}` cannot be read: {error}.") from error
        if len({tuple(dataset.all_categories) for dataset in found.values()}) > 1:
            raise ValueError(f"{self.layout} Found other categories in one than in the other.")
        return found

    def read_names(self) -> list[str]:
        dataset = self._datasets_of["train"]
        if self.target_type != "full":
            return list(dataset.categories_index[self.target_type])
        return [" ".join(name.split("_")[6:]) if self.recent else name for name in dataset.all_categories]

    def find_files(self) -> dict[str, Samples]:
        files = {}
        for split, dataset in self._datasets_of.items():
            files[split] = [
                (os.path.join(dataset.root, dataset.all_categories[category], file), self._label(dataset, category))
                for category, file in sorted(dataset.index)  # listed in the order of the disk
                if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
            ]
        return files

    def _label(self, dataset: Any, category: int) -> int:
        return category if self.target_type == "full" else int(dataset.categories_map[category][self.target_type])

    @cached_property
    def rows(self) -> dict[str, tuple[str, Tensor]]:
        labels = labels_of(self.files["train"])
        rows, kept = {}, torch.arange(len(labels))
        if "test" in self.files:
            rows["test"] = ("test", torch.arange(len(self.files["test"])))
        elif self.test_list is not None:
            is_test = self._read_list(Path(self.root, self.test_list))
            rows["test"], kept = ("train", kept[is_test]), kept[~is_test]
        return self.draw(rows, "train", labels, kept)

    def _read_list(self, path: Path) -> Tensor:
        law = f"Parameter `test_list` should name a file of annotations in `root`, such as `val2018.json` of {_PAGE}."
        if not path.is_file():
            raise FileNotFoundError(f"{law} Found no `{path}`.")
        try:
            images = json.loads(path.read_text(encoding="utf-8"))["images"]
            # The first part of a path is the name of the archive.
            listed = {os.path.normpath(image["file_name"].partition("/")[2]) for image in images}
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{law} `{path}` cannot be read: {error!r}.") from error
        folder = Path(self.root, self.version)
        is_test = torch.tensor([os.path.relpath(file, folder) in listed for file, _ in self.files["train"]])
        if not is_test.any():
            raise ValueError(f"{law} Found none of the images of `{folder}` in `{path}`.")
        return is_test

    def training_crop(self) -> list[Any]:
        return [transforms.RandomResizedCrop(self.image_size), transforms.RandomHorizontalFlip()]
