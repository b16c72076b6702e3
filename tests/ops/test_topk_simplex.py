"""The maxima over capped and top-K simplices, for every entry left out at once."""

import pytest
import torch

from lightning_topk.ops import capped_logsumexp, topk_simplex_maximum
from lightning_topk.ops._places import places

S = torch.tensor([4.0, -1.5, 2.5, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0, 1000.0])
@pytest.mark.parametrize("k", [1, 3, 9, 19])
def test_all_entries_at_once_are_each_by_itself(scale: float, k: int) -> None:
    logits = scale * torch.randn(4, 20, dtype=torch.float64)
    every = torch.arange(20).expand(4, 20)
    for operator in (
        lambda i: capped_logsumexp(logits, i, k),
        lambda i: topk_simplex_maximum(logits, i, k, margin=1.0),
        lambda i: topk_simplex_maximum(logits, i, k, margin=1.0, variant="beta", gamma=0.3),
    ):
        each = torch.cat([operator(every[:, [j]]) for j in range(20)], -1)
        torch.testing.assert_close(operator(every), each, rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(operator(every.flip(-1)), each.flip(-1), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_gradient_of_the_capped_logsumexp_is_a_capped_softmax(scale: float, k: int) -> None:
    logits = (scale * torch.randn(16, 12, dtype=torch.float64)).requires_grad_()
    index = torch.randint(12, (16, 1))
    capped_logsumexp(logits, index, k).sum().backward()
    q = logits.grad
    assert q.gather(-1, index).abs().max() < 1e-12
    torch.testing.assert_close(q.sum(-1), torch.ones(16, dtype=torch.float64))
    assert q.min() > -1e-12
    assert q.max() <= 1 / k + 1e-12
    # Below the cap the shares are proportional to exp(s), and the capped ones are those that would be above it.
    others = torch.ones_like(q, dtype=torch.bool).scatter(-1, index, False)
    free = others & (q < 1 / k - 1e-9)
    odds = torch.where(free, (logits - logits.amax(-1, keepdim=True)).exp(), 0.0)
    left = torch.where(free, q, 0.0).sum(-1, keepdim=True)
    torch.testing.assert_close(torch.where(free, q, 0.0), left * odds / odds.sum(-1, keepdim=True).clamp(min=1e-300))


def test_capped_logsumexp_with_one_share_is_logsumexp() -> None:
    expected = torch.stack([S[[1, 2, 3]], S[[0, 2, 3]], S[[0, 1, 3]], S[[0, 1, 2]]]).logsumexp(-1)
    torch.testing.assert_close(capped_logsumexp(S, torch.arange(4), 1), expected)
    torch.testing.assert_close(capped_logsumexp(S, torch.tensor([2]), 1), expected[[2]])


def test_capped_logsumexp_of_exactly_k_others_is_their_mean_and_log_k() -> None:
    expected = S[1:].mean() + torch.tensor(3.0, dtype=torch.float64).log()
    torch.testing.assert_close(capped_logsumexp(S, torch.tensor([0]), 3)[0], expected)


def test_places() -> None:
    order = torch.tensor([[2, 0], [3, 1]])
    assert places(order, torch.arange(4).expand(2, 4), 4).tolist() == [[1, 2, 0, 2], [2, 1, 2, 0]]
    assert places(order, torch.tensor([[0], [0]]), 4).tolist() == [[1], [2]]


@pytest.mark.parametrize("k", [4, 5])
def test_too_few_classes(k: int) -> None:
    with pytest.raises(ValueError, match=rf"`k` should be in \[1, C\), as K of the C - 1 .* Found `k = {k}` with"):
        capped_logsumexp(S, torch.tensor([0]), k)
    with pytest.raises(ValueError, match=rf"`k` should be in \[1, C\) for `variant = \"alpha\"`\. Found `k = {k}`"):
        topk_simplex_maximum(S, torch.tensor([0]), k)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"`logits` should have a floating point dtype"):
        capped_logsumexp(S.long(), torch.tensor([0]), 1)
    with pytest.raises(ValueError, match=r"`gamma` should be a finite number > 0"):
        topk_simplex_maximum(S, torch.tensor([0]), 1, gamma=-1.0)
    with pytest.raises(ValueError, match=r"`variant` should be one of 'alpha', 'beta'"):
        topk_simplex_maximum(S, torch.tensor([0]), 1, variant="psi1")
