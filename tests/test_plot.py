"""Pictures of losses."""

import pytest
import torch

from lightning_topk.losses import CrossEntropyLoss, ImbalancedNoisedTopKLoss, NoisedTopKLoss
from lightning_topk.plot import _triangle, _values, plot_level_sets


def test_values_over_the_simplex() -> None:
    points = _triangle(5)
    assert points.shape == (15, 3)
    torch.testing.assert_close(points.sum(-1), torch.ones(15, dtype=torch.float64))
    loss = NoisedTopKLoss(k=2, epsilon=0.0, reduction="sum")
    corners = _values(loss, 2 * torch.eye(3, dtype=torch.float64))
    assert corners.tolist() == [1.0, 1.0, 0.0]  # (1 + s_(3) - s_2)_+
    assert loss.training
    assert loss.reduction == "sum"


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), ImbalancedNoisedTopKLoss(k=1), NoisedTopKLoss(k=2)])
def test_draws_on_own_and_given_axes(loss) -> None:
    figure, axes = plot_level_sets(loss, resolution=12)
    assert axes.figure is figure
    assert axes.collections
    again, same = plot_level_sets(loss, resolution=12, ax=axes)
    assert (again, same) == (figure, axes)


def test_a_constant_loss_is_drawn_too() -> None:
    plot_level_sets(NoisedTopKLoss(k=2, epsilon=0.0, margin=0.0), size=1e-3, resolution=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0.0}, r"`size` should be a finite number > 0"),
        ({"levels": 1}, r"`levels` should be an integer >= 2"),
        ({"resolution": 1}, r"`resolution` should be an integer >= 2"),
    ],
)
def test_bad_input(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        plot_level_sets(CrossEntropyLoss(), **arguments)
    with pytest.raises(ValueError, match=r"`k` should be in \[1, C\).* Found `k = 3` with `C = 3`"):
        plot_level_sets(NoisedTopKLoss(k=3))
