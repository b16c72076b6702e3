"""The smoothed ReLU, the smoothed top-k sum, and the module around it: values, bounds, where the threshold settles."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.ops import STk, smoothed_relu, smoothed_topk

FOUR = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


def settled(module: STk, values: torch.Tensor, steps: int = 400, lr: float = 0.1) -> float:
    """Threshold after plain gradient descent on fixed values."""
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        module(values).sum().backward()
        optimizer.step()
    return module.lambda_.item()


def test_worked_values() -> None:
    values = smoothed_relu(torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64))
    assert values[0] == 0
    root = math.sqrt(1e4 + 1)
    torch.testing.assert_close(values[1:].tolist(), [(1 + 0.01 * (root - 1)) / 2, (-1 + 0.01 * (root - 1)) / 2])
    torch.testing.assert_close(values[1:].tolist(), [0.995025, -0.004975], atol=1e-6, rtol=0)
    assert smoothed_relu(FOUR - 2.5, 0.0).tolist() == [0.0, 0.0, 0.5, 1.5]


def test_slope_and_curvature() -> None:
    leaf = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(smoothed_relu(leaf).sum(), leaf, create_graph=True)
    assert slope[0] == 0.5
    torch.testing.assert_close(slope, (1 + leaf / (leaf**2 + 1e-4).sqrt()) / 2)
    (curvature,) = torch.autograd.grad(slope.sum(), leaf)
    torch.testing.assert_close(curvature[0].item(), 50.0)  # 1 / (2 delta)
    points = torch.tensor([-2.0, -0.01, 0.0, 0.01, 2.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(smoothed_relu, (points,))
    assert gradgradcheck(lambda x: smoothed_relu(x, 0.3), (points,))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e3))
def test_bounds(x: float, delta: float) -> None:
    value = smoothed_relu(torch.tensor(x, dtype=torch.float64), delta).item()
    slack = 1e-12 * max(1.0, abs(x))
    assert -slack <= max(x, 0.0) - value <= delta / 2 + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_exact_and_finite(dtype: torch.dtype) -> None:
    leaf = torch.tensor([-1e30, -1e4, -3.0, 0.0, 3.0, 1e4, 1e30], dtype=dtype, requires_grad=True)
    value = smoothed_relu(leaf)
    value.sum().backward()
    exact = [max(x, 0.0) - 0.005 * (1 - 0.01 / (math.hypot(x, 0.01) + abs(x))) for x in leaf.tolist()]
    torch.testing.assert_close(value, torch.tensor(exact, dtype=dtype))
    slope = [0.5 * 0.01 / h * (0.01 / (h - x)) if x <= 0 else 1.0 for x in leaf.tolist() for h in [math.hypot(x, 0.01)]]
    torch.testing.assert_close(leaf.grad, torch.tensor(slope, dtype=dtype), atol=0, rtol=1e-5)


@pytest.mark.parametrize(("threshold", "mean"), [(2.0, 1.75), (2.5, 1.75), (3.0, 1.75), (1.5, 1.875), (3.5, 1.875)])
def test_without_smoothing_it_is_the_sum_of_the_largest(threshold: float, mean: float) -> None:
    assert smoothed_topk(FOUR, threshold, k=2, delta=0.0).item() / 4 == mean


def test_smoothing_lowers_the_minimum_by_at_most_half_delta_a_value() -> None:
    grid = torch.linspace(0, 5, 5001, dtype=torch.float64)
    rows = FOUR.expand(5001, 4)
    for delta in (0.1, 0.01):
        smooth, hard = (smoothed_topk(rows, grid, k=2, delta=each).min().item() / 4 for each in (delta, 0.0))
        assert hard == 1.75
        assert 0 <= hard - smooth <= delta / 2
        if delta == 0.01:
            torch.testing.assert_close(hard - smooth, 0.00497, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("values", "k", "threshold"),
    [([1.0, 2.0, 3.0, 4.0], 2, 2.5), ([0.2, 0.5, 1.0, 5.0], 1, 3.399), ([0.2, 0.5, 1.0, 5.0], 2, 0.762),
     ([0.2, 0.5, 1.0, 5.0], 3, 0.348)],
)  # fmt: skip
def test_the_threshold_settles_where_theory_says(values: list[float], k: int, threshold: float) -> None:
    """The zero of the gradient k - sum SReLU', by halving, as the gradient is nearly flat between the values."""
    scores = torch.tensor(values, dtype=torch.float64)

    def slope(position: float) -> float:
        leaf = torch.tensor(position, dtype=torch.float64, requires_grad=True)
        smoothed_topk(scores, leaf, k=k).backward()
        return leaf.grad.item()

    low, high = 0.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    torch.testing.assert_close(low, threshold, atol=1e-3, rtol=0)
    ordered = sorted(values, reverse=True)
    assert ordered[k] <= low <= ordered[k - 1]


