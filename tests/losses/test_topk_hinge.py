"""The hinges psi_1 to psi_5: worked values, the slow formulas, order, convexity, subgradients, bounds of K."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_topk.losses import NoisedTopKLoss, TopKHingeLoss, topk_hinge_loss
from references import topk_hinge

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)
VARIANTS = ("psi1", "psi2", "psi3", "psi4", "psi5")
CONVEX = ("psi2", "psi3", "psi4")
every = pytest.mark.parametrize("variant", VARIANTS)

# Scores on a coarse grid, so that ties and kinks are met.
rows = st.lists(st.integers(-4, 4), min_size=2, max_size=7)


def largest_k(variant: str, num_classes: int) -> int:
    return num_classes - (variant not in ("psi2", "psi3"))


@pytest.mark.parametrize(
    ("k", "label", "values"),
    [
        (1, 0, (0.0, 0.0, 0.0, 0.0, 0.0)),
        (1, 1, (6.5, 6.5, 6.5, 6.5, 5.0)),  # 1 + 4 + 1.5; psi5: 1 + 2.5 + 1.5
        (1, 2, (2.5, 2.5, 2.5, 2.5, 1.0)),
        (1, 3, (4.0, 4.0, 4.0, 4.0, 2.5)),
        (2, 0, (0.0, 0.0, 0.0, 0.0, 0.0)),
        (2, 1, (5.0, 5.75, 5.75, 5.75, 3.5)),
        (2, 2, (0.0, 1.25, 1.25, 1.0, 0.0)),  # violations 2.5, -0.5: the mean with 0 in the list, and without
        (2, 3, (2.5, 3.25, 3.25, 3.25, 1.0)),
    ],
)
def test_worked_values(k: int, label: int, values: tuple[float, ...]) -> None:
    hard, soft = torch.tensor([label]), torch.eye(4, dtype=torch.float64)[[label]]
    assert [float(topk_hinge_loss(S, hard, k=k, variant=name)) for name in VARIANTS] == list(values)
    assert [float(topk_hinge_loss(S, soft, k=k, variant=name)) for name in VARIANTS] == list(values)


@pytest.mark.parametrize(("label", "value", "gradient"), [(2, 1.0, [0, 0, 0, 0]), (3, 2.0, [0, 0, 1, -1])])
def test_the_plateau_of_the_calibrated_hinge(label: int, value: float, gradient: list[float]) -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]], requires_grad=True)
    loss = TopKHingeLoss(k=2)(scores, torch.tensor([label]))
    loss.backward()
    assert loss == value
    assert scores.grad.tolist() == [gradient]
    scores.grad = None
    TopKHingeLoss(k=2, variant="psi1")(scores, torch.tensor([label])).backward()
    assert scores.grad.any()


@every
@given(scores=rows, data=st.data())
def test_agrees_with_the_slow_formulas(variant: str, scores: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, largest_k(variant, len(scores))))
    margin = data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    logits = torch.tensor([scores], dtype=torch.float64)
    expected = [topk_hinge(scores, label, k, variant, margin) for label in range(len(scores))]
    each = topk_hinge_loss(
        logits.expand(len(scores), -1), torch.arange(len(scores)), k=k, variant=variant, margin=margin, reduction="none"
    )
    assert each.tolist() == pytest.approx(expected, abs=1e-12)
    shares = torch.tensor([data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)))])
    soft = topk_hinge_loss(logits, shares.double(), k=k, variant=variant, margin=margin, reduction="none")
    assert float(soft) == pytest.approx(float(shares[0].double() @ each), abs=1e-10)


@given(scores=rows, data=st.data())
def test_order_of_the_five(scores: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores) - 1))
    logits = torch.tensor([scores], dtype=torch.float64).expand(len(scores), -1)
    psi = {
        name: topk_hinge_loss(logits, torch.arange(len(scores)), k=k, variant=name, reduction="none")
        for name in VARIANTS
    }
    for below, above in (("psi5", "psi1"), ("psi1", "psi4"), ("psi4", "psi2"), ("psi2", "psi3")):
        assert (psi[below] <= psi[above] + 1e-12).all()
    wrong = (logits > logits.gather(-1, torch.arange(len(scores)).unsqueeze(-1))).sum(-1) >= k
    assert (psi["psi5"][wrong] >= 1).all()


@pytest.mark.parametrize("variant", CONVEX)
@given(data=st.data())
def test_gradients_are_subgradients_also_at_ties(variant: str, data: st.DataObject) -> None:
    """f(z) >= f(s) + <g, z - s> for all z: convex, with a valid g at every tie and kink."""
    size = data.draw(st.integers(2, 6))
    k = data.draw(st.integers(1, largest_k(variant, size)))
    label = torch.tensor([data.draw(st.integers(0, size - 1))])
    score = st.lists(st.integers(-3, 3), min_size=size, max_size=size)
    start = torch.tensor([data.draw(score)], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([data.draw(score)], dtype=torch.float64)
    value = topk_hinge_loss(start, label, k=k, variant=variant)
    (gradient,) = torch.autograd.grad(value, start)
    plane = value + (gradient * (other - start)).sum()
    assert topk_hinge_loss(other, label, k=k, variant=variant) >= plane - 1e-12


@pytest.mark.parametrize("variant", ["psi1", "psi5"])
def test_order_statistics_are_not_convex(variant: str) -> None:
    ends = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    label = torch.tensor([2])
    values = [float(topk_hinge_loss(row.unsqueeze(0), label, k=2, variant=variant, margin=0.5)) for row in ends]
    middle = float(topk_hinge_loss(ends.mean(0, keepdim=True), label, k=2, variant="psi1", margin=0.5))
    assert middle > sum(values) / 2


@every
def test_gradient_is_sparse_at_random_scores_and_at_ties(variant: str) -> None:
    for logits in (torch.randn(16, 100), torch.zeros(16, 100), torch.randn(16, 100).bfloat16().float().round()):
        leaf = logits.requires_grad_()
        topk_hinge_loss(leaf, torch.arange(16), k=5, variant=variant, reduction="sum").backward()
        assert (leaf.grad != 0).sum(-1).max() <= (2 if variant in ("psi1", "psi5") else 6)
        torch.testing.assert_close(leaf.grad.sum(-1), torch.zeros(16), atol=1e-6, rtol=0)
        assert leaf.grad.abs().sum(-1).max() <= 2 + 1e-6


def test_calibrated_hinge_is_the_noised_loss_without_noise() -> None:
    logits, targets = torch.randn(32, 50), torch.randint(50, (32,))
    for k in (1, 5, 49):
        plain = NoisedTopKLoss(k, epsilon=0.0, reduction="none")(logits, targets)
        torch.testing.assert_close(TopKHingeLoss(k, reduction="none")(logits, targets), plain)


@every
def test_margins_by_class(variant: str) -> None:
    margins = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    values = topk_hinge_loss(S.expand(4, 4), torch.arange(4), k=2, variant=variant, margin=margins, reduction="none")
    expected = [topk_hinge(S[0].tolist(), y, 2, variant, float(margins[y])) for y in range(4)]
    assert values.tolist() == pytest.approx(expected)
    loss = TopKHingeLoss(k=2, variant=variant)
    loss.margin = 2.0
    assert float(loss(S, torch.tensor([2]))) == pytest.approx(topk_hinge(S[0].tolist(), 2, 2, variant, 2.0))


def test_negative_competitors_need_a_mask_below_them() -> None:
    """The open code of AUTKC masks the label's score with 0, which beats negative ones: 2.0 where psi1 is 0."""
    scores, label = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([0])
    masked = torch.relu(1 + scores.scatter(-1, label.unsqueeze(-1), 0.0).topk(1).values - scores[:, :1])
    assert float(masked) == 2.0
    assert float(topk_hinge_loss(scores, label, k=1, variant="psi1")) == 0.0
    assert float(topk_hinge_loss(scores, label, k=1, variant="psi4")) == 0.0


