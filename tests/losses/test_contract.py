"""Laws that every loss obeys, run on each line of the table in cases.py."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch.autograd import gradcheck

from cases import CASES, Case, batch
from lightning_topk import losses
from lightning_topk.losses import TopKLoss, build_loss, smooth_labels
from lightning_topk.losses._wrapper import LossWrapper

every = pytest.mark.parametrize("case", CASES, ids=str)


def seeded(loss: TopKLoss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss under the same noise at every call."""
    loss.seed_noise(0)
    return loss(logits, targets)


def test_every_public_loss_is_in_the_table() -> None:
    public = {
        name
        for name in losses.__all__
        if isinstance(getattr(losses, name), type) and issubclass(getattr(losses, name), TopKLoss)
    }
    assert public - {"TopKLoss"} == {case.name for case in CASES}
    functions = {name for name in losses.__all__ if name.endswith("_loss") and name != "build_loss"}
    assert functions == {case.function for case in CASES if case.function}
    for case in CASES:
        assert case.function or issubclass(case.cls, LossWrapper), "only a loss around another one has no function"


@every
def test_reductions_agree(case: Case) -> None:
    logits, targets = batch()
    values = {name: seeded(case.make(reduction=name), logits, targets) for name in ("none", "sum", "mean")}
    assert values["none"].shape == (8,)
    torch.testing.assert_close(values["none"].sum(), values["sum"])
    torch.testing.assert_close(values["none"].mean(), values["mean"])


@every
def test_leading_dimensions_are_batch(case: Case) -> None:
    logits, targets = batch()
    flat = seeded(case.make(reduction="none"), logits, targets)
    folded = seeded(case.make(reduction="none"), logits.reshape(2, 2, 2, 6), targets.reshape(2, 2, 2))
    torch.testing.assert_close(folded, flat.reshape(2, 2, 2))
    loss = case.make(reduction="none").eval()
    torch.testing.assert_close(loss(logits[0], targets[0]), loss(logits[:1], targets[:1])[0])


@pytest.mark.parametrize("case", [case for case in CASES if case.function], ids=str)
def test_module_calls_the_function(case: Case) -> None:
    logits, targets = batch()
    loss, function = case.make().eval(), getattr(losses, case.function)
    accepted = inspect.signature(function).parameters
    arguments = {name: getattr(loss, name) for name in accepted if hasattr(loss, name)}
    if case.noisy:
        arguments |= loss._noise(logits)
    if "margin" in accepted and hasattr(loss, "margins"):
        arguments["margin"] = loss.margins
    torch.testing.assert_close(loss(logits, targets), function(logits, targets, **arguments))


@every
def test_ignored_targets_count_nothing(case: Case) -> None:
    logits, targets = batch()
    kept = targets.clone()
    kept[::2] = -100
    loss = case.make().eval()
    torch.testing.assert_close(loss(logits, kept), loss(logits[1::2], targets[1::2]))
    logits.requires_grad_()
    loss(logits, kept).backward()
    assert logits.grad[::2].abs().max() == 0
    assert logits.grad[1::2].abs().max() > 0
    renamed = case.make(ignore_index=3).eval()
    torch.testing.assert_close(renamed(logits, targets), loss(logits[targets != 3], targets[targets != 3]))


@every
def test_an_ignored_row_may_hold_anything(case: Case) -> None:
    logits, targets = batch()
    logits[0, 0], targets[0] = float("nan"), -100
    loss = case.make().eval()
    torch.testing.assert_close(loss(logits, targets), loss(logits[1:], targets[1:]))


@every
@pytest.mark.parametrize("rows", [0, 4])
def test_a_batch_without_counted_rows_is_zero(case: Case, rows: int) -> None:
    logits = torch.randn(rows, 6, requires_grad=True)
    targets = torch.full((rows,), -100)
    value = case.make()(logits, targets)
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert logits.grad.shape == (rows, 6)
    assert not logits.grad.any()


