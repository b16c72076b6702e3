"""The cosine classifier."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cosine_similarity

from lightning_topk.heads import NormalizedLinear


def test_logits_are_cosines() -> None:
    head = NormalizedLinear(5, 3)
    features = torch.randn(2, 4, 5)
    expected = torch.stack([cosine_similarity(features, row, dim=-1) for row in head.weight], -1)
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(7 * features), head(features))
    assert list(head.state_dict()) == ["weight"]
    torch.testing.assert_close(head.weight.norm(dim=-1), torch.ones(3))


def test_zero_features_give_zero_logits_and_finite_gradients() -> None:
    features = torch.zeros(2, 5, requires_grad=True)
    logits = NormalizedLinear(5, 3)(features)
    logits.sum().backward()
    assert not logits.any()
    assert features.grad.isfinite().all()


def test_gradcheck() -> None:
    head = NormalizedLinear(4, 3, dtype=torch.float64)
    assert gradcheck(head, (torch.randn(2, 4, dtype=torch.float64, requires_grad=True),))


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match=r"`out_features` should be an integer >= 1\. Found `out_features = 0`"):
        NormalizedLinear(5, 0)
