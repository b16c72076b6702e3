"""The top-K cross-entropy of a differentiable sort: values, the authors' package, candidates, limits, operators."""

import contextlib
import io
import math

import pytest
import torch
from jsonargparse import ArgumentParser

import references
from lightning_topk.losses import CrossEntropyLoss, SortingTopKLoss, TopKLoss, build_loss, sorting_topk_loss
from lightning_topk.ops import LapSum, NeuralSort, SoftSort, SoftSortOperator, SortingNetwork

with contextlib.redirect_stdout(io.StringIO()):  # it prints that torch-sparse is not there
    import difftopk

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)
HALVES = [0.5, 0.5]
OPERATORS = [NeuralSort(), SoftSort(), SortingNetwork(), SortingNetwork(distribution="logistic")]
every = pytest.mark.parametrize("operator", OPERATORS, ids=str)


@pytest.mark.parametrize(
    ("operator", "values"),
    [
        (NeuralSort(), (0.131664, 6.411350, 0.646106, 2.326481)),
        (SoftSort(), (0.151685, 4.661406, 0.661406, 2.161406)),
    ],
    ids=str,
)
def test_worked_values(operator: SoftSortOperator, values: tuple[float, ...]) -> None:
    loss = SortingTopKLoss(2, operator=operator, p_k=HALVES, reduction="none")
    torch.testing.assert_close(
        loss(S.expand(4, 4), torch.arange(4)), torch.tensor(values, dtype=torch.float64), atol=6e-7, rtol=0
    )


def relaxed(operator: SoftSortOperator, scores: list[float]) -> object:
    if isinstance(operator, SortingNetwork):
        return references.sorting_network(scores, operator.steepness, operator.distribution)
    function = references.neural_sort if isinstance(operator, NeuralSort) else references.soft_sort
    return function(scores, operator.tau)


@every
@pytest.mark.parametrize("top1", ["softmax", "sort"])
@pytest.mark.parametrize("num_candidates", [None, 4, 16])
def test_agrees_with_the_slow_loop(operator: SoftSortOperator, top1: str, num_candidates: int | None) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 7, dtype=torch.float64), torch.tensor([0, 6, 2, 3, 4, 1])
    p_k = [0.2, 0.0, 0.8]
    options = {"k": 3, "operator": operator, "p_k": p_k, "num_candidates": num_candidates, "top1": top1}
    losses = sorting_topk_loss(logits, targets, reduction="none", **options)
    for i, y in enumerate(targets.tolist()):
        others = sorted((s for j, s in enumerate(logits[i].tolist()) if j != y), reverse=True)
        scores = [float(logits[i, y]), *others][: num_candidates or 7]
        expected = references.sorting_topk(scores, 0, p_k, relaxed(operator, scores), top1)
        assert math.isclose(float(losses[i]), expected, rel_tol=1e-10)


def test_agrees_with_the_authors_package() -> None:
    """With the softmax for one guess; where its constant 1e-7 in the logarithm does not matter."""
    torch.manual_seed(0)
    logits, targets, p_k = torch.randn(32, 50), torch.randint(50, (32,)), [0.5, 0.0, 0.0, 0.0, 0.5]
    for operator, method in ((NeuralSort(2.0), "neuralsort"), (SoftSort(2.0), "softsort")):
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        expected = difftopk.TopKCrossEntropyLoss(method, 0.5, p_k, n=50, m=16)(theirs, targets)
        value = sorting_topk_loss(ours, targets, k=5, operator=operator, p_k=p_k)
        value.backward()
        expected.backward()
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_a_hopeless_label_keeps_its_gradient_which_the_authors_package_loses() -> None:
    leaf, twin = (10 * S).float().requires_grad_(), (10 * S).float().requires_grad_()
    theirs = difftopk.TopKCrossEntropyLoss("softsort", 1.0, HALVES, n=4)(twin, torch.tensor([1]))
    theirs.backward()
    assert theirs.item() == pytest.approx(16.118095, abs=1e-5)  # -log 1e-7
    assert twin.grad.abs().max() < 1e-8
    value = sorting_topk_loss(leaf, torch.tensor([1]), k=2, operator=SoftSort(), p_k=HALVES)
    value.backward()
    assert value.item() == pytest.approx(40.693147, abs=1e-5)  # 40 + log 2: distance to the second largest
    assert leaf.grad[0, 1].item() == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_one_guess_by_softmax_is_cross_entropy(operator: SoftSortOperator) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 20), torch.randint(20, (8,))
    loss = SortingTopKLoss(1, operator=operator, num_candidates=None)
    torch.testing.assert_close(loss(logits, targets), CrossEntropyLoss()(logits, targets))


@every
def test_cold_limit_is_the_top_k_error(operator: SoftSortOperator) -> None:
    cold = {"steepness": 1e6} if isinstance(operator, SortingNetwork) else {"tau": 1e-3}
    loss = SortingTopKLoss(2, operator=type(operator)(**cold), reduction="none")
    values = loss(S.expand(4, 4), torch.arange(4))
    assert values[[0, 2]].abs().max() < 1e-4
    assert values[[1, 3]].min() > 10


