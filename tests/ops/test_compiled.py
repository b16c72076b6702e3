"""Operators that the compiler calls and does not look into."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lightning_topk.losses import GaussianTopKLoss, NoisedTopKLoss
from lightning_topk.ops import _compiled, gaussian_topk, noised_topk

ROWS, CLASSES = 12, 3000  # more classes than the noise of all is drawn for


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    return (3 * torch.randn(*shape, CLASSES)).requires_grad_(), torch.randint(CLASSES, shape)


@pytest.mark.parametrize(
    "arguments",
    [("noised_kth", 3, 1.0, 5, torch.tensor([7])), ("gaussian_kth", 3, 1.0, 1e-3)],
    ids=lambda arguments: arguments[0],
)
def test_the_operators_keep_the_rules_of_torch(arguments: tuple) -> None:
    scores = 3 * torch.randn(6, 600)
    torch.library.opcheck(getattr(torch.ops.lightning_topk, arguments[0]), (scores, *arguments[1:]))


def test_draws_are_those_of_a_generator_with_the_seed() -> None:
    scores = 3 * torch.randn(ROWS, CLASSES)
    classes, offsets = torch.ops.lightning_topk.noised_kth(scores, 4, 0.5, 5, torch.tensor([11]))
    expected = noised_topk(scores, 4, epsilon=0.5, generator=torch.Generator().manual_seed(11))
    torch.testing.assert_close((scores.gather(1, classes) + offsets).mean(1), expected)


def test_the_compiled_noised_loss_draws_lazily_and_follows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    cheapest = _compiled.cheapest_draws
    monkeypatch.setattr(_compiled, "cheapest_draws", lambda *given: (calls.append(given), cheapest(*given))[1])
    compiled = torch.compile(NoisedTopKLoss(k=5), backend="aot_eager", fullgraph=True)
    logits, targets = batch(ROWS)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(compiled(logits, targets))
    assert values[0] == values[1] != values[2]
    assert len(calls) == 3
    values[2].backward()
    assert (logits.grad != 0).sum() <= ROWS * 6
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(ROWS))
    # The same law: a mean over many draws is that of the plain way.
    many = NoisedTopKLoss(k=5, num_samples=4000)
    plain = many(logits, targets)
    torch.testing.assert_close(torch.compile(many, backend="aot_eager")(logits, targets), plain, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_gaussian_loss_is_the_fast_one(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the plain way")

    monkeypatch.setattr("lightning_topk.ops._gaussian_topk.smoothed_kth", refuse)
    loss = GaussianTopKLoss(k=5, tolerance=1e-3)
    logits, targets = batch(ROWS)
    leaf, twin = (logits.detach().to(dtype).requires_grad_() for _ in range(2))
    value, expected = torch.compile(loss, backend="aot_eager", fullgraph=True)(leaf, targets), loss(twin, targets)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(leaf.grad, twin.grad, rtol=1e-2, atol=1e-3 / ROWS)


def mapped_and_compiled(loss: nn.Module, **options: Any) -> Callable[..., Tensor]:
    def named(logits: Tensor, targets: Tensor) -> Tensor:  # torch 2.7 asks for a name that it cannot make of a module
        return loss(logits, targets)

    return torch.compile(torch.func.vmap(named, **options), backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_maps_within_a_compiled_program(randomness: str) -> None:
    logits, targets = batch(2, 4)
    repeated = logits.detach()[:1].expand(2, -1, -1), targets[:1].expand(2, -1)
    loss = NoisedTopKLoss(k=5)
    mapped = mapped_and_compiled(loss, randomness=randomness)
    first, second = mapped(*repeated)
    assert (first == second) == (randomness == "same")
    exact = GaussianTopKLoss(k=5, tolerance=1e-3)
    mapped = mapped_and_compiled(exact)
    value, expected = mapped(logits, targets), torch.stack([exact(*pair) for pair in zip(logits, targets, strict=True)])
    torch.testing.assert_close(value, expected)
    slopes = [torch.autograd.grad(values.sum(), logits)[0] for values in (value, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-2, atol=1e-3)


def test_compiled_operators_are_in_one_graph_with_a_network() -> None:
    net = nn.Linear(8, CLASSES)

    def step(values: Tensor) -> Tensor:
        logits = net(values)
        return noised_topk(logits, 5).mean() + gaussian_topk(logits, 5, tolerance=1e-3).mean()

    counters.clear()
    torch.compile(step, backend="aot_eager", fullgraph=True)(torch.randn(ROWS, 8)).backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert net.weight.grad.isfinite().all()
