"""Aggregates over the batch: worked values, weights, ignored rows, the threshold, checkpoints, the loss inside."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_topk.losses import (
    AverageTopKLoss,
    CrossEntropyLoss,
    ImbalancedNoisedTopKLoss,
    MATkLoss,
    NoisedTopKLoss,
    PriorAdjustedLoss,
    STkLoss,
    TopKLoss,
    build_loss,
    topk_shares,
)
from references import average_of_largest

every = pytest.mark.parametrize("cls", [AverageTopKLoss, MATkLoss, STkLoss])
trainable = pytest.mark.parametrize("cls", [MATkLoss, STkLoss])


class Given(TopKLoss):
    """The loss of a row is the logit of its label."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets == self.ignore_index, 0.0, logits.gather(-1, targets.clamp(min=0)[:, None])[:, 0])


def rows(*values: float) -> tuple[Tensor, Tensor]:
    """Logits and targets whose individual losses under ``Given`` are the values."""
    column = torch.tensor(values, dtype=torch.float64)
    return torch.stack([column, -column], -1), torch.zeros(len(values), dtype=torch.long)


def minimized(loss: MATkLoss, logits: Tensor, targets: Tensor, steps: int = 1500) -> float:
    """Value after plain gradient descent on lambda alone, with a falling step."""
    for step in range(steps):
        loss.lambda_.grad = None
        loss(logits, targets).backward()
        with torch.no_grad():
            loss.lambda_ -= 2 * (1 - step / steps) * loss.lambda_.grad
    return loss(logits, targets).item()


@pytest.mark.parametrize(
    ("fraction", "value"), [(1.0, 2.5), (0.75, 3.0), (0.5, 3.5), (0.25, 4.0), (0.1, 4.0), (0.0, 4.0), (0.625, 3.2)]
)
def test_average_of_the_largest(fraction: float, value: float) -> None:
    """0.625 of 4 is 2.5 values: (4 + 3 + 2 / 2) / 2.5."""
    loss = AverageTopKLoss(Given(), fraction=fraction)
    torch.testing.assert_close(loss(*rows(1.0, 4.0, 2.0, 3.0)).item(), value)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0.0, 0.5, 1.0, 3.0])), min_size=1, max_size=9),
    st.floats(0, 1),
)
def test_shares_agree_with_the_slow_loop(pairs: list[tuple[float, float]], fraction: float) -> None:
    values, weights = torch.tensor(pairs, dtype=torch.float64).T
    mean = (topk_shares(values, fraction, weights) * values).sum().item()
    expected = average_of_largest(values.tolist(), weights.tolist(), fraction)
    torch.testing.assert_close(mean, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("start", "value"), [(2.0, 1.75), (2.5, 1.75), (3.0, 1.75), (1.5, 1.875), (3.5, 1.875)])
def test_matk_worked_values(start: float, value: float) -> None:
    loss = MATkLoss(Given(), fraction=0.5, initial_lambda=start)
    torch.testing.assert_close(loss(*rows(1.0, 2.0, 3.0, 4.0)).item(), value)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_minimum_over_lambda_is_the_fraction_of_the_average(fraction: float) -> None:
    torch.manual_seed(0)
    data = rows(*torch.rand(20, dtype=torch.float64).mul(3).tolist())
    average = AverageTopKLoss(Given(), fraction=fraction)(*data).item()
    hard, smooth = (
        minimized(loss.double(), *data)
        for loss in (MATkLoss(Given(), fraction=fraction), STkLoss(Given(), fraction=fraction, delta=0.01))
    )
    torch.testing.assert_close(hard, fraction * average, atol=2e-4, rtol=0)
    assert 0 <= hard - smooth <= 0.005


@trainable
@pytest.mark.parametrize("start", [-3.0, 0.0, 6.0])
def test_lambda_settles_at_the_kth_largest_and_comes_back_from_below_zero(cls: type[MATkLoss], start: float) -> None:
    data = rows(0.2, 0.5, 1.0, 5.0)
    for fraction, low, high in ((0.5, 0.5, 1.0), (0.75, 0.2, 0.5)):
        loss = cls(Given(), fraction=fraction, initial_lambda=start).double()
        minimized(loss, *data)
        assert low - 5e-3 <= loss.lambda_.item() <= high + 5e-3


