"""What is computed by hand, or from candidates, has the values and derivatives of the plain formula."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.losses import (
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    LDAMLoss,
    NoisedTopKLoss,
    SmoothTopKLoss,
    SoftTopKLoss,
    TopKEntropyLoss,
    TopKHingeLoss,
    TopKLoss,
    TruncatedTopKEntropyLoss,
    VSLoss,
    topk_hinge_loss,
)
from lightning_topk.losses import _topk_hinge as hinge
from lightning_topk.ops import LapSum, SparseTopK, exclusion_log_odds, topk_simplex_maximum
from lightning_topk.ops import _fused as fused
from lightning_topk.ops import _symmetric as symmetric
from lightning_topk.ops import _topk_simplex as simplex
from lightning_topk.ops._best_others import best_and_own, best_others
from lightning_topk.ops._fused import fusable
from lightning_topk.ops._largest import largest, largest_others
from lightning_topk.ops._log_odds import affine_log_odds, plain_log_odds
from lightning_topk.ops._scaled_softplus import ScaledSoftplus
from lightning_topk.ops._sparse_gradient import sparse_gradient
from lightning_topk.ops._sums_of_powers import SumsOfPowers


def rows(num_classes: int, spread: float, dtype: torch.dtype, count: int = 12) -> tuple[Tensor, Tensor]:
    """Scores and labels [N, 1], among them the best and the worst class."""
    generator = torch.Generator().manual_seed(num_classes)
    scores = spread * torch.randn(count, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (count, 1), generator=generator)
    labels[0], labels[1] = scores[0].argmax(), scores[1].argmin()
    return scores.to(dtype).requires_grad_(), labels


def with_gradient(function: Callable[[Tensor], Tensor], scores: Tensor) -> tuple[Tensor, Tensor]:
    value = function(scores)
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value.detach(), torch.autograd.grad(value, scores, weights)[0]


@pytest.mark.parametrize("num_classes", [1, 2, 7, 30_000])
@pytest.mark.parametrize("scale", ["none", "number", "by class"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds(num_classes: int, scale: str, shifted: bool, dtype: torch.dtype) -> None:
    scores, labels = rows(num_classes, 5.0, dtype)
    factor = {"none": None, "number": 2.5, "by class": torch.linspace(0.5, 2, num_classes, dtype=dtype)}[scale]
    shift = torch.linspace(-3, 0, num_classes, dtype=dtype) if shifted else None
    by_hand = with_gradient(lambda s: affine_log_odds(s, labels, scale=factor, shift=shift), scores)
    plain = with_gradient(lambda s: plain_log_odds(s, labels, factor, shift), scores)
    torch.testing.assert_close(by_hand, plain, rtol=1e-5, atol=2e-6)
    if dtype == torch.float64 and num_classes == 7:
        leaf = scores[:3].detach().requires_grad_()
        assert gradcheck(lambda s: affine_log_odds(s, labels[:3], scale=factor, shift=shift), (leaf,))
        assert gradgradcheck(lambda s: affine_log_odds(s, labels[:3], scale=factor, shift=shift), (leaf,))


@pytest.mark.parametrize(("num_classes", "k"), [(2, 1), (6, 5), (30, 1), (30, 5), (30, 14), (300, 20), (9_000, 7)])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 3.0, 1e3])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 5.0])
def test_exclusion_odds(num_classes: int, k: int, spread: float, temperature: float, monkeypatch) -> None:
    scores, labels = rows(num_classes, spread, torch.float32)
    for dtype, accuracy in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        leaf = scores.detach().to(dtype).requires_grad_()
        value, gradient = with_gradient(
            lambda s: exclusion_log_odds(s, k, labels.squeeze(-1), temperature=temperature), leaf
        )
        with monkeypatch.context() as context:
            context.setattr(symmetric, "fusable", lambda *_: False)
            wide = leaf.detach().double().requires_grad_()
            expected, slopes = with_gradient(
                lambda s: exclusion_log_odds(s, k, labels.squeeze(-1), temperature=temperature), wide
            )
        torch.testing.assert_close(value, expected, rtol=accuracy, atol=accuracy)
        assert ((gradient - slopes).abs().sum(-1) <= accuracy * slopes.abs().sum(-1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("num_classes", "k"), [(6, 5), (30, 5), (9_000, 7)])
@pytest.mark.parametrize("spread", [0.0, 3.0, 1e3])
@pytest.mark.parametrize("temperature", [0.05, 5.0])
def test_exclusion_odds_of_low_precision(
    dtype: torch.dtype, num_classes: int, k: int, spread: float, temperature: float
) -> None:
    """Those of a copy in float32, and its gradient rounded once; also where the graph is used twice."""
    scores, labels = rows(num_classes, spread, dtype)
    wide = scores.detach().float().requires_grad_()
    odds = [exclusion_log_odds(s, k, labels.squeeze(-1), temperature=temperature) for s in (scores, wide)]
    assert odds[0].dtype == torch.float64
    assert torch.equal(*odds)
    weights = torch.linspace(-1, 2, len(labels), dtype=torch.float64)
    expected = torch.autograd.grad(odds[1], wide, weights)[0].to(dtype)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(odds[0], scores, weights, retain_graph=True)
        assert gradient.dtype == dtype
        # An ulp: product and sum are in one operation, or not, by the number of rows.
        near = {"rtol": torch.finfo(dtype).eps, "atol": 2 * torch.finfo(dtype).smallest_normal}
        torch.testing.assert_close(gradient, expected, **near)


def test_exclusion_odds_of_low_precision_have_second_derivatives() -> None:
    scores, labels = rows(30, 2.0, torch.bfloat16, count=3)
    (gradient,) = torch.autograd.grad(
        exclusion_log_odds(scores, 4, labels.squeeze(-1)).sum(), scores, create_graph=True
    )
    (second,) = torch.autograd.grad(gradient.square().sum(), scores)
    wide = scores.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(exclusion_log_odds(wide, 4, labels.squeeze(-1)).sum(), wide, create_graph=True)
    (expected,) = torch.autograd.grad(gradient.square().sum(), wide)
    torch.testing.assert_close(second.double(), expected, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["transposed", "expanded", "part"])
def test_exclusion_odds_of_any_layout(dtype: torch.dtype, layout: str) -> None:
    values, labels = rows(40, 2.0, dtype)
    values, labels = values.detach(), labels.squeeze(-1)
    whole, view = {
        "transposed": (values.t().contiguous(), lambda leaf: leaf.t()),
        "expanded": (values[:1], lambda leaf: leaf.expand(12, -1)),
        "part": (values.repeat(1, 2), lambda leaf: leaf[:, 3:43]),
    }[layout]

    def odds_and_gradient(contiguous: bool) -> tuple[Tensor, Tensor]:
        leaf = whole.clone().requires_grad_()
        scores = view(leaf).contiguous() if contiguous else view(leaf)
        assert scores.is_contiguous() == contiguous
        return with_gradient(lambda _: exclusion_log_odds(scores, 3, labels), leaf)

    torch.testing.assert_close(odds_and_gradient(False), odds_and_gradient(True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [3, 40])
def test_exclusion_odds_of_no_rows(dtype: torch.dtype, num_classes: int) -> None:
    scores = torch.zeros(0, num_classes, dtype=dtype, requires_grad=True)
    odds = exclusion_log_odds(scores, 2, torch.zeros(0, dtype=torch.long))
    assert odds.shape == (0,)
    (gradient,) = torch.autograd.grad(odds.sum(), scores)
    assert gradient.shape == scores.shape


@pytest.mark.parametrize("loss", [ScaledSoftplus(1.0, 0.0), ScaledSoftplus(0.1, 10.0), ScaledSoftplus(1e-3, 1e3)])
def test_softplus_with_slope(loss: ScaledSoftplus) -> None:
    special = torch.tensor([-1e300, -710.0, 1e5, 1e300, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    odds = torch.cat([torch.linspace(-1100, 100, 997, dtype=torch.float64), special]).requires_grad_()
    value = loss(odds)
    (slope,) = torch.autograd.grad(value.sum(), odds)
    with np.errstate(all="ignore"):
        found = map(torch.from_numpy, loss.with_slope(odds.detach().numpy()))
    # Of numbers that are not normal only the size is right.
    near = {"rtol": 1e-12, "atol": 1e-300, "equal_nan": True}
    torch.testing.assert_close(tuple(found), (value.detach(), slope), **near)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [1, 2, 5, 20])
@pytest.mark.parametrize("lowest", [-0.5, -25.0, -60.0])
def test_sums_of_powers(kept: bool, dtype: torch.dtype, order: int, lowest: float) -> None:
    """In blocks of more and of fewer rows than are asked which powers matter, and of one; of odd widths."""
    generator = torch.Generator().manual_seed(0)
    exponents = lowest * torch.rand(43, 9_001, generator=generator, dtype=dtype)
    numbers = exponents.exp()
    before, sums = numbers.clone(), SumsOfPowers(order, len(numbers), dtype, kept=kept)
    for block in (slice(0, 40), slice(40, 42), slice(42, 43)):
        y = numbers[block]
        sums.add(y, y.numpy(), float(exponents[block].min()), block)
    assert torch.equal(numbers, before) or not kept
    expected = torch.stack([before.double().pow(m).sum(-1) for m in range(1, order + 1)])
    # What is extrapolated is below the rounding in the polynomials, as is what is added to tiny numbers.
    ratio = order / (order + 1.0 + expected[:1])
    degrees = torch.arange(1, order + 1, dtype=torch.float64)[:, None]
    error = (torch.from_numpy(sums.all()) - expected).abs()
    epsilon = torch.finfo(dtype).eps
    assert (error <= 20 * epsilon * expected + epsilon * degrees / ratio**degrees).all()


def test_exclusion_odds_have_second_derivatives() -> None:
    scores, labels = rows(30, 2.0, torch.float64, count=3)
    assert gradgradcheck(lambda s: exclusion_log_odds(s, 4, labels.squeeze(-1)), (scores,))


def test_a_graph_can_be_used_twice() -> None:
    """What the forward pass keeps becomes the first gradient; the second is computed anew."""
    scores, labels = rows(50, 2.0, torch.float64)
    losses: list[TopKLoss] = [CrossEntropyLoss(), SmoothTopKLoss(k=3), TopKHingeLoss(k=3)]
    losses += [BalancedSoftmaxLoss(), LDAMLoss(scale=2.0), VSLoss()]
    for loss in losses:
        loss.bind_class_counts(range(1, 51))
        value = loss(scores, labels.squeeze(-1))
        first, second = (torch.autograd.grad(value, scores, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")  # of torch itself, where it first takes such a derivative
def test_forward_mode_and_transforms_take_the_plain_formula() -> None:
    scores, labels = rows(6, 2.0, torch.float64)
    tangent = torch.linspace(-1, 1, scores.numel(), dtype=torch.float64).reshape(scores.shape)
    smooth = (SmoothTopKLoss(k=2), TopKEntropyLoss(k=2), TruncatedTopKEntropyLoss(k=2), SoftTopKLoss(k=1))
    for loss in (CrossEntropyLoss(), TopKHingeLoss(k=2, variant="psi3"), *smooth):
        value = loss(scores, labels.squeeze(-1))
        expected = (torch.autograd.grad(value, scores)[0] * tangent).sum()
        found = torch.func.jvp(lambda s, loss=loss: loss(s, labels.squeeze(-1)), (scores.detach(),), (tangent,))[1]
        torch.testing.assert_close(found, expected)
        with torch.autograd.forward_ad.dual_level():
            assert not fusable(scores)
            dual = torch.autograd.forward_ad.make_dual(scores.detach(), tangent)
            found = torch.autograd.forward_ad.unpack_dual(loss(dual, labels.squeeze(-1))).tangent
        torch.testing.assert_close(found, expected)


def test_a_margin_that_is_trained_is_seen() -> None:
    scores, labels = rows(6, 2.0, torch.float64)
    assert not fusable(scores, labels, torch.ones(6, requires_grad=True))
    assert fusable(scores, labels, torch.ones(6), None, 2.0)


def test_sparse_gradient_adds_up_at_equal_indices() -> None:
    scores = torch.zeros(2, 4, requires_grad=True)
    index, slopes = torch.tensor([[1, 1], [0, 3]]), torch.tensor([[1.0, 2.0], [5.0, -1.0]])
    value = sparse_gradient(torch.tensor([[7.0], [8.0]]), scores, index, slopes)
    assert value.tolist() == [[7.0], [8.0]]
    value.sum().backward()
    assert scores.grad.tolist() == [[0.0, 3.0, 0.0, 0.0], [5.0, 0.0, 0.0, -1.0]]


@pytest.mark.parametrize("loss", [NoisedTopKLoss(k=2), TopKHingeLoss(k=2), TopKHingeLoss(k=2, variant="psi3")], ids=str)
def test_the_second_derivative_of_a_sparse_gradient_is_zero(loss: TopKLoss) -> None:
    logits = torch.randn(4, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, torch.arange(4)), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert gradient.any()
    assert not second.any()


@pytest.mark.parametrize("num_classes", [2, 9, 384, 600, 1_003, 5_000])
@pytest.mark.parametrize("count", [1, 6, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_best_others(num_classes: int, count: int, dtype: torch.dtype) -> None:
    count = min(count, num_classes - 1)
    scores, labels = rows(num_classes, 3.0, dtype)
    scores = scores.detach()
    scores[2] = scores[2].round()  # ties
    scores[3, 1:] = -torch.inf
    scores[4, 0] = torch.finfo(dtype).min
    index, values = map(torch.from_numpy, best_others(scores, labels, count))
    again, _, known_finite = best_and_own(scores, labels, count, with_label=False)
    assert torch.equal(index, torch.from_numpy(again))
    assert not known_finite
    assert torch.equal(index[:, -1:], labels)
    finite = torch.arange(len(scores)) != 3
    assert torch.equal(scores.gather(1, index).double()[finite], values[finite])
    others = scores.scatter(1, labels, -torch.inf).double().topk(count).values
    assert torch.equal(values[finite, :-1], others[finite])
    assert all(len(set(row)) == count + 1 for row in index.tolist())
    ranked, heights = map(torch.from_numpy, best_and_own(scores, labels, count, with_label=True)[:2])
    assert torch.equal(ranked[:, -1:], labels)
    assert torch.equal(heights[finite, :-1], scores.double().topk(count).values[finite])
    assert torch.equal(scores.gather(1, ranked).double()[finite], heights[finite])


@pytest.mark.parametrize("variant", ["psi1", "psi2", "psi3", "psi4", "psi5"])
@pytest.mark.parametrize("num_classes", [4, 5, 100, 700, 5_000])
def test_hinges(variant: str, num_classes: int, monkeypatch) -> None:
    scores, labels = rows(num_classes, 2.0, torch.float32, count=200)
    margin = torch.linspace(0.5, 2.0, num_classes)
    for least in (1.0, margin):
        loss = partial(topk_hinge_loss, k=3, variant=variant, margin=least, reduction="none")
        found = with_gradient(lambda s, loss=loss: loss(s, labels.squeeze(-1)), scores)
        with monkeypatch.context() as context:
            context.setattr(hinge, "fusable", lambda *_: False)
            plain = with_gradient(lambda s, loss=loss: loss(s, labels.squeeze(-1)), scores)
        torch.testing.assert_close(found, plain)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="Linux alone takes the advice")
def test_large_memory_is_asked_for_in_huge_pages(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(fused, "_madvise", lambda start, size, advice: asked.append((start, size)))
    for count, large in ((1 << 20, False), (1 << 23, True)):
        memory = torch.empty(count)
        assert fused.on_huge_pages(memory) is memory
        assert bool(asked) == large
    (start, size) = asked[0]
    assert start % fused._HUGE_PAGE == size % fused._HUGE_PAGE == 0
    assert memory.data_ptr() <= start
    assert start + size <= memory.data_ptr() + memory.nbytes


@pytest.mark.parametrize("num_classes", [9, 511, 600, 1_003, 20_000])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_largest(num_classes: int, count: int) -> None:
    scores = torch.randn(5, num_classes).round(decimals=2)
    count = min(count, num_classes - 1)
    found = largest(scores, count)
    assert torch.equal(scores.gather(-1, found), scores.topk(count).values)
    labels = torch.cat([scores.argmax(-1, keepdim=True)[:3], scores.argmin(-1, keepdim=True)[3:]])
    others = largest_others(scores, labels, count)
    assert torch.equal(others[:, -1:], labels)
    without = scores.scatter(-1, labels, -torch.inf)
    assert torch.equal(without.gather(-1, others[:, :-1]), without.topk(count).values)


@pytest.mark.parametrize("operator", [LapSum(), LapSum(0.05), LapSum(20.0), SparseTopK(), SparseTopK(30.0, p=4 / 3)])
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 100.0])
@pytest.mark.parametrize("num_classes", [12, 13, 2_000])
def test_one_entry_of_a_mask(operator: LapSum | SparseTopK, spread: float, num_classes: int) -> None:
    scores, labels = rows(num_classes, spread, torch.float64)
    one = with_gradient(lambda s: operator.at(s, labels, 5), scores)
    whole = with_gradient(lambda s: operator(s, 5).gather(-1, labels), scores)
    torch.testing.assert_close(one, whole, rtol=1e-9, atol=1e-12)
    if isinstance(operator, LapSum):
        one = with_gradient(lambda s: operator.log_at(s, labels, 5), scores)
        whole = with_gradient(lambda s: operator.log(s, 5).gather(-1, labels), scores)
        torch.testing.assert_close(one, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ["alpha", "beta"])
@pytest.mark.parametrize("gamma", [0.01, 1.0, 1e3])
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_simplex_from_candidates(variant: str, gamma: float, spread: float, monkeypatch) -> None:
    scores, labels = rows(2_000, spread, torch.float64)

    def maximum(s: Tensor) -> Tensor:
        return topk_simplex_maximum(s, labels, 5, variant=variant, gamma=gamma, margin=1.0)

    found = with_gradient(maximum, scores)
    monkeypatch.setattr(simplex, "readable", lambda _: False)
    torch.testing.assert_close(found, with_gradient(maximum, scores), rtol=1e-9, atol=1e-12)
