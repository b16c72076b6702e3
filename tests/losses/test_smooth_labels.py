"""Label smoothing as soft labels."""

import pytest
import torch
from torch.nn import functional as F

from lightning_topk.losses import CrossEntropyLoss, FocalLoss, smooth_labels


def test_values() -> None:
    assert smooth_labels(torch.tensor([2]), 4, 0.2)[0].tolist() == pytest.approx([0.05, 0.05, 0.85, 0.05])
    mixed = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    smoothed = smooth_labels(mixed, 4, 0.2)
    assert smoothed[0].tolist() == pytest.approx([0.45, 0.45, 0.05, 0.05])
    assert smoothed.dtype == torch.float64
    assert smooth_labels(torch.zeros(2, 3, dtype=torch.int32), 5).shape == (2, 3, 5)
    one_hot = F.one_hot(torch.tensor([2, 0]), 4).float()
    assert torch.equal(smooth_labels(torch.tensor([2, 0]), 4, 0.0), one_hot)
    assert torch.equal(smooth_labels(one_hot, 4, 1.0), torch.full((2, 4), 0.25))


def test_cross_entropy_smooths_as_torch_does() -> None:
    logits, targets = torch.randn(9, 5), torch.randint(5, (9,))
    targets[::3] = -100
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropyLoss()(logits, smooth_labels(targets, 5)), expected)


def test_ignored_targets_become_rows_that_count_nothing() -> None:
    targets = torch.tensor([1, 3, 0])
    smoothed = smooth_labels(targets, 4, 0.1, ignore_index=3)
    assert not smoothed[1].any()
    logits = torch.randn(3, 4, requires_grad=True)
    value = FocalLoss()(logits, smoothed)
    value.backward()
    torch.testing.assert_close(value, FocalLoss()(logits[::2], smoothed[::2]))
    assert not logits.grad[1].any()


def test_it_compiles_and_maps() -> None:
    targets = torch.tensor([[1, 3], [0, 2]])
    expected = smooth_labels(targets, 4)
    assert torch.equal(torch.compile(smooth_labels, fullgraph=True, backend="aot_eager")(targets, 4), expected)
    assert torch.equal(torch.func.vmap(lambda t: smooth_labels(t, 4))(targets), expected)


@pytest.mark.parametrize(
    ("targets", "arguments", "error", "message"),
    [
        (torch.tensor([0, 4]), (4, 0.1), ValueError, r"class indices in \[0, C\).* Found 4 with `C = 4`"),
        (torch.zeros(2, 3), (4, 0.1), ValueError, r"soft labels of the shape .*\[2, 4\]\. Found \[2, 3\]"),
        (torch.tensor([0]), (4, 1.5), ValueError, r"`smoothing` should be .*<= 1\. Found `smoothing = 1\.5`"),
        (torch.tensor([0]), (0, 0.1), ValueError, r"`num_classes` should be an integer >= 1"),
        ([0, 1], (4, 0.1), TypeError, r"`targets` should be a tensor of class indices \[\.\.\.\]\. Found list"),
        (torch.tensor([True]), (4, 0.1), TypeError, r"Found torch\.bool"),
    ],
)
def test_bad_input(targets, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        smooth_labels(targets, *arguments)
