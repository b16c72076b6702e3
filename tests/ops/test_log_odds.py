"""Log-odds of one label, and of all at once."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.ops import log_odds

ALL = torch.arange(5).expand(7, 5)


def scores(spread: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (spread * torch.randn(7, 5, dtype=torch.float64)).to(dtype)


def slow(row: list[float], c: int) -> float:
    others = [s - row[c] for j, s in enumerate(row) if j != c]
    return -max(others) - math.log(sum(math.exp(s - max(others)) for s in others))


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_slow_loop(spread: float, offset: float, dtype: torch.dtype) -> None:
    values = scores(spread, dtype) + offset
    of_all = log_odds(values, ALL)
    accuracy = {"rel": 1e-6, "abs": 1e-6} if dtype == torch.float32 else {"rel": 1e-12, "abs": 1e-12}
    for i, row in enumerate(values.double().tolist()):
        for c in range(5):
            single = log_odds(values[i : i + 1], torch.tensor([[c]]))
            assert single.item() == pytest.approx(slow(row, c), **accuracy)
            assert of_all[i, c].item() == pytest.approx(slow(row, c), **accuracy)


def test_a_class_that_dominates_is_left_out_without_cancellation() -> None:
    """From the sum over all classes, log(e^40 + 2 - e^40) is lost in float32 and float64 alike."""
    values = torch.tensor([[40.0, 0.0, 0.0]])
    for labels in (torch.tensor([[0]]), torch.tensor([[0, 1, 2]])):
        assert log_odds(values, labels)[0, 0].item() == pytest.approx(40 - math.log(2))


@pytest.mark.parametrize("labels", [ALL, ALL[:, 2:3]])
def test_derivatives(labels: torch.Tensor) -> None:
    leaf = scores(2.0).requires_grad_()
    assert gradcheck(log_odds, (leaf, labels))
    assert gradgradcheck(log_odds, (leaf, labels))


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_gradient_is_one_minus_the_softmax_of_the_others(width: int, size: float) -> None:
    leaf = torch.full((1, 5), size, requires_grad=True)
    log_odds(leaf, ALL[:1, :width])[0, 0].backward()
    assert leaf.grad[0].tolist() == pytest.approx([1.0, -0.25, -0.25, -0.25, -0.25], rel=1e-6)


def test_without_another_class_it_is_finite_and_flat() -> None:
    leaf = torch.tensor([[3.0]], requires_grad=True)
    value = log_odds(leaf, torch.tensor([[0]]))
    torch.nn.functional.logsigmoid(value).backward()
    assert 1e38 < value.item() < math.inf
    assert leaf.grad == 0
