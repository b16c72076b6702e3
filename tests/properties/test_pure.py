"""Counts, schedules, long tails, the cosine head and the constructors of callbacks under any argument."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_topk.callbacks import ClassFrequencies, DeferredReweighting, EpsilonScheduler
from lightning_topk.data import long_tail_counts
from lightning_topk.data._long_tail import long_tail_indices
from lightning_topk.heads import NormalizedLinear
from lightning_topk.imbalance import (
    class_balanced_weights,
    class_counts,
    class_groups,
    ldam_margins,
    log_priors,
    nonzero_counts,
    posthoc_logit_adjustment,
)
from lightning_topk.schedules import Constant, Cosine, Exponential, Linear, Piecewise
from properties.messages import is_in_the_list
from properties.strategies import FINITE, FLOATS, batches, make_logits, wild_counts, wild_numbers
from properties.tally import attempt, brief, count

ZERO = st.sampled_from(["error", "clamp"])


@brief
@given(counts=wild_counts(5), zero=ZERO, option=wild_numbers() | st.floats(0, 1))
def test_margins_weights_and_priors(counts: Any, zero: str, option: Any) -> None:
    for make in (
        lambda: nonzero_counts(counts, zero),
        lambda: log_priors(counts, zero=zero),
        lambda: ldam_margins(counts, max_margin=option, zero=zero),
        lambda: ldam_margins(counts, constant=option, zero=zero),
        lambda: class_balanced_weights(counts, option, zero=zero),
        lambda: class_groups(counts, many=option),
        lambda: class_groups(counts, many=100, few=option),
        lambda: posthoc_logit_adjustment(torch.randn(2, 5), counts, option, zero=zero),
    ):
        value = attempt("what is made of class counts", make, "numbers", "class counts")
        values = list(value.values()) if isinstance(value, dict) else [value]
        assert value is None or all(each.isfinite().all() for each in values)


@brief
@given(
    counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=8).filter(any),
    margin=st.floats(0, 10),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.9999, 1 - 1e-12, 1.0]) | st.floats(0, 1),
)
def test_margins_weights_and_priors_are_those_of_the_formulas(counts: list[int], margin: float, beta: float) -> None:
    n = [max(1, each) for each in counts]
    margins = ldam_margins(counts, max_margin=margin, zero="clamp").tolist()
    weights = class_balanced_weights(counts, beta, zero="clamp").tolist()
    priors = log_priors(counts, zero="clamp").tolist()
    groups = class_groups(counts)
    with mpmath.workdps(40):
        one = mpmath.mpf(1)
        effective = [mpmath.mpf(each) if beta == 1 else (one - mpmath.mpf(beta) ** each) for each in n]
        total = mpmath.fsum(1 / each for each in effective)
    for c, each in enumerate(n):
        assert math.isclose(margins[c], margin * (each / min(n)) ** -0.25, rel_tol=1e-6, abs_tol=1e-37)
        assert math.isclose(weights[c], float(len(n) / effective[c] / total), rel_tol=1e-5)
        assert math.isclose(priors[c], math.log(each / sum(n)), rel_tol=1e-6, abs_tol=1e-6)
        inside = [name for name, mask in groups.items() if mask[c]]
        assert inside == ["many" if counts[c] > 100 else "few" if counts[c] < 20 else "medium"]
    count("formulas of class counts", refused=False)


@brief
@given(
    labels=st.one_of(
        st.lists(st.integers(0, 6), max_size=9),
        st.lists(st.integers(0, 6), max_size=9).map(lambda x: np.array(x, dtype=np.uint8)[::-1]),
        st.lists(st.sampled_from([0, 3, -1, 2**40, 2**63, 10**400, 1.5, float("nan"), "a", None, True]), max_size=4),
        wild_numbers(),
    ),
    num_classes=st.none() | st.integers(1, 9) | wild_numbers(),
)
def test_counting_labels(labels: Any, num_classes: Any) -> None:
    counts = attempt("labels that are counted", lambda: class_counts(labels, num_classes), "labels", "numbers")
    if counts is None:
        return
    flat = np.asarray(labels).reshape(-1).tolist()
    assert counts.tolist() == [flat.count(c) for c in range(len(counts))]
    assert len(counts) == (max(flat) + 1 if num_classes is None else num_classes)


@brief
@given(batch=batches(1), tau=st.floats(-10, 10))
def test_adjustment_takes_the_priors_out(batch: Any, tau: float) -> None:
    num_classes = batch.logits.shape[-1]
    counts = [c % 5 + 1 for c in range(num_classes)]
    adjusted = posthoc_logit_adjustment(batch.logits, counts, tau)
    assert adjusted.shape == batch.logits.shape
    expected = batch.logits.double() - tau * torch.tensor([math.log(n / sum(counts)) for n in counts]).double()
    if batch.kind in FINITE:
        torch.testing.assert_close(adjusted.double(), expected, rtol=1e-5, atol=1e-4)
    count("an adjustment of logits", refused=False)


@brief
@given(data=st.data(), step=wild_numbers() | st.floats(-1e9, 1e9), total=wild_numbers() | st.floats(1e-3, 1e9))
def test_schedules(data: st.DataObject, step: Any, total: Any) -> None:
    cls = data.draw(st.sampled_from([Constant, Linear, Cosine, Exponential, Piecewise]))
    anything = wild_numbers() | st.floats(-1e6, 1e6)
    if cls is Constant:
        arguments = {"value": data.draw(anything)}
    elif cls is Piecewise:
        some = st.lists(st.floats(0, 1e6), max_size=3).map(sorted) | st.lists(anything, max_size=3) | anything
        arguments = {"milestones": data.draw(some), "values": data.draw(some)}
    else:
        arguments = {"start": data.draw(st.floats(0.1, 9)), "end": data.draw(st.floats(0.1, 9))}
        arguments["length"] = data.draw(st.none() | st.floats(1e-3, 1e6))
        arguments["delay"] = data.draw(st.floats(0, 1e3))
        arguments[data.draw(st.sampled_from(sorted(arguments)))] = data.draw(anything)

    def call() -> tuple[Any, float]:
        schedule = cls(**arguments)
        return schedule, schedule(step, total)

    made = attempt("a schedule", call, "numbers", "schedules and callbacks")
    if made is None:
        return
    schedule, value = made
    assert isinstance(value, float)
    assert math.isfinite(value)
    if cls is Piecewise:
        passed = sum(1 for milestone in schedule.milestones if step >= milestone)
        assert value == schedule.values[passed]
    elif cls is not Constant:
        low, high = sorted([schedule.start, schedule.end])
        room = 1e-9 * max(abs(low), abs(high))
        assert low - room <= value <= high + room
        length = schedule.length if schedule.length is not None else total - schedule.delay
        if step < schedule.delay and length > 0:
            assert math.isclose(value, schedule.start, rel_tol=1e-12)
        if step >= schedule.delay + length and length > 0:
            assert math.isclose(value, schedule.end, rel_tol=1e-9, abs_tol=1e-9 * abs(schedule.start))


@brief
@given(
    right=st.tuples(st.integers(1, 40), st.integers(1, 5000), st.floats(1, 1000), st.sampled_from(["exp", "step"])),
    wrong=st.sampled_from([None, None, 0, 1, 2, 3]),
    value=wild_numbers(),
)
def test_long_tails(right: tuple[Any, ...], wrong: int | None, value: Any) -> None:
    arguments = [value if place == wrong else each for place, each in enumerate(right)]
    counts = attempt("counts of a long tail", lambda: long_tail_counts(*arguments), "numbers")
    if counts is None:
        return
    num_classes, most, factor, profile = arguments
    assert len(counts) == num_classes
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == (most if profile == "exp" or num_classes > 1 else counts[0])
    assert counts[-1] >= 1
    if num_classes > 1:
        assert abs(counts[-1] - max(1, most / factor)) <= 1 + 1e-9 * most


@brief
@given(data=st.data())
def test_long_tail_indices(data: st.DataObject) -> None:
    labels = data.draw(
        st.lists(st.integers(0, 4), max_size=30).map(torch.tensor)
        | st.sampled_from([torch.ones(3), torch.tensor([-1]), torch.tensor([2**40]), torch.tensor([[0, 1], [1, 1]])])
        | st.sampled_from([torch.tensor([0, 1, 1], dtype=torch.uint8), [0, 1, 1], np.array([0, 1, 1]), None, "a"])
    )
    arguments = {"imbalance_factor": 4.0, "profile": "exp", "seed": 3, "order": "index", "num_classes": None}
    wrong = data.draw(st.sampled_from(sorted(arguments)))
    arguments[wrong] = data.draw(wild_numbers() | st.just(arguments[wrong]))
    kept = attempt("indices of a long tail", lambda: long_tail_indices(labels, **arguments), "numbers", "labels")
    if kept is None:
        return
    flat = torch.as_tensor(labels).flatten()
    available = class_counts(flat, arguments["num_classes"])
    profile = long_tail_counts(
        len(available), int(available.max()), arguments["imbalance_factor"], arguments["profile"]
    )
    if arguments["order"] == "index":
        assert class_counts(flat[kept], len(available)).tolist() == [
            min(n, p) for n, p in zip(available.tolist(), profile, strict=True)
        ]
    assert torch.equal(kept, kept.unique())


@brief
@given(data=st.data(), kind=st.sampled_from([k for k in FINITE if k != "masked"]), dtype=st.sampled_from(FLOATS))
def test_the_cosine_head(data: st.DataObject, kind: str, dtype: torch.dtype) -> None:
    head = NormalizedLinear(4, 3, dtype=dtype)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    leading = data.draw(st.sampled_from([[], [0], [2], [2, 3]]))
    x = make_logits(kind, [*leading, 4], dtype, generator)
    fault = data.draw(st.sampled_from([None] * 6 + ["length", "type", "integers", "dtype"]))
    wrong = {
        "length": lambda: x[..., :3],
        "type": lambda: x.tolist(),
        "integers": lambda: torch.ones(2, 4, dtype=torch.long),
        "dtype": lambda: x.to(torch.float32 if dtype == torch.float64 else torch.float64),
    }
    if fault:
        with pytest.raises((TypeError, ValueError)) as caught:
            head(wrong[fault]())
        assert is_in_the_list(caught.value, "other tensors"), caught.value
    else:
        leaf = x.clone().requires_grad_()
        logits = head(leaf)
        logits.sum().backward()
        rows = x.double().reshape(-1, 4).tolist()
        for row, found in zip(rows, logits.detach().double().reshape(-1, 3).tolist(), strict=True):
            for weight, cosine in zip(head.weight.detach().double().tolist(), found, strict=True):
                norm = math.hypot(*row) * math.hypot(*weight)
                exact = sum((a / (math.hypot(*row) or 1)) * b for a, b in zip(row, weight, strict=True))
                exact = exact / math.hypot(*weight) if norm else 0.0
                assert math.isclose(cosine, exact, abs_tol=3e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-5)
        if kind != "denormal":  # whose gradient is as large as they are small
            assert leaf.grad.isfinite().all()
    count("a cosine head", refused=fault is not None)


@brief
@given(data=st.data())
def test_constructors_of_callbacks(data: st.DataObject) -> None:
    cls, name = data.draw(
        st.sampled_from(
            [
                *((DeferredReweighting, name) for name in ("start_epoch", "beta", "zero_counts")),
                *((EpsilonScheduler, name) for name in ("schedule", "parameter", "interval")),
                *((ClassFrequencies, name) for name in ("counts", "num_classes", "zero_counts", "get_targets")),
            ]
        )
    )
    arguments: dict[str, Any] = {"schedule": Constant(1.0)} if cls is EpsilonScheduler else {}
    value = data.draw(wild_counts(4).filter(lambda v: not isinstance(v, str)) if name == "counts" else wild_numbers())
    groups = ("numbers", "class counts", "schedules and callbacks")
    callback = attempt("a constructor of a callback", lambda: cls(**{**arguments, name: value}), *groups)
    assert callback is None or type(callback).__name__ in repr(callback)
