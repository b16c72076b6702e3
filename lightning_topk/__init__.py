"""Top-K losses, metrics and callbacks for PyTorch Lightning.

The families live in sub-packages with one import path each: :mod:`lightning_topk.losses`,
:mod:`lightning_topk.metrics`, :mod:`lightning_topk.callbacks`, :mod:`lightning_topk.data`,
:mod:`lightning_topk.ops`, :mod:`lightning_topk.heads`, :mod:`lightning_topk.schedules` and
:mod:`lightning_topk.imbalance`. The two entry points into Lightning, ``TopKMixin`` and
``TopKClassifier``, are also names of this package; they are resolved on first use, so that
``import lightning_topk.losses`` costs the import of torch alone.

Example:
    >>> import torch
    >>> from lightning_topk.losses import NoisedTopKLoss
    >>> loss = NoisedTopKLoss(k=2, epsilon=0.0)
    >>> loss(torch.tensor([[4.0, -1.5, 2.5, 1.0]]), torch.tensor([3]))
    tensor(1.)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["TopKClassifier", "TopKMixin", "__version__"]


def __getattr__(name: str) -> Any:
    if name in {"TopKClassifier", "TopKMixin"}:
        return getattr(import_module("lightning_topk.module"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
