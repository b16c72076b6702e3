"""The smoothed ReLU, and with it the sum of the k largest values without sorting (STk)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lightning_topk._checks import LARGEST_FLOAT, check_choice, check_float, check_int, check_values
from lightning_topk.ops._fused import fusable, gradient_of


def smoothed_relu(values: Tensor, delta: float = 0.01) -> Tensor:
    r"""ReLU with a rounded kink.

    .. math::
        \mathrm{SReLU}_\delta(x) = \tfrac12 \bigl(x + \delta (\sqrt{x^2 / \delta^2 + 1} - 1)\bigr)

    Its slope :math:`(1 + x / \sqrt{x^2 + \delta^2}) / 2` is 1/2 at 0, its curvature at most :math:`1 / (2 \delta)`. It
    is 0 at 0, below zero (down to :math:`-\delta / 2`) left of it, and
    :math:`0 \le \mathrm{relu} - \mathrm{SReLU} < \delta / 2`.

    Args:
        values: Any shape, floating point.
        delta: Width of the kink, >= 0, in units of the values. The paper: 0.01; 0 gives the ReLU, and so
            does anything below 1e-30.

    Returns:
        The shape and dtype of ``values``.

    Raises:
        TypeError: A wrong type.
        ValueError: ``delta`` out of range.

    References:
        Xia, Liu, Mao, "STk: A Scalable Module for Solving Top-k Problems", NeurIPS 2024.

    Example:
        >>> smoothed_relu(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.0050,  0.0000,  0.9950])
    """
    check_values("values", values)
    check_float("delta", delta, 0.0)
    if delta < 1 / LARGEST_FLOAT:  # squares and quotients of which float32 cannot hold
        return torch.relu(values)
    if values.dtype in (torch.float16, torch.bfloat16):  # which hold neither small squares nor twice the values
        return smoothed_relu(values.float(), delta).to(values.dtype)
    if fusable(values):
        smooth: Tensor = _SmoothedReLU.apply(values, delta)
        return smooth
    return _plain(values, delta)


def _plain(values: Tensor, delta: float) -> Tensor:
    width = torch.full_like(values, delta)  # not a number, whose division has a backward pass that squares it
    return _rounded(values, width, torch.hypot(values, width)) - delta / 2


def _rounded(values: Tensor, width: Tensor, root: Tensor) -> Tensor:
    """Half the sum of the values and the root, which is that of the sum of their squares and those of the width."""
    # Left of 0 by the conjugate, as values + root would cancel; on the right its divisor should not be 0.
    below = torch.where(values > 0, 0.0, values)
    left = width * (width / (2 * (root - below)))
    return torch.where(values > 0, (values + root) / 2, left)


class _SmoothedReLU(Function):
    """The same as one operator, whose slope is what is rounded over the root."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, delta: float) -> Tensor:
        width = torch.full_like(values, delta)
        root = torch.hypot(values, width)
        rounded = _rounded(values, width, root)
        ctx.save_for_backward(values, rounded / root)
        ctx.delta = delta
        return rounded - delta / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        values, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            return gradient_of(partial(_plain, delta=ctx.delta), values, grad), None
        return grad * slope, None


def smoothed_topk(values: Tensor, lambda_: Tensor | float, *, k: float, delta: float = 0.01, dim: int = -1) -> Tensor:
    r"""Sum of the k largest values along a dimension, by a threshold in place of sorting.

    .. math::
        \mathrm{STk}(x, \lambda) = \sum_i \mathrm{SReLU}_\delta(x_i - \lambda) + k \lambda

    With :math:`\delta = 0` the minimum over :math:`\lambda` is the sum of the k largest, and is attained between the
    (k+1)-th and the k-th largest value (Ogryczak and Tamir). With :math:`\delta > 0` the value is lower by at most
    :math:`n \delta / 2`, and the minimum is still attained there, as far as the values there are further apart than
    about :math:`\delta`.

    Args:
        values: Values x, floating point.
        lambda_: Threshold :math:`\lambda`, a number or a tensor that broadcasts with the result.
        k: Number of values k in [0, n]; not necessarily whole.
        delta: Width of the kink, >= 0, see :func:`smoothed_relu`.
        dim: Dimension of n values.

    Returns:
        The shape of ``values`` without ``dim``.

    Raises:
        TypeError: A wrong type.
        ValueError: A parameter out of range.

    References:
        Xia, Liu, Mao, "STk: A Scalable Module for Solving Top-k Problems", NeurIPS 2024. With delta = 0: Ogryczak,
        Tamir, "Minimizing the sum of the k largest functions in linear time", Information Processing Letters 85, 2003
        (as cited there, not read).

    Example:
        >>> smoothed_topk(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2.5, k=2, delta=0.0)
        tensor(7.)
    """
    check_float("k", k, 0.0, _length(values, dim))
    if not isinstance(lambda_, Tensor):
        check_float("lambda_", lambda_)
    threshold = lambda_.to(values) if isinstance(lambda_, Tensor) else lambda_
    excess = values - (threshold.unsqueeze(dim) if isinstance(threshold, Tensor) and threshold.ndim else threshold)
    return smoothed_relu(excess, delta).sum(dim) + k * threshold


