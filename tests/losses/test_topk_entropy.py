"""The top-k entropy losses: worked values, the definitions, cross-entropy at K = 1, convexity, extremes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.losses import (
    TopKEntropyLoss,
    TruncatedTopKEntropyLoss,
    cross_entropy_loss,
    topk_entropy_loss,
    truncated_topk_entropy_loss,
)
from references import topk_entropy, truncated_topk_entropy

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)
LOSSES = {topk_entropy_loss: topk_entropy, truncated_topk_entropy_loss: truncated_topk_entropy}
both = pytest.mark.parametrize("function", LOSSES)


@pytest.mark.parametrize(
    ("function", "k", "label", "value"),
    [
        (topk_entropy_loss, 1, 3, 3.244517),
        (topk_entropy_loss, 2, 0, 0.198260),
        (topk_entropy_loss, 2, 2, 1.125081),
        (topk_entropy_loss, 2, 3, 3.003128),
        (topk_entropy_loss, 3, 0, 0.101674),
        (topk_entropy_loss, 3, 2, 0.582658),
        (topk_entropy_loss, 3, 3, 1.923256),
        (truncated_topk_entropy_loss, 2, 0, 0.052473),
        (truncated_topk_entropy_loss, 2, 2, 0.216277),
        (truncated_topk_entropy_loss, 2, 3, 1.716277),
        (truncated_topk_entropy_loss, 3, 0, 0.004078),
        (truncated_topk_entropy_loss, 3, 2, 0.018150),
        (truncated_topk_entropy_loss, 3, 3, 0.078890),
    ],
)
def test_worked_values(function, k: int, label: int, value: float) -> None:
    assert float(function(S, torch.tensor([label]), k=k)) == pytest.approx(value, abs=5e-7)
    assert float(function(S, torch.eye(4, dtype=torch.float64)[[label]], k=k)) == pytest.approx(value, abs=5e-7)


def test_worked_gradient() -> None:
    leaf = S.clone().requires_grad_()
    TopKEntropyLoss(k=2)(leaf, torch.tensor([0])).backward()
    assert leaf.grad[0].tolist() == pytest.approx([-0.179843, 0.006821, 0.089922, 0.083100], abs=1e-6)


@both
@given(scores=st.lists(st.integers(-30, 30).map(lambda s: s / 4), min_size=2, max_size=7), data=st.data())
def test_agrees_with_the_definition(function, scores: list[float], data: st.DataObject) -> None:
    size = len(scores)
    k, label = data.draw(st.integers(1, size - 1)), data.draw(st.integers(0, size - 1))
    logits = torch.tensor([scores], dtype=torch.float64)
    values = function(logits.expand(size, -1), torch.arange(size), k=k, reduction="none")
    expected = LOSSES[function](scores, label, k)
    assert float(values[label]) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    soft = function(logits, torch.ones(1, size), k=k)
    assert float(soft) == pytest.approx(float(values.mean()), rel=1e-10)


@both
def test_one_guess_is_cross_entropy(function) -> None:
    logits = (10 * torch.randn(32, 20, dtype=torch.float64)).requires_grad_()
    for targets in (torch.randint(20, (32,)), torch.softmax(torch.randn(32, 20, dtype=torch.float64), -1)):
        value, plain = function(logits, targets, k=1), cross_entropy_loss(logits, targets)
        torch.testing.assert_close(value, plain)
        ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (value, plain))
        torch.testing.assert_close(ours, theirs)


def test_a_tie_with_the_maximum_of_the_batch_drops_no_class() -> None:
    """The open code of AUTKC replaces the label's score by the maximum of the batch and sorts: 1.881566 here."""
    value = truncated_topk_entropy_loss(torch.tensor([[1.0, -1.5, 2.5, 4.0]]), torch.tensor([0]), k=1)
    assert float(value) == pytest.approx(3.244517, abs=1e-6)


def test_gradient_is_capped() -> None:
    logits, targets = (3 * torch.randn(64, 10)).requires_grad_(), torch.randint(10, (64,))
    topk_entropy_loss(logits, targets, k=3, reduction="sum").backward()
    x = logits.grad.scatter(-1, targets.unsqueeze(-1), 0.0)
    mass = x.sum(-1, keepdim=True)
    assert (x > 0).sum() == 64 * 9
    assert (x <= mass / 3 + 1e-6).all()
    assert mass.max() < 1
    torch.testing.assert_close(-logits.grad.gather(-1, targets.unsqueeze(-1)), mass)


