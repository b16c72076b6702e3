"""What every data module of this package shares: splits by name, loaders, and facts known before the set-up."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_topk._checks import check_choice, check_float, check_int
from lightning_topk._ranks import seed_of_run
from lightning_topk.data._long_tail import ORDERS, PROFILES, long_tail_indices
from lightning_topk.data._resumable import ResumableLoader, RunSeed
from lightning_topk.data._splits import split_by_class
from lightning_topk.imbalance import class_counts

MOST_WORKERS = 1024  # of one loader; a slip of the hand beyond would bring the machine down
_SPLITS = ("train", "val", "test")
_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class LongTailDataModule(LightningDataModule, ABC):
    """Base of the data modules: three splits, of which only the training set is made long-tailed.

    A subclass names its arguments, calls ``save_hyperparameters(logger=False)``, and fills in :meth:`read_names`,
    :meth:`read_shape`, :meth:`read_train_labels` and :meth:`build`. The first three are cheap, cached, and work before
    ``setup``.

    Args:
        imbalance_factor: Ratio >= 1 of the largest training count to the smallest, see
            :func:`~lightning_topk.data.long_tail_counts`; 1 leaves the training set as it is.
        profile: ``"exp"`` or ``"step"``.
        order: ``"index"`` or ``"shuffled"``, see :class:`~lightning_topk.data.LongTailSubset`.
        seed: Seed of the samples and splits. The order of the batches follows the run's seed instead, and so does
            what is drawn anew in every epoch; see :class:`~lightning_topk.data.ResumableLoader`.
        batch_size: Samples in a batch, >= 1.
        num_workers: Worker processes of each loader; 0 loads in the main process.
    """

    def __init__(
        self, imbalance_factor: float, profile: str, order: str, seed: int, batch_size: int, num_workers: int
    ) -> None:
        super().__init__()
        self.imbalance_factor = check_float("imbalance_factor", imbalance_factor, 1.0)
        self.profile = check_choice("profile", profile, PROFILES)
        self.order = check_choice("order", order, ORDERS)
        self.seed = check_int("seed", seed, 0)
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.num_workers = check_int("num_workers", num_workers, 0, MOST_WORKERS)
        self.train_collate: Callable[[list[Any]], Any] | None = None
        self._datasets: dict[str, Dataset[Any]] = {}
        self._run_seed = RunSeed()

    @abstractmethod
    def read_names(self) -> list[str]:
        """Return the name of every class."""

    @abstractmethod
    def read_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample: (channels, height, width) or (features,)."""

    @abstractmethod
    def read_train_labels(self) -> Tensor:
        """Return the labels of the training set as it is delivered."""

    @abstractmethod
    def build(self, split: str) -> Dataset[Any]:
        """Return the data set of the split ``"train"``, ``"val"`` or ``"test"``."""

    def read_sizes(self) -> dict[str, int]:
        """Return the number of samples of each split; a subclass that knows it without building the splits says so."""
        return {split: len(self.dataset(split)) for split in _SPLITS}  # type: ignore[arg-type]

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.read_names()

    @cached_property
    def class_counts(self) -> Tensor:
        """Training samples of each class after the long-tail subsampling, int64, shape [C]."""
        return class_counts(self.read_train_labels(), self.num_classes)

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, height, width), or (features,)."""
        return self.read_shape()

    @cached_property
    def split_sizes(self) -> dict[str, int]:
        """Number of samples of ``"train"``, ``"val"`` and ``"test"``, of the training set after the subsampling."""
        sizes = self.read_sizes()
        return {split: sizes[split] for split in _SPLITS}

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        """Channels of an image, or length of a feature vector."""
        return self.input_shape[0]

    def dataset(self, split: str) -> Dataset[Any]:
        """Return the data set of ``"train"``, ``"val"`` or ``"test"``, built on the first call."""
        check_choice("split", split, _SPLITS)
        if split not in self._datasets:
            self._datasets[split] = self.build(split)
        return self._datasets[split]

    def setup(self, stage: str | None = None) -> None:
        if stage == "fit":
            self._run_seed.value = None  # that of an earlier run; a checkpoint is loaded after this
        for split in _STAGES.get(str(stage), _SPLITS):
            self.dataset(split)

    def state_dict(self) -> dict[str, Any]:
        return {"run_seed": self._run_seed.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._run_seed.value = state_dict["run_seed"]

    def set_fractions(self, test_fraction: float, val_fraction: float) -> None:
        """Set the shares that :meth:`draw` holds out."""
        self.fractions = {
            "test": check_float("test_fraction", test_fraction, 0.0, 0.9, low_open=True),
            "val": check_float("val_fraction", val_fraction, 0.0, 0.9, low_open=True),
        }

    def draw(
        self, rows: dict[str, tuple[str, Tensor]], source: str, labels: Tensor, kept: Tensor
    ) -> dict[str, tuple[str, Tensor]]:
        """Complete the splits: draw those that are missing from the training samples, then cut the long tail.

        Args:
            rows: Name of a source and positions in it, for each split that is given.
            source: Name of the source of the training samples.
            labels: Labels of this source.
            kept: Positions in this source that are no samples of a given split.
        """
        rows = dict(rows)
        for stream, split in enumerate(("test", "val")):
            if split not in rows:
                inner, held = split_by_class(labels[kept], self.fractions[split], seed=self.seed, stream=stream)
                rows[split], kept = (source, kept[held]), kept[inner]
        counts = torch.bincount(labels[kept], minlength=self.num_classes)
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            shown = ", ".join(f"{c} ({self.class_names[c]})" for c in empty[:10]) + (", ..." if len(empty) > 10 else "")
            raise ValueError(
                "Every class should have at least one training sample, with labels 0 to C - 1. "
                f"Found none for {len(empty)} of {len(counts)} classes: {shown}."
            )
        tail = long_tail_indices(
            labels[kept],
            self.imbalance_factor,
            self.profile,
            seed=self.seed,
            order=self.order,
            num_classes=self.num_classes,
        )
        return rows | {"train": (source, kept[tail])}

    def train_dataloader(self) -> DataLoader[Any]:
        if self.trainer is not None and self._run_seed.value is None:
            self._run_seed.value = seed_of_run(self.trainer)
        return ResumableLoader(
            self.dataset("train"),
            self.batch_size,
            trainer=self.trainer,
            seed=self._run_seed,
            collate_fn=self.train_collate,
            **self._options(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def _loader(self, split: str) -> DataLoader[Any]:
        return DataLoader(self.dataset(split), batch_size=self.batch_size, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
