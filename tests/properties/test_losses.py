"""Any logits and targets under any loss: the value and gradient of the slow reference, or a message of the list."""

import functools
import math
import warnings

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from cases import CASES, Case
from lightning_topk import losses
from lightning_topk.losses import TopKLoss
from lightning_topk.ops import LapSum, SortingNetwork, SparseTopK
from properties.messages import is_in_the_list
from properties.slow_losses import COSTLY, slow_loss
from properties.strategies import FINITE, Batch, batches, faulty_batches
from properties.tally import brief, count, thorough

LOSSES = st.sampled_from(CASES)
IGNORED = st.sampled_from([-100, -1, 0, 2, 255, -(2**63), 2**62])
NEAR = ("ordinary", "ties", "constant", "denormal")
#: Losses without kinks where two scores are equal.
SMOOTH = (
    *(losses.CrossEntropyLoss, losses.FocalLoss, losses.LDAMLoss, losses.LogitAdjustedLoss, losses.VSLoss),
    *(losses.BalancedSoftmaxLoss, losses.SmoothTopKLoss, losses.TopKEntropyLoss),
)


@functools.cache
def least_classes(name: str) -> int:
    """The fewest classes that a case of the table takes."""
    case = next(case for case in CASES if str(case) == name)
    for num_classes in range(1, 20):
        try:
            case.make(num_classes)(torch.zeros(1, num_classes), torch.tensor([0]))
        except ValueError:
            continue
        return num_classes
    raise AssertionError(f"{name} takes no logits")


def make(case: Case, num_classes: int, **common: object) -> TopKLoss:
    loss = case.make(num_classes, **common)
    loss.bind_class_counts([(7 * c) % 11 * 9 + 1 for c in range(num_classes)])
    return loss


def comparable(loss: TopKLoss, kind: str) -> bool:
    """Tell whether the slow reference of a loss is exact for logits of a kind."""
    inner = loss
    while hasattr(inner, "loss"):
        inner = inner.loss
    if isinstance(inner, COSTLY) or isinstance(getattr(inner, "operator", None), SortingNetwork | LapSum | SparseTopK):
        return kind in NEAR
    return kind in FINITE


def tolerance(loss: TopKLoss, batch: Batch) -> float:
    """Absolute error that rounding in the dtype of the computation may make."""
    seen = batch.rows[:, ::2] if batch.kind == "masked" else batch.rows
    span = float(seen[seen.isfinite()].abs().max()) if seen.isfinite().any() else 0.0
    factor = batch.rows.shape[-1] if "operator" in dir(loss) else 1.0
    unit = 2e-10 if batch.logits.dtype == torch.float64 else 4e-6
    if isinstance(loss, (*COSTLY, losses.MATkLoss)):
        unit = max(unit, 3e-6)
    return unit * factor * (2 + span * getattr(loss, "scale", 1.0) / min(1.0, getattr(loss, "tau", 1.0)))


@thorough
@given(case=LOSSES, data=st.data())
def test_a_right_batch_has_the_loss_of_the_slow_reference(case: Case, data: st.DataObject) -> None:
    ignore_index = data.draw(IGNORED)
    batch = data.draw(batches(least_classes(str(case)), ignore_index))
    num_classes = batch.logits.shape[-1]
    loss = make(case, num_classes, ignore_index=ignore_index, reduction="none").eval()
    values = loss(batch.logits, batch.targets)

    assert values.dtype == (torch.float64 if batch.logits.dtype == torch.float64 else torch.float32)
    assert values.shape == batch.logits.shape[:-1]
    flat, shares = values.detach().flatten(), batch.shares(ignore_index)
    finite = batch.rows.isfinite().all(-1).tolist()
    if batch.kind in FINITE or batch.kind == "nonfinite":
        expected_nan = [not ok and (batch.soft or bool(s)) for ok, s in zip(finite, shares, strict=True)]
        assert flat.isnan().tolist() == expected_nan, "NaN in the rows with a NaN or infinite logit, and in no other"
        assert (flat.isfinite() | flat.isnan()).all()
    if comparable(loss, batch.kind) and len(flat):
        slow = slow_loss(loss, num_classes)
        rows = batch.rows.tolist()
        asked = [data.draw(st.integers(0, len(rows) - 1))] if num_classes > 6 else range(len(rows))
        if isinstance(loss, COSTLY) and data.draw(st.integers(0, 29)):
            asked = []
        for row in asked:
            expected = sum(share * slow(rows[row], label) for label, share in shares[row])
            assert math.isclose(flat[row], expected, rel_tol=2e-5, abs_tol=2 * tolerance(loss, batch)), row
    count("a loss of right input", refused=False)


@thorough
@given(case=LOSSES, data=st.data())
def test_reductions_weigh_and_divide(case: Case, data: st.DataObject) -> None:
    ignore_index = data.draw(IGNORED)
    batch = data.draw(batches(least_classes(str(case)), ignore_index, most=6))
    num_classes = batch.logits.shape[-1]
    weight = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=num_classes, max_size=num_classes))
    reduction = data.draw(st.sampled_from(["mean", "sum"]))
    common = {"ignore_index": ignore_index, "weight": weight}
    rows = make(case, num_classes, reduction="none", **common).eval()(batch.logits, batch.targets).detach().double()
    value = make(case, num_classes, reduction=reduction, **common).eval()(batch.logits, batch.targets).detach()

    divisors = [sum(share * weight[label] for label, share in shares) for shares in batch.shares(ignore_index)]
    total = sum(divisors)
    if reduction == "sum":
        total = 1.0
    assume(total == 0 or abs(total) > 0.2)
    expected = rows.sum() / (total or 1.0)
    if batch.kind == "beyond":
        pass  # the sum of what is still finite may not be
    elif rows.isfinite().all():
        rounding = float(rows.abs().sum()) * 2e-6 / abs(total or 1.0)
        assert math.isclose(value.detach(), expected, rel_tol=1e-5, abs_tol=rounding)
    else:
        assert not value.isfinite()
    count("a weighted reduction", refused=False)


