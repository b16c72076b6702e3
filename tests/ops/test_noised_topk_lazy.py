"""Lazy noise against the noise of all classes: the same law, whatever the scores, and what it costs."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, ks_2samp, norm

from lightning_topk.ops import _gather, _lazy_noise, _lazy_noise_choice, _zeroed, gaussian_topk, noised_topk
from lightning_topk.ops._full_noise import full_draws_on_cpu
from lightning_topk.ops._lazy_noise_choice import cheapest_draws
from lightning_topk.ops._lazy_noise_events import domination, draw_events, rates
from lightning_topk.ops._lazy_noise_split import split_classes
from lightning_topk.ops._lazy_noise_threshold import even_thresholds

# Far below what chance gives in the few hundred comparisons here, whose seeds are fixed; an error of law of a percent
# in a few classes is found with these numbers of draws.
SIGNIFICANT = 1e-4
FEW_IN_ALL = _lazy_noise_choice._FEW_IN_ALL


@pytest.fixture(autouse=True)
def lazy_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the lazy path for few rows too, which would be drawn in full as that is faster."""
    monkeypatch.setattr(_lazy_noise_choice, "_FEW_IN_ALL", 1)


@pytest.fixture
def always_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lazy_noise_choice, "_CLASSES_PER_POINT", 0)
    monkeypatch.setattr(_lazy_noise_choice, "_FEW_IF_EVEN", 0)


def both(row: torch.Tensor, k: int, epsilon: float, seed: int, rows: int = 1500, draws: int = 20):
    """Classes and added noise of many draws for one row of scores, lazy and in full."""
    generator = torch.Generator().manual_seed(seed)
    scores = row.expand(rows, -1)
    lazy = cheapest_draws(scores, k, epsilon, draws, generator)[:2]
    return lazy, full_draws_on_cpu(scores, k, epsilon, draws, generator)


def assert_same_law(row: torch.Tensor, lazy, full) -> None:
    """Compare the classes by chi-square, and the values and the noise by Kolmogorov and Smirnov."""
    counts = [np.bincount(classes.flatten().numpy(), minlength=row.numel()) for classes, _ in (lazy, full)]
    order = np.argsort(-(counts[0] + counts[1]), kind="stable")
    pools = np.cumsum((counts[0] + counts[1])[order]) // 60  # consecutive classes, with 60 draws or more together
    table = np.array([np.bincount(pools, weights=count[order]) for count in counts])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] > 1:
        assert chi2_contingency(table).pvalue > SIGNIFICANT
    values = [(row[classes] + added).flatten().numpy() for classes, added in (lazy, full)]
    assert ks_2samp(*values).pvalue > SIGNIFICANT
    noise = [added.flatten().numpy() for _, added in (lazy, full)]
    assert ks_2samp(*noise).pvalue > SIGNIFICANT
    assert abs(values[0].mean() - values[1].mean()) < 5 * values[1].std() * (2 / values[1].size) ** 0.5
    means = [value.reshape(lazy[0].shape).mean(-1) for value in values]  # over draws: they should be independent
    assert ks_2samp(*means).pvalue > SIGNIFICANT
    assert abs(np.log(means[0].var() / means[1].var())) < 5 * (4 / means[0].size) ** 0.5


@pytest.mark.usefixtures("always_lazy")
@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize(
    ("spread", "epsilon"), [(0.0, 1.0), (0.1, 1.0), (0.3, 1.0), (1.0, 1.0), (3.0, 1.0), (10.0, 1.0), (3.0, 1e3)]
)
def test_same_law_for_every_spread(k: int, spread: float, epsilon: float) -> None:
    row = spread * torch.randn(607, generator=torch.Generator().manual_seed(1))
    row[5] += 8 * spread
    assert_same_law(row, *both(row, k, epsilon, seed=k))


