"""The noised k-th largest score: values, gradients and theory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.ops import _full_noise as implementation
from lightning_topk.ops import _gather, noised_topk
from references import exact_smoothed_kth, kth_largest, noised_kth_largest

S = torch.tensor([4.0, -1.5, 2.5, 1.0], dtype=torch.float64)


def sampled(scores: torch.Tensor, k: int, epsilon: float, draws: int = 200_000) -> tuple[float, torch.Tensor]:
    """Value and gradient of many independent draws."""
    leaf = scores.clone().requires_grad_()
    value = noised_topk(leaf, k, epsilon=epsilon, num_samples=draws, generator=torch.Generator().manual_seed(3))
    value.backward()
    return value.item(), leaf.grad


def test_worked_example_with_given_noise() -> None:
    noise = torch.tensor([[0.0, 0.0, 0.0, 2.0], [-2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    leaf = S.clone().requires_grad_()
    value = noised_topk(leaf, 2, epsilon=1.0, noise=noise)
    value.backward()
    assert value == 2.5  # draws: (4, -1.5, 2.5, 3) -> 3 and (2, -1.5, 2.5, 1) -> 2
    assert leaf.grad.tolist() == [0.5, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_agrees_with_the_slow_loop(k: int) -> None:
    torch.manual_seed(0)
    scores, noise = torch.randn(7, 5, 4, dtype=torch.float64), torch.randn(7, 5, 6, 4, dtype=torch.float64)
    values = noised_topk(scores, k, epsilon=0.7, noise=noise)
    for i in range(7):
        for j in range(5):
            expected = noised_kth_largest(scores[i, j].tolist(), k, 0.7, noise[i, j].tolist())
            assert math.isclose(float(values[i, j]), expected, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("scores", "k", "value", "gradient"),
    [
        ([0.0, 0.0], 1, 0.5641896, [0.5, 0.5]),  # 1 / sqrt(pi)
        ([1.0, 0.0], 1, 1.1996413, [0.7602499, 0.2397501]),
        ([0.0, 0.0, 0.0], 1, 0.846284, [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], 2, 0.0, [1 / 3, 1 / 3, 1 / 3]),
        (S.tolist(), 1, 4.10915, [0.84846, 0.00001, 0.14170, 0.00983]),
        (S.tolist(), 2, 2.50034, [0.14168, 0.00097, 0.71594, 0.14141]),
        (S.tolist(), 3, 0.91304, [0.00984, 0.03898, 0.14069, 0.81050]),
    ],
)
def test_closed_forms(scores, k, value, gradient) -> None:
    leaf = torch.tensor(scores, dtype=torch.float64)
    # The closed forms themselves, by the exact law, to their printed digits; then the sampled operator, to its error.
    exact = exact_smoothed_kth(scores, k, 1.0)
    assert math.isclose(exact[0], value, abs_tol=2e-5)
    torch.testing.assert_close(torch.tensor(exact[1]), torch.tensor(gradient, dtype=torch.float64), atol=2e-5, rtol=0)
    estimate = sampled(leaf, k, 1.0)
    assert math.isclose(estimate[0], value, abs_tol=0.01)
    torch.testing.assert_close(estimate[1], torch.tensor(gradient, dtype=torch.float64), atol=0.005, rtol=0)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_gradient_is_the_expected_indicator(k: int, epsilon: float) -> None:
    value, gradient = sampled(S, k, epsilon)
    expected_value, expected_gradient = exact_smoothed_kth(S.tolist(), k, epsilon)
    assert math.isclose(value, expected_value, abs_tol=0.015 * epsilon)
    torch.testing.assert_close(gradient, torch.tensor(expected_gradient), atol=0.005, rtol=0)
    assert gradient.min() >= 0
    assert math.isclose(float(gradient.sum()), 1.0, abs_tol=1e-9)


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("k", [1, 2])
def test_bias_bound(num_classes: int, k: int) -> None:
    """|top_{k,eps} - top_k| <= eps k sqrt(2 log C) (Garcin et al., proposition on the smoothing error)."""
    generator = torch.Generator().manual_seed(0)
    for scores in (torch.zeros(num_classes), torch.randn(num_classes, generator=generator)):
        for epsilon in (0.1, 1.0):
            value = float(noised_topk(scores, k, epsilon=epsilon, num_samples=2000, generator=generator))
            bound = epsilon * k * math.sqrt(2 * math.log(num_classes))
            assert abs(value - float(scores.sort(descending=True).values[k - 1])) <= bound


def test_epsilon_to_zero_is_the_hard_value() -> None:
    for k in (1, 2, 3, 4):
        hard = noised_topk(S, k, epsilon=0.0)
        assert hard == kth_largest(S.tolist(), k)
        torch.testing.assert_close(noised_topk(S, k, epsilon=1e-9), hard, atol=1e-7, rtol=0)


@pytest.mark.parametrize("epsilon", [1e-31, 1e-45, 1e-300])
@pytest.mark.parametrize("num_classes", [4, 5000])
def test_an_epsilon_whose_inverse_float32_does_not_hold_is_none(epsilon: float, num_classes: int) -> None:
    scores = torch.randn(128, num_classes, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noised_topk(scores, 2, epsilon=epsilon), noised_topk(scores, 2, epsilon=0.0))


@pytest.mark.parametrize("num_classes", [100, 3000])
def test_integers_of_numpy_do_not_wrap_around(num_classes: int) -> None:
    scores = 3 * torch.randn(128, num_classes, generator=torch.Generator().manual_seed(0))

    def draw(k: int, num_samples: int) -> torch.Tensor:
        return noised_topk(scores, k, num_samples=num_samples, generator=torch.Generator().manual_seed(1))

    assert torch.equal(draw(np.int8(100), np.uint8(200)), draw(100, 200))


def test_permutation_equivariance() -> None:
    order = torch.tensor([2, 0, 3, 1])
    noise = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(
        noised_topk(S[order], 2, noise=noise[:, order]), noised_topk(S, 2, noise=noise), rtol=0, atol=0
    )


def test_gradcheck_with_fixed_noise() -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 4, 6, dtype=torch.float64)
    assert gradcheck(lambda s: noised_topk(s, 2, epsilon=0.5, noise=noise), (scores,))
    assert gradgradcheck(lambda s: noised_topk(s, 2, epsilon=0.5, noise=noise), (scores,))


def test_blocks_do_not_change_the_law_nor_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "_BLOCK", 8)
    monkeypatch.setattr(implementation, "_CACHED_BLOCK", 8)
    value, gradient = sampled(S, 2, 1.0, draws=20_000)
    expected = exact_smoothed_kth(S.tolist(), 2, 1.0)
    assert math.isclose(value, expected[0], abs_tol=0.03)
    torch.testing.assert_close(gradient, torch.tensor(expected[1]), atol=0.02, rtol=0)


def test_memory_does_not_grow_with_the_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gather, "LARGE", 1 << 60)  # so that the profiler sees the gradient
    logits = torch.randn(64, 100_000, requires_grad=True)

    def peak(num_samples: int) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            noised_topk(logits, 6, num_samples=num_samples).sum().backward()
        logits.grad = None
        used = most = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                used += event.nbytes()
                most = max(most, used)
        return most

    assert peak(20) <= 1.05 * peak(1)


def test_generator_repeats_and_differs() -> None:
    def draw(seed: int) -> torch.Tensor:
        return noised_topk(S, 2, generator=torch.Generator().manual_seed(seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    torch.manual_seed(5)
    first = noised_topk(S, 2)
    torch.manual_seed(5)
    assert noised_topk(S, 2) == first


@pytest.mark.parametrize(
    ("k", "arguments", "error", "message"),
    [
        (0, {}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        (5, {}, ValueError, r"`k` should be in \[1, C\]\. Found `k = 5` with `C = 4`"),
        (1.5, {}, TypeError, r"`k` should be an integer >= 1\. Found `k = 1.5` of type float"),
        (True, {}, TypeError, r"Found `k = True` of type bool"),
        (2, {"epsilon": -1.0}, ValueError, r"`epsilon` should be a finite number >= 0\. Found `epsilon = -1.0`"),
        (2, {"epsilon": float("nan")}, ValueError, r"Found `epsilon = nan`"),
        (2, {"epsilon": float("inf")}, ValueError, r"Found `epsilon = inf`"),
        (2, {"epsilon": "1"}, TypeError, r"Found `epsilon = '1'` of type str"),
        (2, {"num_samples": 0}, ValueError, r"`num_samples` should be an integer >= 1\. Found `num_samples = 0`"),
        (2, {"num_samples": 2**31}, ValueError, r"`num_samples` should be at most 10\*\*6\. Found .* = 2147483648`"),
        (2, {"noise": torch.zeros(4)}, ValueError, r"`noise` should have shape \[B, C\] or \[\.\.\., B, C\]"),
        (2, {"noise": torch.zeros(5, 3)}, ValueError, r"Found \[5, 3\]"),
    ],
)
def test_bad_input(k, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        noised_topk(S, k, **arguments)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12),
    st.integers(1, 12),
    st.floats(0, 10),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_any_input_is_right_or_an_error(scores, k, epsilon, num_samples, seed) -> None:
    logits = torch.tensor(scores, dtype=torch.float64)
    noise = torch.randn(num_samples, len(scores), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if k > len(scores):
        with pytest.raises(ValueError, match="`k` should be in"):
            noised_topk(logits, k, epsilon=epsilon, noise=noise)
        return
    value = noised_topk(logits, k, epsilon=epsilon, noise=noise)
    expected = noised_kth_largest(scores, k, epsilon, noise.tolist())
    assert math.isclose(float(value), expected, rel_tol=1e-9, abs_tol=1e-9)
