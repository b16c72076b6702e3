"""The exact Gaussian smoothing: against slow loops, closed forms, limits and the sampled operator."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import binom, norm
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.ops import _gaussian_quadrature as quadrature
from lightning_topk.ops import gaussian_topk, noised_topk
from references import exact_smoothed_kth, kth_largest, smoothed_kth_of_many

S = torch.tensor([4.0, -1.5, 2.5, 1.0], dtype=torch.float64)


def value_and_gradient(scores: torch.Tensor, k: int, **options) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = scores.clone().requires_grad_()
    value = gaussian_topk(leaf, k, **options)
    value.sum().backward()
    return value.detach(), leaf.grad


def scores_of(kind: str, num_classes: int) -> np.ndarray:
    """Rows of different shape, exactly representable in float32."""
    normal = np.random.default_rng(0).standard_normal(num_classes)
    raised = np.zeros(num_classes)
    raised[:3] = (5.0, 3.0, 3.0)
    rows = {
        "constant": np.zeros(num_classes),
        "one far above": raised,
        "nearly constant": 1e-4 * normal,
        "spread 1": normal,
        "spread 3": 3 * normal,
        "spread 1e4": 1e4 * normal,
        "ramp": np.linspace(0, 12, num_classes),
    }
    return np.float32(rows[kind]).astype(np.float64)


KINDS = ["constant", "one far above", "nearly constant", "spread 1", "spread 3", "spread 1e4", "ramp"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_classes", "k"), [(4, 2), (60, 6), (60, 30), (700, 1), (700, 6), (700, 50)])
def test_agrees_with_the_slow_loop(kind: str, num_classes: int, k: int) -> None:
    scores = scores_of(kind, num_classes)
    order = np.argsort(-scores, kind="stable")
    classes = order[[0, k - 1, k, min(2 * k, num_classes - 1), num_classes // 2, num_classes - 1]]
    expected, slopes = smoothed_kth_of_many(scores, k, 1.0, classes)
    for dtype, tolerance, bound in (
        (torch.float32, None, 1e-5),
        (torch.float64, 1e-3, 1e-3),
        (torch.float64, None, 1e-9),  # the loop is off by as much
    ):
        value, gradient = value_and_gradient(torch.tensor(scores, dtype=dtype), k, tolerance=tolerance)
        rounding = abs(expected) * torch.finfo(dtype).eps
        assert abs(float(value) - expected) <= bound + rounding
        assert abs(gradient[classes].double().numpy() - slopes).max() <= 10 * bound
        assert gradient.min() >= -bound
        assert math.isclose(float(gradient.sum()), 1.0, rel_tol=1e-5)


@pytest.mark.parametrize("ratio", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("k", [1, 6])
def test_every_epsilon(ratio: float, k: int) -> None:
    scores = scores_of("spread 3", 500)
    epsilon = 3 * ratio
    best = np.argsort(-scores)[:8]
    expected, slopes = smoothed_kth_of_many(scores, k, epsilon, best)
    value, gradient = value_and_gradient(torch.tensor(scores, dtype=torch.float32), k, epsilon=epsilon)
    assert abs(float(value) - expected) <= 1e-5 * epsilon + 1e-7 * abs(expected)
    assert abs(gradient[best].numpy() - slopes).max() <= 1e-4


@pytest.mark.parametrize("num_classes", [1000, 10_000, 100_000])
@pytest.mark.parametrize("k", [1, 6, 50])
def test_many_equal_scores(num_classes: int, k: int) -> None:
    """All counts: the number above t is binomial then. In float32 too, where long sums would lose digits."""
    t = np.linspace(-2, 8, 4001)
    expected = t[0] + trapezoid(binom.sf(k - 1, num_classes, norm.sf(t)), t)
    value, gradient = value_and_gradient(torch.full((num_classes,), 1.0), k)
    assert abs(float(value) - 1.0 - expected) <= 1e-5
    assert (gradient * num_classes - 1).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("scores", "k", "value", "gradient"),
    [
        ([0.0, 0.0], 1, 1 / math.sqrt(math.pi), [0.5, 0.5]),
        ([1.0, 0.0], 1, 1.1996413, [0.7602499, 0.2397501]),
        ([0.0, 0.0, 0.0], 1, 1.5 / math.sqrt(math.pi), [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], 2, 0.0, [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], 3, -1.5 / math.sqrt(math.pi), [1 / 3, 1 / 3, 1 / 3]),
        (S.tolist(), 1, 4.10915, [0.84846, 0.00001, 0.14170, 0.00983]),
        (S.tolist(), 2, 2.50034, [0.14168, 0.00097, 0.71594, 0.14141]),
        (S.tolist(), 3, 0.91304, [0.00984, 0.03898, 0.14069, 0.81050]),
        ([3.0], 1, 3.0, [1.0]),
    ],
)
def test_closed_forms(scores, k, value, gradient) -> None:
    result = value_and_gradient(torch.tensor(scores, dtype=torch.float64), k)
    assert math.isclose(float(result[0]), value, abs_tol=2e-5)
    torch.testing.assert_close(result[1], torch.tensor(gradient, dtype=torch.float64), atol=2e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_is_what_the_sampled_operator_estimates(k: int) -> None:
    leaf = S.clone().requires_grad_()
    sampled = noised_topk(leaf, k, num_samples=200_000, generator=torch.Generator().manual_seed(3))
    sampled.backward()
    value, gradient = value_and_gradient(S, k)
    torch.testing.assert_close(value, sampled.detach(), atol=0.01, rtol=0)
    torch.testing.assert_close(gradient, leaf.grad, atol=0.005, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_epsilon_zero_is_the_hard_value_and_the_limit(k: int) -> None:
    hard = gaussian_topk(S, k, epsilon=0.0)
    assert hard == kth_largest(S.tolist(), k)
    for epsilon in (1e-3, 1e-9, 1e-40, 1e-320):
        value, gradient = value_and_gradient(S, k, epsilon=epsilon)
        torch.testing.assert_close(value, hard, atol=1e-10, rtol=0)
        torch.testing.assert_close(gradient, (hard == S).double())


def test_huge_epsilon_forgets_the_scores() -> None:
    value, gradient = value_and_gradient(S, 1, epsilon=1e9)
    assert math.isclose(float(value) / 1e9, 1.0293753730, rel_tol=1e-8)  # mean of the largest of four normals
    torch.testing.assert_close(gradient, torch.full_like(S, 0.25), atol=1e-8, rtol=0)


@pytest.mark.parametrize("num_classes", [7, 300])
@pytest.mark.parametrize("k", [1, 3])
def test_derivatives(num_classes: int, k: int) -> None:
    scores = torch.tensor(scores_of("spread 1", 2 * num_classes)).view(2, num_classes).requires_grad_()
    assert gradcheck(lambda s: gaussian_topk(s, k, epsilon=0.7), (scores,), fast_mode=num_classes > 100)
    assert gradgradcheck(lambda s: gaussian_topk(s, k, epsilon=0.7), (scores,), fast_mode=num_classes > 100)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_hessian_is_that_of_the_expectation(k: int) -> None:
    hessian = torch.autograd.functional.hessian(lambda s: gaussian_topk(s, k), S)
    step = 1e-4
    for i in range(4):
        move = np.eye(4)[i] * step
        above, below = (exact_smoothed_kth((S.numpy() + sign * move).tolist(), k, 1.0)[1] for sign in (1, -1))
        expected = torch.tensor((above - below) / (2 * step))
        torch.testing.assert_close(hessian[i], expected, atol=1e-7, rtol=0)
    assert hessian.abs().max() > 0.05
    sampled = torch.autograd.functional.hessian(lambda s: noised_topk(s, k), S)
    assert not sampled.any()  # each draw is linear: the curvature is lost


@pytest.mark.parametrize("num_classes", [5, 200])
def test_the_hessian_is_symmetric_and_within_the_bound(num_classes: int) -> None:
    """Rows sum to 0, and the norm is at most 4 sqrt(k C) / eps (Garcin et al., proposition on smoothness)."""
    scores, k, epsilon = torch.tensor(scores_of("spread 1", num_classes)), 2, 0.5
    hessian = torch.func.jacrev(torch.func.jacrev(lambda s: gaussian_topk(s, k, epsilon=epsilon)))(scores)
    torch.testing.assert_close(hessian, hessian.T, atol=1e-8, rtol=0)
    torch.testing.assert_close(hessian.sum(1), torch.zeros_like(scores), atol=1e-8, rtol=0)
    assert torch.linalg.matrix_norm(hessian, 2) <= 4 * math.sqrt(k * num_classes) / epsilon


def test_a_third_derivative_is_refused() -> None:
    leaf = S.clone().requires_grad_()
    (first,) = torch.autograd.grad(gaussian_topk(leaf, 2), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first[0], leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated at most twice\. Found a third derivative"):
        torch.autograd.grad(second[0], leaf)


@pytest.mark.parametrize("num_classes", [6, 200])
def test_vmap_and_leading_dimensions(num_classes: int) -> None:
    scores = torch.tensor(scores_of("spread 1", 6 * num_classes)).view(2, 3, num_classes)
    value, gradient = value_and_gradient(scores, 2)
    assert value.shape == (2, 3)
    torch.testing.assert_close(torch.func.vmap(lambda s: gaussian_topk(s, 2))(scores), value)
    turned = torch.func.vmap(lambda s: gaussian_topk(s, 2), in_dims=2)(scores.permute(0, 2, 1))
    torch.testing.assert_close(turned, value.T)
    slopes = torch.func.vmap(torch.func.vmap(torch.func.grad(lambda s: gaussian_topk(s, 2))))(scores)
    torch.testing.assert_close(slopes, gradient)
    torch.testing.assert_close(gaussian_topk(scores[1, 2], 2), value[1, 2])
    curvature = torch.func.jacrev(torch.func.grad(lambda s: gaussian_topk(s, 2)))
    torch.testing.assert_close(torch.func.vmap(curvature)(scores[0])[1], curvature(scores[0, 1]))
    assert gaussian_topk(scores[:, :0], 2).shape == (2, 0)


@pytest.mark.parametrize("num_classes", [6, 200])
def test_compiles_as_one_graph(num_classes: int) -> None:
    torch._dynamo.reset()
    scores = torch.tensor(scores_of("spread 1", 3 * num_classes), dtype=torch.float32).view(3, num_classes)
    leaf = scores.clone().requires_grad_()
    value = torch.compile(lambda s: gaussian_topk(s, 2), fullgraph=True, backend="aot_eager")(leaf)
    value.sum().backward()
    expected = value_and_gradient(scores, 2)
    torch.testing.assert_close(value.detach(), expected[0])
    torch.testing.assert_close(leaf.grad, expected[1])


def test_symmetries() -> None:
    scores = torch.tensor(scores_of("spread 1", 40))
    value, gradient = value_and_gradient(scores, 5)
    assert torch.equal(value, gaussian_topk(scores, 5))
    mirrored = value_and_gradient(-scores, 36)
    torch.testing.assert_close(mirrored, (-value, gradient))
    torch.testing.assert_close(value_and_gradient(scores + 1e4, 5), (value + 1e4, gradient), atol=1e-9, rtol=0)
    torch.testing.assert_close(value_and_gradient(3 * scores, 5, epsilon=3.0), (3 * value, gradient))
    torch.testing.assert_close(value_and_gradient(scores.flip(0), 5), (value, gradient.flip(0)))


@pytest.mark.parametrize("num_classes", [30, 400])
def test_a_class_of_minus_infinity_is_left_out(num_classes: int) -> None:
    scores = torch.tensor(scores_of("spread 1", num_classes), dtype=torch.float32)
    masked = torch.cat([scores, torch.full((7,), -math.inf)])
    value, gradient = value_and_gradient(masked, 3)
    expected = value_and_gradient(scores, 3)
    torch.testing.assert_close(value, expected[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(gradient[:-7], expected[1], atol=2e-5, rtol=0)
    assert not gradient[-7:].any()


def test_a_row_of_nan_spoils_no_other() -> None:
    scores = torch.tensor(scores_of("spread 1", 900)).view(3, 300)
    spoiled = scores.clone()
    spoiled[1, 7] = math.nan
    value, expected = gaussian_topk(spoiled, 3), gaussian_topk(scores, 3)
    assert value.isnan().tolist() == [False, True, False]
    assert torch.equal(value[::2], expected[::2])


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.tensor(scores_of("spread 1", 1200)).view(4, 300)
    whole = value_and_gradient(scores, 3)
    monkeypatch.setattr(quadrature, "_BLOCK", 1)
    torch.testing.assert_close(value_and_gradient(scores, 3), whole, atol=1e-10, rtol=0)
    leaf = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_topk(leaf, 3).sum(), leaf, create_graph=True)
    assert torch.autograd.grad(gradient[:, 0].sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    scores = torch.tensor(scores_of("spread 1", 300)).to(dtype)
    value, gradient = value_and_gradient(scores, 3)
    expected = value_and_gradient(scores.float(), 3)
    assert value.dtype == gradient.dtype == dtype
    torch.testing.assert_close((value, gradient), (expected[0].to(dtype), expected[1].to(dtype)))


@pytest.mark.parametrize(
    ("k", "arguments", "error", "message"),
    [
        (0, {}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        (5, {}, ValueError, r"`k` should be in \[1, C\]\. Found `k = 5` with `C = 4`"),
        (1.5, {}, TypeError, r"`k` should be an integer >= 1\. Found `k = 1.5` of type float"),
        (2, {"epsilon": -1.0}, ValueError, r"`epsilon` should be a finite number >= 0\. Found `epsilon = -1.0`"),
        (2, {"epsilon": float("nan")}, ValueError, r"Found `epsilon = nan`"),
        (2, {"tolerance": 0.0}, ValueError, r"`tolerance` should be a finite number >= 1e-12 and <= 0\.01\. Found"),
        (2, {"tolerance": 0.1}, ValueError, r"Found `tolerance = 0\.1`"),
        (2, {"tolerance": "low"}, TypeError, r"Found `tolerance = 'low'` of type str"),
    ],
)
def test_bad_input(k, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        gaussian_topk(S, k, **arguments)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, 5.0]), min_size=1, max_size=150),
    st.integers(1, 150),
    st.floats(0.01, 100),
)
def test_any_scores_are_right(scores, k, epsilon) -> None:
    k = min(k, len(scores))
    expected, slopes = smoothed_kth_of_many(scores, k, epsilon, range(min(3, len(scores))))
    value, gradient = value_and_gradient(torch.tensor(scores, dtype=torch.float64), k, epsilon=epsilon, tolerance=1e-5)
    assert abs(float(value) - expected) <= 1e-5 * epsilon
    assert abs(gradient[: len(slopes)].numpy() - slopes).max() <= 1e-4
