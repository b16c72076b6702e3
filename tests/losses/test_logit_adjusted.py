"""Balanced softmax, logit adjustment and vector scaling."""

import math

import pytest
import torch

from lightning_topk.imbalance import log_priors
from lightning_topk.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    LogitAdjustedLoss,
    VSLoss,
    logit_adjusted_loss,
    vs_loss,
)
from references import cross_entropy, vector_scaling

COUNTS = [500, 90, 7, 1]


def bound(loss, counts=COUNTS):
    loss.bind_class_counts(counts)
    return loss


def test_worked_values() -> None:
    zeros = torch.zeros(2, 2)
    balanced = bound(BalancedSoftmaxLoss(reduction="none"), [1, 3])(zeros, torch.tensor([0, 1]))
    assert balanced.tolist() == pytest.approx([math.log(4), math.log(4 / 3)])
    assert balanced.tolist() == pytest.approx([1.386294, 0.287682], abs=1e-6)
    for tau, value in ((1.0, 1.386294), (2.0, 2.302585)):
        loss = bound(LogitAdjustedLoss(tau), [1, 3])
        assert float(loss(zeros[:1], torch.tensor([0]))) == pytest.approx(value, abs=1e-6)


def test_worked_values_of_vector_scaling() -> None:
    loss = bound(VSLoss(gamma=0.5, tau=1.0, reduction="sum"), [4, 1])  # factors (1, 0.5), shifts log(0.8, 0.2)
    leaf = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    value = loss(leaf, torch.tensor([1]))
    value.backward()
    assert value.item() == pytest.approx(1.609438, abs=1e-6)
    assert leaf.grad[0].tolist() == pytest.approx([0.8, -0.4], abs=1e-6)
    assert loss(leaf, torch.tensor([0])).item() == pytest.approx(0.223144, abs=1e-6)


@pytest.mark.parametrize(("gamma", "tau"), [(0.0, 0.0), (0.0, 1.0), (0.3, 0.0), (0.2, 1.2)])
def test_agree_with_the_slow_loop(gamma: float, tau: float) -> None:
    logits, targets = 4 * torch.randn(20, 4, dtype=torch.float64), torch.randint(4, (20,))
    slow = [
        vector_scaling(row, y, COUNTS, gamma, tau) for row, y in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    fast = bound(VSLoss(gamma, tau, reduction="none"))(logits, targets)
    assert fast.tolist() == pytest.approx(slow, rel=1e-6, abs=1e-7)  # the buffers are float32
    if gamma == 0.0:
        adjusted = bound(LogitAdjustedLoss(tau, reduction="none"))(logits, targets)
        assert adjusted.tolist() == pytest.approx(slow, rel=1e-6, abs=1e-7)


def test_limits() -> None:
    logits, targets = torch.randn(9, 4, dtype=torch.float64), torch.randint(4, (9,))
    plain = CrossEntropyLoss()(logits, targets)
    torch.testing.assert_close(bound(LogitAdjustedLoss(0.0))(logits, targets), plain)
    torch.testing.assert_close(bound(VSLoss(0.0, 0.0))(logits, targets), plain)
    torch.testing.assert_close(bound(BalancedSoftmaxLoss(), [5, 5, 5, 5])(logits, targets), plain)
    balanced = bound(BalancedSoftmaxLoss())(logits, targets)
    torch.testing.assert_close(bound(LogitAdjustedLoss(1.0))(logits, targets), balanced)
    by_counts = CrossEntropyLoss()(logits + torch.tensor(COUNTS).double().log(), targets)
    torch.testing.assert_close(balanced, by_counts, rtol=1e-6, atol=1e-6)


def test_large_logits_keep_the_digits_of_the_priors() -> None:
    logits = torch.tensor([[1e4, 1e4 + 1.0, 1e4 - 2.0, 0.0]])
    priors = log_priors(COUNTS)
    for label in range(3):
        value = logit_adjusted_loss(logits, torch.tensor([label]), log_priors=priors)
        shifted = [float(s) + math.log(n / sum(COUNTS)) for s, n in zip(logits[0], COUNTS, strict=True)]
        top = max(shifted)
        assert float(value) == pytest.approx(cross_entropy([s - top for s in shifted], label), rel=1e-6)


def test_rare_classes_pull_harder() -> None:
    """At equal scores the gradient of a rare label is larger, and that of a frequent one smaller, than 1 - 1/C."""
    leaf = torch.zeros(4, 4, requires_grad=True)
    bound(BalancedSoftmaxLoss(reduction="sum"))(leaf, torch.arange(4)).backward()
    pull = -leaf.grad.diagonal()
    assert pull.tolist() == pytest.approx([1 - n / sum(COUNTS) for n in COUNTS])


def test_scalars_may_be_set() -> None:
    logits, targets = torch.randn(9, 4), torch.randint(4, (9,))
    loss = bound(VSLoss())
    loss.gamma, loss.tau = 0.1, 2.0
    torch.testing.assert_close(loss(logits, targets), bound(VSLoss(0.1, 2.0))(logits, targets))
    adjusted = bound(LogitAdjustedLoss())
    adjusted.tau = 2.0
    torch.testing.assert_close(adjusted(logits, targets), bound(LogitAdjustedLoss(2.0))(logits, targets))


@pytest.mark.parametrize("cls", [BalancedSoftmaxLoss, LogitAdjustedLoss, VSLoss])
def test_counts_are_needed_and_zeros_are_a_choice(cls) -> None:
    with pytest.raises(RuntimeError, match=rf"{cls.__name__} should know the training counts.*Found none"):
        cls()(torch.zeros(1, 4), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"Found none for 1 of 4 classes: 2 \(elm\)"):
        cls().bind_class_counts([3, 2, 0, 1], names=["fir", "oak", "elm", "yew"])
    clamped = bound(cls(zero_counts="clamp"), [3, 2, 0, 1])
    assert clamped(torch.zeros(4, 4), torch.arange(4)).isfinite()
    assert clamped.log_priors.exp().tolist() == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7])
    with pytest.raises(ValueError, match=r"`log_priors` should have one entry per class, shape \[3\]\. Found \[4\]"):
        clamped(torch.zeros(1, 3), torch.tensor([0]))


@pytest.mark.parametrize("cls", [LogitAdjustedLoss, VSLoss])
def test_bad_parameters(cls) -> None:
    with pytest.raises(ValueError, match=r"`tau` should be a finite number >= 0\. Found `tau = -1"):
        cls(tau=-1.0)
    function = vs_loss if cls is VSLoss else logit_adjusted_loss
    with pytest.raises(ValueError, match=r"`tau` should be a finite number >= 0\. Found `tau = -1"):
        function(torch.zeros(1, 2), torch.tensor([0]), log_priors=torch.zeros(2), tau=-1.0)


def test_bad_gamma() -> None:
    with pytest.raises(ValueError, match=r"`gamma` should be a finite number >= 0\. Found `gamma = -1"):
        VSLoss(gamma=-1.0)
    with pytest.raises(ValueError, match=r"`gamma` should be a finite number >= 0\. Found `gamma = nan"):
        vs_loss(torch.zeros(1, 2), torch.tensor([0]), log_priors=torch.zeros(2), gamma=math.nan)
