"""Data modules, long-tail subsampling, and the search for labels.

A data module here is known before it is set up: ``num_classes``, ``class_names``, ``class_counts`` and ``input_shape``
are properties that work right after construction, so that a configuration can link them into a model. The counts are
those of the training set as it will be delivered, after the long-tail subsampling; validation and test sets are never
subsampled. Everything is a function of the arguments and the seed: two constructions, on any rank, give the same
samples in the same order.

===================================  ==============================================================================
Name                                 What it is
===================================  ==============================================================================
:class:`GlyphsDataModule`            letters that look alike across alphabets, rendered on the spot; no download
:class:`ArrayDataModule`             images or feature vectors in one ``.npz`` file
:class:`ImageFolderDataModule`       one folder per class, with or without folders for the splits
:class:`LongTailSubset`              a long tail (exponential or step profile) cut from any labelled data set
:class:`ResumableLoader`             a training loader that goes on at the very batch after an interruption
:func:`long_tail_counts`             the samples per class of these profiles
:func:`find_labels`                  the labels of a data set, without reading its samples
:func:`find_class_counts`            its samples per class
===================================  ==============================================================================

Example:
    >>> from lightning_topk.data import long_tail_counts
    >>> long_tail_counts(5, 500, imbalance_factor=100, profile="exp")
    [500, 158, 50, 15, 5]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_topk.data._array import ArrayDataModule
    from lightning_topk.data._glyphs import GlyphsDataModule
    from lightning_topk.data._image_folder import ImageFolderDataModule
    from lightning_topk.data._labels import find_class_counts, find_labels
    from lightning_topk.data._long_tail import LongTailSubset, long_tail_counts
    from lightning_topk.data._resumable import ResumableLoader

__all__ = [
    "ArrayDataModule",
    "GlyphsDataModule",
    "ImageFolderDataModule",
    "LongTailSubset",
    "ResumableLoader",
    "find_class_counts",
    "find_labels",
    "long_tail_counts",
]

# Resolved on first use: counting labels needs neither lightning nor matplotlib.
_HOMES = {
    "ArrayDataModule": "_array",
    "GlyphsDataModule": "_glyphs",
    "ImageFolderDataModule": "_image_folder",
    "LongTailSubset": "_long_tail",
    "ResumableLoader": "_resumable",
    "find_class_counts": "_labels",
    "find_labels": "_labels",
    "long_tail_counts": "_long_tail",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"lightning_topk.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