@pytest.mark.parametrize("start", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_module_settles_between_the_kth_and_the_next(start: float, shift: float) -> None:
    torch.manual_seed(0)
    values = torch.randn(100, dtype=torch.float64) + shift
    module = STk(fraction=0.3, initial_lambda=start)
    assert values.sort(descending=True).values[30] <= settled(module, values, steps=2000) + 1e-2
    assert module.lambda_.item() - 1e-2 <= values.sort(descending=True).values[29]
    assert abs(int(module.mask(values).sum()) - 30) <= 1


def test_module_in_rows_and_dimensions() -> None:
    module = STk(2, initial_lambda=2.5, delta=0.0)
    rows = torch.stack([FOUR, FOUR + 0.5, FOUR - 0.5])
    assert module(rows).tolist() == [1.75, 2.0, 1.5]
    by_column = STk(2, initial_lambda=2.5, delta=0.0, dim=0, reduction="sum")
    assert by_column(rows.T).tolist() == [7.0, 8.0, 6.0]
    assert repr(module) == "STk(k=2, delta=0.0)"
    assert repr(STk(fraction=0.5)) == "STk(fraction=0.5, delta=0.01)"
    assert list(module.state_dict()) == ["lambda_"]


def test_module_compiles_and_maps() -> None:
    torch._dynamo.reset()
    module = STk(fraction=0.5, initial_lambda=0.1)
    values = torch.randn(4, 6)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(values), module(values))
    torch.testing.assert_close(torch.func.vmap(module)(values), module(values))


def test_table_1_of_the_paper() -> None:
    """The sum of the 5 largest of 10,000 normals to 1e-2, from a threshold that was learned; delta has to be small."""
    torch.manual_seed(0)
    values = torch.randn(10_000, dtype=torch.float64)
    module = STk(5, delta=1e-6, reduction="sum", initial_lambda=3.0).double()
    settled(module, values, steps=300, lr=0.01)
    torch.testing.assert_close(module(values).item(), values.topk(5).values.sum().item(), atol=1e-2, rtol=0)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"`delta` should be a finite number >= 0\. Found `delta = -1.0`"):
        smoothed_relu(FOUR, -1.0)
    with pytest.raises(ValueError, match=r"`k` should be a finite number >= 0 and <= 4\. Found `k = 5`"):
        smoothed_topk(FOUR, 0.0, k=5)
    for arguments in ({}, {"k": 2, "fraction": 0.5}):
        with pytest.raises(TypeError, match=r"STk should be given one of `k` and `fraction`\. Found"):
            STk(**arguments)
    with pytest.raises(ValueError, match=r"`k` should be an integer >= 1"):
        STk(0)
    with pytest.raises(ValueError, match=r"`fraction` should be a finite number > 0 and <= 1"):
        STk(fraction=0.0)
    with pytest.raises(ValueError, match=r"`reduction` should be one of 'mean', 'sum'"):
        STk(1, reduction="none")
    with pytest.raises(ValueError, match=r"`initial_lambda` should be a finite number"):
        STk(1, initial_lambda=float("nan"))
