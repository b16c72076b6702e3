"""Any argument of any loss, of its function, or of a description of it: a finite loss, or a message of the list."""

import inspect
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES, Case
from lightning_topk import losses, ops
from lightning_topk.losses import TopKLoss, build_loss, smooth_labels
from properties.strategies import wild_counts, wild_numbers, wild_per_class
from properties.tally import attempt, brief, thorough

C = 7
NOT_NUMBERS = ("operator", "loss", "weight", "p_k", "generator", "noise", "log_priors", "margins", "margin")


def junk_specs() -> st.SearchStrategy[Any]:
    """Descriptions of losses and operators, right and wrong, one in another."""
    names = st.sampled_from(
        [
            *losses.__all__,
            *("LapSum", "NeuralSort", "lightning_topk.losses.CrossEntropyLoss", "lightning_topk.losses.TopKLoss"),
            *("torch.nn.CrossEntropyLoss", "torch.nn.Linear", "os.path", "os.nothing", "nothing.At"),
            *(
                "",
                ".",
                "..",
                "a.",
                ".a",
                "a..b",
                "a\0.b",
                "ä.ö",
                "CrossEntropy",
                "noised",
                "lightning_topk.losses",
                " ",
            ),
            *("lightning_topk.ops.SparseTopK", "lightning_topk.ops.SoftTopKOperator", "lightning_topk.ops.noised_topk"),
        ]
    )
    leaf = names | wild_numbers() | st.sampled_from([losses.FocalLoss, torch.nn.Linear, TopKLoss, int, ops.LapSum(2.0)])
    keys = st.sampled_from(["k", "epsilon", "gamma", "loss", "operator", "weight", "reduction", "kk", "self", "args"])
    plain = st.dictionaries(keys, leaf, max_size=2) | wild_numbers() | st.just({3: 4})

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        arguments = st.dictionaries(st.sampled_from(["loss", "operator", "k", "fraction"]), inner, max_size=2) | plain
        whole = st.fixed_dictionaries({"class_path": names | leaf}, optional={"init_args": arguments})
        return whole | st.dictionaries(st.sampled_from(["class_path", "init_args", "k"]), inner, max_size=3)

    return st.recursive(leaf, nested, max_leaves=4)


@st.composite
def values_of(draw: st.DrawFn, name: str) -> Any:
    """Values, mostly wrong, for a parameter of a loss."""
    if name == "weight":
        return draw(wild_per_class(C))
    if name == "p_k":
        numbers = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0, -1.0, float("nan"), None, "a"]), max_size=3)
        return draw(numbers | numbers.map(tuple) | wild_numbers())
    if name in ("operator", "loss"):
        return draw(junk_specs())
    if name == "generator":
        return draw(wild_numbers() | st.builds(torch.Generator))
    if name in ("variant", "reduction", "zero_counts", "top1"):
        texts = ["psi1", "psi3", "alpha", "beta", "log", "linear", "mean", "sum", "error", "clamp", "softmax", "sort"]
        return draw(st.sampled_from(texts) | wild_numbers())
    return draw(st.sampled_from([0, 1, 2, 3, 0.0, 0.3, 1.0, 2.5]) | wild_numbers())


def check_loss(loss: TopKLoss, *, soft: bool) -> None:
    """Call it in both modes; ordinary logits have a finite loss and gradient, whatever the arguments were."""
    torch.manual_seed(0)
    logits = torch.randn(5, C, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 6])
    labels = torch.nn.functional.one_hot(targets, C).double() if soft else targets
    for mode in (True, False):
        logits.grad = None
        value = loss.train(mode)(logits, labels)
        value.sum().backward()
        assert value.isfinite().all(), value
        assert logits.grad.isfinite().all(), logits.grad


LOSS_GROUPS = (
    *("numbers", "number of guesses", "one number per class", "class counts", "losses and operators by name"),
    *("other tensors", "targets"),
)


@thorough
@given(case=st.sampled_from(CASES), data=st.data())
def test_any_argument_of_a_loss(case: Case, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(inspect.signature(case.cls).parameters)))
    value = data.draw(values_of(name))
    later = isinstance(getattr(case.cls, name, None), property) and data.draw(st.booleans())
    soft = data.draw(st.booleans())

    def call() -> bool:
        loss = case.cls(**(case.arguments if later else {**case.arguments, name: value}))
        if later:
            setattr(loss, name, value)
        loss.bind_class_counts([1, 50, 3, 9, 200, 7, 1])
        check_loss(loss, soft=soft)
        return True

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is meant for cosine logits.*")
        attempt("an argument of a loss", call, *LOSS_GROUPS)


