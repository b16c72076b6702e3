"""The exact smoothing in a few passes: within its tolerance of float64 references, and of its plain twin."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_topk.losses import gaussian_topk_loss
from lightning_topk.ops import _gaussian_blocks, gaussian_topk
from lightning_topk.ops import _gaussian_fast as fast
from lightning_topk.ops._candidates import best_classes
from lightning_topk.ops._gaussian_blocks import Memory
from lightning_topk.ops._gaussian_function import fast_applies
from lightning_topk.ops._gaussian_quadrature import Plan, smoothed_kth
from lightning_topk.ops._gaussian_reach import within_reach
from references import smoothed_kth_of_many

KINDS = ["normal", "raised", "head above a cluster", "heavy tails", "ramp", "ties", "two clusters", "few"]


def rows_of(kind: str, num_classes: int, spread: float, generator: torch.Generator, rows: int = 4) -> Tensor:
    """Rows of a shape, in float32."""
    normal = torch.randn(rows, num_classes, generator=generator)
    uniform = torch.rand(rows, num_classes, generator=generator)
    own = 6 * torch.rand(rows, 1, generator=generator)
    few = min(8, num_classes)
    if kind == "raised":
        normal[:, :1] += 8 / max(spread, 1e-3)
    elif kind == "head above a cluster":
        normal = torch.zeros_like(normal)
        normal[:, :few] = 4 * uniform[:, :few] + own
    elif kind == "heavy tails":
        normal = normal / (uniform + 0.02).sqrt()
    elif kind == "ramp":
        normal = torch.linspace(0, 4, num_classes) * own
    elif kind == "ties":
        normal = (3 * normal).round()
    elif kind == "two clusters":
        normal = (uniform < 0.05) * own + 0.1 * normal
    elif kind == "few":
        normal[:, few:] -= 30
    return spread * normal


def value_and_gradient(scores: Tensor, k: int, **options) -> tuple[Tensor, Tensor]:
    leaf = scores.clone().requires_grad_()
    value = gaussian_topk(leaf, k, **options)
    value.sum().backward()
    return value.detach(), leaf.grad


def check(scores: Tensor, k: int, epsilon: float, tolerance: float) -> None:
    """Value within the tolerance, and gradient within ten times it in L1 norm; the rounding of float32 comes on top."""
    assert fast_applies(scores, k, tolerance)
    plan = Plan.make(k, scores.shape[1], 1e-9)
    expected, slopes = smoothed_kth(scores.double(), k, epsilon, plan)
    value, gradient = value_and_gradient(scores, k, epsilon=epsilon, tolerance=tolerance)
    assert ((value - expected).abs() <= tolerance * epsilon + 1.2e-7 * expected.abs()).all()
    assert ((gradient - slopes).abs().sum(1) <= 10 * tolerance).all()
    torch.testing.assert_close(gradient.sum(1), torch.ones(len(scores)), atol=10 * tolerance, rtol=0)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize("kind", KINDS)
def test_any_row_is_within_the_tolerance(kind: str, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    draw = np.random.default_rng(KINDS.index(kind))
    for _ in range(12):
        k = int(draw.choice([1, 2, 3, 6, 11, 12] if tolerance < 1e-3 else [1, 2, 6, 11, 24]))
        num_classes = int(math.exp(draw.uniform(math.log(2 * k), math.log(3000))))
        spread = float(draw.choice([0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]))
        epsilon = float(draw.choice([0.01, 0.1, 1.0, 10.0]))
        check(rows_of(kind, num_classes, spread, generator), k, epsilon, tolerance)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
def test_many_classes(spread: float, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(1)
    check(rows_of("raised", 30_000, spread, generator, rows=2), 6, 1.0, tolerance)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize("heads", [6, 30])
def test_many_classes_at_the_edge_of_what_counts(heads: int, tolerance: float) -> None:
    """A few classes with a wide law of the k-th largest, and all others together at any depth below them."""
    scores = -torch.linspace(3.0, 9.0, 13).unsqueeze(1).repeat(1, 20_000)
    scores[:, :heads] = torch.linspace(0, 1e-3, heads)
    check(scores, 6, 1.0, tolerance)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("num_classes", [1000, 10_000])
def test_no_ordinary_row_takes_the_plain_way(num_classes: int, spread: float, tolerance: float) -> None:
    scores = rows_of("raised", num_classes, spread, torch.Generator().manual_seed(5), rows=16)
    law = fast.smoothed_block(scores, 6, 1.0, tolerance)[1]
    assert spread > 3 or sum(len(rows) for rows, _ in law.others) <= 1
    assert not any(other.doubtful.any() for _, other in law.others)


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_rows_of_which_the_sample_shows_too_little(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fast.from_sample
    monkeypatch.setattr(fast, "from_sample", lambda *inputs: tuple(bound + shift for bound in found(*inputs)))
    check(rows_of("normal", 4000, 0.3, torch.Generator().manual_seed(0)), 4, 1.0, 1e-3)
    check(rows_of("ramp", 3292, 1.2, torch.Generator().manual_seed(0)), 4, 1.0, 1e-3)


def test_sums_over_many_equal_classes_keep_their_digits() -> None:
    """Added up one after the other in float32 they would be off by 3e-5."""
    memory = Memory(1, 50_000, 2)
    memory.base[2].fill_(0.7312)
    memory.product[0].fill_(0.012345)
    expected = 50_000 * torch.tensor([1.0, 1.0, 0.7312]).double() * torch.tensor(0.012345).double()
    torch.testing.assert_close(memory.sums()[0, :, 0], expected, rtol=3e-6, atol=0)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_rows_one_by_one_and_together(tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = rows_of("raised", 5000, 0.5, torch.Generator().manual_seed(0)) + torch.tensor([[0.0], [1.0], [5.0], [9.0]])
    together = value_and_gradient(scores, 6, tolerance=tolerance)
    monkeypatch.setattr(_gaussian_blocks, "_ONE_BY_ONE", 1000)
    torch.testing.assert_close(value_and_gradient(scores, 6, tolerance=tolerance), together, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_classes", [12, 90, 700])
def test_agrees_with_the_slow_loop(kind: str, num_classes: int) -> None:
    scores = rows_of(kind, num_classes, 1.0, torch.Generator().manual_seed(3), rows=1)
    classes = torch.topk(scores[0], 8).indices.tolist()
    expected, slopes = smoothed_kth_of_many(scores[0].tolist(), 6, 0.5, classes)
    value, gradient = value_and_gradient(scores, 6, epsilon=0.5, tolerance=1e-3)
    assert abs(float(value[0]) - expected) <= 1e-3 * 0.5
    assert abs(gradient[0, classes].numpy() - slopes).max() <= 1e-2


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 1e3, 1e6])
def test_tiny_and_huge_noise(epsilon: float) -> None:
    scores = rows_of("raised", 500, 3.0, torch.Generator().manual_seed(2))
    check(scores, 6, epsilon, 1e-3)


@pytest.mark.parametrize("num_classes", [40, 6000])
def test_the_label_has_its_part_in_the_same_gradient(num_classes: int) -> None:
    scores = rows_of("raised", num_classes, 1.0, torch.Generator().manual_seed(0))
    labels = torch.topk(scores, 3).indices[:, 2]
    leaf = scores.clone().requires_grad_()
    losses = gaussian_topk_loss(leaf, labels, k=5, margin=20.0, tolerance=1e-3, reduction="none")
    losses.backward(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    value, gradient = value_and_gradient(scores, 6, tolerance=1e-3)
    own = torch.nn.functional.one_hot(labels, num_classes)
    torch.testing.assert_close(losses.detach(), 20 + value - scores.gather(1, labels[:, None])[:, 0])
    expected = torch.tensor([[1.0], [-2.0], [0.0], [0.5]]) * (gradient - own)
    torch.testing.assert_close(leaf.grad, expected, atol=1e-6, rtol=1e-5)


def test_a_second_derivative_is_that_of_the_plain_way() -> None:
    scores = rows_of("normal", 50, 1.0, torch.Generator().manual_seed(0))
    products = []
    for dtype in (torch.float32, torch.float64):
        leaf = scores.to(dtype).requires_grad_()
        loss = gaussian_topk_loss(leaf, torch.arange(4), k=2, margin=5.0)
        (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 7].sum(), leaf)
        products.append(second)
    assert products[1].abs().max() > 1e-4
    torch.testing.assert_close(products[0].double(), products[1], atol=1e-6, rtol=1e-3)


def test_rows_in_doubt_are_computed_again_and_then_by_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = rows_of("normal", 300, 3.0, torch.Generator().manual_seed(0))
    expected = value_and_gradient(scores, 6, tolerance=1e-3)
    counts = []
    integrate, accuracy = fast._integrate, fast.Accuracy.of(1e-3, 6)

    def counted(points, weights, low, high, k, count, sizes):
        counts.append(count)
        return integrate(points, weights, low, high, k, count, sizes)

    monkeypatch.setattr(fast, "_integrate", counted)
    monkeypatch.setattr(fast.Accuracy, "of", lambda *_: accuracy._replace(doubt=1e-4))
    assert not fast.smoothed_block(scores, 6, 1.0, 1e-3)[1].others[0][1].doubtful.any()
    assert counts == [accuracy.nodes, 3 * accuracy.nodes]
    torch.testing.assert_close(value_and_gradient(scores, 6, tolerance=1e-3), expected, atol=1e-3, rtol=0)
    monkeypatch.setattr(fast.Accuracy, "of", lambda *_: accuracy._replace(doubt=0.0))
    assert fast.smoothed_block(scores, 6, 1.0, 1e-3)[1].others[0][1].doubtful.all()
    torch.testing.assert_close(value_and_gradient(scores, 6, tolerance=1e-3), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("num_classes", [400, 6000])
def test_rows_whose_threshold_is_far_from_the_guess(num_classes: int) -> None:
    """The head is one cluster, from which the guess is that all classes are as near; nothing else is."""
    scores = torch.full((3, num_classes), -8.0)
    scores[:2, :25] = 0.0
    scores[2] = 3 * torch.randn(num_classes, generator=torch.Generator().manual_seed(0))
    assert fast.smoothed_block(scores, 6, 1.0, 1e-3)[1].others[0][0].tolist() == [0, 1]
    check(scores, 6, 1.0, 1e-3)


def test_a_row_of_nan_spoils_no_other() -> None:
    scores = rows_of("normal", 900, 1.0, torch.Generator().manual_seed(0))
    spoiled = scores.clone()
    spoiled[1, 7] = math.nan
    (value, gradient), (expected, slopes) = (value_and_gradient(s, 3, tolerance=1e-3) for s in (spoiled, scores))
    assert value.isnan().tolist() == [False, True, False, False]
    assert torch.equal(value[[0, 2, 3]], expected[[0, 2, 3]])
    assert torch.equal(gradient[[0, 2, 3]], slopes[[0, 2, 3]])


@pytest.mark.parametrize("num_classes", [60, 5000])
def test_a_class_of_minus_infinity_has_no_part(num_classes: int) -> None:
    scores = rows_of("normal", num_classes, 1.0, torch.Generator().manual_seed(0))
    masked = torch.cat([scores, torch.full((4, 9), -math.inf)], 1)
    value, gradient = value_and_gradient(masked, 6, tolerance=1e-3)
    assert not gradient[:, -9:].any()
    torch.testing.assert_close(value, gaussian_topk(scores, 6, tolerance=1e-3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [60, 6000])
def test_low_precision_is_read_in_blocks(dtype: torch.dtype, num_classes: int) -> None:
    scores = rows_of("normal", num_classes, 3.0, torch.Generator().manual_seed(0)).to(dtype)
    value, gradient = value_and_gradient(scores, 6, tolerance=1e-3)
    expected, slopes = value_and_gradient(scores.float(), 6, tolerance=1e-3)
    assert value.dtype == gradient.dtype == dtype
    torch.testing.assert_close(value, expected.to(dtype))
    torch.testing.assert_close(gradient.float(), slopes, atol=1e-5, rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [60, 3000])
def test_the_gradient_at_the_label_is_rounded_once(dtype: torch.dtype, num_classes: int) -> None:
    """The label is nearly certain to be the second: two parts, 0.99 and -1, nearly cancel."""
    scores = rows_of("normal", num_classes, 0.1, torch.Generator().manual_seed(0)).to(dtype)
    scores[:, 0], scores[:, 1] = 30.0, 9.0
    scores[1] = rows_of("normal", num_classes, 3.0, torch.Generator().manual_seed(1))[1].to(dtype)
    gradients = []
    for logits in (scores, scores.float()):
        leaf = logits.clone().requires_grad_()
        loss = gaussian_topk_loss(leaf, torch.ones(4, dtype=torch.long), k=1, epsilon=1.5, margin=20.0, tolerance=1e-3)
        assert loss.dtype == torch.float32
        loss.backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1].to(dtype), atol=1e-6, rtol=0.02)


@pytest.mark.parametrize("epsilon", [1e-31, 1e-37, 1e-45])
@pytest.mark.parametrize("num_classes", [50, 5000])
def test_noise_below_what_float32_divides_by_is_none(epsilon: float, num_classes: int) -> None:
    scores = rows_of("normal", num_classes, 1.0, torch.Generator().manual_seed(0))
    value, gradient = value_and_gradient(scores, 5, epsilon=epsilon)
    assert torch.equal(value, torch.topk(scores, 5).values[:, -1])
    assert (gradient.sum(1) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rows_at_all(dtype: torch.dtype) -> None:
    value, gradient = value_and_gradient(torch.zeros(2, 0, 500, dtype=dtype), 5)
    assert value.shape == (2, 0)
    assert gradient.shape == (2, 0, 500)


def test_rows_are_independent_and_gradients_may_be_taken_twice() -> None:
    scores = rows_of("normal", 200, 1.0, torch.Generator().manual_seed(0), rows=300)
    leaf = scores.clone().requires_grad_()
    value = gaussian_topk(leaf, 6, tolerance=1e-3)
    (first,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
    (again,) = torch.autograd.grad(value.sum(), leaf)
    assert torch.equal(first, again)
    for rows in (slice(0, 1), slice(120, 300)):
        part = value_and_gradient(scores[rows], 6, tolerance=1e-3)
        torch.testing.assert_close(part, (value.detach()[rows], first[rows]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scores", "k", "tolerance"),
    [
        (torch.zeros(2, 90, dtype=torch.float64), 6, 1e-3),
        (torch.zeros(2, 90), 25, 1e-3),
        (torch.zeros(2, 90), 13, 1e-5),
        (torch.zeros(2, 90), 6, 1e-6),
        (torch.zeros(0, 90), 6, 1e-3),
        (torch.zeros(2, 90, device="meta"), 6, 1e-3),
    ],
)
def test_what_takes_the_plain_way(scores: Tensor, k: int, tolerance: float) -> None:
    assert not fast_applies(scores, k, tolerance)


@pytest.mark.parametrize("num_classes", [30, 2047, 2048, 5003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_best_classes(num_classes: int, dtype: torch.dtype) -> None:
    scores = torch.randn(7, num_classes, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores[3] = 1.0
    scores[4] = (3 * scores[4]).round()
    for count in (1, 24, num_classes):
        values, classes, finite = best_classes(scores, count)
        assert finite
        expected = torch.topk(scores, count).values.float()
        assert torch.equal(values.sort(1, descending=True).values, expected)
        assert torch.equal(scores.gather(1, classes).float(), values)
        assert all(len(set(row)) == count for row in classes.tolist())


@pytest.mark.parametrize("num_classes", [30, 5003])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_best_classes_see_what_is_not_finite(num_classes: int, value: float) -> None:
    scores = torch.zeros(7, num_classes)
    scores[3, 11] = value
    assert not best_classes(scores, 5)[2]


def test_classes_within_reach() -> None:
    scores = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    cut = torch.tensor([2.0, 1.5, 9.0])
    reach = within_reach(scores, cut, 0.5, torch.tensor([0, 1, 2]))
    assert reach is not None
    width = reach.scores.shape[1]
    for row in range(3):
        expected = (scores[row] > cut[row]).nonzero().squeeze(1)
        assert reach.classes[row, : len(expected)].tolist() == expected.tolist()
        assert torch.equal(reach.scores[row, : len(expected)], scores[row, expected])
        assert (reach.classes[row, len(expected) :] == row).all()
        assert (reach.scores[row, len(expected) :] == -math.inf).all()
        just_below = (scores[row] > cut[row] - 0.5).sum() - len(expected)
        assert reach.just_below[row] == just_below + width - len(expected)
    assert within_reach(scores, torch.full((3,), -1.0), 0.5, torch.zeros(3, dtype=torch.long)) is None
    assert within_reach(scores[:, :400], cut, 0.5, torch.zeros(3, dtype=torch.long)) is None
