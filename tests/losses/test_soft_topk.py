"""Losses on a soft top-k mask: worked values, references, soft labels, limits, operators and bad input."""

import math

import pytest
import torch
from jsonargparse import ArgumentParser

import references
from lightning_topk.losses import SoftTopKLoss, TopKLoss, build_loss, soft_topk_loss
from lightning_topk.ops import LapSum, NeuralSort, SparseTopK

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)


def test_worked_values() -> None:
    rows, labels = S.expand(4, 4), torch.arange(4)
    log = SoftTopKLoss(2, operator=LapSum(1.0), reduction="none")(rows, labels)
    expected = [-math.log(p) for p in (0.950432, 0.020612, 0.777851, 0.251105)]
    torch.testing.assert_close(log, torch.tensor(expected, dtype=torch.float64), atol=3e-5, rtol=0)
    linear = SoftTopKLoss(2, operator=SparseTopK(4.0), variant="linear", reduction="none")(rows, labels)
    assert linear.tolist() == [0.0, 1.0, 0.3125, 0.6875]


def test_agrees_with_the_slow_loop() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 9, dtype=torch.float64), torch.randint(9, (6,))
    for i, y in enumerate(targets.tolist()):
        row = logits[i].tolist()
        b = references.lapsum_threshold(row, 3, 0.7)
        p = float(references.laplace.cdf((row[y] - b) / 0.7))
        for variant, expected in (("log", -math.log(p)), ("linear", 1 - p)):
            value = soft_topk_loss(logits[i], targets[i], k=3, operator=LapSum(0.7), variant=variant)
            assert math.isclose(float(value), expected, rel_tol=1e-9)
        for power in (2.0, 4 / 3):
            mask = references.sparse_topk(row, 3, 1.5, power)
            operator = SparseTopK(1.5, power)
            value = soft_topk_loss(logits[i], targets[i], k=3, operator=operator, variant="linear")
            assert math.isclose(float(value), 1 - mask[y], rel_tol=1e-9, abs_tol=1e-9)


def test_a_hopeless_label_keeps_its_gradient_under_the_logarithm() -> None:
    logits = (1000 * S).float().requires_grad_()
    value = soft_topk_loss(logits, torch.tensor([1]), k=2)
    value.backward()
    # 2 logits above the threshold and 2 below: it is half-way between 2500 and 1000; log 2 from the Laplace tail.
    assert value.item() == pytest.approx(1750 + 1500 + math.log(2), rel=1e-6)
    assert logits.grad.tolist() == [[0.0, -1.0, 0.5, 0.5]]


def test_the_linear_one_on_a_sparse_mask_has_a_plateau() -> None:
    logits = S.clone().requires_grad_()
    value = soft_topk_loss(logits, torch.tensor([1]), k=2, operator=SparseTopK(2.0), variant="linear")
    value.backward()
    assert value == 1.0
    assert not logits.grad.any()


def test_cold_limit_is_the_top_k_error() -> None:
    for operator in (LapSum(1e-3), SparseTopK(1e-3)):
        loss = SoftTopKLoss(2, operator=operator, variant="linear", reduction="none")
        torch.testing.assert_close(loss(S.expand(4, 4), torch.arange(4)), torch.tensor([0.0, 1, 0, 1]).double())


def test_operator_goes_through_spec_and_command_line() -> None:
    loss = SoftTopKLoss(2, operator=SparseTopK(2.0, 1.5), variant="linear")
    spec = loss.spec()
    operator = {"class_path": "lightning_topk.ops.SparseTopK", "init_args": {"alpha": 2.0, "p": 1.5}}
    assert spec["init_args"]["operator"] == operator
    assert build_loss(spec).spec() == spec
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TopKLoss, "loss")
    arguments = ["--loss=SoftTopKLoss", "--loss.k=2", "--loss.variant=linear", "--loss.operator=SparseTopK"]
    config = parser.parse_args([*arguments, "--loss.operator.alpha=2", "--loss.operator.p=1.5"])
    assert build_loss(config.loss.as_dict()).spec() == spec


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        ({"variant": "square"}, ValueError, r"`variant` should be one of 'log', 'linear'\. Found `variant = 'square'`"),
        (
            {"operator": SparseTopK()},
            ValueError,
            r"should be 'linear' with .* Found `variant = 'log'` with SparseTopK\(",
        ),
        (
            {"operator": NeuralSort()},
            TypeError,
            r"`operator` should be a SoftTopKOperator .* Found NeuralSort\(tau=1.0\)",
        ),
    ],
)
def test_bad_parameters(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SoftTopKLoss(**arguments)


def test_operator_can_be_exchanged() -> None:
    loss = SoftTopKLoss(2)
    loss.operator = LapSum(0.5)
    assert repr(loss) == "SoftTopKLoss(k=2, operator=LapSum(alpha=0.5))"
    loss.operator = SparseTopK()
    with pytest.raises(ValueError, match=r"should be 'linear' with .* Found `variant = 'log'` with SparseTopK\("):
        loss(S, torch.tensor([0]))


@pytest.mark.parametrize("k", [4, 5])
def test_too_few_classes(k: int) -> None:
    with pytest.raises(ValueError, match=rf"`k` should be in \[1, C\), as .* Found `k = {k}` with `C = 4`"):
        SoftTopKLoss(k)(S, torch.tensor([0]))
