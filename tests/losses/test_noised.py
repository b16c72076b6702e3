"""The noised top-K losses: worked values, the authors' package, noise, margins, and what users can do wrong."""

import math

import pytest
import pytopk
import torch
from pytopk.functional import bal_noised_topk_loss, imbal_noised_topk_loss
from pytopk.noised_topk import _noised_topk

from lightning_topk.heads import NormalizedLinear
from lightning_topk.losses import ImbalancedNoisedTopKLoss, NoisedTopKLoss, noised_topk_loss
from lightning_topk.ops import _fixed_noise
from lightning_topk.ops._fixed_noise import fixed_noise
from references import noised_hinge

S = torch.tensor([[4.0, -1.5, 2.5, 1.0]], dtype=torch.float64)
TWO_DRAWS = torch.tensor([[0.0, 0.0, 0.0, 2.0], [-2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def test_worked_example() -> None:
    leaf = S.clone().requires_grad_()
    value = noised_topk_loss(leaf, torch.tensor([2]), k=1, noise=TWO_DRAWS)
    value.backward()
    assert value == 1.0  # 1 + (3 + 2) / 2 - 2.5
    assert leaf.grad.tolist() == [[0.5, 0.0, -1.0, 0.5]]


@pytest.mark.parametrize(
    ("k", "values"),
    [
        (1, (0.0, 5.0, 1.0, 2.5)),  # 1 + s_(2) - s_y with s_(2) = 2.5
        (2, (0.0, 3.5, 0.0, 1.0)),  # 1 + s_(3) - s_y with s_(3) = 1
        (3, (0.0, 1.0, 0.0, 0.0)),  # 1 + s_(4) - s_y with s_(4) = -1.5
    ],
)
def test_without_noise_it_is_the_calibrated_hinge(k: int, values: tuple[float, ...]) -> None:
    loss = NoisedTopKLoss(k, epsilon=0.0, reduction="none")
    assert loss(S.expand(4, 4), torch.arange(4)).tolist() == list(values)


def test_agrees_with_the_slow_loop() -> None:
    torch.manual_seed(0)
    logits, noise = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 3, 6, dtype=torch.float64)
    targets, margins = torch.tensor([0, 5, 2, 2, 1]), torch.rand(6, dtype=torch.float64)
    losses = noised_topk_loss(logits, targets, k=2, epsilon=0.4, margin=margins, noise=noise, reduction="none")
    for i, y in enumerate(targets.tolist()):
        expected = noised_hinge(logits[i].tolist(), y, 2, 0.4, noise[i].tolist(), float(margins[y]))
        assert math.isclose(float(losses[i]), expected, rel_tol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("imbalanced", [False, True])
def test_agrees_with_the_authors_package_given_the_same_noise(k: int, imbalanced: bool) -> None:
    torch.manual_seed(0)
    logits, targets, noise = torch.randn(32, 50), torch.randint(50, (32,)), torch.randn(32, 10, 50)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    counts = torch.arange(1, 51)
    if imbalanced:
        margins = pytopk.ImbalNoisedTopK(k=k, epsilon=0.1, cls_num_list=counts.tolist(), max_m=0.3).m_list
        loss = ImbalancedNoisedTopKLoss(k, max_margin=0.3)
        loss.bind_class_counts(counts)
        torch.testing.assert_close(loss.margins, margins.float())
        expected = imbal_noised_topk_loss(
            theirs, targets, k, margins.float(), 0.1, _noised_topk, noise.transpose(1, 2).contiguous(), 60.0
        )
        value = noised_topk_loss(ours, targets, k=k, epsilon=0.1, margin=loss.margins, scale=60.0, noise=noise)
    else:
        expected = bal_noised_topk_loss(theirs, targets, k, 0.1, _noised_topk, noise.transpose(1, 2).contiguous())
        value = noised_topk_loss(ours, targets, k=k, epsilon=0.1, noise=noise)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradient_touches_at_most_one_class_a_draw() -> None:
    torch.manual_seed(0)
    logits = torch.randn(16, 1000, requires_grad=True)
    NoisedTopKLoss(k=5, num_samples=7)(logits, torch.randint(1000, (16,))).backward()
    assert (logits.grad != 0).sum(-1).max() <= 8
    assert (logits.grad.abs().sum(-1) * 16).max() <= 2 + 1e-6


@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("imbalanced", [False, True])
def test_many_classes_follow_the_law_of_the_full_noise(spread: float, imbalanced: bool) -> None:
    """With many classes the noise of few of them is drawn; mean and gradient are those of the noise of all."""
    generator = torch.Generator().manual_seed(0)
    row = spread * torch.randn(3000, generator=generator)
    row[7] = 9.0
    margins = torch.rand(3000, generator=generator) + 8 if imbalanced else 8.0
    drawn = []
    for noise in (None, torch.randn(1500, 5, 3000, generator=generator)):
        logits = row.repeat(1500, 1).requires_grad_()
        targets = torch.full((1500,), 7)
        losses = noised_topk_loss(logits, targets, margin=margins, noise=noise, generator=generator, reduction="none")
        losses.sum().backward()
        drawn.append((losses.detach(), logits.grad.sum(0)))
    (losses, gradient), (full_losses, full_gradient) = drawn
    assert abs(losses.mean() - full_losses.mean()) < 5 * full_losses.std() * (2 / 1500) ** 0.5
    assert float(gradient.sum()) == pytest.approx(0.0, abs=0.05)
    assert gradient[7] == pytest.approx(float(full_gradient[7]), abs=60)
    others = torch.arange(3000) != 7
    pools = (5 * torch.stack((gradient, full_gradient)))[:, others]
    order = pools.sum(0).argsort(descending=True, stable=True)
    pools = pools[:, order].cumsum(1)[:, 99::100].diff(prepend=torch.zeros(2, 1), dim=1)
    difference = (pools[0] - pools[1]) ** 2 / (pools.sum(0) + 1)
    assert difference.sum() < 30 + 5 * 60**0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_gradient_is_rounded_once(dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(64, 5000, generator=torch.Generator().manual_seed(0))).to(dtype)
    gradients = []
    for leaf in (logits.clone().requires_grad_(), logits.float().requires_grad_()):
        loss = noised_topk_loss(
            leaf, torch.arange(64), num_samples=7, margin=30.0, generator=torch.Generator().manual_seed(1)
        )
        loss.backward()
        assert loss.dtype == torch.float32
        gradients.append(leaf.grad)
    assert torch.equal(gradients[0], gradients[1].to(dtype))


def test_more_draws_than_are_compared_in_pairs_give_the_same_gradient() -> None:
    logits = (3 * torch.randn(8, 50, generator=torch.Generator().manual_seed(0))).bfloat16()
    leaf, full = logits.clone().requires_grad_(), logits.float().requires_grad_()
    for each in (leaf, full):
        generator = torch.Generator().manual_seed(1)
        noised_topk_loss(each, torch.arange(8), num_samples=100, margin=30.0, generator=generator).backward()
    assert torch.equal(leaf.grad, full.grad.bfloat16())


def test_training_draws_anew_and_eval_does_not() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 50), torch.randint(50, (4,))
    loss = NoisedTopKLoss(k=5)
    assert loss(logits, targets) != loss(logits, targets)
    loss.eval()
    assert loss(logits, targets) == loss(logits, targets)


def test_the_fixed_noise_of_eval_is_standard_normal() -> None:
    from scipy.stats import kstest

    noise = fixed_noise(5, torch.empty(20_000))
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    correlations = torch.corrcoef(torch.cat([noise, noise.roll(1, -1)]))
    assert (correlations - torch.eye(10)).abs().max() < 0.03


def test_the_fixed_noise_of_eval_is_kept_but_not_from_a_trace() -> None:
    _fixed_noise._kept.cache_clear()
    logits, targets = torch.randn(4, 50), torch.randint(50, (4,))
    loss = NoisedTopKLoss(k=5).eval()
    expected = torch.func.vmap(lambda s, y: loss(s[None], y[None]))(logits, targets)
    torch.compile(loss, backend="eager")(logits, targets)
    assert _fixed_noise._kept.cache_info().currsize == 0
    with torch.inference_mode():
        first = loss(logits, targets)
    leaf = logits.clone().requires_grad_()
    second = loss(leaf, targets)
    second.backward()
    assert first == second.detach()
    torch.testing.assert_close(first, expected.mean())
    assert _fixed_noise._kept.cache_info().hits == 1
    assert torch.equal(fixed_noise(5, logits), _fixed_noise._hashed(5, 50, logits.device))


def test_noise_key_addresses_the_noise() -> None:
    logits, targets = torch.randn(4, 50), torch.randint(50, (4,))
    loss = NoisedTopKLoss(k=5)

    def values(*key: int) -> list[float]:
        loss.seed_noise(*key)
        return [float(loss(logits, targets)) for _ in range(2)]

    first = values(0, 0, 7)
    assert first == values(0, 0, 7)
    assert first[0] != first[1]
    seen = {*first, *values(0, 1, 7), *values(0, 0, 8), *values(1, 0, 7)}
    assert len(seen) == 8
    state = torch.get_rng_state()
    values(3)
    assert torch.equal(state, torch.get_rng_state())


def test_generator_argument() -> None:
    logits, targets = torch.randn(4, 50), torch.randint(50, (4,))
    values = [NoisedTopKLoss(k=5, generator=torch.Generator().manual_seed(seed))(logits, targets) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    with pytest.raises(TypeError, match=r"made of numbers, strings and lists\. Found `generator` of type Generator"):
        NoisedTopKLoss(generator=torch.Generator()).spec()


def test_noised_gradient_is_unbiased() -> None:
    """Averaged over calls, the gradient of active rows is the expected indicator minus the label's."""
    logits = torch.zeros(4000, 3, dtype=torch.float64, requires_grad=True)
    NoisedTopKLoss(k=1, margin=10.0, reduction="sum")(logits, torch.zeros(4000, dtype=torch.long)).backward()
    expected = torch.tensor([1 / 3 - 1, 1 / 3, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(logits.grad.mean(0), expected, atol=0.02, rtol=0)


def test_margins_follow_the_counts_and_the_setting() -> None:
    loss = ImbalancedNoisedTopKLoss(k=1, max_margin=0.5)
    loss.bind_class_counts([1, 16, 81, 256])
    torch.testing.assert_close(loss.margins, torch.tensor([0.5, 0.25, 1 / 6, 0.125]))
    loss.max_margin = 1.0
    torch.testing.assert_close(loss.margins, torch.tensor([1.0, 0.5, 1 / 3, 0.25]))
    constant = ImbalancedNoisedTopKLoss(k=1, margin_constant=2.0)
    constant.bind_class_counts([16, 256])
    torch.testing.assert_close(constant.margins, torch.tensor([1.0, 0.5]))


def test_margins_move_with_the_module() -> None:
    loss = ImbalancedNoisedTopKLoss(k=1)
    loss.bind_class_counts([3, 4])
    moved = loss.to("meta")
    assert moved.margins.device.type == moved.class_counts.device.type == "meta"
    moved.max_margin = 0.4  # a schedule sets it at every step: no value may be read for that
    assert moved.margins.device.type == "meta"


def test_a_class_without_samples_is_named_or_clamped() -> None:
    message = r"Found none for 2 of 4 classes: 1 \(oak\), 3 \(yew\).*`zero_counts=\"clamp\"`"
    with pytest.raises(ValueError, match=message):
        ImbalancedNoisedTopKLoss(k=1).bind_class_counts([1, 0, 5, 0], names=["fir", "oak", "elm", "yew"])
    loss = ImbalancedNoisedTopKLoss(k=1, zero_counts="clamp", max_margin=0.5)
    loss.bind_class_counts([16, 0])
    torch.testing.assert_close(loss.margins, torch.tensor([0.25, 0.5]))
    assert loss.class_counts.tolist() == [16, 0]


def test_needs_counts() -> None:
    with pytest.raises(RuntimeError, match=r"should know the training counts.*Found none: .*bind_class_counts"):
        ImbalancedNoisedTopKLoss(k=1)(S, torch.tensor([0]))
    loss = ImbalancedNoisedTopKLoss(k=1)
    loss.bind_class_counts([1, 2, 3])
    with pytest.raises(ValueError, match=r"one entry per class, shape \[4\]\. Found \[3\]"):
        loss(S, torch.tensor([0]))


@pytest.mark.parametrize("cls", [NoisedTopKLoss, ImbalancedNoisedTopKLoss])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"`k` should be an integer >= 1\. Found `k = 0`"),
        ({"k": 2.0}, TypeError, r"Found `k = 2.0` of type float"),
        ({"epsilon": -0.1}, ValueError, r"`epsilon` should be a finite number >= 0\. Found `epsilon = -0.1`"),
        ({"epsilon": float("nan")}, ValueError, r"Found `epsilon = nan`"),
        ({"num_samples": 0}, ValueError, r"`num_samples` should be an integer >= 1\. Found `num_samples = 0`"),
        ({"scale": 0.0}, ValueError, r"`scale` should be a finite number > 0\. Found `scale = 0.0`"),
    ],
)
def test_bad_parameters(cls, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        cls(**arguments)


def test_bad_own_parameters() -> None:
    with pytest.raises(ValueError, match=r"`margin` should be a finite number >= 0"):
        NoisedTopKLoss(margin=-1.0)
    with pytest.raises(ValueError, match=r"`max_margin` should be a finite number >= 0"):
        ImbalancedNoisedTopKLoss(max_margin=-1.0)
    with pytest.raises(ValueError, match=r"`margin_constant` should be a finite number >= 0"):
        ImbalancedNoisedTopKLoss(margin_constant=-1.0)
    with pytest.raises(ValueError, match=r"`zero_counts` should be one of 'error', 'clamp'"):
        ImbalancedNoisedTopKLoss(zero_counts="ignore")
    loss = NoisedTopKLoss()
    with pytest.raises(ValueError, match=r"`epsilon` should be a finite number >= 0"):
        loss.epsilon = -1.0
    assert loss.epsilon == 1.0


@pytest.mark.parametrize("k", [4, 5])
def test_too_few_classes(k: int) -> None:
    with pytest.raises(ValueError, match=rf"`k` should be in \[1, C\).* Found `k = {k}` with `C = 4`"):
        NoisedTopKLoss(k)(S, torch.tensor([0]))


def test_scale_for_cosines_on_an_ordinary_head_warns_once(recwarn: pytest.WarningsRecorder) -> None:
    targets = torch.tensor([0, 1])
    loss = ImbalancedNoisedTopKLoss(k=1, scale=60.0)
    loss.bind_class_counts([5, 3, 1])
    cosines = NormalizedLinear(4, 3)(torch.randn(2, 4))
    loss(cosines, targets)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"`scale = 60` is meant for cosine logits .* Found logits up to"):
        loss(10 * cosines.sign(), targets)
    for _ in range(3):
        loss(10 * cosines.sign(), targets)
    quiet = ImbalancedNoisedTopKLoss(k=1, scale=1.0)
    quiet.bind_class_counts([5, 3, 1])
    quiet(100 * cosines, targets)
    assert not recwarn.list
