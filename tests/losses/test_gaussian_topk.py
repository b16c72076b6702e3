"""The exactly smoothed top-K losses: worked values, limits, and what they share with the sampled ones."""

import pytest
import torch

from lightning_topk.losses import (
    GaussianTopKLoss,
    ImbalancedGaussianTopKLoss,
    ImbalancedNoisedTopKLoss,
    NoisedTopKLoss,
    gaussian_topk_loss,
)
from references import exact_smoothed_kth

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(("k", "threshold"), [(1, 2.50034), (2, 0.91304)])
def test_worked_values(k: int, threshold: float) -> None:
    values = GaussianTopKLoss(k, reduction="none")(S.expand(4, 4), torch.arange(4))
    expected = [max(0.0, 1.0 + threshold - s) for s in S[0].tolist()]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)


def test_worked_gradient() -> None:
    leaf = S.clone().requires_grad_()
    GaussianTopKLoss(k=1, scale=3.0)(leaf, torch.tensor([3])).backward()
    _, gradient = exact_smoothed_kth(S[0].tolist(), 2, 1.0)
    expected = 3.0 * (torch.tensor(gradient) - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(leaf.grad[0], expected, atol=1e-9, rtol=0)
    satisfied = S.clone().requires_grad_()
    GaussianTopKLoss(k=1, margin=0.5)(satisfied, torch.tensor([0])).backward()
    assert not satisfied.grad.any()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_without_noise_it_is_the_calibrated_hinge(k: int) -> None:
    args = (S.expand(4, 4), torch.arange(4))
    expected = NoisedTopKLoss(k, epsilon=0.0, reduction="none")(*args)
    assert torch.equal(GaussianTopKLoss(k, epsilon=0.0, reduction="none")(*args), expected)
    nearly = GaussianTopKLoss(k, epsilon=1e-6, reduction="none")(*args)
    torch.testing.assert_close(nearly, expected, atol=1e-5, rtol=0)


def test_it_is_the_limit_of_many_draws_and_a_lower_bound_at_few() -> None:
    """The hinge is outside of the mean over draws: by Jensen, fewer draws mean a larger loss on average."""
    torch.manual_seed(0)
    logits, targets = 2 * torch.randn(3, 30, dtype=torch.float64), torch.tensor([0, 1, 2])
    many = NoisedTopKLoss(k=3, num_samples=100_000, reduction="none")(logits, targets)
    exact = GaussianTopKLoss(k=3, reduction="none")(logits, targets)
    torch.testing.assert_close(exact, many, atol=0.01, rtol=0)
    kink = torch.zeros(20_000, 3, dtype=torch.float64)
    kink[:, 0] = 1.0 + exact_smoothed_kth([1.0, 0.0, 0.0], 2, 1.0)[0]
    kink[:, 0] = kink[:, 0].clamp(max=1.0)  # near the kink, where the difference is largest
    labels = torch.zeros(20_000, dtype=torch.long)
    few = NoisedTopKLoss(k=1, num_samples=1)(kink, labels)
    assert few > GaussianTopKLoss(k=1)(kink[:1], labels[:1]) + 0.05


def test_the_second_derivative_is_that_of_the_threshold() -> None:
    leaf = S.clone().requires_grad_()
    for loss, curved in ((GaussianTopKLoss(k=1), True), (NoisedTopKLoss(k=1), False)):
        (gradient,) = torch.autograd.grad(loss(leaf, torch.tensor([3])), leaf, create_graph=True)
        (product,) = torch.autograd.grad(gradient[0, 2], leaf)
        assert bool(product.any()) == curved


def test_training_and_evaluation_are_the_same() -> None:
    loss, targets = GaussianTopKLoss(k=2), torch.tensor([1])
    assert loss(S, targets) == loss(S, targets) == loss.eval()(S, targets)


def test_margins_are_those_of_the_sampled_loss() -> None:
    exact, sampled = ImbalancedGaussianTopKLoss(k=1, max_margin=0.5), ImbalancedNoisedTopKLoss(k=1, max_margin=0.5)
    for loss in (exact, sampled):
        loss.bind_class_counts([1, 16, 81, 256])
        loss.max_margin = 1.0
    torch.testing.assert_close(exact.margins, torch.tensor([1.0, 0.5, 1 / 3, 0.25]))
    assert torch.equal(exact.margins, sampled.margins)
    assert exact.to("meta").margins.device.type == "meta"
    args = (S.expand(4, 4), torch.arange(4))
    exact = ImbalancedGaussianTopKLoss(k=1, epsilon=1.0, margin_constant=2.0, reduction="none")
    exact.bind_class_counts([1, 16, 81, 256])
    margins = torch.tensor([2.0, 1.0, 2 / 3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(exact(*args), gaussian_topk_loss(*args, k=1, margin=margins, reduction="none"))


def test_needs_counts_and_cosines() -> None:
    with pytest.raises(RuntimeError, match=r"ImbalancedGaussianTopKLoss should know the training counts"):
        ImbalancedGaussianTopKLoss(k=1)(S, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"Found none for 1 of 2 classes: 1"):
        ImbalancedGaussianTopKLoss(k=1).bind_class_counts([3, 0])
    loss = ImbalancedGaussianTopKLoss(k=1, scale=60.0)
    loss.bind_class_counts([1, 2, 3, 4])
    with pytest.warns(UserWarning, match=r"`scale = 60` is meant for cosine logits .* Found logits up to 4"):
        loss(S, torch.tensor([0]))
    loss.bind_class_counts([1, 2, 3])
    with pytest.raises(ValueError, match=r"`margin` should have one entry per class, shape \[4\]\. Found \[3\]"):
        loss(S, torch.tensor([0]))


@pytest.mark.parametrize("cls", [GaussianTopKLoss, ImbalancedGaussianTopKLoss])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        ({"k": 2.0}, TypeError, r"Found `k = 2.0` of type float"),
        ({"epsilon": -0.1}, ValueError, r"`epsilon` should be a finite number >= 0\. Found `epsilon = -0.1`"),
        ({"scale": 0.0}, ValueError, r"`scale` should be a finite number > 0\. Found `scale = 0.0`"),
        ({"tolerance": 0.5}, ValueError, r"`tolerance` should be .* <= 0\.01\. Found `tolerance = 0.5`"),
    ],
)
def test_bad_parameters(cls, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        cls(**arguments)


def test_bad_own_parameters() -> None:
    with pytest.raises(ValueError, match=r"`margin` should be a finite number >= 0"):
        GaussianTopKLoss(margin=-1.0)
    with pytest.raises(ValueError, match=r"`max_margin` should be a finite number >= 0"):
        ImbalancedGaussianTopKLoss(max_margin=-1.0)
    with pytest.raises(ValueError, match=r"`zero_counts` should be one of 'error', 'clamp'"):
        ImbalancedGaussianTopKLoss(zero_counts="ignore")
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\).* Found `k = 4` with `C = 4`"):
        GaussianTopKLoss(4)(S, torch.tensor([0]))
