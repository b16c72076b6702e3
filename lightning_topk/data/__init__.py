"""Data modules, long-tail subsampling, and the search for labels.

A data module here is known before it is set up: ``num_classes``, ``class_names``, ``class_counts`` and ``input_shape``
are properties that work right after construction, so that a configuration can link them into a model. The counts are
those of the training set as it will be delivered, after the long-tail subsampling; validation and test sets are never
subsampled. Everything is a function of the arguments and the seed: two constructions, on any rank, give the same
samples in the same order.

Published data sets are read from the files as they are published, and none is downloaded: where files are missing, the
error names the layout and the page where they are to be had. Data are not trusted like a program: nothing in them is
executed, the pickles of CIFAR included.

===================================  ==============================================================================
Name                                 What it is
===================================  ==============================================================================
:class:`GlyphsDataModule`            letters that look alike across alphabets, rendered on the spot; no download
:class:`ArrayDataModule`             images or feature vectors in one ``.npz`` or ``.parquet`` file
:class:`ImageFolderDataModule`       one folder per class, with or without folders for the splits
:class:`CIFAR10DataModule`           CIFAR-10 with the long tails of LDAM and label noise
:class:`CIFAR100DataModule`          CIFAR-100 likewise, also with noise within its superclasses
:class:`ImageNetLTDataModule`        ImageNet-LT from its published lists
:class:`PlacesLTDataModule`          Places-LT from its published lists
:class:`INaturalistDataModule`       iNaturalist 2017 to 2021
:class:`PlantNet300KDataModule`      Pl@ntNet-300K
:class:`OmniglotDataModule`          Omniglot from its image files, made long-tailed
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
    from lightning_topk.data._cifar import CIFAR10DataModule, CIFAR100DataModule
    from lightning_topk.data._glyphs import GlyphsDataModule
    from lightning_topk.data._image_folder import ImageFolderDataModule
    from lightning_topk.data._image_lists import ImageNetLTDataModule, PlacesLTDataModule
    from lightning_topk.data._inaturalist import INaturalistDataModule
    from lightning_topk.data._labels import find_class_counts, find_labels
    from lightning_topk.data._long_tail import LongTailSubset, long_tail_counts
    from lightning_topk.data._omniglot import OmniglotDataModule
    from lightning_topk.data._plantnet import PlantNet300KDataModule
    from lightning_topk.data._resumable import ResumableLoader

__all__ = [
    "ArrayDataModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "GlyphsDataModule",
    "INaturalistDataModule",
    "ImageFolderDataModule",
    "ImageNetLTDataModule",
    "LongTailSubset",
    "OmniglotDataModule",
    "PlacesLTDataModule",
    "PlantNet300KDataModule",
    "ResumableLoader",
    "find_class_counts",
    "find_labels",
    "long_tail_counts",
]

# Resolved on first use: counting labels needs neither lightning nor matplotlib.
_HOMES = {
    "ArrayDataModule": "_array",
    "CIFAR100DataModule": "_cifar",
    "CIFAR10DataModule": "_cifar",
    "GlyphsDataModule": "_glyphs",
    "INaturalistDataModule": "_inaturalist",
    "ImageFolderDataModule": "_image_folder",
    "ImageNetLTDataModule": "_image_lists",
    "LongTailSubset": "_long_tail",
    "OmniglotDataModule": "_omniglot",
    "PlacesLTDataModule": "_image_lists",
    "PlantNet300KDataModule": "_plantnet",
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
