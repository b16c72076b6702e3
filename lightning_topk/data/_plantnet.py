"""Pl@ntNet-300K."""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from torchvision import transforms

from lightning_topk.data._class_folders import ClassFoldersDataModule
from lightning_topk.data._images import PublishedImagesDataModule

_LAYOUT = (
    "Parameter `root` should name the folder `plantnet_300K` with `images/train/<species_id>/<image>.jpg`, likewise "
    "`images/val` and `images/test`, and `plantnet300K_species_id_2_name.json`, as unpacked from the archive that is "
    "to be had at https://doi.org/10.5281/zenodo.4726653."
)
_NAMES = "plantnet300K_species_id_2_name.json"


class PlantNet300KDataModule(PublishedImagesDataModule, ClassFoldersDataModule):
    """Pl@ntNet-300K: 1,081 species of plants, 306,146 images, naturally long-tailed and ambiguous.

    The splits are the published folders of 243,916 training, 31,118 validation and 31,112 test images; each species has
    a training image, and not each a validation image. Classes are the species ids in alphabetical order, as in the code
    and the weights of the authors. They go by the names of ``plantnet300K_species_id_2_name.json``, or by their ids
    where the file is missing, as in the first version of the record.

    Images are resized to 256/224 of ``image_size``; training images are cropped at random, without a mirror, and others
    in the centre, as in the experiments of Garcin et al.

    Args:
        root: The folder ``plantnet_300K``, or the one that holds it.
        image_size: Height and width after cropping, in [8, 16384].
        seed: Without effect on the splits, which are given.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader; decoding images is worth some.
        augment: Whether training images are cropped at random.
        on_corrupt: See :class:`~lightning_topk.data.ImageFolderDataModule`.
        check_files: As there. ``"none"``, the default for published files, names a file when its turn comes.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or folders that do not have the layout above.
        FileNotFoundError: No such folder, or no images in it.

    References:
        Garcin, Joly, Bonnet, Affouard, Lombardo, Chouet, Servajean, Lorieul, Salmon, "Pl@ntNet-300K: a plant image
        dataset with high label ambiguity and a long-tailed distribution", NeurIPS Datasets and Benchmarks 2021.

    Example:
        >>> PlantNet300KDataModule("nowhere").class_counts
        Traceback (most recent call last):
            ...
        FileNotFoundError: Parameter `root` should name the folder `plantnet_300K` with `images/train/<species_id>/...
    """

    layout = _LAYOUT

    def __init__(
        self,
        root: str = ".",
        image_size: int = 224,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        augment: bool = True,
        on_corrupt: str = "error",
        check_files: str = "none",
    ) -> None:
        root = os.fspath(root)  # strings alone may reach the hyper-parameters
        super().__init__(1.0, "exp", "index", seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self.root = root
        self.set_images(image_size, augment, on_corrupt, check_files)

    @cached_property
    def _top(self) -> Path:
        inner = Path(self.root, "plantnet_300K")
        return inner if inner.is_dir() else Path(self.root)

    @cached_property
    def folders(self) -> dict[str, Path]:
        folders = {split: self._top / "images" / split for split in ("train", "val", "test")}
        for folder in folders.values():
            if not folder.is_dir():
                raise FileNotFoundError(f"{self.layout} Found no folder `{folder}`.")
        return folders

    @cached_property
    def species_ids(self) -> list[str]:
        """Id of the species of each class, the name of its folder."""
        return super().read_names()

    def folder_names(self) -> list[str]:
        return self.species_ids

    def read_names(self) -> list[str]:
        path = self._top / _NAMES
        if not path.is_file():
            return list(self.species_ids)
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.layout} `{path}` cannot be read: {error}.") from error
        known = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
        missing = [each for each in self.species_ids if each not in names] if known else []
        if not known or missing:
            found = f"no name of {missing[0]}" if missing else "something else"
            raise ValueError(f"{self.layout} `{path}` should hold the name of each species by its id. Found {found}.")
        return [names[each] for each in self.species_ids]

    def training_crop(self) -> list[Any]:
        return [transforms.Resize(round(self.image_size * 256 / 224)), transforms.RandomCrop(self.image_size)]