@pytest.mark.usefixtures("always_lazy")
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_same_law_of_a_high_rank(spread: float) -> None:
    row = spread * torch.randn(3500, generator=torch.Generator().manual_seed(1))
    assert_same_law(row, *both(row, 51, 1.0, seed=2, rows=250))


@pytest.mark.usefixtures("always_lazy")
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(torch.arange(600.0).remainder(7) * 0.5, id="ties"),
        pytest.param(torch.randn(600, generator=torch.Generator().manual_seed(0)).exp(), id="heavy-tail"),
        pytest.param(torch.cat((torch.randn(20), torch.full((580,), -1e30))), id="few-unmasked"),
        pytest.param(torch.cat((torch.zeros(80), torch.full((520,), -5.0))), id="two-levels"),
        pytest.param(torch.arange(600.0) * 0.02, id="sorted"),
        pytest.param(torch.arange(600.0).flip(0) * 0.02 + 1e4, id="far-from-zero"),
    ],
)
def test_same_law_for_odd_rows(row: torch.Tensor) -> None:
    assert_same_law(row, *both(row, 6, 1.0, seed=3))


@pytest.mark.usefixtures("always_lazy")
def test_blocks_of_rows_do_not_change_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lazy_noise_choice, "_BLOCK", 70_000)
    row = torch.randn(607, generator=torch.Generator().manual_seed(1))
    assert_same_law(row, *both(row, 6, 1.0, seed=6))
    expected = torch.arange(1500.0) * 100
    scores = row + expected[:, None]
    value = noised_topk(scores, 6, num_samples=1)
    assert (value - expected).abs().max() < 8  # every row in its place


