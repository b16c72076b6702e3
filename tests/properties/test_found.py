"""What the property tests have found, each as one plain example."""

import numpy as np
import pytest
import torch

from cases import CASES, Case
from lightning_topk import losses
from lightning_topk.heads import NormalizedLinear
from lightning_topk.imbalance import check_counts, class_counts
from lightning_topk.losses import build_loss, cross_entropy_loss, noised_topk_loss
from lightning_topk.metrics import RankHistogram, target_ranks, topk_metrics
from lightning_topk.ops import NeuralSort, smoothed_relu
from lightning_topk.schedules import Cosine, Linear, Piecewise

every = pytest.mark.parametrize("case", CASES, ids=str)
LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64])
def test_narrow_targets_of_many_classes(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 300)
    targets = torch.tensor([5, 100])
    expected = cross_entropy_loss(logits, targets)
    assert cross_entropy_loss(logits, targets.to(dtype)) == expected
    assert torch.equal(target_ranks(logits, targets.to(dtype)), target_ranks(logits, targets))


def test_an_unsigned_label_is_not_taken_for_a_negative_ignored_one() -> None:
    with pytest.raises(ValueError, match=r"Found 156 with `C = 100`"):
        cross_entropy_loss(torch.randn(1, 100), torch.tensor([156], dtype=torch.uint8), ignore_index=-100)


@every
@pytest.mark.parametrize("soft", [False, True])
def test_classes_masked_by_the_lowest_number(case: Case, soft: bool) -> None:
    logits = torch.randn(4, 8)
    logits[:, [3, 5]] = LOWEST
    logits.requires_grad_()
    targets = torch.tensor([0, 1, 2, 4])
    labels = torch.nn.functional.one_hot(targets, 8).float() if soft else targets
    value = case.make(8)(logits, labels)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@every
def test_an_ignored_row_of_nan_has_no_gradient(case: Case) -> None:
    logits = torch.randn(3, 8)
    logits[1, 2] = float("nan")
    logits.requires_grad_()
    case.make(8)(logits, torch.tensor([0, -100, 2])).backward()
    assert not logits.grad[1].any()
    assert logits.grad.isfinite().all()


def test_huge_ties_have_a_finite_gradient() -> None:
    logits = torch.tensor([[1e30, -5e29, -1e30, 1e30, -1e30, -1e30, 8e29]], requires_grad=True)
    losses.TopKEntropyLoss(k=5)(logits, torch.tensor([4])).backward()
    assert logits.grad.isfinite().all()


def test_logits_that_are_transposed_warn_of_nothing() -> None:
    logits = torch.randn(7, 2, 3).transpose(0, 2)
    value = losses.TopKSVMLoss(k=3)(logits, torch.zeros(3, 2, dtype=torch.long))
    torch.testing.assert_close(value, losses.TopKSVMLoss(k=3)(logits.contiguous(), torch.zeros(3, 2, dtype=torch.long)))


def test_a_masked_class_costs_neural_sort_no_digits() -> None:
    scores = torch.tensor([1.0, 2.0, 1.5, -1e30])
    exact = NeuralSort()(torch.tensor([1.0, 2.0, 1.5, -1e4], dtype=torch.float64), 3)
    torch.testing.assert_close(NeuralSort()(scores, 3)[:, :3].double(), exact[:, :3], rtol=1e-5, atol=1e-5)
    assert NeuralSort()(torch.tensor([3e38, -3e38, 0.0]), 2).isfinite().all()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("NoisedTopKLoss", {"epsilon": 1e300}),
        ("NoisedTopKLoss", {"epsilon": 10**400}),
        ("NoisedTopKLoss", {"margin": 1e31}),
        ("FocalLoss", {"gamma": 1e300}),
        ("SmoothTopKLoss", {"tau": 1e-310}),
    ],
)
def test_numbers_that_float32_does_not_hold(name: str, arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"1e-?30|finite number"):
        getattr(losses, name)(**arguments)


