"""The relaxed permutation matrices: slow references, the authors' package, invariances, limits and bad input."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import references
from lightning_topk.ops import NeuralSort, SoftSort, SoftSortOperator, SortingNetwork
from lightning_topk.ops._sorting_network import bitonic_masks

with contextlib.redirect_stdout(io.StringIO()):  # it prints that torch-sparse is not there
    import difftopk

S = torch.tensor([4.0, -1.5, 2.5, 1.0], dtype=torch.float64)
NETWORKS = [SortingNetwork(0.7), SortingNetwork(0.7, "logistic")]
SORTS = [NeuralSort(1.3), SoftSort(1.3)]
every = pytest.mark.parametrize("operator", [*SORTS, *NETWORKS], ids=str)


def reference(operator: SoftSortOperator, scores: list[float]) -> np.ndarray:
    if isinstance(operator, SortingNetwork):
        return references.sorting_network(scores, operator.steepness, operator.distribution)
    function = references.neural_sort if isinstance(operator, NeuralSort) else references.soft_sort
    return function(scores, operator.tau)


@every
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 11])
def test_agrees_with_the_slow_reference(operator: SoftSortOperator, size: int) -> None:
    torch.manual_seed(size)
    scores = torch.randn(3, size, dtype=torch.float64)
    scores[0, -1] = scores[0, 0]
    for k in {1, size}:
        rows = operator(scores, k).exp()
        for i in range(3):
            expected = torch.from_numpy(reference(operator, scores[i].tolist())[:k])
            torch.testing.assert_close(rows[i], expected, rtol=1e-10, atol=1e-14)


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=9))
def test_any_scores(values: list[float]) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    for operator in (*SORTS, *NETWORKS):
        rows = operator(scores, len(values)).exp()
        torch.testing.assert_close(rows.sum(-1), torch.ones(len(values), dtype=torch.float64))
        torch.testing.assert_close(rows, torch.from_numpy(reference(operator, values)), rtol=1e-7, atol=1e-12)
        if isinstance(operator, SortingNetwork):
            torch.testing.assert_close(rows.sum(-2), torch.ones(len(values), dtype=torch.float64))


def test_columns_of_neural_sort_and_soft_sort_do_not_sum_to_one() -> None:
    assert float(NeuralSort()(S, 4).exp().sum(-2)[2]) == pytest.approx(1.044907, abs=1e-6)
    assert float(SoftSort()(S, 4).exp().sum(-2)[2]) == pytest.approx(1.038775, abs=1e-6)


@pytest.mark.parametrize("operator", SORTS, ids=str)
def test_agrees_with_the_authors_package(operator: SoftSortOperator) -> None:
    torch.manual_seed(0)
    name, scores = type(operator).__name__, torch.randn(5, 7)
    # Theirs has the ranks in increasing order for NeuralSort.
    theirs = getattr(difftopk, name)(tau=1.3)(scores)
    theirs = theirs.flip(-1).mT if name == "NeuralSort" else theirs
    torch.testing.assert_close(operator(scores, 7).exp(), theirs, rtol=1e-4, atol=1e-6)


def wires(places: list[int], rising: bool) -> list[int]:
    """Where our network expects the inputs of one whose blocks sort alternately up and down."""
    if len(places) == 1:
        return places
    half = len(places) // 2
    first, second = wires(places[:half], True), wires(places[half:], False)
    return first + second if rising else second + first


@pytest.mark.parametrize("operator", NETWORKS, ids=str)
@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_network_agrees_with_the_authors_package(operator: SortingNetwork, size: int) -> None:
    """The same network up to the order of the inputs: in theirs, blocks sort alternately up and down."""
    torch.manual_seed(size)
    scores = torch.randn(5, size)
    network = difftopk.DiffTopkNet("bitonic", size, size, steepness=0.7, distribution=operator.distribution)
    theirs = network(-scores)[1].mT  # it sorts upwards
    order = torch.tensor(wires(list(range(size)), True))
    ours = operator(scores[:, order], size).exp()
    torch.testing.assert_close(ours, theirs[..., order])


@pytest.mark.parametrize("size", range(1, 13))
def test_network_sorts(size: int) -> None:
    """The zero-one principle: a network that sorts all vectors of 0 and 1 sorts all vectors."""
    place = torch.arange(size)
    values = torch.arange(2**size).unsqueeze(-1) >> place & 1
    for mask in bitonic_masks(size):
        partner = torch.where(place ^ mask < size, place ^ mask, place)
        low, high = torch.minimum(values, values[:, partner]), torch.maximum(values, values[:, partner])
        values = torch.where(place < partner, high, low)
    assert (values.diff(dim=-1) <= 0).all()
    depth = (size - 1).bit_length()
    assert len(bitonic_masks(size)) == depth * (depth + 1) // 2


@every
def test_cold_limit_is_the_permutation(operator: SoftSortOperator) -> None:
    cold = type(operator)(**{**vars(operator), next(iter(vars(operator))): 1e-4})
    if isinstance(operator, SortingNetwork):
        cold = SortingNetwork(1e7, operator.distribution)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[torch.arange(4), torch.tensor([0, 2, 3, 1])] = 1
    torch.testing.assert_close(cold(S, 4).exp(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("operator", SORTS, ids=str)
def test_permuting_scores_permutes_columns(operator: SoftSortOperator) -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(operator(S[order], 3), operator(S, 3)[:, order])


@every
def test_shift_changes_nothing(operator: SoftSortOperator) -> None:
    torch.testing.assert_close(operator(S + 100.0, 3), operator(S, 3), rtol=1e-9, atol=1e-9)


@every
def test_derivatives(operator: SoftSortOperator) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: operator(s, 3), (scores,))
    assert gradgradcheck(lambda s: operator(s, 3), (scores,))


@every
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
def test_float32_is_finite_and_accurate(operator: SoftSortOperator, scale: float) -> None:
    torch.manual_seed(1)
    scores = (scale * torch.randn(20, 16).round(decimals=1)).requires_grad_()
    rows = operator(scores, 5)
    rows.sum().backward()
    assert scores.grad.isfinite().all()
    # The network mixes scores and compares the mixtures: differences of size 1 between numbers of size 1e4.
    error = 5e-3 if isinstance(operator, SortingNetwork) and scale == 1e4 else 2e-5
    torch.testing.assert_close(rows.double(), operator(scores.detach().double(), 5), rtol=error, atol=error)


def test_gradient_at_ties_is_symmetric() -> None:
    scores = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(NeuralSort()(scores, 2)[:, 0].sum(), scores)
    expected = torch.full((6,), -8 / 6, dtype=torch.float64)  # rows 5 and 3 times (one-hot - 1/6)
    expected[0] += 8
    torch.testing.assert_close(gradient, expected)
    (gradient,) = torch.autograd.grad(SoftSort()(scores, 2)[:, 0].sum(), scores)
    assert not gradient.any()


def test_no_matrix_of_all_pairs() -> None:
    rows = NeuralSort()(torch.randn(2, 200_000), 3)  # all pairs would be 320 GB
    assert rows.shape == (2, 3, 200_000)


@every
def test_bad_input(operator: SoftSortOperator) -> None:
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\]\. Found `k = 5` with `C = 4`"):
        operator(S, 5)
    with pytest.raises(ValueError, match=r"`k` should be an integer >= 1\. Found `k = 0`"):
        operator(S, 0)
    with pytest.raises(TypeError, match=r"floating point dtype\. Found torch\.int64"):
        operator(S.long(), 1)


@pytest.mark.parametrize("make", [NeuralSort, SoftSort])
def test_bad_temperature(make: type[SoftSortOperator]) -> None:
    with pytest.raises(ValueError, match=r"`tau` should be a finite number > 0\. Found `tau = 0.0`"):
        make(tau=0.0)


def test_bad_network() -> None:
    with pytest.raises(ValueError, match=r"`steepness` should be a finite number > 0\. Found `steepness = -1.0`"):
        SortingNetwork(steepness=-1.0)
    with pytest.raises(ValueError, match=r"`distribution` should be one of 'cauchy', 'logistic'\. Found .*'gauss'"):
        SortingNetwork(distribution="gauss")