def test_gradient_of_lambda_and_of_the_rows() -> None:
    logits, targets = rows(1.0, 2.0, 3.0, 4.0)
    logits.requires_grad_()
    loss = MATkLoss(Given(), fraction=0.25, initial_lambda=2.5)
    loss(logits, targets).backward()
    assert loss.lambda_.grad.item() == 0.25 - 0.5
    assert logits.grad[:, 0].tolist() == [0.0, 0.0, 0.25, 0.25]
    logits.grad = None
    AverageTopKLoss(Given(), fraction=0.5)(logits, targets).backward()
    assert logits.grad[:, 0].tolist() == [0.0, 0.0, 0.5, 0.5]


@every
def test_it_starts_as_a_multiple_of_the_mean(cls: type[TopKLoss]) -> None:
    """At lambda = 0 all examples count alike, and with fraction 1 they do in each aggregate."""
    data = rows(1.0, 2.0, 3.0, 4.0)
    loss = cls(Given(), fraction=1.0 if cls is AverageTopKLoss else 0.3)
    torch.testing.assert_close(loss(*data).item(), 2.5, atol=0.005, rtol=0)


@every
def test_ignored_rows_and_a_short_last_batch(cls: type[TopKLoss]) -> None:
    """A fraction of what counts, not of the number of rows."""
    logits, targets = rows(1.0, 9.0, 2.0, 3.0, 4.0, 9.0)
    targets[[1, 5]] = -100
    loss = cls(Given(), fraction=0.5)
    torch.testing.assert_close(loss(logits, targets), loss(*rows(1.0, 2.0, 3.0, 4.0)))
    torch.testing.assert_close(loss(*rows(1.0, 3.0, 1.0, 3.0)), loss(*rows(1.0, 3.0)))


@every
def test_class_weights_act_as_repetitions(cls: type[TopKLoss]) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 0])
    repeated = torch.tensor([1, 2, 3])[targets]
    weighted = cls(fraction=0.4, weight=[1.0, 2.0, 3.0])(logits, targets)
    plain = cls(fraction=0.4)(logits.repeat_interleave(repeated, 0), targets.repeat_interleave(repeated))
    torch.testing.assert_close(weighted, plain)


@every
def test_eval_is_the_mean_of_the_individual_losses(cls: type[TopKLoss]) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 5), torch.randint(5, (9,))
    loss = cls(fraction=0.2, **({} if cls is AverageTopKLoss else {"initial_lambda": 1.0}))
    assert loss(logits, targets) != CrossEntropyLoss()(logits, targets)
    torch.testing.assert_close(loss.eval()(logits, targets), CrossEntropyLoss()(logits, targets))
    weight = [1.0, 2.0, 3.0, 0.0, 1.0]
    torch.testing.assert_close(
        cls(weight=weight).eval()(logits, targets), CrossEntropyLoss(weight=weight)(logits, targets)
    )


@every
def test_soft_targets(cls: type[TopKLoss]) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 4, dtype=torch.float64), torch.randint(4, (6,))
    one_hot = torch.nn.functional.one_hot(targets, 4).double()
    loss = cls(fraction=0.5, weight=[1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, targets))
    mixed = 0.6 * one_hot + 0.4 * one_hot.flip(0)
    each = CrossEntropyLoss(reduction="none")(logits, mixed)
    torch.testing.assert_close(AverageTopKLoss(fraction=0.5)(logits, mixed), each.topk(3).values.mean())


@trainable
def test_lambda_is_in_the_graph_whatever_comes(cls: type[MATkLoss]) -> None:
    """DDP raises on a parameter that a step leaves out."""
    logits = torch.randn(3, 4, requires_grad=True)
    for training, targets in ((True, torch.full((3,), -100)), (False, torch.tensor([0, 1, 2]))):
        loss = cls().train(training)
        loss(logits, targets).backward()
        assert loss.lambda_.grad.tolist() == [0.0]


