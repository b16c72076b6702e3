"""The law of a count of independent events, against multiplication one by one."""

import numpy as np
import pytest
import torch

from lightning_topk.ops._poisson_binomial import leave_one_out, multiply, power_product, product_tree, without_one


def one_by_one(chances: list[float]) -> np.ndarray:
    law = np.ones(1)
    for chance in chances:
        law = np.convolve(law, [1 - chance, chance])
    return law


@pytest.mark.parametrize("events", [1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize("size", [1, 2, 5, 14])
def test_tree_and_each_event_left_out(events: int, size: int) -> None:
    chances = torch.rand(events, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chances[0, 1] = 1.0
    outside = torch.tensor([[0.5, 0.2], [0.5, 0.8]], dtype=torch.float64)  # one more event
    levels = product_tree(chances, size)
    whole = multiply(levels[-1][:, 0], outside, size)
    rest = leave_one_out(levels, outside, size)
    assert whole.shape == (size, 2)
    for column in range(2):
        given = chances[:, column].tolist()
        extra = float(outside[1, column])
        expected = np.pad(one_by_one([*given, extra]), (0, size))[:size]
        np.testing.assert_allclose(whole[:, column], expected, atol=1e-15)
        for i in range(events):
            others = np.pad(one_by_one([*given[:i], *given[i + 1 :], extra]), (0, size))
            np.testing.assert_allclose(rest[i, column], others[size - 1], atol=1e-15)


@pytest.mark.parametrize("size", [1, 2, 6, 30])
def test_power_sums_give_the_same_law(size: int) -> None:
    chances = 0.3 * torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    odds = chances / (1 - chances)
    law = power_product([odds.pow(m).sum() for m in range(1, size)], torch.log1p(-chances).sum())
    np.testing.assert_allclose(law, one_by_one(chances.tolist())[:size], rtol=1e-9)
    left_out = without_one(law, odds[0]) / (1 - chances[0])
    np.testing.assert_allclose(left_out, one_by_one(chances[1:].tolist())[size - 1], rtol=1e-9)
