"""The smooth top-k SVM loss: worked values, limits, the whole range of scales, and the authors' package."""

import math

import pytest
import torch
from torch.autograd import gradgradcheck

from lightning_topk.losses import CrossEntropyLoss, SmoothTopKLoss, smooth_topk_loss
from references import kth_largest, smooth_topk

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)
POWERS = [10.0**power for power in range(-4, 5)]
# Below it, entries of a float32 gradient have fewer digits.
TINY = 1e-30


@pytest.mark.parametrize(
    ("k", "label", "tau", "value"),
    [
        (2, 0, 1.0, 0.429449),
        (2, 3, 1.0, 1.703322),
        (2, 3, 0.1, 1.749945),
        (2, 3, 0.01, 1.75),
        (3, 3, 1.0, 0.604268),
        (1, 3, 1.0, 4.219563),
    ],
)
def test_worked_values(k: int, label: int, tau: float, value: float) -> None:
    loss = smooth_topk_loss(S, torch.tensor([label]), k=k, tau=tau)
    assert math.isclose(float(loss), value, abs_tol=1e-6)
    reference, _ = smooth_topk(S[0].tolist(), label, k, tau, 1.0)
    assert math.isclose(float(loss), float(reference), rel_tol=1e-14)


@pytest.mark.parametrize(
    ("tau", "gradient"),
    [(1.0, (0.120961, 0.050933, 0.237067, -0.408961)), (0.1, (0.000276, 1e-9, 0.499724, -0.5))],
)
def test_worked_gradient(tau: float, gradient: tuple[float, ...]) -> None:
    leaf = S.clone().requires_grad_()
    smooth_topk_loss(leaf, torch.tensor([3]), k=2, tau=tau).backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([gradient], dtype=torch.float64), atol=6e-7, rtol=0)


def random_row(kind: str, k: int, scale: float, generator: torch.Generator) -> torch.Tensor:
    classes = k + 1 + int(torch.randint(0, 3 * k + 20, (), generator=generator))
    z = torch.randn(classes, generator=generator)
    if kind == "equal":
        z = torch.ones(classes)
    elif kind == "ties":
        z = z.round()
    elif kind == "near ties":
        z = z.round() + 1e-6 * torch.randn(classes, generator=generator)
    elif kind == "step":
        jump = k + int(torch.randint(-1, 2, (), generator=generator))
        z = (torch.arange(classes) < jump).float() + 1e-3 * z
    return z * scale


