"""The smoothed top-K SVM: worked values, the definition, limits, convexity, smoothness, and what users can do wrong."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.losses import TopKSVMLoss, topk_hinge_loss, topk_svm_loss
from references import topk_svm

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)
every = pytest.mark.parametrize("variant", ["alpha", "beta"])
SMOOTHED = {"alpha": "psi4", "beta": "psi3"}


def of_each_label(logits: torch.Tensor, **arguments) -> torch.Tensor:
    size = logits.shape[-1]
    return topk_svm_loss(logits.expand(size, size), torch.arange(size), reduction="none", **arguments)


@pytest.mark.parametrize(
    ("variant", "label", "gamma", "value"),
    [
        ("alpha", 2, 1.0, 0.75),
        ("alpha", 2, 0.1, 0.975),
        ("beta", 2, 1.0, 1.125),
        ("beta", 2, 0.1, 1.2375),
        ("alpha", 3, 1.0, 3.0),
        ("beta", 3, 1.0, 3.0),
        ("alpha", 3, 0.1, 3.225),
        ("beta", 3, 0.1, 3.225),
    ],
)
def test_worked_values(variant: str, label: int, gamma: float, value: float) -> None:
    loss = TopKSVMLoss(k=2, variant=variant, gamma=gamma)
    assert float(loss(S, torch.tensor([label]))) == pytest.approx(value, abs=1e-12)
    assert float(loss(S, torch.eye(4, dtype=torch.float64)[[label]])) == pytest.approx(value, abs=1e-12)


@every
@given(
    scores=st.lists(st.integers(-12, 12).map(lambda s: s / 3), min_size=2, max_size=6),
    log_gamma=st.integers(-2, 2),
    margin=st.sampled_from([0.0, 1.0, 2.5]),
    data=st.data(),
)
def test_agrees_with_the_definition(
    variant: str, scores: list[float], log_gamma: int, margin: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(scores) - (variant == "alpha")))
    label = data.draw(st.integers(0, len(scores) - 1))
    arguments = {"k": k, "variant": variant, "gamma": 10.0**log_gamma, "margin": margin}
    values = of_each_label(torch.tensor([scores], dtype=torch.float64), **arguments)
    expected = topk_svm(scores, label, **arguments)
    assert float(values[label]) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    soft = topk_svm_loss(torch.tensor([scores], dtype=torch.float64), torch.ones(1, len(scores)), **arguments)
    assert float(soft) == pytest.approx(float(values.mean()), rel=1e-9, abs=1e-9)


@every
@pytest.mark.parametrize("k", [1, 3, 5])
def test_smooths_its_hinge_from_below(variant: str, k: int) -> None:
    logits, targets = 2 * torch.randn(64, 6, dtype=torch.float64), torch.randint(6, (64,))
    hinge = topk_hinge_loss(logits, targets, k=k, variant=SMOOTHED[variant], reduction="none")
    for gamma in (1e-4, 0.1, 1.0, 10.0):
        gap = hinge - topk_svm_loss(logits, targets, k=k, variant=variant, gamma=gamma, reduction="none")
        assert gap.min() > -1e-9
        assert gap.max() <= gamma / (2 * k) + 1e-9


@every
def test_gradient_is_a_point_of_the_simplex_and_lipschitz(variant: str) -> None:
    logits, targets = 3 * torch.randn(64, 8, dtype=torch.float64), torch.randint(8, (64,))
    k, gamma = 3, 0.5

    def gradient(scores: torch.Tensor) -> torch.Tensor:
        leaf = scores.clone().requires_grad_()
        topk_svm_loss(leaf, targets, k=k, variant=variant, gamma=gamma, reduction="sum").backward()
        return leaf.grad

    x = gradient(logits).scatter(-1, targets.unsqueeze(-1), 0.0)
    mass = x.sum(-1, keepdim=True)
    assert x.min() > -1e-12
    assert mass.max() <= 1 + 1e-12
    assert (x <= (mass if variant == "alpha" else 1) / k + 1e-12).all()
    assert (x == 0).any()
    step = 0.01 * torch.randn_like(logits)
    change = (gradient(logits + step) - gradient(logits)).norm(dim=-1)
    assert (change <= 8 / gamma * step.norm(dim=-1) + 1e-9).all()


@every
@given(data=st.data())
def test_convex_with_exact_gradients(variant: str, data: st.DataObject) -> None:
    """f(z) >= f(s) + <g, z - s> for all z, also where scores are tied or at a threshold."""
    size = data.draw(st.integers(2, 6))
    arguments = {"k": data.draw(st.integers(1, size - (variant == "alpha"))), "variant": variant}
    arguments["gamma"] = data.draw(st.sampled_from([0.1, 1.0, 6.0]))
    label = torch.tensor([data.draw(st.integers(0, size - 1))])
    score = st.lists(st.integers(-3, 3), min_size=size, max_size=size)
    start = torch.tensor([data.draw(score)], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([data.draw(score)], dtype=torch.float64)
    value = topk_svm_loss(start, label, **arguments)
    (gradient,) = torch.autograd.grad(value, start)
    plane = value + (gradient * (other - start)).sum()
    assert topk_svm_loss(other, label, **arguments) >= plane - 1e-9


@every
@pytest.mark.parametrize("gamma", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_first_and_second_derivatives(variant: str, gamma: float, k: int) -> None:
    logits = (2 * torch.randn(2, 5, dtype=torch.float64)).requires_grad_()
    for targets in (torch.tensor([0, 3]), torch.rand(2, 5, dtype=torch.float64)):
        assert gradcheck(lambda s, t=targets: topk_svm_loss(s, t, k=k, variant=variant, gamma=gamma), (logits,))
        assert gradgradcheck(lambda s, t=targets: topk_svm_loss(s, t, k=k, variant=variant, gamma=gamma), (logits,))


@every
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("gamma", [1e-3, 1.0, 1e3])
def test_float32_is_as_good_as_its_input(variant: str, scale: float, gamma: float) -> None:
    logits, targets = scale * torch.randn(64, 300), torch.randint(300, (64,))
    low, high = logits.clone().requires_grad_(), logits.double().requires_grad_()
    values = [topk_svm_loss(leaf, targets, variant=variant, gamma=gamma, reduction="none") for leaf in (low, high)]
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-6, atol=0)
    for value in values:
        value.sum().backward()
    torch.testing.assert_close(low.grad.double(), high.grad, rtol=1e-5, atol=1e-6)
    assert (high.grad.scatter(-1, targets.unsqueeze(-1), 0.0) >= -1e-9).all()


def test_masked_classes_take_no_mass() -> None:
    logits = torch.full((1, 50), -1e9)
    logits[0, :4] = S[0].float()
    for variant in ("alpha", "beta"):
        few = TopKSVMLoss(k=2, variant=variant)(S.float(), torch.tensor([2]))
        torch.testing.assert_close(TopKSVMLoss(k=2, variant=variant)(logits, torch.tensor([2])), few)


def test_bounds_of_k() -> None:
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\) for `variant = \"alpha\"`\. Found `k = 4` with"):
        TopKSVMLoss(4)(S, torch.tensor([0]))
    beta = TopKSVMLoss(4, variant="beta", gamma=1e-4)
    assert float(beta(S, torch.tensor([1]))) == pytest.approx(3.75, abs=1e-4)  # (6.5 + 5 + 3.5) / 4, psi3
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\] for `variant = \"beta\"`\. Found `k = 5` with"):
        TopKSVMLoss(5, variant="beta")(S, torch.tensor([0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        ({"variant": "gamma"}, ValueError, r"`variant` should be one of 'alpha', 'beta'\. Found `variant = 'gamma'`"),
        ({"gamma": 0.0}, ValueError, r"`gamma` should be a finite number > 0\. Found `gamma = 0.0`"),
        ({"gamma": "1"}, TypeError, r"Found `gamma = '1'` of type str"),
        ({"margin": -1.0}, ValueError, r"`margin` should be a finite number >= 0\. Found `margin = -1.0`"),
    ],
)
def test_bad_parameters(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        TopKSVMLoss(**arguments)
    with pytest.raises(error, match=message):
        topk_svm_loss(torch.zeros(2, 9), torch.tensor([0, 1]), **arguments)