def _length(values: Tensor, dim: int) -> int:
    """Return the number of values along a dimension."""
    check_values("values", values)
    check_int("dim", dim, -(2**31))
    if not -values.ndim <= dim < values.ndim:
        raise ValueError(f"Parameter `dim` should be a dimension of the values. Found {dim} with {list(values.shape)}.")
    return values.shape[dim]


class STk(nn.Module):
    r"""Smoothed top-k of any layer: its trainable threshold settles at the k-th largest value.

    Called on values it returns :func:`smoothed_topk` under its parameter ``lambda_``; add that to the training loss.
    The gradient moves :math:`\lambda` until k of the n values lie above it, wherever it starts and whatever the sign
    of the values, and pushes those k values down. Give it ``values.detach()`` to let it follow the values alone.

    Args:
        k: Number of values, in [1, n]. Give either ``k`` or ``fraction``.
        fraction: k / n in (0, 1], for a layer or batch of varying size.
        delta: Width of the kink, >= 0, in units of the values. The paper: 0.01. The value is too low by up to
            :math:`n \delta / 2` in the sum.
        dim: Dimension of the n values.
        reduction: ``"mean"``, the sum of the k largest divided by n, so that the gradient of :math:`\lambda` lies in
            (-1, 1); or ``"sum"``.
        initial_lambda: Where :math:`\lambda` starts. A step of plain gradient descent moves it by at most the learning
            rate, so start near the values when they are large.

    Shape:
        values [..., n] along ``dim``; returns [...]. One :math:`\lambda`, shape [1], serves all rows (FSDP refuses
        parameters without a dimension).

    Raises:
        TypeError: A wrong type, or both or neither of ``k`` and ``fraction``.
        ValueError: A parameter out of range.

    References:
        Xia, Liu, Mao, "STk: A Scalable Module for Solving Top-k Problems", NeurIPS 2024, figure 1.

    Example:
        >>> stk = STk(k=2)
        >>> layer = torch.tensor([[0.3, 4.0, -1.0, 2.0, 1.0]])
        >>> optimizer = torch.optim.SGD(stk.parameters(), lr=0.5)
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     stk(layer.detach()).sum().backward()
        ...     optimizer.step()
        >>> stk.mask(layer)  # a filter: the two largest
        tensor([[False,  True, False,  True, False]])
        >>> bool(1.0 < stk.lambda_ < 2.0)
        True
    """

    def __init__(
        self,
        k: int | None = None,
        *,
        fraction: float | None = None,
        delta: float = 0.01,
        dim: int = -1,
        reduction: str = "mean",
        initial_lambda: float = 0.0,
    ) -> None:
        super().__init__()
        if (k is None) == (fraction is None):
            raise TypeError(f"STk should be given one of `k` and `fraction`. Found `k = {k}`, `fraction = {fraction}`.")
        self.k = None if k is None else check_int("k", k, 1)
        self.fraction = None if fraction is None else check_float("fraction", fraction, 0.0, 1.0, low_open=True)
        self.delta = check_float("delta", delta, 0.0)
        self.dim = check_int("dim", dim, -(2**31))
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.lambda_ = nn.Parameter(torch.tensor([check_float("initial_lambda", initial_lambda)]))

    def forward(self, values: Tensor) -> Tensor:
        size = _length(values, self.dim)
        k = self.fraction * size if self.fraction is not None else self.k
        total = smoothed_topk(values, self.lambda_.squeeze(0), k=k, delta=self.delta, dim=self.dim)  # type: ignore[arg-type]
        return total / size if self.reduction == "mean" else total

    def mask(self, values: Tensor) -> Tensor:
        """Tell which values lie above the threshold; boolean, of the shape of ``values``."""
        return values > self.lambda_.to(values)

    def extra_repr(self) -> str:
        number = f"k={self.k}" if self.fraction is None else f"fraction={self.fraction}"
        return f"{number}, delta={self.delta}"
