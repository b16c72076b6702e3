"""Any scores under any operator: the slow reference, or a message of the list."""

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import references
from lightning_topk import functional, ops
from properties.slow_losses import log_neural_sort, log_soft_sort, log_sum_exp
from properties.strategies import FLOATS, LOGIT_FAULTS, LOW_PRECISION, make_logits, viewed, wild_numbers
from properties.tally import attempt, brief, count

KIND = st.sampled_from(["ordinary", "ties", "constant", "denormal", "large"])


def num_classes_of(x: Any) -> int:
    """Number of classes, of what is no tensor too."""
    return x.shape[-1] if getattr(x, "ndim", 0) else 5


#: Every operator, called with scores [4, C] and k.
OPERATORS = {
    "noised_topk": lambda x, k: ops.noised_topk(x, k, epsilon=0.5, noise=torch.ones(3, num_classes_of(x))),
    "gaussian_topk": lambda x, k: ops.gaussian_topk(x, k, epsilon=0.5),
    "log_symmetric": lambda x, k: ops.log_symmetric(x, k),
    "exclusion_log_odds": lambda x, k: ops.exclusion_log_odds(x, k),
    "capped_logsumexp": lambda x, k: ops.capped_logsumexp(x, torch.zeros(4, 1, dtype=torch.long), k),
    "topk_simplex_maximum": lambda x, k: ops.topk_simplex_maximum(x, torch.zeros(4, 1, dtype=torch.long), k),
    "NeuralSort": lambda x, k: ops.NeuralSort(0.5)(x, k),
    "SoftSort": lambda x, k: ops.SoftSort(0.5)(x, k),
    "SortingNetwork": lambda x, k: ops.SortingNetwork(2.0)(x, k),
    "LapSum": lambda x, k: ops.LapSum(0.5)(x, k),
    "SparseTopK": lambda x, k: ops.SparseTopK(0.5, 1.5)(x, k),
}


def expected(name: str, scores: list[float], k: int) -> np.ndarray:
    """What an operator of the table should return for one row."""
    size = len(scores)
    if name == "noised_topk":
        return np.array(references.kth_largest(scores, k) + 0.5)
    if name == "gaussian_topk":
        kth = references.kth_largest(scores, k)
        near = [min(max(s, kth - 20), kth + 20) for s in scores]
        return np.array(references.smoothed_kth_of_many(near, k, 0.5)[0] if size > 1 else kth)
    if name == "log_symmetric":
        logs = [0.0] + k * [-math.inf]
        for s in scores:
            logs = [0.0] + [log_sum_exp([logs[j], logs[j - 1] + s]) for j in range(1, k + 1)]
        return np.array(logs)
    if name == "exclusion_log_odds":
        return np.array([float(references.mpmath.log(odds(scores, y, k))) for y in range(size)])
    if name == "NeuralSort":
        return np.array(log_neural_sort(scores, 0.5))[:k]
    if name == "SoftSort":
        return np.array(log_soft_sort(scores, 0.5))[:k]
    if name == "SortingNetwork":
        return np.log(np.maximum(references.sorting_network(scores, 2.0, "cauchy")[:k], 1e-300))
    if name == "LapSum":
        threshold = references.lapsum_threshold(scores, k, 0.5)
        return references.laplace.cdf((np.array(scores) - threshold) / 0.5)
    if name == "SparseTopK":
        return references.sparse_topk(scores, k, 0.5, 1.5)
    if name == "capped_logsumexp":
        best = references.topk_entropy([0.0, *[s - max(scores) for s in scores[1:]]], 0, k)
        return np.array([math.log(math.expm1(best)) + max(scores)])
    raise AssertionError(name)


def odds(scores: list[float], label: int, k: int) -> references.mpmath.mpf:
    """Odds of a label outside a set of k, by the polynomials themselves in 300 bits."""
    with references.mpmath.workprec(300):
        loss = references.smooth_topk([k * s for s in scores], label, k, 1.0, 0.0)[0]
        return references.mpmath.expm1(loss)


@brief
@given(name=st.sampled_from(sorted(OPERATORS)), data=st.data())
def test_operators_agree_with_the_slow_reference(name: str, data: st.DataObject) -> None:
    num_classes = data.draw(st.integers(2, 8))
    k = data.draw(st.integers(1, num_classes - 1))
    kind = data.draw(KIND)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    x = viewed(data.draw, make_logits(kind, [4, num_classes], dtype, generator)).detach().requires_grad_()
    value = OPERATORS[name](x, k)
    value.nan_to_num(0.0, 0.0, 0.0).sum().backward()
    assert not value.isnan().any()
    assert x.grad.isfinite().all()
    exact = kind in ("ordinary", "ties", "constant", "denormal")
    if name != "topk_simplex_maximum" and exact and (name != "capped_logsumexp" or not data.draw(st.integers(0, 20))):
        row = data.draw(st.integers(0, 3))
        right = expected(name, x[row].tolist(), k)
        found = value[row].detach().double().numpy()
        near = 1e-7 if dtype == torch.float64 else 5e-4
        near = max(near, 1e-5 if name == "capped_logsumexp" else 0.0)
        if name == "SparseTopK":
            near = max(near, 1e-4)
        np.testing.assert_allclose(found, right, rtol=near, atol=near)
    count("an operator on right input", refused=False)


