"""Learning-rate schedulers of published experiments that torch does not have.

Example:
    >>> import torch
    >>> from lightning_topk.lr_schedulers import WarmUpMultiStepLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> scheduler = WarmUpMultiStepLR(optimizer, milestones=[160, 180], gamma=0.01, warm_up=5)
    >>> [round(rate, 3) for rate in scheduler.get_last_lr()]
    [0.02]
"""

from bisect import bisect_right
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_topk._checks import check_float, check_int, check_ints

__all__ = ["WarmUpMultiStepLR"]


class WarmUpMultiStepLR(LRScheduler):
    r"""Rise along a line over the first epochs, then fall by a factor at each milestone.

    .. math:: \eta_t = \eta \cdot \min\left(1, \frac{t + 1}{w}\right) \cdot \gamma^{|\{m : m \le t\}|}

    with the epoch :math:`t`, ``warm_up`` w and ``gamma`` :math:`\gamma`.

    Args:
        optimizer: The optimizer, with the learning rates :math:`\eta`.
        milestones: Epochs m, counted from 0, from which on the learning rate is lower.
        gamma: Factor at each milestone, in (0, 1]. LDAM: 0.01.
        warm_up: Epochs w of the rise, >= 1; with 1 there is none. LDAM: 5.
        last_epoch: The last epoch of an earlier run; -1 starts anew.

    Raises:
        TypeError: A parameter of the wrong type.
        ValueError: A parameter out of range.

    References:
        The learning rate in the code of Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: list[int],
        gamma: float = 0.1,
        warm_up: int = 1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = sorted(check_ints("milestones", milestones, 0))
        self.gamma = check_float("gamma", gamma, 0.0, 1.0, low_open=True)
        self.warm_up = check_int("warm_up", warm_up, 1)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each group at the current epoch."""
        rise = min(1.0, (self.last_epoch + 1) / self.warm_up)
        factor = rise * self.gamma ** bisect_right(self.milestones, self.last_epoch)
        return [rate * factor for rate in self.base_lrs]
