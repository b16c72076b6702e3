"""The classes that options can name, by families."""

import inspect
import sys
from collections.abc import Iterator

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# jsonargparse knows classes by their bare names once they are imported; these are found on first use otherwise.
import lightning_topk.callbacks
import lightning_topk.data
import lightning_topk.module
from lightning_topk.losses import TopKLoss
from lightning_topk.schedules import Schedule

for _name in lightning_topk.data.__all__:
    getattr(lightning_topk.data, _name)

# By the last part of the name of the option that takes such a class.
FAMILIES: dict[str, type] = {
    "model": LightningModule,
    "loss": TopKLoss,
    "data": LightningDataModule,
    "schedule": Schedule,
    "callbacks": Callback,
    "logger": Logger,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
}


def class_names(option: str) -> set[str]:
    """Return the names of the public classes that an option can name; of all families when it is not known.

    Example:
        >>> sorted(class_names("schedule"))
        ['Constant', 'Cosine', 'Exponential', 'Linear', 'Piecewise']
    """
    families = [FAMILIES[option]] if option in FAMILIES else list(FAMILIES.values())
    return {cls.__name__ for family in families for cls in _subclasses(family) if _is_public(cls)}


def _subclasses(family: type) -> Iterator[type]:
    cls: type
    for cls in type.__subclasses__(family):
        yield cls
        yield from _subclasses(cls)


def _is_public(cls: type) -> bool:
    """Tell whether a class can be made, and imported by a path without a private part."""
    path = [part for part in cls.__module__.split(".") if not part.startswith("_")]
    found = hasattr(sys.modules.get(".".join(path)), cls.__name__)
    return found and not cls.__name__.startswith("_") and not inspect.isabstract(cls)