def test_a_network_is_doubly_stochastic_and_the_others_are_not() -> None:
    logits, targets = torch.tensor([[1.0, 0.0, -1.0, -100.0]]), torch.tensor([1])
    value = sorting_topk_loss(logits, targets, k=3, operator=SoftSort())
    a = math.exp(-1)
    assert value.item() == pytest.approx(-math.log(2 * a / (1 + a + a * a) + 1 / (1 + 2 * a)), abs=1e-6)
    assert value < 0
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(200, 10), torch.randint(10, (200,))
    for operator in OPERATORS[2:]:
        values = sorting_topk_loss(logits, targets, k=9, operator=operator, reduction="none")
        assert values.min() >= -1e-6


@every
def test_gradient_touches_the_candidates_alone(operator: SoftSortOperator) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(16, 100, requires_grad=True), torch.randint(100, (16,))
    sorting_topk_loss(logits, targets, k=3, operator=operator, num_candidates=8).backward()
    assert ((logits.grad != 0).sum(-1) <= 8).all()
    others = logits.detach().scatter(-1, targets.unsqueeze(-1), -torch.inf)
    allowed = torch.zeros_like(logits).scatter(-1, others.topk(7).indices, 1.0)
    allowed.scatter_(-1, targets.unsqueeze(-1), 1.0)
    assert not logits.grad[allowed == 0].any()


@every
def test_the_loss_is_continuous_where_the_label_changes_places(operator: SoftSortOperator) -> None:
    loss = SortingTopKLoss(2, operator=operator, num_candidates=3, reduction="none")
    for step in (1e-7, -1e-7):
        moved = S + torch.tensor([0.0, 0.0, -1.5 + step, 0.0], dtype=torch.float64)  # label 2 beside class 3
        beside = S + torch.tensor([0.0, 0.0, -1.5, 0.0], dtype=torch.float64)
        torch.testing.assert_close(
            loss(moved, torch.tensor([2])), loss(beside, torch.tensor([2])), rtol=1e-5, atol=1e-5
        )


SPEC = {
    "class_path": "lightning_topk.losses.SortingTopKLoss",
    "init_args": {
        "k": 2,
        "operator": {"class_path": "lightning_topk.ops.SoftSort", "init_args": {"tau": 2.0}},
        "p_k": HALVES,
        "num_candidates": None,
        "top1": "sort",
        "weight": None,
        "ignore_index": -100,
        "reduction": "mean",
    },
}


def test_operator_goes_through_spec_and_command_line() -> None:
    loss = SortingTopKLoss(2, operator=SoftSort(2.0), p_k=HALVES, num_candidates=None, top1="sort")
    assert loss.spec() == SPEC
    assert build_loss(SPEC).operator == SoftSort(2.0)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TopKLoss, "loss")
    arguments = ["--loss=SortingTopKLoss", "--loss.k=2", "--loss.operator=SoftSort", "--loss.operator.tau=2.0"]
    arguments += ["--loss.p_k=[0.5,0.5]", "--loss.num_candidates=null", "--loss.top1=sort"]
    config = parser.parse_args(arguments)
    assert build_loss(config.loss.as_dict()).spec() == SPEC


def test_operator_can_be_named_and_exchanged() -> None:
    loss = SortingTopKLoss(operator={"class_path": "SoftSort"})
    assert loss.operator == SoftSort()
    loss.operator = NeuralSort(3.0)
    assert repr(loss) == "SortingTopKLoss(k=5, operator=NeuralSort(tau=3.0))"
    with pytest.raises(
        TypeError, match=r"`operator` should be a SoftSortOperator .* Found LapSum\(alpha=1.0\) of type"
    ):
        loss.operator = LapSum()
    assert loss.operator == NeuralSort(3.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        ({"p_k": [0.5, 0.5]}, ValueError, r"`p_k` should hold k = 3 numbers >= 0 of sum 1\. Found \[0.5, 0.5\]"),
        ({"p_k": [0.5, 0.5, 0.5]}, ValueError, r"of sum 1\. Found \[0.5, 0.5, 0.5\]"),
        ({"p_k": [-1.0, 1.0, 1.0]}, ValueError, r"`p_k` should be a finite number >= 0 and <= 1\. Found `p_k = -1.0`"),
        ({"num_candidates": 3}, ValueError, r"above k, or None .* Found `num_candidates = 3` with `k = 3`"),
        ({"num_candidates": 3.5}, TypeError, r"`num_candidates` should be an integer >= 1"),
        ({"top1": "none"}, ValueError, r"`top1` should be one of 'softmax', 'sort'\. Found `top1 = 'none'`"),
        (
            {"operator": "NeuralSort"},
            TypeError,
            r"`operator` should be a SoftSortOperator .* Found 'NeuralSort' of type",
        ),
        ({"operator": {"class_path": "Sinkhorn"}}, ValueError, r"`operator` should name a class .* Found 'Sinkhorn'"),
        ({"operator": {"class_path": "no.Where"}}, ValueError, r"that can be imported\. Found 'no.Where': No module"),
    ],
)
def test_bad_parameters(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SortingTopKLoss(**{"k": 3, **arguments})


@pytest.mark.parametrize("k", [4, 5])
def test_too_few_classes(k: int) -> None:
    with pytest.raises(ValueError, match=rf"`k` should be in \[1, C\), as .* Found `k = {k}` with `C = 4`"):
        SortingTopKLoss(k)(S, torch.tensor([0]))
