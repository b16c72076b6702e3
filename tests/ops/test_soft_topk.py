"""The soft top-k masks: worked values, root finders, exact sums, derivatives, limits and bad input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import references
from lightning_topk.ops import LapSum, SoftTopKOperator, SparseTopK

S = torch.tensor([4.0, -1.5, 2.5, 1.0], dtype=torch.float64)
MASKS = [LapSum(0.8), SparseTopK(1.7), SparseTopK(1.7, 4 / 3)]
every = pytest.mark.parametrize("operator", MASKS, ids=str)


@pytest.mark.parametrize(
    ("operator", "mask"),
    [
        (LapSum(1.0), (0.950432, 0.020612, 0.777851, 0.251105)),
        (LapSum(0.1), (1.0, 0.0, 0.999723, 0.000277)),
        (SparseTopK(2.0), (1.0, 0.0, 0.875, 0.125)),
        (SparseTopK(4.0), (1.0, 0.0, 0.6875, 0.3125)),
        # theta with ((2.5 - t) / 2)^3 + ((1 - t) / 2)^3 = 1
        (SparseTopK(2.0, 4 / 3), (1.0, 0.0, 0.985281, 0.014719)),
    ],
    ids=str,
)
def test_worked_values(operator: SoftTopKOperator, mask: tuple[float, ...]) -> None:
    torch.testing.assert_close(operator(S, 2), torch.tensor(mask, dtype=torch.float64), atol=6e-7, rtol=0)


def test_threshold_of_lapsum() -> None:
    assert float(LapSum(1.0).threshold(S, 2)) == pytest.approx(1.688738, abs=6e-7)
    for k in (1, 2, 3):
        for alpha in (0.1, 1.0, 10.0):
            expected = references.lapsum_threshold(S.tolist(), k, alpha)
            assert float(LapSum(alpha).threshold(S, k)) == pytest.approx(expected, abs=1e-9 * alpha)
    flat = torch.zeros(1000, dtype=torch.float64)  # 1/2 exp(-b) = 2/1000: the threshold is above all scores
    assert float(LapSum(1.0).threshold(flat, 2)) == pytest.approx(5.521461, abs=1e-6)


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12),
    st.integers(1, 11),
    st.sampled_from([0.05, 1.0, 30.0]),
)
def test_any_scores(values: list[float], k: int, alpha: float) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    if k >= len(values):
        with pytest.raises(ValueError, match=r"`k` should be in \[1, C\)"):
            LapSum()(scores, k)
        return
    b = references.lapsum_threshold(values, k, alpha)
    expected = torch.from_numpy(references.laplace.cdf((scores - b) / alpha))
    torch.testing.assert_close(LapSum(alpha)(scores, k), expected, rtol=1e-7, atol=1e-9)
    for p in (2.0, 4 / 3):
        mask = SparseTopK(alpha, p)(scores, k)
        torch.testing.assert_close(mask.sum(), torch.tensor(float(k), dtype=torch.float64))
        expected = torch.from_numpy(references.sparse_topk(values, k, alpha, p))
        torch.testing.assert_close(mask, expected, rtol=1e-7, atol=1e-9)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e2, 1e4])
def test_sum_is_k_and_derivatives_are_finite(operator: SoftTopKOperator, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    scores = (scale * torch.randn(50, 30, dtype=dtype)).requires_grad_()
    for k in (1, 5, 29):
        mask = operator(scores, k)
        torch.testing.assert_close(mask.sum(-1), torch.full((50,), float(k), dtype=dtype), atol=2e-5, rtol=0)
        assert mask.min() >= 0
        assert mask.max() <= 1
        (gradient,) = torch.autograd.grad(mask[:, 0].sum(), scores)
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient.sum(-1), torch.zeros(50, dtype=dtype), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_log_of_lapsum_in_float32(scale: float) -> None:
    torch.manual_seed(0)
    scores = (scale * torch.randn(50, 30)).requires_grad_()
    logs = LapSum(1.0).log(scores, 5)
    logs.sum().backward()
    assert scores.grad.isfinite().all()
    torch.testing.assert_close(logs.double(), LapSum(1.0).log(scores.detach().double(), 5), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logs.exp(), LapSum(1.0)(scores, 5), rtol=1e-4, atol=1e-6)


@every
def test_first_and_second_derivatives(operator: SoftTopKOperator) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    functions = [lambda s: operator(s, 2)]
    if isinstance(operator, LapSum):
        functions.append(lambda s: operator.log(s, 2))
    for function in functions:
        assert gradcheck(function, (scores,))
        assert gradgradcheck(function, (scores,))


@every
def test_cold_limit_is_the_hard_mask(operator: SoftTopKOperator) -> None:
    cold = type(operator)(1e-3)
    torch.testing.assert_close(cold(S, 2), torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64))


def test_sparse_mask_is_hard_beyond_alpha() -> None:
    scores = S.clone().requires_grad_()
    for p in (2.0, 4 / 3):
        mask = SparseTopK(1.5, p)(scores, 2)  # 2.5 and 1 are 1.5 apart
        assert mask.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert not torch.autograd.grad(SparseTopK(1.4)(scores, 2)[2], scores)[0].any()


def test_sparse_mask_is_the_projection() -> None:
    """No point of the capped simplex is nearer to s / alpha (first-order condition at random points of it)."""
    torch.manual_seed(0)
    scores = torch.randn(8, dtype=torch.float64)
    mask = SparseTopK(2.0)(scores, 3)
    for _ in range(50):
        other = LapSum(0.3)(torch.randn(8, dtype=torch.float64), 3)
        assert ((scores / 2.0 - mask) * (other - mask)).sum() <= 1e-12


@every
def test_invariance_under_shift_and_permutation(operator: SoftTopKOperator) -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(operator(S[order], 2), operator(S, 2)[order])
    torch.testing.assert_close(operator(S + 100.0, 2), operator(S, 2))


@every
def test_ties_share(operator: SoftTopKOperator) -> None:
    scores = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    mask = operator(scores, 2)
    torch.testing.assert_close(mask, torch.full((5,), 0.4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(mask[0], scores)
    torch.testing.assert_close(gradient[1:], (-gradient[0] / 4).expand(4))
    assert gradient[0] > 0


@every
def test_bad_input(operator: SoftTopKOperator) -> None:
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\), as .* Found `k = 4` with `C = 4`"):
        operator(S, 4)
    with pytest.raises(ValueError, match=r"`k` should be an integer >= 1\. Found `k = 0`"):
        operator(S, 0)
    with pytest.raises(TypeError, match=r"floating point dtype\. Found torch\.int64"):
        operator(S.long(), 1)
    with pytest.raises(ValueError, match=r"`alpha` should be a finite number > 0\. Found `alpha = 0.0`"):
        type(operator)(0.0)


@pytest.mark.parametrize("p", [1.0, 2.5])
def test_bad_exponent(p: float) -> None:
    with pytest.raises(ValueError, match=rf"`p` should be a finite number > 1 and <= 2\. Found `p = {p}`"):
        SparseTopK(p=p)