def test_truncated_gradient_leaves_out_the_best_others() -> None:
    leaf = S.clone().requires_grad_()
    TruncatedTopKEntropyLoss(k=2)(leaf, torch.tensor([2])).backward()
    assert leaf.grad[0, 0] == 0
    assert (leaf.grad[0, [1, 3]] > 0).all()


@given(data=st.data())
def test_topk_entropy_is_convex(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 6))
    k = data.draw(st.integers(1, size - 1))
    label = torch.tensor([data.draw(st.integers(0, size - 1))])
    score = st.lists(st.integers(-5, 5), min_size=size, max_size=size)
    start = torch.tensor([data.draw(score)], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([data.draw(score)], dtype=torch.float64)
    value = topk_entropy_loss(start, label, k=k)
    (gradient,) = torch.autograd.grad(value, start)
    plane = value + (gradient * (other - start)).sum()
    assert topk_entropy_loss(other, label, k=k) >= plane - 1e-9


def test_truncated_topk_entropy_is_not_convex() -> None:
    ends, label = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]), torch.tensor([2])
    values = [float(truncated_topk_entropy_loss(row.unsqueeze(0), label, k=2)) for row in ends]
    assert float(truncated_topk_entropy_loss(ends.mean(0, keepdim=True), label, k=2)) > sum(values) / 2


def test_more_guesses_cost_less() -> None:
    logits, targets = 3 * torch.randn(64, 10, dtype=torch.float64), torch.randint(10, (64,))
    for function in LOSSES:
        values = torch.stack([function(logits, targets, k=k, reduction="none") for k in range(1, 10)])
        assert (values.diff(dim=0) <= 1e-12).all()
    truncated = truncated_topk_entropy_loss(logits, targets, k=4, reduction="none")
    assert (truncated <= topk_entropy_loss(logits, targets, k=4, reduction="none") + 1e-12).all()


@both
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_first_and_second_derivatives(function, scale: float, k: int) -> None:
    logits = (scale * torch.randn(2, 6, dtype=torch.float64)).requires_grad_()
    for targets in (torch.tensor([0, 3]), torch.rand(2, 6, dtype=torch.float64)):
        assert gradcheck(lambda s, t=targets: function(s, t, k=k), (logits,), eps=1e-5, atol=1e-4)
        assert gradgradcheck(lambda s, t=targets: function(s, t, k=k), (logits,), atol=1e-4)


@both
@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_float32_is_as_good_as_its_input(function, scale: float, k: int) -> None:
    logits, targets = scale * torch.randn(64, 300), torch.randint(300, (64,))
    for labels in (targets, torch.softmax(torch.randn(64, 300), -1)):
        low, high = logits.clone().requires_grad_(), logits.double().requires_grad_()
        values = [function(leaf, labels, k=k, reduction="none") for leaf in (low, high)]
        torch.testing.assert_close(values[0].double(), values[1], rtol=1e-5, atol=1e-6 * scale)
        for value in values:
            value.sum().backward()
        torch.testing.assert_close(low.grad.double(), high.grad, rtol=1e-3, atol=1e-5)


@both
def test_loss_far_below_the_rounding_of_the_scores(function) -> None:
    logits = torch.tensor([[60.0, 0.0, -1.0, -2.0]], requires_grad=True)
    value = function(logits, torch.tensor([0]), k=2)
    value.backward()
    odds = math.expm1(LOSSES[function]([5.0, 0.0, -1.0, -2.0], 0, 2))  # e^(V - 5)
    assert value.item() == pytest.approx(odds * math.exp(-55), rel=1e-5)
    assert 0 < -logits.grad[0, 0] < 1e-25


@pytest.mark.parametrize("cls", [TopKEntropyLoss, TruncatedTopKEntropyLoss])
def test_bad_parameters(cls) -> None:
    with pytest.raises(ValueError, match=r"`k` should be an integer >= 1\. Found `k = 0`"):
        cls(k=0)
    with pytest.raises(TypeError, match=r"Found `k = 2.0` of type float"):
        cls(k=2.0)
    for k in (4, 5):
        with pytest.raises(ValueError, match=rf"`k` should be in \[1, C\).* Found `k = {k}` with `C = 4`"):
            cls(k)(S, torch.tensor([0]))
