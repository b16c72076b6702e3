"""Counts, margins and groups."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_topk.imbalance import (
    check_counts,
    class_balanced_weights,
    class_counts,
    class_groups,
    ldam_margins,
    log_priors,
    nonzero_counts,
    posthoc_logit_adjustment,
    read_counts,
)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_class_counts_count(labels: list[int]) -> None:
    assert class_counts(labels, 10).tolist() == [labels.count(c) for c in range(10)]
    assert class_counts(torch.tensor(labels)).numel() == max(labels) + 1


@pytest.mark.parametrize(
    ("labels", "num_classes", "error", "message"),
    [
        ([], 3, ValueError, "at least one class index"),
        ([0, -1], 3, ValueError, r"in \[0, 3\)\. Found -1"),
        ([0, 3], 3, ValueError, r"in \[0, 3\)\. Found 3"),
        ([0.0, 1.0], 3, TypeError, r"integer class indices\. Found torch\.float32"),
        ([True], 3, TypeError, r"Found torch\.bool"),
        ([0], 0, ValueError, r"`num_classes` should be an integer >= 1"),
    ],
)
def test_bad_labels(labels, num_classes, error, message) -> None:
    with pytest.raises(error, match=message):
        class_counts(labels, num_classes)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda x: torch.tensor(x).float()])
def test_counts_of_any_kind(kind) -> None:
    counts = check_counts(kind([3, 0, 5]), 3)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [3, 0, 5]


def test_counts_of_the_wrong_length() -> None:
    with pytest.raises(ValueError, match=r"Found 2 counts for 3 classes"):
        check_counts([1, 2], 3)


def test_ldam_margins_are_constant_over_the_fourth_root() -> None:
    counts = [1280, 77, 5]
    margins = ldam_margins(counts, max_margin=0.2)
    constant = 0.2 * 5**0.25
    for margin, count in zip(margins.tolist(), counts, strict=True):
        assert math.isclose(margin, constant / count**0.25, rel_tol=1e-6)
    torch.testing.assert_close(ldam_margins(counts, constant=constant), margins)


def test_zero_counts_never_give_nan() -> None:
    with pytest.raises(ValueError, match=r"Found none for 12 of 13 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\."):
        ldam_margins([0] * 12 + [4])
    margins = ldam_margins([0, 23, 55], zero="clamp")
    assert margins.isfinite().all()
    assert margins[0] == 0.5
    assert nonzero_counts([0, 2], "clamp").tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"`zero_counts` should be one of 'error', 'clamp'"):
        nonzero_counts([1], "drop")


def test_groups_split_at_the_published_edges() -> None:
    groups = class_groups([1000, 101, 100, 50, 20, 19, 0])
    assert groups["many"].tolist() == [True, True, False, False, False, False, False]
    assert groups["medium"].tolist() == [False, False, True, True, True, False, False]
    assert groups["few"].tolist() == [False, False, False, False, False, True, True]
    assert class_groups([5, 1], many=2, few=3)["medium"].tolist() == [False, False]
    with pytest.raises(ValueError, match=r"`few` should be at most `many \+ 1`"):
        class_groups([5], many=2, few=4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", "[40, 7, 2]"),
        ("counts.json", '{"names": ["a", "b", "c"], "counts": [40, 7, 2]}'),
        ("table.json", '{"1": 7, "0": 40, "2": 2}'),
        ("plain.csv", "40\n7\n2\n"),
        ("header.csv", "count\n40\n7\n2\n"),
        ("table.csv", "class,count\n2,2\n0,40\n1,7\n"),
        ("wide.csv", "name,count,class\nb,7,1\na,40,0\nc,2,2\n"),
        ("bom.csv", "\ufeffclass,count\n0,40\n1,7\n2,2\n"),
    ],
)
def test_read_counts(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_counts(path).tolist() == [40, 7, 2]
    assert read_counts(str(path)).dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("counts.txt", "1", r"should be JSON .* or CSV .*Found `.*counts\.txt`"),
        ("bad.json", "{", r"bad\.json` is not: "),
        ("words.json", '["many"]', r"words\.json` is not: "),
        ("names.json", '{"oak": 3}', r"classes should be given by index\. Found 'oak'"),
        ("gap.json", '{"0": 3, "2": 1}', r"without gaps\. Found 2 up to 2"),
        ("negative.csv", "3\n-1\n", r"Found -1\.0 for class 1"),
        ("twice.csv", "0,3\n0,4\n", r"class 0 is given twice"),
        ("ragged.csv", "0,3\n1\n", r"rows of different"),
        ("empty.csv", "", r"empty\.csv` is not: "),
        ("columns.csv", "a,b,c\n1,2,3\n", r"has no columns `class` and `count`"),
    ],
)
def test_bad_count_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_counts(path)


def test_missing_and_binary_count_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"should exist\. Found none at `.*nowhere\.json`"):
        read_counts(tmp_path / "nowhere.json")
    (tmp_path / "payload.json").write_bytes(pickle.dumps({"counts": [1, 2]}) + b"\xff")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_counts(tmp_path / "payload.json")


def test_real_counts(shared_data: Path) -> None:
    path = shared_data / "class_counts" / "imagenet_lt_train.json"
    counts = read_counts(path)
    assert counts.tolist() == json.loads(path.read_text())["counts"]
    groups = {name: int(mask.sum()) for name, mask in class_groups(counts).items()}
    assert groups == {"many": 385, "medium": 479, "few": 136}  # as published for ImageNet-LT


@pytest.mark.parametrize(
    ("counts", "beta", "weights"),
    [
        ([1, 2, 3], 0.5, (1.340426, 0.893617, 0.765957)),
        ([500, 50, 5], 0.9999, (0.027690, 0.270763, 2.701547)),
        ([500, 50, 5], 1.0, (0.027027, 0.270270, 2.702703)),
        ([500, 50, 5], 0.0, (1.0, 1.0, 1.0)),
    ],
)
def test_class_balanced_weights(counts: list[int], beta: float, weights: tuple[float, ...]) -> None:
    assert class_balanced_weights(counts, beta).tolist() == pytest.approx(weights, abs=1e-6)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.sampled_from([0.0, 0.9, 0.9999, 1 - 1e-12, 1.0]))
def test_class_balanced_weights_have_mean_one_and_fall_with_the_count(counts: list[int], beta: float) -> None:
    weights = class_balanced_weights(counts, beta)
    assert math.isclose(weights.double().sum(), len(counts), rel_tol=1e-5)
    assert (weights[torch.tensor(counts).argsort()].diff() <= 1e-5 * weights.max()).all()
    if beta == 1 - 1e-12:
        torch.testing.assert_close(weights, class_balanced_weights(counts, 1.0), rtol=1e-4, atol=0)


def test_bad_weights_and_priors() -> None:
    for beta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"`beta` should be a finite number >= 0 and <= 1\. Found `beta = "):
            class_balanced_weights([1, 2], beta)
    for function in (class_balanced_weights, log_priors):
        with pytest.raises(ValueError, match=r"Found none for 1 of 2 classes: 1\."):
            function([3, 0])
        assert function([3, 0], zero="clamp").isfinite().all()


def test_log_priors() -> None:
    assert log_priors([1, 3]).tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert log_priors([3, 0], zero="clamp").exp().tolist() == pytest.approx([0.75, 0.25])


def test_posthoc_adjustment_undoes_the_prior() -> None:
    """A network that knows the posterior probabilities ranks by likelihood afterwards."""
    counts, likelihood = torch.tensor([90, 9, 1]), torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    logits = (likelihood * counts).log() + 5.0
    adjusted = posthoc_logit_adjustment(logits, counts)
    torch.testing.assert_close(adjusted.softmax(-1), likelihood, rtol=1e-6, atol=1e-6)
    assert logits.argmax(-1) == 0
    assert adjusted.argmax(-1) == 2
    assert adjusted.topk(2).indices.tolist() == [[2, 1]]
    assert torch.equal(posthoc_logit_adjustment(logits, counts, tau=0.0), logits)
    half = posthoc_logit_adjustment(logits.bfloat16(), counts)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, posthoc_logit_adjustment(logits.bfloat16().float(), counts))


def test_bad_posthoc_adjustment() -> None:
    with pytest.raises(ValueError, match=r"Found 2 counts for 3 classes"):
        posthoc_logit_adjustment(torch.zeros(1, 3), [1, 2])
    with pytest.raises(ValueError, match=r"`tau` should be a finite number\. Found `tau = inf`"):
        posthoc_logit_adjustment(torch.zeros(1, 2), [1, 2], tau=math.inf)
    with pytest.raises(ValueError, match=r"Found none for 1 of 2 classes: 0\."):
        posthoc_logit_adjustment(torch.zeros(1, 2), [0, 2])
    with pytest.raises(TypeError, match=r"`logits` should have a floating point dtype"):
        posthoc_logit_adjustment(torch.zeros(1, 2, dtype=torch.long), [1, 2])