@every
def test_weights_weight_and_divide(case: Case) -> None:
    logits, targets = batch()
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.0, 1.5], dtype=torch.float64)
    plain = case.make(reduction="none").eval()(logits, targets)
    expected = (weight[targets] * plain).sum() / weight[targets].sum()
    torch.testing.assert_close(case.make(weight=weight.tolist()).eval()(logits, targets), expected)


@every
def test_soft_targets_are_the_expectation_over_the_label(case: Case) -> None:
    logits, targets = batch()
    loss = case.make(reduction="none").eval()
    one_hot = torch.nn.functional.one_hot(targets, 6).double()
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, targets))
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    torch.testing.assert_close(loss(logits, mixed), 0.3 * loss(logits, targets) + 0.7 * loss(logits, targets.flip(0)))
    weighted = case.make(weight=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).eval()
    torch.testing.assert_close(weighted(logits, one_hot), weighted(logits, targets))


@every
def test_label_smoothing_is_the_mean_over_labels(case: Case) -> None:
    logits, targets = batch()
    loss = case.make(reduction="none").eval()
    smoothed = loss(logits, smooth_labels(targets, 6, 0.3))
    of_each = torch.stack([loss(logits, torch.full_like(targets, label)) for label in range(6)])
    torch.testing.assert_close(smoothed, 0.7 * loss(logits, targets) + 0.3 * of_each.mean(0), rtol=1e-6, atol=1e-6)
    mean = case.make().eval()
    kept = targets.clone()
    kept[::2] = -100
    torch.testing.assert_close(mean(logits, smooth_labels(kept, 6)), mean(logits[1::2], smooth_labels(kept[1::2], 6)))


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    logits, targets = batch(dtype=dtype)
    loss = case.make().eval()
    low = logits.clone().requires_grad_()
    full = logits.float().requires_grad_()
    value = loss(low, targets)
    value.backward()
    reference = loss(full, targets)
    reference.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, reference)
    assert low.grad.dtype == dtype
    torch.testing.assert_close(low.grad, full.grad.to(dtype))


@every
def test_autocast_changes_nothing(case: Case) -> None:
    logits, targets = batch(dtype=torch.float32)
    loss = case.make().eval()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, targets)
    torch.testing.assert_close(value, loss(logits, targets))


@every
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4])
def test_finite_at_ties_and_extremes(case: Case, scale: float) -> None:
    logits, targets = batch(dtype=torch.float32)
    logits = (logits.sign() * scale).requires_grad_()
    value = case.make()(logits, targets)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("soft", [False, True])
def test_a_bad_logit_makes_its_row_nan_and_no_other(case: Case, bad: float, soft: bool) -> None:
    logits, targets = batch()
    logits[2, (targets[2] + 1) % 6] = bad
    labels = torch.nn.functional.one_hot(targets, 6).double() if soft else targets
    value = case.make(reduction="none")(logits, labels)
    assert value.isnan().nonzero().flatten().tolist() == [2]
    assert case.make()(logits, labels).isnan()


