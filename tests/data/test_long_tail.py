"""The long-tail profiles and the subset cut by them."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from lightning_topk.data import LongTailSubset, find_labels, long_tail_counts
from lightning_topk.data._splits import split_by_class


def labelled(counts: list[int]) -> TensorDataset:
    """Samples whose feature is their position, in an order that mixes the classes."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    return TensorDataset(torch.arange(len(labels)), labels)


# CIFAR-10-LT and CIFAR-100-LT as in the tables and code of the LDAM paper.
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((10, 5000, 100, "exp"), [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        ((10, 5000, 10, "exp"), [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        ((10, 5000, 100, "step"), [5000] * 5 + [50] * 5),
        ((5, 100, 10, "step"), [100] * 2 + [10] * 3),
        ((3, 7, 1, "exp"), [7, 7, 7]),
        ((3, 7, 1, "step"), [7, 7, 7]),
        ((1, 7, 100, "exp"), [7]),
        ((4, 3, 1000, "exp"), [3, 1, 1, 1]),
    ],
)
def test_counts_are_those_of_the_paper(arguments: tuple[Any, ...], expected: list[int]) -> None:
    assert long_tail_counts(*arguments) == expected


def test_cifar100_lt_has_the_published_size() -> None:
    counts = long_tail_counts(100, 500, 100)
    assert (counts[0], counts[-1], sum(counts)) == (500, 5, 10847)
    assert sum(long_tail_counts(100, 500, 50)) == 12608
    assert sum(long_tail_counts(100, 500, 10)) == 19573


@given(st.integers(1, 60), st.integers(1, 900), st.floats(1, 500), st.sampled_from(["exp", "step"]))
def test_counts_fall_from_the_largest_to_its_share(classes: int, largest: int, factor: float, profile: str) -> None:
    counts = long_tail_counts(classes, largest, factor, profile)
    assert len(counts) == classes
    assert counts == sorted(counts, reverse=True)
    if profile == "exp" or classes > 1:
        assert counts[0] == largest
    if classes > 1:
        assert math.isclose(counts[-1], max(1, largest / factor), abs_tol=1.0)


@pytest.mark.parametrize("order", ["index", "shuffled"])
@pytest.mark.parametrize("profile", ["exp", "step"])
def test_a_subset_has_the_counts_it_says(profile: str, order: str) -> None:
    subset = LongTailSubset(labelled([50] * 6), 10, profile, seed=1, order=order)
    labels = torch.tensor([int(label) for _, label in subset])
    assert labels.equal(subset.targets)
    assert labels.equal(find_labels(subset, strict=True))
    assert labels.bincount().equal(subset.class_counts)
    assert sorted(subset.class_counts.tolist(), reverse=True) == long_tail_counts(6, 50, 10, profile)
    if order == "index":
        assert subset.class_counts.tolist() == long_tail_counts(6, 50, 10, profile)


def test_a_shuffled_order_depends_on_the_seed_alone() -> None:
    dataset = labelled([40] * 12)
    first, again, other = (LongTailSubset(dataset, 20, seed=seed, order="shuffled") for seed in (0, 0, 1))
    assert first.indices == again.indices
    assert first.class_counts.tolist() != other.class_counts.tolist()
    assert first.class_counts.tolist() != sorted(first.class_counts.tolist(), reverse=True)


def test_samples_are_chosen_by_the_seed() -> None:
    dataset = labelled([40] * 4)
    first, again, other = (LongTailSubset(dataset, 20, seed=seed) for seed in (0, 0, 1))
    assert first.indices == again.indices
    assert first.indices != other.indices
    torch.manual_seed(99)
    assert LongTailSubset(dataset, 20, seed=0).indices == first.indices


@pytest.mark.parametrize("order", ["index", "shuffled"])
def test_a_larger_factor_chooses_among_the_samples_of_a_smaller(order: str) -> None:
    dataset = labelled([60, 60, 45, 60, 13])
    chosen = [set(LongTailSubset(dataset, factor, order=order).indices) for factor in (1, 2, 10, 100)]
    assert chosen[0] == set(range(len(dataset)))
    assert chosen[0] > chosen[1] > chosen[2] > chosen[3]


def test_classes_of_unequal_size_keep_what_they_have() -> None:
    subset = LongTailSubset(labelled([100, 3, 80, 2]), 10)
    profile = long_tail_counts(4, 100, 10)
    assert profile == [100, 46, 21, 10]
    assert subset.class_counts.tolist() == [100, 3, 21, 2]


def test_a_class_without_samples_stays_without() -> None:
    subset = LongTailSubset(labelled([10, 0, 10]), 2)
    assert subset.class_counts.tolist() == [10, 0, 5]


def test_no_sample_is_taken_twice_and_the_order_is_kept() -> None:
    subset = LongTailSubset(labelled([30] * 5), 7)
    assert subset.indices == sorted(set(subset.indices))


def test_a_subset_works_in_a_loader_and_a_pickle() -> None:
    subset = pickle.loads(pickle.dumps(LongTailSubset(labelled([8, 8]), 4)))
    batches = list(DataLoader(subset, batch_size=4))
    assert torch.cat([labels for _, labels in batches]).equal(subset.targets)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"imbalance_factor": 0.5}, ValueError, r"`imbalance_factor` should be a finite number >= 1. Found .* = 0.5"),
        (
            {"imbalance_factor": math.nan},
            ValueError,
            "`imbalance_factor` should be a finite number >= 1. Found .* = nan",
        ),
        ({"imbalance_factor": math.inf}, ValueError, "`imbalance_factor` should be a finite number"),
        ({"imbalance_factor": "100"}, TypeError, "`imbalance_factor` should be a finite number"),
        ({"profile": "linear"}, ValueError, "`profile` should be one of 'exp', 'step'. Found `profile = 'linear'`"),
        ({"order": "random"}, ValueError, "`order` should be one of 'index', 'shuffled'"),
        ({"seed": -1}, ValueError, "`seed` should be an integer >= 0. Found `seed = -1`"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LongTailSubset(labelled([4, 4]), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 5, 10), "`num_classes` should be an integer >= 1"), ((5, 0, 10), "`max_count` should be an integer >= 1")],
)
def test_bad_counts(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        long_tail_counts(*arguments)


def test_labels_that_are_no_classes() -> None:
    with pytest.raises(ValueError, match=r"class indices in \[0, 2\). Found -100"):
        LongTailSubset(TensorDataset(torch.tensor([0, 1, -100])))
    with pytest.raises(ValueError, match="should keep one integer class label per sample"):
        LongTailSubset(TensorDataset(torch.rand(3)))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.floats(0, 0.9), st.integers(0, 5))
def test_a_split_leaves_every_class_on_both_sides(counts: list[int], fraction: float, seed: int) -> None:
    labels = labelled(counts).tensors[1]
    kept, held = split_by_class(labels, fraction, seed=seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    left = labels[kept].bincount(minlength=len(counts))
    assert (left >= 1).all()
    for label, count in enumerate(counts):
        out = count - int(left[label])
        expected = min(count - 1, max(1, int(count * fraction + 0.5))) if fraction else 0
        assert out == expected