@thorough
@given(case=LOSSES, data=st.data())
def test_gradients_are_finite_and_slopes_of_the_slow_reference(case: Case, data: st.DataObject) -> None:
    batch = data.draw(batches(least_classes(str(case)), most=6))
    num_classes = batch.logits.shape[-1]
    leaf = batch.logits.detach().clone().requires_grad_()
    loss = make(case, num_classes, reduction="sum").train(data.draw(st.booleans()))
    loss.seed_noise(1)
    loss(leaf, batch.targets).backward()
    assert leaf.grad.dtype == leaf.dtype
    gradients = leaf.grad.double().reshape(-1, num_classes)
    counted = torch.tensor([bool(shares) for shares in batch.shares(-100)], dtype=torch.bool)
    assert not gradients[~counted].any(), "an ignored row has no gradient"
    finite = batch.rows.isfinite().all(-1)
    if batch.kind != "beyond":
        assert gradients[finite].isfinite().all()
    plain = not loss.training or type(loss).__name__ not in ("AverageTopKLoss", "MATkLoss", "STkLoss")
    noiseless = not (loss.training and case.noisy)
    cheap = not isinstance(loss, COSTLY) or not data.draw(st.integers(0, 29))
    clear = batch.kind == "ordinary" or (batch.kind == "ties" and isinstance(loss, SMOOTH))
    if clear and leaf.dtype in (torch.float32, torch.float64) and plain and noiseless:
        row = data.draw(st.integers(0, len(gradients) - 1)) if len(gradients) else -1
        if row >= 0 and cheap:
            check_slope(loss, batch.rows[row], batch.shares(-100)[row], gradients[row])
    count("a gradient", refused=False)


def check_slope(loss: TopKLoss, scores: Tensor, shares: list[tuple[int, float]], gradient: Tensor) -> None:
    """Compare with the one-sided slopes of the reference, which differ at a kink."""
    slow = slow_loss(loss, len(scores))
    step = 1e-4 if isinstance(loss, COSTLY) else 1e-5
    direction = torch.cos(torch.arange(1, len(scores) + 1, dtype=torch.float64) ** 2)

    def value(move: float) -> float:
        return sum(share * slow((scores + move * direction).tolist(), label) for label, share in shares)

    here = value(0.0)
    sides = [(value(step) - here) / step, (here - value(-step)) / step]
    slope = float(gradient @ direction)
    room = 0.02 * sum(abs(share) for _, share in shares) * getattr(loss, "scale", 1.0)
    assert min(sides) - room <= slope <= max(sides) + room, (sides, slope)


@thorough
@given(case=LOSSES, data=st.data())
def test_a_wrong_batch_is_refused_by_a_message_of_the_list(case: Case, data: st.DataObject) -> None:
    ignore_index = data.draw(IGNORED)
    batch = data.draw(faulty_batches(least_classes(str(case)), ignore_index))
    assume(batch.fault is not None)
    loss = make(
        case, max(1, shape[-1]) if (shape := getattr(batch.logits, "shape", ())) else 2, ignore_index=ignore_index
    )
    with pytest.raises((TypeError, ValueError)) as caught:
        loss.train(data.draw(st.booleans()))(batch.logits, batch.targets)
    assert is_in_the_list(caught.value, "logits", "targets", "number of guesses", "one number per class"), caught.value
    count("a loss of wrong input", refused=True)


@thorough
@given(case=LOSSES, data=st.data())
def test_classes_of_another_number_are_refused(case: Case, data: st.DataObject) -> None:
    least = least_classes(str(case))
    num_classes = data.draw(st.integers(1, least + 3))
    weight = [1.0] * data.draw(st.integers(1, least + 3))
    counted = data.draw(st.integers(1, least + 3) | st.none())
    loss = case.cls(**{**case.arguments, "weight": weight})
    if counted:
        loss.bind_class_counts([3] * counted)
    right = num_classes >= least and len(weight) == num_classes
    if loss.needs_class_counts:
        right = right and counted == num_classes
    logits, targets = torch.randn(2, num_classes), torch.tensor([0, num_classes - 1])
    if right:
        assert loss(logits, targets).isfinite()
    else:
        with pytest.raises((ValueError, RuntimeError)) as caught:
            loss(logits, targets)
        assert is_in_the_list(caught.value, "number of guesses", "one number per class", "class counts"), caught.value
    count("a number of classes", refused=not right)


@brief
@given(
    data=st.data(),
    case=st.sampled_from(CASES),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
)
def test_a_soft_label_that_is_no_number_spoils_its_row_alone(
    data: st.DataObject, case: Case, bad: float, dtype: torch.dtype
) -> None:
    logits = torch.randn(3, 7, dtype=torch.float64)
    labels = torch.softmax(torch.randn(3, 7), -1).to(dtype)
    labels[1, data.draw(st.integers(0, 6))] = bad
    with warnings.catch_warnings():
        values = make(case, 7, reduction="none").eval()(logits, labels)
    assert values.isfinite().tolist() == [True, False, True]
    count("a soft label that is no number", refused=False)
