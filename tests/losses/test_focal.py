"""Focal loss: worked values, accuracy near certainty, and class weights outside of the probability."""

import math

import pytest
import torch

from lightning_topk.losses import CrossEntropyLoss, FocalLoss, focal_loss
from references import focal

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("gamma", "values"),
    [
        (0.0, (0.244517, 5.744517, 1.744517, 3.244517)),
        (1.0, (0.053040, 5.726133, 1.439698, 3.118021)),
        (2.0, (0.011505, 5.707807, 1.188141, 2.996458)),
    ],
)
def test_worked_values(gamma: float, values: tuple[float, ...]) -> None:
    losses = FocalLoss(gamma, reduction="none")(S.expand(4, 4), torch.arange(4))
    assert losses.tolist() == pytest.approx(values, abs=1e-6)


def test_worked_gradient() -> None:
    leaf = S.clone().requires_grad_()
    focal_loss(leaf, torch.tensor([3]), gamma=2.0).backward()
    assert leaf.grad[0].tolist() == pytest.approx([0.913601, 0.003734, 0.203852, -1.121187], abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 2.0, 5.0])
def test_agrees_with_the_slow_loop(gamma: float) -> None:
    logits = 3 * torch.randn(6, 5, dtype=torch.float64)
    losses = focal_loss(logits[:, None].expand(6, 5, 5), torch.arange(5).expand(6, 5), gamma=gamma, reduction="none")
    for row, values in zip(logits.tolist(), losses.tolist(), strict=True):
        assert values == pytest.approx([focal(row, label, gamma) for label in range(5)], rel=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 1.0, 2.0])
def test_no_nan_where_the_probability_rounds_to_one(gamma: float) -> None:
    leaf = torch.tensor([[200.0, 0.0, 0.0], [1e4, 0.0, -1e4]], requires_grad=True)
    one_hot = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    for targets in (torch.tensor([0, 0]), one_hot):
        leaf.grad = None
        value = FocalLoss(gamma)(leaf, targets)
        value.backward()
        assert value.isfinite()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("gap", [0.0, 5.0, 12.0, 20.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_is_as_accurate_as_its_input(gap: float, offset: float, soft: bool) -> None:
    """The loss of a well classified sample is small, and right to all digits all the same."""
    logits = torch.tensor([[gap, 0.0, -1.0]]) + offset
    exact = focal(logits[0].double().tolist(), 0, 2.0)
    if gap > 12:  # 1 - p from the reference has lost its digits too
        others = sum(math.exp(float(s) - float(logits[0, 0])) for s in logits[0, 1:])
        exact = (others / (1 + others)) ** 2 * math.log1p(others)
    targets = torch.tensor([[1.0, 0.0, 0.0]]) if soft else torch.tensor([0])
    assert float(focal_loss(logits, targets)) == pytest.approx(exact, rel=2e-6)


def test_gamma_zero_is_cross_entropy() -> None:
    logits, targets = torch.randn(9, 5), torch.randint(5, (9,))
    torch.testing.assert_close(FocalLoss(0.0)(logits, targets), CrossEntropyLoss()(logits, targets))


def test_class_weights_stay_outside_of_the_probability() -> None:
    """Published code weighs the cross-entropy inside: p = 0.5, w = 2, gamma = 1 gives 1.03972 there."""
    weighted = FocalLoss(1.0, weight=[2.0, 1.0], reduction="sum")(torch.zeros(1, 2), torch.tensor([0]))
    assert float(weighted) == pytest.approx(2 * 0.5 * math.log(2), rel=1e-6)
    wrong = (1 - 0.5**2) * 2 * math.log(2)
    assert wrong == pytest.approx(1.03972, rel=1e-5)


def test_gamma_may_be_set_and_is_checked() -> None:
    loss = FocalLoss()
    loss.gamma = 1
    assert float(loss(S, torch.tensor([3]))) == pytest.approx(3.118021, abs=1e-6)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=r"`gamma` should be a finite number >= 0\. Found `gamma = "):
            loss.gamma = bad
    with pytest.raises(TypeError, match=r"Found `gamma = 'two'` of type str"):
        focal_loss(S, torch.tensor([0]), gamma="two")