@pytest.mark.usefixtures("always_lazy")
@pytest.mark.parametrize("shift", [2.0, 4.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_a_misleading_threshold_does_not_change_the_law(
    monkeypatch: pytest.MonkeyPatch, spread: float, shift: float
) -> None:
    """Cells with less than k noised scores above the threshold are completed below it."""
    completed = []
    complete = _lazy_noise._complete
    monkeypatch.setattr(_lazy_noise, "_complete", lambda *a: completed.append(1) or complete(*a))
    monkeypatch.setattr(_lazy_noise_choice, "_POINTS_PER_RANK", -1)
    monkeypatch.setattr(_lazy_noise_choice, "even_thresholds", lambda *a: even_thresholds(*a) + np.float32(shift - 3))
    row = spread * torch.randn(600, generator=torch.Generator().manual_seed(1))
    lazy, full = both(row, 6, 1.0, seed=4, rows=400)
    assert_same_law(row, lazy, full)
    assert (len(completed) > 1000) == (shift == 4.0 and spread < 3.0)


@pytest.mark.parametrize("lowest", [0.25, 1.0, 3.0])
def test_the_dominating_density_dominates(lowest: float) -> None:
    z = np.linspace(lowest, 12.0, 2000)
    for start in (lowest, 1.5 * lowest):
        above = z[z >= start]
        bound = domination(lowest) * above / start * np.exp(-(above**2) / 2)
        assert (bound * (1 + 1e-12) >= norm.pdf(above) / norm.cdf(above)).all()


def test_events_are_the_noise_above_the_threshold() -> None:
    """Each class that is no candidate is found with the probability of its noise, and the noise has its normal tail."""
    scores = 0.7 * torch.randn(1, 515, generator=torch.Generator().manual_seed(0))
    split = split_classes(scores, 6, 1.0, 64, 4)
    draws = 5000
    threshold = split.highest + 0.75
    needed = np.broadcast_to(threshold[:, None], (1, draws))
    rate = rates(split, threshold)
    events = draw_events(scores, split, threshold, rate, needed, torch.Generator().manual_seed(1))
    lowest = threshold[0] - (scores.numpy()[0] - split.origin[0, 0])
    others = np.setdiff1d(np.arange(515), split.classes[0])
    assert np.isin(events.classes, others).all()
    assert np.unique(events.cells * 515 + events.classes).size == events.cells.size
    expected = draws * norm.sf(lowest[others])
    found = np.bincount(events.classes, minlength=515)[others]
    assert ((found - expected) ** 2 / (expected + 1)).sum() < chisquare_bound(others.size)
    rank = norm.sf(events.noise) / norm.sf(lowest[events.classes])
    assert chisquare(np.histogram(rank, 20, (0, 1))[0]).pvalue > SIGNIFICANT
    torch.testing.assert_close(events.values, scores.numpy()[0, events.classes] - split.origin[0, 0] + events.noise)


def chisquare_bound(freedom: int) -> float:
    """Five standard deviations above the mean of a chi-square variable."""
    return freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("num_classes", [512, 513, 519, 3001, 10_007])
def test_candidates_and_blocks_part_the_classes(num_classes: int) -> None:
    scores = torch.randn(5, num_classes, generator=torch.Generator().manual_seed(0))
    group_size = _lazy_noise_choice._group_size(num_classes)
    split = split_classes(scores, 6, 0.5, 64, group_size)
    for row in range(5):
        level = scores[row].numpy() - split.origin[row, 0]
        best = np.sort(level)[::-1][:64]
        np.testing.assert_array_equal(np.sort(split.levels[row])[::-1], 2 * best)
        np.testing.assert_array_equal(2 * level[split.classes[row]], split.levels[row])
        assert split.highest[row] == 2 * split.bounds[row].max()
        seen = list(split.classes[row])
        for block in np.flatnonzero(split.bounds[row] > -np.inf):
            if block < split.num_groups:
                members = np.arange(block, num_classes, split.num_groups)
                assert members.size <= group_size
            else:
                members = split.singles[row, [block - split.num_groups]]
            assert level[members].max() == split.bounds[row, block]
            seen += list(members)
        assert sorted(seen) == list(range(num_classes))
        assert split.origin[row, 0] == scores[row].sort(descending=True).values[5]


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_unbiased_against_the_exact_smoothing(spread: float) -> None:
    row = (spread * torch.randn(700, generator=torch.Generator().manual_seed(1))).double()
    leaf, exact = row.clone().requires_grad_(), row.clone().requires_grad_()
    values = noised_topk(leaf.expand(4000, -1), 6, num_samples=5, generator=torch.Generator().manual_seed(0))
    values.mean().backward()
    value = gaussian_topk(exact, 6)
    value.backward()
    values, value = values.detach(), value.detach()
    assert abs(values.mean() - value) < 5 * values.std() / 4000**0.5
    error = (leaf.grad - exact.grad) ** 2 / (exact.grad / 20_000 + 1e-9)
    assert float(error[exact.grad > 1e-4].sum()) < chisquare_bound(int((exact.grad > 1e-4).sum()))


def test_gradient_counts_the_draws_that_choose_a_class() -> None:
    logits = torch.randn(40, 900, requires_grad=True)
    noised_topk(logits, 6, num_samples=8, generator=torch.Generator().manual_seed(0)).sum().backward()
    classes, _, _ = cheapest_draws(logits.detach(), 6, 1.0, 8, torch.Generator().manual_seed(0))
    expected = torch.zeros(40, 900).scatter_add_(1, classes, torch.full(classes.shape, 1 / 8))
    torch.testing.assert_close(logits.grad, expected)
    torch.testing.assert_close(logits.grad.sum(-1), torch.ones(40))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_every_precision(dtype: torch.dtype, spread: float) -> None:
    row = (spread * torch.randn(2000, generator=torch.Generator().manual_seed(1))).to(dtype)
    lazy, full = both(row, 6, 1.0, seed=5, rows=300)
    assert lazy[1].dtype == full[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same_law(row.double(), lazy, full)
    logits = row.expand(8, -1).clone().requires_grad_()
    value = noised_topk(logits, 6, generator=torch.Generator().manual_seed(0))
    value.sum().backward()
    assert value.dtype == logits.grad.dtype == dtype
    assert (logits.grad.float() * 5 - (logits.grad.float() * 5).round()).abs().max() < 0.02


@pytest.mark.parametrize("epsilon", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("spread", [0.0, 1.0, 1e4])
def test_extreme_noise(epsilon: float, spread: float) -> None:
    scores = spread * torch.randn(16, 2000, generator=torch.Generator().manual_seed(0))
    value = noised_topk(scores, 6, epsilon=epsilon, generator=torch.Generator().manual_seed(0))
    assert value.isfinite().all()
    hard = scores.sort(descending=True).values[:, 5]
    # A mean of five 6th largest of 2,000 normal numbers lies between 2 and 4; so do the six largest on both sides.
    if epsilon <= 1e-6:
        torch.testing.assert_close(value, hard, atol=4 * epsilon, rtol=1e-6)
    elif spread == 0.0 or epsilon == 1e30:
        assert ((value / epsilon > 2) & (value / epsilon < 4)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_row_is_drawn_in_full_and_leaves_the_others_alone(bad: float) -> None:
    scores = 3 * torch.randn(6, 2000, generator=torch.Generator().manual_seed(0))
    scores[2, 7] = bad
    value = noised_topk(scores, 1, generator=torch.Generator().manual_seed(1))
    assert value[[0, 1, 3, 4, 5]].isfinite().all()
    assert bool(value[2].isfinite()) == (bad == -float("inf"))
    scores[2] = bad
    value = noised_topk(scores, 6, generator=torch.Generator().manual_seed(1))
    assert value[[0, 1, 3, 4, 5]].isfinite().all()
    assert not value[2].isfinite()


@pytest.mark.parametrize("lowest", [-1e30, float(torch.finfo(torch.float32).min), -float("inf")])
@pytest.mark.parametrize("free", [3, 6, 40, 100])
def test_masked_classes_are_chosen_only_where_too_few_are_free(lowest: float, free: int) -> None:
    scores = torch.full((32, 1000), lowest)
    scores[:, 5 : 5 + free] = torch.randn(32, free, generator=torch.Generator().manual_seed(0))
    classes, _, _ = cheapest_draws(scores, 6, 1.0, 5, torch.Generator().manual_seed(0))
    assert (((classes >= 5) & (classes < 5 + free)) == (free >= 6)).all()


def test_rows_are_drawn_by_what_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is drawn in full where events would cost more, and every row keeps its place."""
    full = []
    draw = _lazy_noise_choice.full_draws_on_cpu
    monkeypatch.setattr(
        _lazy_noise_choice, "full_draws_on_cpu", lambda scores, *a: full.append(len(scores)) or draw(scores, *a)
    )
    spread = torch.tensor([0.0, 10.0]).repeat(40)
    offset = 1000.0 * torch.arange(80)
    monkeypatch.setattr(_lazy_noise_choice, "_FEW_IF_EVEN", 0)
    scores = spread[:, None] * torch.randn(80, 600) + offset[:, None]
    classes, added, _ = cheapest_draws(scores, 6, 1.0, 5, torch.Generator().manual_seed(0))
    value = scores.gather(1, classes) + added - offset[:, None]
    assert full in ([], [40])
    monkeypatch.setattr(_lazy_noise_choice, "_CLASSES_PER_POINT", 600)
    classes, added, _ = cheapest_draws(scores, 6, 1.0, 5, torch.Generator().manual_seed(0))
    assert full[-1] == 40
    for values in (value, scores.gather(1, classes) + added - offset[:, None]):
        assert ((values[::2] > 1) & (values[::2] < 4)).all()
        torch.testing.assert_close(
            values[1::2], (scores - offset[:, None]).topk(6).values[1::2, 5:].expand(-1, 5), atol=6.0, rtol=0
        )


@pytest.mark.parametrize(
    ("shape", "spread", "lazy"),
    [((128, 300), 3.0, 0), ((1, 10_000), 3.0, 0), ((128, 1000), 0.3, 0), ((128, 1000), 3.0, 1), ((128, 4000), 0.0, 1)],
)
def test_what_is_cheap_in_full_is_drawn_in_full(monkeypatch, shape, spread: float, lazy: int) -> None:
    monkeypatch.setattr(_lazy_noise_choice, "_FEW_IN_ALL", FEW_IN_ALL)
    called = []
    draw = _lazy_noise_choice.lazy_draws
    monkeypatch.setattr(_lazy_noise_choice, "lazy_draws", lambda *a: called.append(1) or draw(*a))
    noised_topk(spread * torch.randn(shape, generator=torch.Generator().manual_seed(0)), 6)
    assert len(called) == lazy


def test_generator_is_the_only_source() -> None:
    scores = torch.randn(64, 2000)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second, third = (noised_topk(scores, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(5)
    first = noised_topk(scores, 6)
    torch.manual_seed(5)
    assert torch.equal(noised_topk(scores, 6), first)


def test_any_layout_and_shape() -> None:
    base = 3 * torch.randn(2000, 12, generator=torch.Generator().manual_seed(0))
    expected = noised_topk(base.t().contiguous(), 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noised_topk(base.t(), 6, generator=torch.Generator().manual_seed(0)), expected)
    folded = noised_topk(base.t().reshape(3, 4, 2000), 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(folded, expected.reshape(3, 4))
    assert noised_topk(torch.zeros(0, 2000), 6).shape == (0,)
    assert noised_topk(torch.zeros(2000), 6).shape == ()
    wide = torch.zeros(8, 4000)
    wide[:, ::2] = base.t()[:8]
    assert torch.equal(
        noised_topk(wide[:, ::2], 6, generator=torch.Generator().manual_seed(0)),
        noised_topk(base.t()[:8].contiguous(), 6, generator=torch.Generator().manual_seed(0)),
    )


@pytest.mark.parametrize("num_classes", [600, 1000, 2000])
def test_few_classes_near_the_threshold_are_drawn_lazily(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the spread: a long tail of low scores says nothing on the classes that decide."""
    calls: list[str] = []
    split = _lazy_noise_choice.split_classes
    monkeypatch.setattr(_lazy_noise_choice, "split_classes", lambda *given: (calls.append("lazy"), split(*given))[1])
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, num_classes, generator=generator)
    low = torch.linspace(-30, 0, num_classes)
    crowded = torch.where(torch.arange(num_classes) % 2 == 0, low, 0.3 * normal)
    for scores, lazily in ((3 * normal, True), (0.3 * normal, False), (crowded, False)):
        calls.clear()
        cheapest_draws(scores, 6, 1.0, 5, generator)
        assert bool(calls) == lazily
    cheapest_draws(0.3 * normal, 6, 0.01, 5, generator)
    assert calls == ["lazy"]


def test_all_finite_is_told_only_where_it_is_so() -> None:
    scores = 3 * torch.randn(200, 2000, generator=torch.Generator().manual_seed(0))
    assert cheapest_draws(scores, 6, 1.0, 5, None)[2]
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoiled = scores.clone()
        spoiled[190, 1999] = bad
        assert not cheapest_draws(spoiled, 6, 1.0, 5, None)[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_memory_is_that_of_the_gradient(dtype: torch.dtype, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_gather, _zeroed):
        monkeypatch.setattr(module, "LARGE", 1 << 60)  # so that the profiler sees the gradient
    logits = (spread * torch.randn(128, 10_000)).to(dtype).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        noised_topk(logits, 6).sum().backward()
    used = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            used += event.nbytes()
            most = max(most, used)
    # Two bytes an entry leave less room for what the forward pass makes; a copy in float32 would take 4 and more.
    assert most <= (1.1 if dtype == torch.float32 else 2.0) * logits.numel() * logits.element_size()