@thorough
@given(case=st.sampled_from([case for case in CASES if case.function]), data=st.data())
def test_any_argument_of_a_function(case: Case, data: st.DataObject) -> None:
    function = getattr(losses, case.function)
    loss = case.make(C)
    accepted = [name for name in inspect.signature(function).parameters if name not in ("logits", "targets")]
    arguments = {name: getattr(loss, name) for name in accepted if hasattr(loss, name)}
    if "margin" in accepted and hasattr(loss, "margins"):
        arguments["margin"] = loss.margins
    name = data.draw(st.sampled_from(accepted))
    tensors = st.sampled_from(
        [
            *(torch.ones(C), torch.ones(C - 1), torch.ones(C, dtype=torch.long), torch.ones(C, dtype=torch.bool)),
            *(torch.ones(C, dtype=torch.complex64), torch.ones(()), torch.ones(2, C), torch.ones(C, dtype=torch.half)),
            *([1.0] * C, np.ones(C), "ones", None, 1.0),
        ]
    )
    tensor = name in ("weight", "margins", "margin", "log_priors", "noise")
    value = data.draw(tensors if tensor else values_of(name))
    logits, targets = torch.randn(5, C, requires_grad=True), torch.tensor([0, 1, 2, 3, 6])
    result = attempt(
        "an argument of a function", lambda: function(logits, targets, **{**arguments, name: value}), *LOSS_GROUPS
    )
    if result is not None:
        result.sum().backward()
        assert result.isfinite().all()
        assert logits.grad.isfinite().all()


@thorough
@given(spec=junk_specs(), k=st.none() | st.integers(0, 9) | wild_numbers())
def test_any_description_of_a_loss(spec: Any, k: Any) -> None:
    groups = ("numbers", "number of guesses", "one number per class", "losses and operators by name", "other tensors")
    loss = attempt("a description of a loss", lambda: build_loss(spec, k=k), *groups)
    assert loss is None or isinstance(loss, torch.nn.Module)
    if isinstance(loss, TopKLoss):
        assert build_loss(loss.spec()).spec() == loss.spec()


@thorough
@given(case=st.sampled_from(CASES), counts=wild_counts(C))
def test_any_class_counts_of_a_loss(case: Case, counts: Any) -> None:
    loss = case.cls(**case.arguments)
    if not attempt("class counts of a loss", lambda: loss.bind_class_counts(counts) is None, "class counts"):
        assert loss.class_counts is None, "what was refused is not kept"
        return
    if len(loss.class_counts) == C or not loss.needs_class_counts:
        check_loss(loss, soft=False)
    else:
        with pytest.raises(ValueError, match="should have one entry per class"):
            check_loss(loss, soft=False)


@brief
@given(data=st.data(), num_classes=st.just(C) | wild_numbers(), smoothing=st.floats(0, 1) | wild_numbers())
def test_smoothed_labels(data: st.DataObject, num_classes: Any, smoothing: Any) -> None:
    targets = data.draw(
        st.sampled_from(
            [
                *(
                    torch.tensor([0, 6, -100]),
                    torch.tensor(3),
                    torch.tensor([7]),
                    torch.tensor([-1]),
                    torch.ones(2, C) / C,
                ),
                *(torch.tensor([1, 2], dtype=torch.uint8), torch.ones(C), torch.ones(2, 3), torch.tensor(1.0), None, 3),
                *(
                    torch.tensor([True]),
                    torch.ones(2, C, dtype=torch.float8_e4m3fn),
                    torch.tensor([], dtype=torch.long),
                ),
            ]
        )
    )
    labels = attempt(
        "smoothed labels", lambda: smooth_labels(targets, num_classes, smoothing), "numbers", "targets", "logits"
    )
    if labels is None:
        return
    expected = torch.zeros(labels.shape, dtype=torch.float64).reshape(-1, int(num_classes))
    flat = targets.reshape(-1, C).tolist() if targets.is_floating_point() else targets.reshape(-1).tolist()
    for row, target in enumerate(flat):
        for c in range(int(num_classes)):
            share = target[c] if isinstance(target, list) else float(c == target)
            expected[row, c] = 0 if target == -100 else (1 - float(smoothing)) * share + float(smoothing) / num_classes
    torch.testing.assert_close(labels.double(), expected.reshape(labels.shape), rtol=0, atol=1e-6)