@every
def test_gradient_is_right_and_sums_to_zero(case: Case) -> None:
    logits, targets = batch(4)
    logits.requires_grad_()
    loss = case.make().eval()
    assert gradcheck(lambda s: loss(s, targets), (logits,))
    loss(logits, targets).backward()
    if "shift" in case.without:
        assert (logits.grad.sum(-1).abs() > 1e-3).any()
    else:
        torch.testing.assert_close(logits.grad.sum(-1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)


@every
def test_invariant_under_shift_and_permutation(case: Case) -> None:
    logits, targets = batch()
    loss, permuted = case.make(), case.make()
    if case.noisy:
        loss.epsilon = permuted.epsilon = 0.0
    if "shift" in case.without:
        assert not torch.isclose(loss(logits + 7.0, targets), loss(logits, targets))
    else:
        torch.testing.assert_close(loss(logits + 7.0, targets), loss(logits, targets))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    if loss.needs_class_counts:
        permuted.bind_class_counts(loss.class_counts[order])
    place = torch.empty_like(order).scatter_(0, order, torch.arange(6))
    torch.testing.assert_close(permuted(logits[:, order], place[targets]), loss(logits, targets))


@every
def test_eval_depends_on_the_row_alone(case: Case) -> None:
    logits, targets = batch()
    loss = case.make(reduction="none").eval()
    whole = loss(logits, targets)
    assert torch.equal(whole, loss(logits, targets))
    assert torch.equal(whole.flip(0), loss(logits.flip(0), targets.flip(0)))
    torch.testing.assert_close(whole[3:5], loss(logits[3:5], targets[3:5]), rtol=0, atol=1e-12)


@every
def test_copies_are_equal(case: Case) -> None:
    logits, targets = batch()
    loss = case.make(weight=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).eval()
    expected = loss(logits, targets)
    stream = io.BytesIO()
    torch.save(loss.state_dict(), stream)
    stream.seek(0)
    fresh = case.cls(**case.arguments, weight=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).eval()
    fresh.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), fresh):
        assert torch.equal(twin(logits, targets), expected)
        assert repr(twin) == repr(loss)


@every
def test_spec_builds_the_same_loss(case: Case) -> None:
    loss = case.make(weight=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], reduction="sum")
    spec = loss.spec()
    assert spec["class_path"] == f"lightning_topk.losses.{case.name}"
    twin = build_loss(pickle.loads(pickle.dumps(spec)))
    assert twin.spec() == spec
    if loss.needs_class_counts:
        twin.bind_class_counts(loss.class_counts)
    assert repr(twin) == repr(loss)


@every
def test_repr_is_one_line_that_names_k_and_counts(case: Case) -> None:
    text = repr(case.make())
    assert text.startswith(f"{case.name}(")
    assert "\n" not in text
    assert ("k=" in text) == hasattr(case.make(), "k")
    assert ("class_counts=[6 values]" in text) == case.needs_counts


@every
def test_half_precision_module_keeps_working(case: Case) -> None:
    logits, targets = batch(dtype=torch.float32)
    loss = case.make().eval()
    expected = loss(logits, targets)
    torch.testing.assert_close(loss.bfloat16()(logits.bfloat16().float(), targets), expected, rtol=0.02, atol=0.02)


@every
@pytest.mark.parametrize("integer", [torch.int8, torch.uint8, torch.int32])
def test_targets_of_any_integer_dtype(case: Case, integer: torch.dtype) -> None:
    logits, targets = batch()
    loss = case.make().eval()
    assert torch.equal(loss(logits, targets.to(integer)), loss(logits, targets))


@every
@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (torch.zeros(3, 6), torch.tensor([0, 1, 6]), ValueError, r"class indices in \[0, C\).* Found 6 with `C = 6`"),
        (torch.zeros(3, 6), torch.tensor([0, 1, -1]), ValueError, r"`ignore_index = -100`\. Found -1"),
        (torch.zeros(3, 6), torch.tensor([0.0, 1.0, 2.0]), ValueError, r"soft labels of the shape .* \[3, 6\]"),
        (torch.zeros(3, 6), torch.tensor([0, 1]), ValueError, r"without the last dimension, \[3\]\. Found \[2\]"),
        (torch.zeros(3, 6), torch.zeros(3, 6, dtype=torch.long), ValueError, r"Found \[3, 6\] with logits"),
        (torch.zeros(3, 6), torch.tensor([True, False, True]), TypeError, r"Found torch\.bool"),
        (torch.zeros(3, 6), [0, 1, 2], TypeError, r"Found list"),
        (torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, dtype=torch.long), TypeError, r"Found torch\.int64"),
        (torch.tensor(1.0), torch.tensor(0), ValueError, r"shape \[\.\.\., C\] with at least one class\. Found \[\]"),
        (torch.zeros(3, 0), torch.zeros(3, dtype=torch.long), ValueError, r"Found \[3, 0\]"),
        ([[0.0]], torch.zeros(1, dtype=torch.long), TypeError, r"should be a tensor \[\.\.\., C\]\. Found list"),
    ],
)
def test_bad_input_is_one_clear_error(case: Case, logits, targets, error, message) -> None:
    with pytest.raises(error, match=message):
        case.make()(logits, targets)