@every
@pytest.mark.parametrize("training", [True, False])
def test_vmap_and_compile(cls: type[TopKLoss], training: bool) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 6, 4), torch.randint(4, (2, 6))
    loss = cls(fraction=0.5).train(training)
    expected = torch.stack([loss(logits[0], targets[0]), loss(logits[1], targets[1])])
    torch.testing.assert_close(torch.func.vmap(loss)(logits, targets), expected)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits[0], targets[0]), expected[0])


def test_checkpoints_fit_between_losses() -> None:
    """Strictly, both ways: what only one of two losses has is passed over."""
    counts = [5, 4, 3, 2]
    stk = STkLoss(ImbalancedNoisedTopKLoss(k=1), initial_lambda=0.7)
    stk.bind_class_counts(counts)
    assert sorted(stk.state_dict()) == ["class_counts", "lambda_"]
    makers = (
        CrossEntropyLoss,
        lambda: NoisedTopKLoss(k=1),
        lambda: ImbalancedNoisedTopKLoss(k=1),
        AverageTopKLoss,
        MATkLoss,
        lambda: PriorAdjustedLoss(STkLoss()),
        STkLoss,
    )
    for make in makers:
        other = make()
        other.load_state_dict(stk.state_dict(), strict=True)
        assert other.class_counts.tolist() == counts
        if isinstance(other, MATkLoss):
            assert other.lambda_.item() == stk.lambda_.item()
        fresh = STkLoss(ImbalancedNoisedTopKLoss(k=1), initial_lambda=0.3)
        fresh.load_state_dict(other.state_dict(), strict=True)
        assert fresh.loss.class_counts.tolist() == counts
        assert fresh.loss.margins is not None
        assert fresh.lambda_.item() == pytest.approx(0.7 if isinstance(other, MATkLoss) else 0.3)
    whole = torch.nn.ModuleDict({"loss": CrossEntropyLoss(), "net": torch.nn.Linear(2, 2)})
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "net.weight"'):
        whole.load_state_dict({"loss.lambda_": torch.zeros(1), "net.bias": torch.zeros(2)})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        whole.load_state_dict({**whole.state_dict(), "extra": torch.zeros(1)})


def test_the_loss_inside_is_reached_through_the_aggregate() -> None:
    loss = STkLoss(NoisedTopKLoss(k=2), fraction=0.5)
    loss.epsilon, loss.fraction, loss.delta = 0.25, 0.75, 0.1
    assert (loss.loss.epsilon, loss.k, loss.fraction, loss.delta) == (0.25, 2, 0.75, 0.1)
    logits, targets = torch.randn(4, 9), torch.randint(9, (4,))
    values = []
    for _ in range(2):
        loss.seed_noise(1, 2, 3)
        values.append(loss(logits, targets).item())
    assert values[0] == values[1]
    twin = build_loss(loss.spec())
    assert twin.spec() == loss.spec()
    assert repr(twin) == repr(loss) == repr(copy.deepcopy(loss))
    assert ImbalancedNoisedTopKLoss.needs_class_counts
    assert STkLoss(ImbalancedNoisedTopKLoss(k=1)).needs_class_counts
    assert not STkLoss().needs_class_counts
    assert build_loss({"class_path": "STkLoss", "init_args": {"loss": "NoisedTopKLoss"}}, k=3).k == 3


@every
def test_bad_arguments(cls: type[TopKLoss]) -> None:
    with pytest.raises(ValueError, match=r"`fraction` should be a finite .* <= 1\. Found `fraction = 1.5"):
        cls(fraction=1.5)
    with pytest.raises(TypeError, match=r"a loss of single samples, not one over a batch\. Found MATkLoss\("):
        cls(MATkLoss())
    with pytest.raises(TypeError, match=r"should be a loss of lightning_topk\.losses"):
        cls(torch.nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"`fraction` should be a finite number >= 0"):
        topk_shares(torch.zeros(3), -0.1)
    if cls is not AverageTopKLoss:
        with pytest.raises(ValueError, match=r"`fraction` should be a finite number > 0 and <= 1"):
            cls(fraction=0.0)
        with pytest.raises(ValueError, match=r"`initial_lambda` should be a finite number"):
            cls(initial_lambda=float("inf"))
    with pytest.raises(ValueError, match=r"`delta` should be a finite number > 0\. Found `delta = 0.0`"):
        STkLoss(delta=0.0)
