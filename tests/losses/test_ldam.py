"""LDAM: worked values, all labels at once, and the head that it needs."""

import pytest
import torch

from lightning_topk.heads import NormalizedLinear
from lightning_topk.imbalance import ldam_margins
from lightning_topk.losses import CrossEntropyLoss, LDAMLoss, ldam_loss
from references import ldam

COSINES = torch.tensor([[0.4, 0.1, 0.5, 0.3]], dtype=torch.float64)
COUNTS = [1, 16, 81, 256]


def bound(**arguments) -> LDAMLoss:
    loss = LDAMLoss(**arguments)
    loss.bind_class_counts(COUNTS)
    return loss


@pytest.mark.parametrize(
    ("label", "scale", "value"), [(2, 1.0, 1.342354), (2, 30.0, 2.169950), (0, 1.0, 1.711154), (0, 30.0, 18.002482)]
)
def test_worked_values(label: int, scale: float, value: float) -> None:
    loss = bound(scale=scale)
    assert loss.margins.tolist() == pytest.approx([0.5, 0.25, 1 / 6, 0.125])
    assert float(loss(COSINES, torch.tensor([label]))) == pytest.approx(value, abs=2e-6)


def test_without_margin_it_is_cross_entropy_of_scaled_logits() -> None:
    assert float(bound(max_margin=0.0)(COSINES, torch.tensor([2]))) == pytest.approx(0.050952, abs=1e-6)
    cosines, targets = torch.rand(7, 4, dtype=torch.float64) * 2 - 1, torch.randint(4, (7,))
    torch.testing.assert_close(bound(max_margin=0.0)(cosines, targets), CrossEntropyLoss()(30 * cosines, targets))


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_labels_at_once_agree_with_the_slow_loop(scale: float, dtype: torch.dtype) -> None:
    cosines = (torch.rand(9, 4, dtype=torch.float64) * 2 - 1).to(dtype)
    cosines[0] = 0.5  # ties for the largest
    cosines[1, :2] = 1.0
    cosines[2] = torch.tensor([1.0, -1.0, -1.0, -1.0])
    margins = ldam_margins(COUNTS)
    rel = 1e-10 if dtype == torch.float64 else 1e-5
    for label in range(4):
        one_hot = torch.eye(4, dtype=dtype)[label].expand(9, 4)
        soft = ldam_loss(cosines, one_hot, margins=margins, scale=scale, reduction="none")
        hard = ldam_loss(cosines, torch.full((9,), label), margins=margins, scale=scale, reduction="none")
        slow = [ldam(row, label, margins.double().tolist(), scale) for row in cosines.double().tolist()]
        # The slow loop takes the difference of numbers of size 1, and the fast one does not.
        assert hard.tolist() == pytest.approx(slow, rel=rel, abs=1e-14)
        assert soft.tolist() == pytest.approx(slow, rel=rel, abs=1e-14)


def test_gradient_is_scaled_softmax_minus_label() -> None:
    leaf = COSINES.clone().requires_grad_()
    bound(scale=30.0)(leaf, torch.tensor([2])).backward()
    shifted = 30 * (COSINES - ldam_margins(COUNTS)[2].double() * torch.eye(4)[2])
    torch.testing.assert_close(leaf.grad, 30 * (shifted.softmax(-1) - torch.eye(4, dtype=torch.float64)[2]))


def test_one_class_alone_costs_nothing() -> None:
    for targets in (torch.tensor([0]), torch.ones(1, 1)):
        leaf = torch.tensor([[0.3]], requires_grad=True)
        value = ldam_loss(leaf, targets, margins=torch.tensor([0.5]))
        value.backward()
        assert value == 0
        assert leaf.grad == 0


def test_margins_follow_the_counts_and_the_setting() -> None:
    loss = bound()
    loss.max_margin = 1.0
    assert loss.margins.tolist() == pytest.approx([1.0, 0.5, 1 / 3, 0.25])
    loss.scale = 1
    assert float(loss(COSINES, torch.tensor([2]))) > 1.342354
    assert repr(loss) == "LDAMLoss(max_margin=1.0, scale=1.0, class_counts=[4 values])"


def test_a_class_without_samples_is_named_or_clamped() -> None:
    with pytest.raises(ValueError, match=r"Found none for 1 of 3 classes: 0\."):
        LDAMLoss().bind_class_counts([0, 23, 55])
    loss = LDAMLoss(zero_counts="clamp")
    loss.bind_class_counts([0, 23, 55])
    assert loss.margins.isfinite().all()


def test_an_ordinary_head_is_noticed_once(recwarn: pytest.WarningsRecorder) -> None:
    loss, targets = bound(), torch.tensor([0, 1])
    cosines = NormalizedLinear(5, 4)(torch.randn(2, 5))
    loss(cosines, targets)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"`scale = 30` is meant for cosine .*`scale=1` and a margin of the size"):
        loss(10 * cosines.sign(), targets)
    for _ in range(3):
        loss(10 * cosines.sign(), targets)
    bound(scale=1.0)(100 * cosines, targets)
    bound().eval()(100 * cosines, targets)
    assert not recwarn.list


def test_bad_input() -> None:
    with pytest.raises(RuntimeError, match=r"LDAMLoss should know the training counts.*Found none: .*bind_class"):
        LDAMLoss()(COSINES, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"`margins` should have one entry per class, shape \[3\]\. Found \[4\]"):
        bound()(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"`max_margin` should be a finite number >= 0\. Found `max_margin = -0\.1`"):
        LDAMLoss(max_margin=-0.1)
    with pytest.raises(ValueError, match=r"`scale` should be a finite number > 0\. Found `scale = 0"):
        LDAMLoss(scale=0.0)
    with pytest.raises(ValueError, match=r"`zero_counts` should be one of 'error', 'clamp'"):
        LDAMLoss(zero_counts="drop")