@every
def test_bad_common_arguments(case: Case) -> None:
    with pytest.raises(ValueError, match=r"`reduction` should be one of 'mean', 'sum', 'none'\. Found .*'avg'"):
        case.make(reduction="avg")
    with pytest.raises(ValueError, match=r"`weight` should hold one finite number >= 0 per class"):
        case.make(weight=[1.0, -1.0])
    with pytest.raises(ValueError, match=r"`weight` should have one entry per class, shape \[6\]\. Found \[2\]"):
        case.make(weight=[1.0, 1.0])(*batch())
    with pytest.raises(TypeError, match=r"`ignore_index` should be an integer"):
        case.make(ignore_index=0.5)


@every
def test_counts_load_whatever_their_number(case: Case) -> None:
    loss = case.cls(**case.arguments)
    loss.bind_class_counts([5, 4, 3, 2, 1, 9])
    other = case.cls(**case.arguments)
    other.bind_class_counts([7, 7])
    other.load_state_dict(loss.state_dict())
    assert other.class_counts.tolist() == [5, 4, 3, 2, 1, 9]
    assert torch.equal(other.eval()(*batch()), loss.eval()(*batch()))
    for stranger in CASES:
        loaded = stranger.make()
        loaded.load_state_dict(loss.state_dict())
        assert loaded.class_counts.tolist() == [5, 4, 3, 2, 1, 9]
    bound = case.make()
    bound.load_state_dict(losses.CrossEntropyLoss().state_dict())
    assert repr(bound) == repr(case.make())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, -1], r"Found -1 for class 1"),
        ([0, 0], r"At least one should be positive. Found 2 zeros"),
        ([3, 0.5], r"Found 0\.5 for class 1"),
        ([3, float("nan")], r"Found nan for class 1"),
        ([[3, 4]], r"Found shape \[1, 2\]"),
        ([], r"Found shape \[0\]"),
    ],
)
@every
def test_bad_counts(case: Case, counts, message) -> None:
    with pytest.raises(ValueError, match=message):
        case.make().bind_class_counts(counts)
    with pytest.raises(TypeError, match="should be a list of one non-negative whole number per class"):
        case.make().bind_class_counts("many")


@every
@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(case: Case, training: bool) -> None:
    torch._dynamo.reset()
    logits, targets = batch(dtype=torch.float32)
    loss = case.make().train(training)
    leaf, twin = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf, targets)
    value.backward()
    assert leaf.grad.isfinite().all()
    if not (training and case.noisy):
        expected = loss(twin, targets)
        expected.backward()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(leaf.grad, twin.grad)


@every
def test_vmap(case: Case) -> None:
    logits, targets = batch()
    loss = case.make().eval()
    mapped = torch.func.vmap(loss)(logits.reshape(2, 4, 6), targets.reshape(2, 4))
    torch.testing.assert_close(mapped, torch.stack([loss(logits[:4], targets[:4]), loss(logits[4:], targets[4:])]))


@every
@pytest.mark.parametrize("training", [True, False])
def test_no_value_is_read_on_the_way(case: Case, training: bool) -> None:
    """On the meta device there are no values: whoever read one, and so waited for a device, would fail."""
    loss = case.make().train(training).to("meta")
    logits = torch.randn(8, 6, device="meta", requires_grad=True)
    value = loss(logits, torch.zeros(8, dtype=torch.long, device="meta"))
    value.backward()
    assert logits.grad.shape == (8, 6)
