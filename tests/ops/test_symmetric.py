"""Elementary symmetric polynomials of exponentials: values, derivatives, and accuracy where it is hard."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

from lightning_topk.ops import exclusion_log_odds, log_symmetric
from lightning_topk.ops._largest import largest


def subset_sums(scores: list[float], k: int, temperature: float) -> list[float]:
    """log e_j by its definition, for j = 0, ..., k."""
    return [
        math.log(sum(math.exp(sum(subset) / temperature) for subset in combinations(scores, j))) for j in range(k + 1)
    ]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_worked_example() -> None:
    values = log_symmetric(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log(), 3).exp()
    torch.testing.assert_close(values, torch.tensor([1.0, 6.0, 11.0, 6.0], dtype=torch.float64))


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=9),
    st.integers(1, 9),
    st.sampled_from([0.1, 1.0, 30.0]),
)
def test_agrees_with_the_definition(scores: list[float], k: int, temperature: float) -> None:
    logits = torch.tensor(scores, dtype=torch.float64)
    if k > len(scores):
        with pytest.raises(ValueError, match=r"`k` should be in \[1, C\]"):
            log_symmetric(logits, k)
        return
    expected = torch.tensor(subset_sums(scores, k, temperature), dtype=torch.float64)
    torch.testing.assert_close(log_symmetric(logits, k, temperature=temperature), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_classes", [4, 7, 16])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_derivatives_of_both_orders(num_classes: int, k: int) -> None:
    logits, labels = normal(3, num_classes).requires_grad_(), torch.tensor([0, num_classes - 1, 2])
    for function in (
        lambda s: log_symmetric(s, k, temperature=0.5),
        lambda s: exclusion_log_odds(s, k, labels, temperature=0.5),
        lambda s: exclusion_log_odds(s, k, temperature=2.0),
    ):
        assert gradcheck(function, (logits,))
        assert gradgradcheck(function, (logits,))


def test_derivatives_of_both_orders_at_ties() -> None:
    logits = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], 7 * [0.5]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: exclusion_log_odds(s, 2), (logits,))
    assert gradgradcheck(lambda s: exclusion_log_odds(s, 2), (logits,))


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_odds_are_those_of_the_sets(k: int) -> None:
    """The inclusion probabilities of a set of k classes have the sum k and are the gradient of log e_k."""
    logits = 3 * normal(4, 60).requires_grad_()
    included = torch.sigmoid(-exclusion_log_odds(logits, k))
    torch.testing.assert_close(included.sum(-1), torch.full((4,), float(k), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_symmetric(logits, k)[..., k].sum(), logits)
    torch.testing.assert_close(included, gradient)


@pytest.mark.parametrize(("k", "num_classes"), [(1, 5), (2, 5), (3, 8), (5, 40), (20, 300), (50, 300)])
@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0])
def test_all_labels_agree_with_each_alone(k: int, num_classes: int, spread: float) -> None:
    logits = (spread * normal(2, num_classes)).requires_grad_()
    mix = normal(2, num_classes, seed=1)
    together = exclusion_log_odds(logits, k, temperature=0.7)
    rows = logits.unsqueeze(1).expand(-1, num_classes, -1)
    alone = exclusion_log_odds(rows, k, torch.arange(num_classes).expand(2, -1), temperature=0.7)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad((value * mix).sum(), logits)[0] for value in (together, alone)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("spread", [0.0, 1e-4, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("num_classes", [200, 10_000])
def test_all_labels_in_float32(k: int, spread: float, num_classes: int) -> None:
    logits = (spread * normal(2, num_classes)).float()
    shares = torch.softmax(normal(2, num_classes, seed=1), -1)
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        value = exclusion_log_odds(leaf, k)
        gradients.append(torch.autograd.grad((shares * torch.nn.functional.softplus(value)).sum(), leaf)[0])
        values.append(value.detach())
    torch.testing.assert_close(*values, rtol=1e-6, atol=2e-6)
    error = (gradients[0].double() - gradients[1]).abs().sum(-1) / gradients[1].abs().sum(-1)
    assert error.max() < 1e-4


@pytest.mark.parametrize("k", [1, 5, 50, 200])
def test_huge_polynomials_of_flat_scores(k: int) -> None:
    """With all scores equal e_k is a binomial coefficient: 10^500 at k = 200."""
    num_classes = 100_000
    expected = math.lgamma(num_classes + 1) - math.lgamma(k + 1) - math.lgamma(num_classes - k + 1)
    value = log_symmetric(torch.zeros(num_classes, dtype=torch.float64), k)[k]
    assert math.isclose(float(value), expected, rel_tol=1e-9)
    odds = exclusion_log_odds(torch.zeros(num_classes), k, torch.tensor(7))
    assert math.isclose(float(odds), math.log((num_classes - k) / k), abs_tol=1e-6)


def test_newton_loses_no_more_than_its_bound() -> None:
    """The worst case of the bound: a tail of k + 1 scores as large as the smallest of the head."""
    for k in (5, 20, 50):
        logits = torch.cat([torch.zeros(3 * k + 1), torch.full((40,), -40.0)]).double()
        expected = math.lgamma(3 * k + 2) - math.lgamma(k + 1) - math.lgamma(2 * k + 2)
        assert math.isclose(float(log_symmetric(logits, k)[k]), expected, rel_tol=1e-10)


def test_masked_classes_are_as_if_they_were_not_there() -> None:
    logits = normal(3, 40).float()
    for kept in (6, 8, 12, 30):
        masked = logits.clone()
        masked[:, kept:] = torch.finfo(torch.float32).min
        labels = torch.tensor([0, 3, 5])
        alone = exclusion_log_odds(logits[:, :kept], 4, labels, temperature=0.01)
        torch.testing.assert_close(exclusion_log_odds(masked, 4, labels, temperature=0.01), alone)
        everyone = exclusion_log_odds(masked, 4, temperature=0.01)
        assert everyone.isfinite().all()
        torch.testing.assert_close(everyone.gather(-1, labels.unsqueeze(-1)).squeeze(-1), alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = normal(3, 40).to(dtype)
    assert torch.equal(exclusion_log_odds(logits, 2), exclusion_log_odds(logits.float(), 2))
    assert torch.equal(log_symmetric(logits, 2), log_symmetric(logits.float(), 2))


def test_vmap_and_gradients_in_it() -> None:
    logits, labels = normal(2, 3, 40), torch.tensor([[0, 5, 39], [1, 2, 3]])
    mapped = vmap(lambda s, y: exclusion_log_odds(s, 3, y), in_dims=(1, 1), out_dims=1)(logits, labels)
    torch.testing.assert_close(mapped, exclusion_log_odds(logits, 3, labels))
    torch.testing.assert_close(vmap(lambda s: exclusion_log_odds(s, 3))(logits), exclusion_log_odds(logits, 3))
    leaf = logits.clone().requires_grad_()
    exclusion_log_odds(leaf, 3, labels).sum().backward()
    each = vmap(vmap(grad(lambda s, y: exclusion_log_odds(s, 3, y))))(logits, labels)
    torch.testing.assert_close(each, leaf.grad)
    shared = vmap(lambda y: exclusion_log_odds(logits[0, 0], 3, y))(torch.arange(40))
    torch.testing.assert_close(shared, exclusion_log_odds(logits[0, 0], 3))


def test_blocks_of_rows_change_nothing() -> None:
    logits, labels = normal(70, 3000), torch.arange(70)
    whole = exclusion_log_odds(logits, 3, labels)
    torch.testing.assert_close(
        torch.stack([exclusion_log_odds(s, 3, y) for s, y in zip(logits, labels, strict=True)]), whole
    )


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 2**32), st.booleans())
def test_largest(num_classes: int, count: int, seed: int, ties: bool) -> None:
    scores = torch.randn(2, num_classes, generator=torch.Generator().manual_seed(seed))
    if ties:
        scores = scores.round()
    count = min(count, num_classes)
    indices = largest(scores, count)
    assert torch.equal(scores.gather(-1, indices), torch.topk(scores, count).values)
    assert all(len(set(row)) == count for row in indices.tolist())


@pytest.mark.parametrize(
    ("k", "arguments", "error", "message"),
    [
        (0, {}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        (1.0, {}, TypeError, r"Found `k = 1.0` of type float"),
        (2, {"temperature": 0.0}, ValueError, r"`temperature` should be a finite number > 0"),
    ],
)
@pytest.mark.parametrize("function", [log_symmetric, exclusion_log_odds])
def test_bad_input(function, k, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        function(torch.zeros(4), k, **arguments)


def test_too_few_classes() -> None:
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\]\. Found `k = 5` with `C = 4`"):
        log_symmetric(torch.zeros(4), 5)
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\).* Found `k = 4` with `C = 4`"):
        exclusion_log_odds(torch.zeros(4), 4)
    with pytest.raises(TypeError, match=r"floating point dtype"):
        log_symmetric(torch.zeros(4, dtype=torch.long), 2)