@every
def test_runs_of_ranks_are_exact_in_float32_at_large_scores(variant: str) -> None:
    logits, targets = 1e4 * torch.randn(64, 200), torch.randint(200, (64,))
    low = topk_hinge_loss(logits, targets, k=50, variant=variant, reduction="none")
    high = topk_hinge_loss(logits.double(), targets, k=50, variant=variant, reduction="none")
    torch.testing.assert_close(low.double(), high, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("variant", ["psi1", "psi4", "psi5"])
@pytest.mark.parametrize("k", [4, 5])
def test_lists_of_the_others_need_more_classes_than_k(variant: str, k: int) -> None:
    message = rf"`k` should be in \[1, C\) for `variant = \"{variant}\"`\. Found `k = {k}` with `C = 4`"
    with pytest.raises(ValueError, match=message):
        TopKHingeLoss(k, variant=variant)(S, torch.tensor([0]))


@pytest.mark.parametrize("variant", ["psi2", "psi3"])
def test_lists_with_the_label_need_k_classes(variant: str) -> None:
    assert float(TopKHingeLoss(4, variant=variant)(S, torch.tensor([1]))) == pytest.approx(3.75)  # (6.5 + 5 + 3.5) / 4
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\] for .* Found `k = 5` with `C = 4`"):
        TopKHingeLoss(5, variant=variant)(S, torch.tensor([0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        ({"k": 2.0}, TypeError, r"Found `k = 2.0` of type float"),
        ({"variant": "psi6"}, ValueError, r"`variant` should be one of 'psi1', .*'psi5'\. Found `variant = 'psi6'`"),
        ({"margin": -1.0}, ValueError, r"`margin` should be a finite number >= 0\. Found `margin = -1.0`"),
    ],
)
def test_bad_parameters(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        TopKHingeLoss(**arguments)
    with pytest.raises(error, match=message):
        topk_hinge_loss(torch.zeros(2, 9), torch.tensor([0, 1]), **arguments)


def test_margins_of_the_wrong_number() -> None:
    with pytest.raises(ValueError, match=r"`margin` should have one entry per class, shape \[4\]\. Found \[3\]"):
        topk_hinge_loss(S, torch.tensor([0]), k=1, margin=torch.ones(3))
