"""Gradients of few entries in memory that the system hands out zeroed, against those that torch writes."""

import resource

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from lightning_topk.losses import NoisedTopKLoss
from lightning_topk.ops import _gather, _zeroed
from lightning_topk.ops._gather import gather_float32
from lightning_topk.ops._zeroed import LARGE, zeros

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take such memory for small gradients too, which torch zeroes faster."""
    monkeypatch.setattr(_gather, "LARGE", 1)
    monkeypatch.setattr(_zeroed, "LARGE", 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, LARGE])
def test_zeros_are_a_tensor_like_any_other(dtype: torch.dtype, size: int) -> None:
    made = zeros((2, size), torch.empty(0, dtype=dtype))
    assert made.shape == (2, size)
    assert made.dtype == dtype
    assert made.device.type == "cpu"
    assert made.is_contiguous()
    assert made.data_ptr() % 64 == 0
    assert not made.any()
    made += 1
    assert float(made[1, -1]) == 1
    assert zeros((3,), made, torch.float64).dtype == torch.float64


def test_what_is_not_touched_costs_no_memory() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    before = resident()
    made = zeros((1 << 26,), torch.empty(0))
    made[:: 1 << 24] = 1
    # Four pages, huge ones at most, of 256 MB.
    assert resident() - before < made.nbytes / 8
    assert float(made.sum()) == 4


def test_other_devices_and_tracers_make_their_own_zeros() -> None:
    assert zeros((LARGE,), torch.empty(0, device="meta")).device.type == "meta"
    with FakeTensorMode() as mode:
        like = mode.from_tensor(torch.empty(0))
        assert type(zeros((LARGE,), like)) is type(like)
    made = torch.compile(lambda like: zeros((LARGE,), like), backend="aot_eager")(torch.empty(1))
    assert made.shape == (LARGE,)


@pytest.mark.usefixtures("for_little")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_that_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 5, 11, generator=generator).to(dtype)
    indices = torch.randint(11, (7, 5, 4), generator=generator)
    slopes = torch.rand(7, 5, 4, generator=generator)
    ours, theirs = (
        scores.clone().requires_grad_(),
        scores.to(torch.promote_types(dtype, torch.float32)).requires_grad_(),
    )
    for _ in range(2):  # the second one is added to the first
        (gather_float32(ours, indices) * slopes).sum().backward()
        (theirs.gather(-1, indices) * slopes).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad.to(dtype))
    assert ours.grad.is_contiguous()


@pytest.mark.usefixtures("for_little")
def test_derivatives_of_the_gradient() -> None:
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[0, 0, 5], [1, 2, 3], [4, 4, 4]])
    assert gradcheck(lambda s: gather_float32(s, indices), (scores,))
    assert gradgradcheck(lambda s: gather_float32(s, indices) ** 2, (scores,))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")  # of torch itself, where it first takes such a derivative
@pytest.mark.usefixtures("for_little")
def test_forward_mode_takes_the_plain_formula() -> None:
    scores, indices = torch.randn(3, 6, requires_grad=True), torch.tensor([[0, 5], [1, 2], [4, 4]])
    tangent = torch.randn(3, 6)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(scores, tangent)
        found = torch.autograd.forward_ad.unpack_dual(gather_float32(dual, indices)).tangent
    assert torch.equal(found, tangent.gather(-1, indices))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_head_trains_the_same_through_a_large_gradient(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, 4, generator=generator).to(dtype)
    weights = 3 * torch.randn(40_000, 4, generator=generator)
    targets = torch.randint(40_000, (64,), generator=generator)
    gradients = []
    for large in (LARGE, 1 << 60):
        monkeypatch.setattr(_gather, "LARGE", large)
        monkeypatch.setattr(_zeroed, "LARGE", large)
        leaves = features.clone().requires_grad_(), weights.to(dtype).requires_grad_()
        loss = NoisedTopKLoss(generator=torch.Generator().manual_seed(1))
        loss(torch.nn.functional.linear(*leaves), targets).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.any()
