"""How a comparison gets its runs: by whoever can read options and build the parts of a run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer


@dataclass
class Parts:
    """What a run is made of.

    Attributes:
        model: A module with :class:`~lightning_topk.TopKMixin`.
        datamodule: Its data; ``None`` when the model has loaders of its own.
        trainer: The trainer, which has not run yet.
    """

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer


class Launcher(ABC):
    """Reads the options of a run, and builds it.

    The command line has the one that does both as ``lightning-topk fit`` does. Objects are sent to other processes, so
    they have to be pickled.
    """

    def prepare(self) -> None:  # noqa: B027 - there may be nothing to do
        """Make a fresh process ready."""

    @abstractmethod
    def resolve(self, args: Sequence[str]) -> dict[str, Any]:
        """Return the complete configuration for arguments such as ``["--config", "a.yaml", "--model.loss.k=3"]``."""

    @abstractmethod
    def build(self, config: str | Path) -> Parts:
        """Return the parts of the run that a file with a complete configuration describes, made under its seed."""