def test_integers_that_64_bits_do_not_hold() -> None:
    with pytest.raises(
        ValueError, match=r"`ignore_index` should be an integer of 64 bits\. Found `ignore_index = 9223"
    ):
        losses.CrossEntropyLoss(ignore_index=2**63)
    with pytest.raises(
        ValueError, match=r"`k` should be an integer of 64 bits\. Found `k = 2\*\*1328 or more in size`"
    ):
        losses.NoisedTopKLoss(k=10**400)
    with pytest.raises(ValueError, match=r"`num_classes` should be at most 10\*\*8"):
        RankHistogram(2**40)
    with pytest.raises(ValueError, match=r"`num_samples` should be at most 10\*\*6\. Found `num_samples = 2147483648`"):
        losses.NoisedTopKLoss(num_samples=2**31)


def test_a_number_of_guesses_from_numpy() -> None:
    logits, targets = torch.randn(2, 6), torch.tensor([0, 1])
    found = losses.topk_svm_loss(logits, targets, k=np.int64(3))
    assert found == losses.topk_svm_loss(logits, targets, k=3)


def test_noise_below_float32_is_none() -> None:
    logits, targets = torch.randn(2, 6), torch.tensor([0, 1])
    hard = losses.GaussianTopKLoss(k=2, epsilon=0.0)(logits, targets)
    assert losses.GaussianTopKLoss(k=2, epsilon=1e-283)(logits, targets) == hard


def test_arguments_of_functions_are_checked() -> None:
    logits, targets = torch.randn(2, 6), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"`weight` should be a tensor of one real number per class\. Found list"):
        cross_entropy_loss(logits, targets, weight=[1.0] * 6)
    with pytest.raises(TypeError, match=r"`ignore_index` should be an integer"):
        cross_entropy_loss(logits, targets, ignore_index=None)
    with pytest.raises(TypeError, match=r"`generator` should be a torch\.Generator\. Found int"):
        noised_topk_loss(logits, targets, k=1, generator=3)
    with pytest.raises(TypeError, match=r"`noise` should be a floating point tensor\. Found list"):
        noised_topk_loss(logits, targets, k=1, noise=[[0.0]])
    with pytest.raises(TypeError, match=r"`operator` should be a SoftSortOperator"):
        losses.sorting_topk_loss(logits, targets, k=1, operator=None)
    with pytest.raises(TypeError, match=r"dtype of 16 to 64 bits\. Found torch\.float8"):
        cross_entropy_loss(logits.to(torch.float8_e4m3fn), targets)
    with pytest.raises(TypeError, match=r"`logits` should be a dense tensor\. Found the layout torch\.sparse_coo"):
        cross_entropy_loss(logits.to_sparse(), targets)
    with pytest.raises(TypeError, match=r"`targets` should be a dense tensor"):
        cross_entropy_loss(logits, targets.to_sparse())
    with pytest.raises(TypeError, match=r"`p_k` should be a list of numbers\. Found int: 3"):
        losses.SortingTopKLoss(k=2, p_k=3)
    with pytest.raises(TypeError, match=r"`weight` should hold one finite number >= 0 per class\. Found str: 'abc'"):
        losses.CrossEntropyLoss(weight="abc")
    with pytest.raises(TypeError, match=r"`weight` .* Found torch\.complex64"):
        losses.CrossEntropyLoss(weight=torch.ones(6, dtype=torch.complex64))
    with pytest.raises(TypeError, match=r"`ks` should be a list of integers\. Found int: 3"):
        topk_metrics(5, ks=3)
    with pytest.raises(TypeError, match=r"`ignore_index` should be an integer"):
        RankHistogram(5, ignore_index="a")


def test_counts_of_any_integer_dtype_and_arrays_that_run_backwards() -> None:
    assert check_counts(np.array([1, 2, 3])[::-1]).tolist() == [3, 2, 1]
    assert check_counts(torch.tensor([1, 2], dtype=torch.uint16)).tolist() == [1, 2]
    assert class_counts(np.array([1, 1, 0], dtype=np.uint8)[::-1]).tolist() == [1, 2]
    frozen = np.array([3, 4])
    frozen.flags.writeable = False
    assert check_counts(frozen).tolist() == [3, 4]


@pytest.mark.parametrize("bad", [1e300, 2**62, float("inf")])
def test_counts_beyond_all_whole_floats(bad: float) -> None:
    with pytest.raises(ValueError, match=r"one non-negative whole number per class\. Found \S+ for class 1"):
        check_counts([1, bad])


