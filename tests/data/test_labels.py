"""Where labels are looked for, apart from the data sets of torchvision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)

from lightning_topk.data import LongTailSubset, find_class_counts, find_labels


class Holder(Dataset[Any]):
    """A data set of a given length with given attributes."""

    def __init__(self, length: int, **attributes: Any) -> None:
        self.length = length
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("no sample may be read")


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        raise AssertionError("no sample may be read")


class Columns(Holder):
    """Has the columns of a Hugging Face data set."""

    def __init__(self, **columns: Any) -> None:
        super().__init__(len(next(iter(columns.values()))))
        self.column_names = list(columns)
        self.columns = columns

    def __getitem__(self, index: Any) -> Any:
        return self.columns[index] if isinstance(index, str) else super().__getitem__(index)


LABELS = [2, 0, 2, 1]
FOUND = {
    "list": Holder(4, targets=LABELS),
    "tuple": Holder(4, targets=tuple(LABELS)),
    "list of tensors": Holder(4, targets=[torch.tensor(label) for label in LABELS]),
    "list of numpy integers": Holder(4, targets=list(np.array(LABELS, np.int16))),
    "tensor": Holder(4, targets=torch.tensor(LABELS, dtype=torch.int32)),
    "column tensor": Holder(4, targets=torch.tensor(LABELS)[:, None]),
    "uint8 array": Holder(4, labels=np.array(LABELS, np.uint8)),
    "private labels": Holder(4, _labels=LABELS),
    "y": Holder(4, y=torch.tensor(LABELS)),
    "private pairs": Holder(4, _samples=[("a.png", label) for label in LABELS]),
    "pairs": Holder(4, samples=[("a.png", label) for label in LABELS]),
    "imgs": Holder(4, imgs=[["a.png", label] for label in LABELS]),
    "omniglot": Holder(4, _flat_character_images=[("a.png", label) for label in LABELS]),
    "inaturalist": Holder(4, index=[(label, "a.png") for label in LABELS]),
    "celeba": Holder(4, target_type=["identity"], identity=torch.tensor(LABELS)[:, None]),
    "label names beside labels": Holder(4, labels=["ant", "bee", "cat"], targets=LABELS),
    "class names under labels": Holder(4, labels=["ant", "bee", "cat"], samples=[("a.png", label) for label in LABELS]),
    "strings under targets": Holder(4, targets=list("abcd"), samples=[("a.png", label) for label in LABELS]),
    "method named index": Holder(4, index=lambda: None, y=LABELS),
    "tensor data set": TensorDataset(torch.zeros(4, 2), torch.tensor(LABELS)),
    "list of samples": [(torch.zeros(2), label) for label in LABELS],
    "label column": Columns(text=list("abcd"), label=LABELS),
    "labels column": Columns(labels=np.array(LABELS)),
    "subset": Subset(TensorDataset(torch.tensor([1, 2, 1, 2, 0])), [1, 4, 3, 2]),
    "subset by an array": Subset(TensorDataset(torch.tensor([1, 2, 1, 2, 0])), np.array([1, 4, 3, 2])),
    "subset of a subset": Subset(Subset(Holder(5, targets=[1, 2, 9, 0, 2]), [4, 3, 1, 0]), [0, 1, 2, 3]),
    "parts": ConcatDataset([Holder(2, targets=[2, 0]), TensorDataset(torch.tensor([2, 1]))]),
    "subset of parts": Subset(ConcatDataset([Holder(2, y=[2, 0]), Columns(label=[1])]), [0, 1, 0, 2]),
    "subset with labels of its own": type("Relabelled", (Subset,), {"targets": LABELS})(
        Holder(9, targets=[7] * 9), [0, 1, 2, 3]
    ),
    "target transform": Holder(4, targets=[4, 0, 4, 2], target_transform=lambda label: label // 2),
}


@pytest.mark.parametrize("name", FOUND)
def test_labels_are_found(name: str) -> None:
    labels = find_labels(FOUND[name])
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS
    counts = find_class_counts(FOUND[name], 4)
    assert counts is not None
    assert counts.tolist() == [1, 1, 2, 0]


MISSING = {
    "stream": (Stream(), "a stream has no labels before it is read"),
    "chain of streams": (ChainDataset([Stream(), Stream()]), "a stream has no labels"),
    "nothing": (Holder(4), "Found `Holder`: none of the known places of labels is there"),
    "one-hot": (
        Holder(4, targets=torch.eye(4)),
        r"`targets` has shape \[4, 4\], as one-hot or multi-label targets have",
    ),
    "multi-label lists": (Holder(2, labels=[[0, 1], [1, 2]]), r"`labels` has shape \[2, 2\]"),
    "ragged": (Holder(2, labels=[[0, 1], [1]]), "`labels` holds something other than numbers"),
    "regression": (TensorDataset(torch.zeros(4, 2), torch.rand(4)), "the last tensor has dtype torch.float32"),
    "images alone": (TensorDataset(torch.zeros(4, 2, 2)), r"the last tensor has shape \[4, 2, 2\]"),
    "wrong length": (Holder(4, targets=[0, 1, 2]), "`targets` has 3 entries for 4 samples"),
    "names": (Holder(2, targets=["ant", "bee"]), "`targets` holds something other than numbers"),
    "missing labels": (Holder(2, targets=[1, None]), "`targets` holds something other than numbers"),
    "offsets": (Holder(2, index=[(0, 17), (3, 4)]), r"`index` is no list of \(class, file name\)"),
    "triples": (Holder(1, samples=[("a.png", 3, 4)]), "`samples` is no list of pairs"),
    "clips": (Holder(2, samples=[("a.avi", 0), ("b.avi", 1)], video_clips=1), "the samples are clips"),
    "columns": (Columns(text=["a", "b"], intent=[0, 1]), r"none of the columns \['text', 'intent'\] is called 'label'"),
    "part": (ConcatDataset([Holder(2, targets=[2, 0]), Holder(3)]), "none of the known places"),
    "subset": (Subset(Holder(2, targets=torch.rand(2)), [0]), "`targets` has dtype torch.float32"),
    "no length": (SimpleNamespace(targets=[0, 1]), "it has no length"),
    "transform to one-hot": (
        Holder(2, targets=[0, 1], target_transform=lambda label: [float(label == 0), float(label == 1)]),
        r"what `target_transform` returns has shape \[2, 2\]",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_cannot_be_told_is_none_and_has_a_reason(name: str) -> None:
    dataset, reason = MISSING[name]
    assert find_labels(dataset) is None
    assert find_class_counts(dataset) is None
    with pytest.raises(ValueError, match=f"should keep one integer class label per sample.*{reason}"):
        find_labels(dataset, strict=True)


def test_random_split_has_the_labels_of_its_part() -> None:
    parent = TensorDataset(torch.arange(30)[:, None].float(), torch.arange(30) % 7)
    for part in random_split(parent, [11, 19]):
        assert find_labels(part, strict=True).tolist() == [int(part[i][1]) for i in range(len(part))]


def test_counts_of_a_data_set_are_taken_at_their_word() -> None:
    dataset = Holder(4, targets=LABELS, class_counts=[5, 6, 7])
    assert find_class_counts(dataset).tolist() == [5, 6, 7]
    stream = Stream()
    stream.class_counts = np.array([3, 4])
    assert find_class_counts(stream, 2).tolist() == [3, 4]
    with pytest.raises(ValueError, match="Found 2 counts for 3 classes"):
        find_class_counts(stream, 3)
    assert find_class_counts(LongTailSubset(Holder(4, targets=[0, 0, 1, 1]), 2)).tolist() == [2, 1]


def test_ignored_labels_are_not_counted() -> None:
    dataset = Holder(5, targets=[0, -100, 1, 1, -100])
    assert find_labels(dataset, strict=True).tolist() == [0, -100, 1, 1, -100]
    assert find_class_counts(dataset).tolist() == [1, 2]
    with pytest.raises(ValueError, match="Found -100 in `Holder`"):
        find_class_counts(dataset, ignore_index=-1)


def test_a_label_beyond_the_classes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"class indices in \[0, 2\). Found 2"):
        find_class_counts(Holder(4, targets=LABELS), 2)


def test_a_million_labels_take_little_time() -> None:
    labels = np.random.default_rng(0).integers(0, 1000, 1_000_000)
    dataset = Subset(Holder(len(labels), targets=labels.tolist()), range(0, len(labels), 2))
    assert find_labels(dataset, strict=True).equal(torch.from_numpy(labels[::2]))