@brief
@given(name=st.sampled_from(sorted(OPERATORS)), data=st.data())
def test_operators_refuse_wrong_input(name: str, data: st.DataObject) -> None:
    x = LOGIT_FAULTS[data.draw(st.sampled_from(sorted(LOGIT_FAULTS)))](torch.randn(4, 5))
    groups = ("logits", "number of guesses", "other tensors")
    assert attempt("an operator on wrong scores", lambda: OPERATORS[name](x, 2), *groups) is None


@brief
@given(name=st.sampled_from(sorted(OPERATORS)), k=st.integers(1, 4) | wild_numbers())
def test_operators_take_any_k_or_refuse_it(name: str, k: Any) -> None:
    value = attempt(
        "an operator on any k", lambda: OPERATORS[name](torch.randn(4, 5), k), "numbers", "number of guesses"
    )
    assert value is None or value.isfinite().all()


@brief
@given(data=st.data())
def test_parameters_of_operators(data: st.DataObject) -> None:
    cls, name = data.draw(
        st.sampled_from(
            [
                *((ops.NeuralSort, "tau"), (ops.SoftSort, "tau"), (ops.SortingNetwork, "steepness")),
                *((ops.SortingNetwork, "distribution"), (ops.LapSum, "alpha"), (ops.SparseTopK, "alpha")),
                *((ops.SparseTopK, "p"), (ops.STk, "k"), (ops.STk, "fraction"), (ops.STk, "delta"), (ops.STk, "dim")),
                *((ops.STk, "reduction"), (ops.STk, "initial_lambda")),
            ]
        )
    )
    arguments = {"k": 2} if cls is ops.STk and name not in ("k", "fraction") else {}
    x = torch.randn(4, 5)
    value = data.draw(st.sampled_from([1, 2, 0.5, 1.5]) | wild_numbers())

    def call() -> torch.Tensor:
        operator = cls(**arguments, **{name: value})
        return operator(x) if cls is ops.STk else operator(x, 2)

    result = attempt("a parameter of an operator", call, "numbers", "number of guesses", "other tensors")
    assert result is None or not result.isnan().any()


@brief
@given(
    name=st.sampled_from(["capped_logsumexp", "topk_simplex_maximum", "exclusion_log_odds", "log_odds"]), data=st.data()
)
def test_indices_of_operators(name: str, data: st.DataObject) -> None:
    x = torch.randn(4, 5)
    indices = data.draw(
        st.sampled_from(
            [
                *(torch.tensor([0, 1, 2, 4]), torch.tensor([[0], [1], [2], [4]]), torch.arange(5).expand(4, 5)),
                *(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 0, dtype=torch.long), torch.zeros(4, 1)),
                *(torch.tensor(0), torch.zeros(3, 1, dtype=torch.long), torch.zeros(4, 1, dtype=torch.int32)),
                *(None, 0, [0, 0, 0, 0], "0", torch.full((4, 1), 5), torch.full((4,), -1), torch.full((4, 1), -3)),
                torch.full((4, 5), 2**40),
            ]
        )
    )
    calls = {
        "log_odds": lambda: ops.log_odds(x, indices),
        "exclusion_log_odds": lambda: ops.exclusion_log_odds(x, 2, indices),
        "capped_logsumexp": lambda: ops.capped_logsumexp(x, indices, 2),
        "topk_simplex_maximum": lambda: ops.topk_simplex_maximum(x, indices, 2),
    }
    value = attempt("indices of an operator", calls[name], "other tensors", "torch on indices of operators")
    assert value is None or value.isfinite().all()


@brief
@given(
    values=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), max_size=9),
    fraction=st.floats(0, 1) | wild_numbers(),
    weights=st.none() | st.lists(st.floats(0, 10, width=32), max_size=9),
)
def test_shares_of_the_largest(values: list[float], fraction: object, weights: list[float] | None) -> None:
    given_weights = None if weights is None else torch.tensor(weights)
    shares = attempt(
        "shares of the largest",
        lambda: functional.topk_shares(torch.tensor(values), fraction, given_weights),
        "numbers",
        "other tensors",
    )
    if shares is None:
        return
    assert weights is None or len(weights) == len(values)
    found = float((shares.double() * torch.tensor(values).double()).sum())
    expected = references.average_of_largest(values, weights or [1.0] * len(values), float(fraction))
    assert math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-5 * max(map(abs, values), default=0.0))


@brief
@given(data=st.data(), delta=st.floats(0, 10) | wild_numbers(), dtype=st.sampled_from(FLOATS))
def test_smoothed_relu(data: st.DataObject, delta: object, dtype: torch.dtype) -> None:
    kind = data.draw(st.sampled_from(["ordinary", "ties", "large", "huge", "denormal"]))
    x = make_logits(kind, [3, 2], dtype, torch.Generator().manual_seed(data.draw(st.integers(0, 999)))).requires_grad_()
    wrong = data.draw(st.sampled_from([None] * 6 + ["list", "int"]))
    argument = x if wrong is None else x.tolist() if wrong == "list" else torch.ones(2, dtype=torch.int64)
    value = attempt("a smoothed ReLU", lambda: ops.smoothed_relu(argument, delta), "numbers", "other tensors")
    if value is None:
        return
    value.sum().backward()
    assert x.grad.isfinite().all()
    unit = 4e-2 if dtype in LOW_PRECISION else 1e-4
    for found, s in zip(value.flatten().tolist(), x.flatten().tolist(), strict=True):
        exact = (s + math.hypot(s, float(delta)) - float(delta)) / 2
        rounding = unit * (float(delta) + abs(s)) + torch.finfo(torch.float32).tiny  # whose digits below it are lost
        assert math.isclose(found, exact, rel_tol=unit, abs_tol=rounding), (found, exact)