def test_labels_that_are_no_labels() -> None:
    with pytest.raises(ValueError, match=r"class indices in \[0, 100000000\)\. Found 1099511627776"):
        class_counts([2**40])  # an identifier in the place of a label, and not a table of eight terabytes
    with pytest.raises(ValueError, match=r"class indices in \[0, 1\)\. Found -5"):
        class_counts([-5])
    with pytest.raises(TypeError, match=r"integer class indices\. Found str: 'ab'"):
        class_counts("ab")


def test_the_ends_of_a_schedule_are_exact() -> None:
    assert Cosine(1.06, 2e9, 5)(0) == 1.06
    assert Cosine(2e9, 1.06, 5)(9) == 1.06


def test_schedules_of_no_number() -> None:
    with pytest.raises(ValueError, match=r"`step` should be a finite number\. Found `step = nan`"):
        Linear(1.0, 0.0, 10)(float("nan"))
    with pytest.raises(ValueError, match=r"length of the run, total > 0\. Found `total = a`"):
        Linear(1.0, 0.0)(1, "a")
    with pytest.raises(TypeError, match=r"`milestones` should be a list of numbers\. Found int: 3"):
        Piecewise(3, [1.0])


def test_the_cosine_head_at_the_ends_of_the_range() -> None:
    head = NormalizedLinear(4, 3)
    x = torch.randn(2, 4)
    for size in (1e-25, 1e25):
        torch.testing.assert_close(head(size * x), head(x), rtol=1e-5, atol=1e-6)
    zero = torch.zeros(1, 4, dtype=torch.half)
    assert not NormalizedLinear(4, 3, dtype=torch.half)(zero).any()
    with pytest.raises(ValueError, match=r"`features` should have shape \[\.\.\., 4\]\. Found \[2, 3\]"):
        head(x[:, :3])
    with pytest.raises(TypeError, match=r"the dtype of the weights, torch\.float32\. Found torch\.float64"):
        head(x.double())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (".a", r"should name a class that can be imported\. Found '\.a'"),
        ("..", r"should name a class that can be imported\. Found '\.\.'"),
        ("lightning_topk.losses.TopKLoss", r"TopKLoss is a base class and cannot be made"),
        ("PriorAdjustedLoss", r"PriorAdjustedLoss should be given its required arguments\. Found no `loss`"),
        ({"class_path": "FocalLoss", "init_args": 3}, r"`init_args` should be a mapping .* Found 3"),
        ({"class_path": "FocalLoss", "init_args": {3: 4}}, r"`init_args` should be a mapping"),
    ],
)
def test_descriptions_of_no_loss(spec: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build_loss(spec)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ({"class_path": "LapSum", "init_args": {"b": 3}}, r"LapSum should be given its own arguments\. Found `b`"),
        ({"class_path": "noised_topk"}, r"`operator` should be a SoftTopKOperator"),
        ({"class_path": "SoftTopKOperator"}, r"SoftTopKOperator is a base class"),
    ],
)
def test_descriptions_of_no_operator(operator: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        losses.SoftTopKLoss(k=2, operator=operator)


def test_smoothed_relu_in_half_precision() -> None:
    x = torch.tensor([65504.0, -65504.0, 0.0], dtype=torch.half)
    assert smoothed_relu(x, 1e-30).tolist() == [65504.0, 0.0, 0.0]
    with pytest.raises(TypeError, match=r"`values` should be a floating point tensor of 16 to 64 bits\. Found list"):
        smoothed_relu([1.0])


@pytest.mark.parametrize("ks", [np.array(3), torch.tensor(3), 3], ids=repr)
def test_one_number_is_no_list_of_k(ks: object) -> None:
    with pytest.raises(TypeError, match=r"`ks` should be a list of integers\. Found "):
        topk_metrics(5, ks)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("-inf"), float("inf"), float("nan")])
def test_a_row_that_is_not_finite_is_nan_where_all_classes_are_looked_at(
    case: Case, dtype: torch.dtype, value: float
) -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[1, 5] = value
    losses_of_rows = case.make(6, reduction="none").eval()(logits, torch.tensor([4, 3, 4, 1]))
    assert losses_of_rows.isnan().tolist() == [False, True, False, False]