@pytest.mark.parametrize("k", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("kind", ["normal", "equal", "ties", "near ties", "step"])
def test_float32_is_exact_over_the_whole_range(k: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for tau in POWERS[:: 1 if k < 20 else 2 if k < 50 else 4]:
        for scale in POWERS[:: 2 if k < 50 else 4]:
            scores = random_row(kind, k, scale, generator)
            order = scores.argsort(descending=True)
            for place in (0, k - 1, k, len(scores) - 1):
                label = int(order[place])
                value, gradient = smooth_topk(scores.tolist(), label, k, tau, 1.0)
                leaf = scores.clone().unsqueeze(0).requires_grad_()
                found = smooth_topk_loss(leaf, torch.tensor([label]), k=k, tau=tau)
                found.backward()
                assert abs(found.item() - value) <= 1e-6 * value + TINY
                off = sum(abs(ours - true) for ours, true in zip(leaf.grad[0].tolist(), gradient, strict=True))
                assert off <= 1e-6 * sum(map(abs, gradient)) + TINY


@pytest.mark.parametrize(("k", "spread"), [(5, 1.0), (5, 0.0), (50, 30.0)])
def test_float32_is_exact_with_many_classes(k: int, spread: float) -> None:
    scores = spread * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    label = int(scores.argsort(descending=True)[k])
    value, gradient = smooth_topk(scores.tolist(), label, k, 1.0, 1.0)
    leaf = scores.unsqueeze(0).requires_grad_()
    found = smooth_topk_loss(leaf, torch.tensor([label]), k=k)
    found.backward()
    assert abs(found.item() - value) <= 1e-6 * value
    off = sum(abs(ours - true) for ours, true in zip(leaf.grad[0].tolist(), gradient, strict=True))
    assert off <= 1e-6 * sum(map(abs, gradient))


def test_one_guess_without_margin_is_cross_entropy() -> None:
    logits, targets = 5 * torch.randn(16, 30, dtype=torch.float64), torch.randint(30, (16,))
    loss = SmoothTopKLoss(1, alpha=0.0, reduction="none")
    torch.testing.assert_close(loss(logits, targets), CrossEntropyLoss(reduction="none")(logits, targets))
    soft = torch.softmax(torch.randn(16, 30, dtype=torch.float64), -1)
    torch.testing.assert_close(loss(logits, soft), CrossEntropyLoss(reduction="none")(logits, soft))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_limit_of_small_tau(k: int, label: int) -> None:
    others = [s for i, s in enumerate(S[0].tolist()) if i != label]
    hinge = max(0.0, 0.75 + (kth_largest(others, k) - S[0, label].item()) / k)
    value = smooth_topk_loss(S, torch.tensor([label]), k=k, tau=1e-6, alpha=0.75)
    assert math.isclose(float(value), hinge, abs_tol=1e-5)


@pytest.mark.parametrize("tau", [0.05, 1.0])
@pytest.mark.parametrize("k", [1, 3])
def test_double_backward(k: int, tau: float) -> None:
    logits = torch.randn(2, 15, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 14])
    assert gradgradcheck(lambda s: smooth_topk_loss(s, targets, k=k, tau=tau), (logits,))
    soft = torch.softmax(torch.randn(2, 15, dtype=torch.float64), -1)
    assert gradgradcheck(lambda s: smooth_topk_loss(s, soft, k=k, tau=tau), (logits,))


def test_second_derivatives_are_finite_at_extremes() -> None:
    for scale in (0.0, 1e-4, 1e4):
        leaf = (scale * torch.randn(4, 30, generator=torch.Generator().manual_seed(0))).requires_grad_()
        value = smooth_topk_loss(leaf, torch.arange(4), k=3, tau=1e-3)
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        (second,) = torch.autograd.grad((gradient * torch.randn(4, 30)).sum(), leaf)
        assert second.isfinite().all()


def test_gradient_is_that_of_the_theory() -> None:
    """-p/k at the label, non-negative elsewhere, sum 0."""
    leaf = (3 * torch.randn(64, 200, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(200, (64,))
    smooth_topk_loss(leaf, targets, k=5, reduction="sum").backward()
    own = leaf.grad.gather(1, targets[:, None])
    assert (own < 0).all()
    assert (own > -1 / 5 - 1e-12).all()
    assert (leaf.grad.scatter(1, targets[:, None], 0.0) >= 0).all()
    torch.testing.assert_close(leaf.grad.sum(-1), torch.zeros(64, dtype=torch.float64), atol=1e-14, rtol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the authors' code
def test_the_authors_code_is_off_where_ours_is_not() -> None:
    """Label inside the top k, close behind it another score: their test of one gap takes the hard limit."""
    difftopk = pytest.importorskip("difftopk.smooth_topk")
    torch.manual_seed(0)
    targets = torch.tensor([0])
    smooth = torch.tensor([[1.0, 2.0, 0.5, 0.2, -0.3, 0.1, -0.5, 0.0]])
    sharp = torch.tensor([[2.0, 3.0, 0.0, -0.02, -0.05, -5.0, -6.0, -7.0]])
    for logits, agrees in ((smooth, True), (sharp, False)):
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        smooth_topk_loss(ours, targets, k=2, tau=0.1).backward()
        difftopk.SmoothHardTopKLoss(8, 2, tau=0.1)(theirs, targets).backward()
        _, gradient = smooth_topk(logits[0].tolist(), 0, 2, 0.1, 1.0)
        exact = torch.tensor([[float(g) for g in gradient]])
        torch.testing.assert_close(ours.grad, exact, rtol=1e-5, atol=1e-7)
        error = float((theirs.grad - exact).abs().sum() / exact.abs().sum())
        assert (error < 1e-3) == agrees
        assert agrees or error > 0.1


def test_memory_is_bounded() -> None:
    from torch.autograd.profiler import profile

    logits, targets = torch.randn(16, 100_000, requires_grad=True), torch.arange(16)
    with profile(profile_memory=True) as profiled:
        SmoothTopKLoss()(logits, targets).backward()
    in_use = peak = 0
    events = (event for event in profiled.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        in_use += event.nbytes()
        peak = max(peak, in_use)
    assert peak < 4 * logits.numel() * logits.element_size()


def test_scalars_can_be_scheduled() -> None:
    loss = SmoothTopKLoss(2)
    loss.tau, loss.alpha = 0.1, 0.0
    expected = smooth_topk_loss(S, torch.tensor([3]), k=2, tau=0.1, alpha=0.0)
    assert loss(S, torch.tensor([3])) == expected
    assert repr(loss) == "SmoothTopKLoss(k=2, tau=0.1, alpha=0.0)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        ({"k": 2.0}, TypeError, r"Found `k = 2.0` of type float"),
        ({"tau": 0.0}, ValueError, r"`tau` should be a finite number > 0\. Found `tau = 0.0`"),
        ({"tau": float("inf")}, ValueError, r"Found `tau = inf`"),
        ({"alpha": -1.0}, ValueError, r"`alpha` should be a finite number >= 0\. Found `alpha = -1.0`"),
    ],
)
def test_bad_parameters(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        SmoothTopKLoss(**arguments)
    with pytest.raises(error, match=message):
        smooth_topk_loss(torch.zeros(1, 6), torch.tensor([0]), **arguments)


@pytest.mark.parametrize("k", [4, 5])
def test_too_few_classes(k: int) -> None:
    with pytest.raises(ValueError, match=rf"`k` should be in \[1, C\).* Found `k = {k}` with `C = 4`"):
        SmoothTopKLoss(k)(S, torch.tensor([0]))
