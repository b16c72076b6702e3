"""CIFAR-10 and CIFAR-100 with long tails and label noise."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_topk._checks import check_choice, check_float
from lightning_topk.data._array_dataset import ArrayDataset
from lightning_topk.data._augment import ShiftAndMirror
from lightning_topk.data._base import LongTailDataModule
from lightning_topk.data._cifar_files import read_batch
from lightning_topk.data._label_noise import noisy_labels

_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
# Those of the code of smooth top-k and noised top-K: 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7 of 255.
_MEAN, _STD = torch.tensor([125.3, 123.0, 113.9]) / 255, torch.tensor([63.0, 62.1, 66.7]) / 255
NOISES = ("ids", "superclass")


class CIFAR10DataModule(LongTailDataModule):
    r"""CIFAR-10: 10 classes, 5,000 training and 1,000 test images of 32 x 32 pixels for each.

    ``root`` holds the folder ``cifar-10-batches-py`` as it is unpacked from the archive of the "python version", and
    as torchvision leaves it. The files are pickles; they are read without running anything in them.

    The test set is the published one. The validation set is a share of every class of the published training set, drawn
    by the seed, and the training set is what is left; with ``val_fraction = 0`` the validation set is the test set, as
    in the code of LDAM: that gives the published counts of the long tail, and no honest choice of hyper-parameters.

    The long tail has the counts of LDAM for the factors 10, 50, 100 and 200,
    :math:`n_c = \lfloor n_{\max} \rho^{-c / (C - 1)} \rfloor` or the step at half of the classes, see
    :func:`~lightning_topk.data.long_tail_counts`. Label noise is put on training labels alone, with the probability p =
    ``noise_fraction`` for each sample, which then gets one of the classes of its block, itself among them:
    ``noise="ids"`` takes blocks of five consecutive class indices, as the experiments of Berrada et al. and Garcin et
    al. do (in CIFAR-100 these are neighbours in the alphabet); ``noise="superclass"`` the superclasses of CIFAR-100.
    Class counts are those of the labels with their noise.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        noise: ``"ids"``, ``"superclass"`` (CIFAR-100 alone), or None for the labels as they are.
        noise_fraction: Probability p in [0, 1] that a label is drawn anew.
        val_fraction: Share of every class to hold out for the validation, in [0, 0.9]; 0 validates on the test set.
        imbalance_factor: Ratio of the largest training count to the smallest; 1 keeps all training images.
        profile: ``"exp"`` or ``"step"``.
        order: Which class is frequent: ``"index"`` (class 0 most, as in LDAM) or ``"shuffled"`` (by the seed).
        seed: Seed of the validation set, of the long tail and of the label noise.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader; the images lie in memory.
        augment: Whether training images are shifted by up to four pixels and mirrored at random.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or files that do not have the layout of the published ones.
        FileNotFoundError: No such folder or file.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Long tails: Cao et al., NeurIPS 2019.
        Noise: Berrada, Zisserman, Kumar, ICLR 2018, section 5.1; Garcin et al., ICML 2022, section 5.

    Example:
        >>> CIFAR10DataModule("nowhere").class_counts
        Traceback (most recent call last):
            ...
        FileNotFoundError: Parameter `root` should name a folder with `cifar-10-batches-py/`, which ...
    """

    folder = "cifar-10-batches-py"
    train_files: tuple[str, ...] = tuple(f"data_batch_{i}" for i in range(1, 6))
    test_file = "test_batch"
    meta_file, names_key, labels_key = "batches.meta", "label_names", "labels"

    def __init__(
        self,
        root: str = ".",
        noise: str | None = None,
        noise_fraction: float = 0.2,
        val_fraction: float = 0.1,
        imbalance_factor: float = 1.0,
        profile: str = "exp",
        order: str = "index",
        seed: int = 0,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: bool = True,
    ) -> None:
        root = os.fspath(root)  # strings alone may reach the hyper-parameters
        super().__init__(imbalance_factor, profile, order, seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self.root = root
        self.noise = None if noise is None else check_choice("noise", noise, NOISES)
        self.noise_fraction = check_float("noise_fraction", noise_fraction, 0.0, 1.0)
        self.fractions = {"val": check_float("val_fraction", val_fraction, 0.0, 0.9)}
        self.train_collate = ShiftAndMirror(4, fill=-_MEAN / _STD) if augment else None
        self._check_noise()

    def _check_noise(self) -> None:
        if self.noise == "superclass":
            law = 'Parameter `noise` should be "ids" or None for CIFAR-10, which has no superclasses.'
            raise ValueError(f'{law} Found `noise = "superclass"`.')

    @property
    def layout(self) -> str:
        """What the folder should hold."""
        files = ", ".join([*self.train_files, self.test_file, self.meta_file])
        return (
            f"Parameter `root` should name a folder with `{self.folder}/`, which holds {files}, as unpacked from the "
            f"python version of the archive that is to be had at {_PAGE}."
        )

    def _read(self, file: str) -> dict[str, Any]:
        if not Path(self.root, self.folder).is_dir():
            raise FileNotFoundError(f"{self.layout} Found no folder `{Path(self.root, self.folder)}`.")
        return read_batch(Path(self.root, self.folder, file), self.layout)

    @cached_property
    def _sources(self) -> dict[str, dict[str, Any]]:
        """Images [N, 3, 32, 32] and lists of labels of the training and the test files."""
        files = {"train": self.train_files, "test": (self.test_file,)}
        return {source: _joined([self._checked(file) for file in files[source]]) for source in files}

    def _checked(self, file: str) -> dict[str, Any]:
        batch = self._read(file)
        images, columns = batch.get("data"), {key: each for key, each in batch.items() if key.endswith("labels")}
        law = f"{self.layout} `{Path(self.root, self.folder, file)}` should hold `data` [N, 3072] of uint8"
        if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != 3072 or not len(images):
            raise ValueError(f"{law}. Found {list(images.shape) if isinstance(images, np.ndarray) else 'none'}.")
        for key in {self.labels_key, *columns}:
            labels = columns.get(key)
            if not isinstance(labels, list) or len(labels) != len(images) or not all(type(y) is int for y in labels):
                found = f"{len(labels)} entries" if isinstance(labels, list) else "none"
                raise ValueError(f"{law} and `{key}`, N whole numbers. Found {found} for {len(images)} images.")
        limit = len(self.class_names)
        if not all(0 <= label < limit for label in columns[self.labels_key]):
            raise ValueError(f"{law} and labels from 0 to {limit - 1}. Found others.")
        return {"data": images.reshape(-1, 3, 32, 32)} | columns

    def read_names(self) -> list[str]:
        names = self._read(self.meta_file).get(self.names_key)
        if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
            path = Path(self.root, self.folder, self.meta_file)
            raise ValueError(f"{self.layout} `{path}` should hold `{self.names_key}`, a list of names. Found none.")
        return names

    def read_shape(self) -> tuple[int, ...]:
        return (3, 32, 32)

    def clean_labels(self, source: str) -> Tensor:
        """Return the labels as published, of ``"train"`` (with the validation images) or ``"test"``."""
        return torch.tensor(self._sources[source][self.labels_key])

    def groups(self) -> Tensor:
        """Return the block of each class within which labels are drawn, int64, shape [C]."""
        return torch.arange(self.num_classes) // 5

    @cached_property
    def rows(self) -> dict[str, tuple[str, Tensor]]:
        """Source and positions in it, for each split."""
        labels = self.clean_labels("train")
        test = ("test", torch.arange(len(self.clean_labels("test"))))
        given = {"test": test} if self.fractions["val"] else {"test": test, "val": test}
        return self.draw(given, "train", labels, torch.arange(len(labels)))

    def read_sizes(self) -> dict[str, int]:
        return {split: len(rows) for split, (_, rows) in self.rows.items()}

    def read_train_labels(self) -> Tensor:
        labels = self.clean_labels("train")
        if self.noise is not None:
            labels = noisy_labels(labels, self.groups(), self.noise_fraction, seed=self.seed)
        return labels[self.rows["train"][1]]

    def build(self, split: str) -> Dataset[Any]:
        source, rows = self.rows[split]
        labels = self.read_train_labels() if split == "train" else self.clean_labels(source)[rows]
        return ArrayDataset(self._sources[source]["data"], labels, rows, _MEAN, _STD)


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: 100 classes, 500 training and 100 test images of 32 x 32 pixels for each, in 20 superclasses.

    ``root`` holds the folder ``cifar-100-python`` as it is unpacked from the archive of the "python version", and as
    torchvision leaves it. Everything else is as in :class:`CIFAR10DataModule`, the arguments too.

    Example:
        >>> CIFAR100DataModule("nowhere").class_counts
        Traceback (most recent call last):
            ...
        FileNotFoundError: Parameter `root` should name a folder with `cifar-100-python/`, which holds ...
    """

    folder = "cifar-100-python"
    train_files = ("train",)
    test_file = "test"
    meta_file, names_key, labels_key = "meta", "fine_label_names", "fine_labels"

    def _check_noise(self) -> None:
        """Superclasses are there."""

    def groups(self) -> Tensor:
        if self.noise != "superclass":
            return super().groups()
        source = self._sources["train"]
        fine, coarse = (torch.tensor(source.get(key, [])) for key in ("fine_labels", "coarse_labels"))
        pairs = torch.stack([fine, coarse], 1).unique(dim=0) if len(fine) == len(coarse) else torch.empty(0, 2)
        if not pairs[:, 0].equal(torch.arange(self.num_classes)) or int(coarse.min()) < 0:
            raise ValueError(f"{self.layout} Each of the `fine_labels` should have one of the `coarse_labels`.")
        return pairs[:, 1]


def _joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    lists = {key: [label for batch in batches for label in batch[key]] for key in first if key != "data"}
    return lists | {"data": np.concatenate([batch["data"] for batch in batches])}
