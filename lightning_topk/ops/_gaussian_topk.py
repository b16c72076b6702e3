"""The k-th largest score under Gaussian noise: the expectation itself, without noise."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import LARGEST_FLOAT, check_float, check_int, check_logits
from lightning_topk.ops._compiled import expectation_for_compiler, may_call
from lightning_topk.ops._gather import gather_float32
from lightning_topk.ops._gaussian_function import FastExpectation, fast_applies, fast_suits
from lightning_topk.ops._gaussian_quadrature import Plan, smoothed_kth
from lightning_topk.ops._precision import at_least_float32


def gaussian_topk(logits: Tensor, k: int, *, epsilon: float = 1.0, tolerance: float | None = None) -> Tensor:
    r"""Expectation of the k-th largest score under Gaussian noise, exact up to a tolerance.

    .. math::
        \mathrm{top}_{k,\epsilon}(s) = \mathbb E\,\mathrm{top}_k(s + \epsilon Z)
        = \int t \, \mathrm d\,\mathbb P(N(t) < k), \qquad Z \sim \mathcal N(0, I_C)

    where :math:`\mathrm{top}_k` is the k-th largest entry and :math:`N(t)` the number of noised scores above t. N is a
    sum of independent indicators of probability :math:`q_i(t) = \Phi((s_i - t) / \epsilon)`, a Poisson-binomial
    variable, so that one integral in t remains. The gradient is the probability that class i is the k-th,

    .. math::
        \partial_i\, \mathrm{top}_{k,\epsilon}(s)
        = \frac1\epsilon \int \varphi\Bigl(\frac{t - s_i}\epsilon\Bigr) \mathbb P(N_{-i}(t) = k - 1)\,\mathrm dt

    with :math:`N_{-i}` the count without class i: positive and of sum 1. It is what the gradient of
    :func:`noised_topk` is an estimate of. The second derivative is that of :math:`\mathrm{top}_{k,\epsilon}` too, by
    reverse mode twice (``create_graph=True``, or :func:`torch.func.jacrev` twice); a third one is refused, and forward
    mode is not there, as ``torch.compile`` refuses operators that have it.

    The integrals are midpoint sums, whose error falls exponentially with the number of nodes, between two bounds
    on t outside of which less than the tolerance is left. The best classes, a few times k, enter one by one. All others
    enter through the power sums of their odds, which are interpolated as functions of the score, so that no class is
    left out and none is visited once per node.

    There are two ways to compute it. The fast one is taken on the CPU for float32 or less, tolerances from 1e-5 and
    moderate k (up to 24 at a tolerance of 1e-3 or more, else 12): a few passes over the logits, in blocks, and one for
    the gradient, which is made in the backward pass. It checks every row afterwards, and leaves those in doubt to the
    other way. The plain one is a fixed sequence of tensor operations: it serves float64, smaller tolerances, larger k,
    second derivatives, :mod:`torch.func`, and CUDA, where checks of the rows would wait for the device.
    ``torch.compile`` calls the fast one as one operator, which makes the gradient in the forward pass. Time is O(C) for
    both; memory beside the logits and their gradient is O(C) with a constant of about k + 10 for the plain way, and in
    blocks for the fast one.

    Args:
        logits: Scores s, shape [..., C]. An entry of -inf is a class that is left out. float16 and bfloat16 are
            computed in float32.
        k: Rank in [1, C].
        epsilon: Standard deviation of the noise, >= 0, in units of the logits; 0 gives the hard k-th largest score.
        tolerance: Bound in [1e-12, 0.01] on the error of the value, in units of epsilon; that of the gradient is at
            most ten times as large in L1 norm. By default 1e-5, and 1e-11 for logits of float64, so that derivatives
            agree with finite differences there. The rounding of the dtype comes on top.

    Returns:
        Smoothed k-th largest scores, shape [...].

    Raises:
        TypeError: ``logits`` of an integer dtype, or a parameter of the wrong type.
        ValueError: A parameter out of its range.
        RuntimeError: A third derivative.

    References:
        The expectation: Garcin, Servajean, Joly, Salmon, "Stochastic smoothing of the top-K calibrated hinge loss for
        deep imbalanced classification", ICML 2022, section 3; they sample it. Its evaluation was derived here.

    Example:
        >>> logits = torch.tensor([4.0, -1.5, 2.5, 1.0], requires_grad=True)
        >>> value = gaussian_topk(logits, 2)
        >>> value.backward()
        >>> round(value.item(), 4), [round(p, 4) for p in logits.grad.tolist()]
        (2.5003, [0.1417, 0.001, 0.7159, 0.1414])
    """
    check_logits(logits)
    return smoothed_and_own(logits, None, k, epsilon, tolerance)[0].to(logits.dtype)


def smoothed_and_own(
    logits: Tensor, labels: Tensor | None, k: int, epsilon: float, tolerance: float | None
) -> tuple[Tensor, Tensor, bool]:
    """Return :func:`gaussian_topk` [...], the scores at labels [..., 1], or all scores without labels, and a bool.

    It tells whether all scores were seen to be finite. Values are in float32 for scores of lower precision. The first
    two have one gradient: one of the threshold and one of the label's score, added up afterwards, would take twice the
    memory.
    """
    num_classes = logits.shape[-1]
    check_int("k", k, 1)
    if k > num_classes:
        raise ValueError(f"Parameter `k` should be in [1, C]. Found `k = {k}` with `C = {num_classes}`.")
    if check_float("epsilon", epsilon, 0.0) < 1 / LARGEST_FLOAT:
        epsilon = 0.0  # as in float32
    if tolerance is not None:
        check_float("tolerance", tolerance, 1e-12, 0.01)
    own, finite = None, False
    if epsilon == 0.0 or num_classes == 1 or not logits.numel():
        value = at_least_float32(torch.topk(logits, k).values[..., -1])
    elif 2 * k > num_classes + 1:
        # The few classes that k leaves are copied: two gradients are added up, in float32.
        logits = at_least_float32(logits)
        value = -smoothed_and_own(-logits, None, num_classes + 1 - k, epsilon, tolerance)[0]
    else:
        scores = logits.reshape(-1, num_classes)
        if tolerance is None:
            tolerance = 1e-11 if scores.dtype == torch.float64 else 1e-5
        plain = partial(_plain, k=k, epsilon=epsilon, tolerance=tolerance)
        if fast_applies(scores, k, tolerance):
            index = None if labels is None else labels.reshape(-1, 1)
            rows, own, finite = FastExpectation.apply(scores, index, k, epsilon, tolerance, plain)
            own = None if own is None else own.reshape(*logits.shape[:-1], 1)
        else:
            rows = plain(scores)
        value = rows.reshape(logits.shape[:-1])
    if own is None:
        own = at_least_float32(logits) if labels is None else gather_float32(logits, labels)
    return value, own, finite


def _plain(scores: Tensor, k: int, epsilon: float, tolerance: float) -> Tensor:
    """Value [N] in plain tensor operations, with a second derivative."""
    value: Tensor = _Expectation.apply(at_least_float32(scores), k, epsilon, tolerance)[0]
    return value


class _Expectation(torch.autograd.Function):
    """Value [N] and gradient [N, C]; only the value is differentiable."""

    @staticmethod
    def forward(scores: Tensor, k: int, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
        if may_call(scores) and fast_suits(scores, k, tolerance):
            return expectation_for_compiler(scores, k, epsilon, tolerance)
        plan = Plan.make(k, scores.shape[-1], tolerance)
        parts = [smoothed_kth(block, k, epsilon, plan) for block in plan.blocks(scores)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        scores, *ctx.parameters = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(scores, output[1])

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        scores, gradient = ctx.saved_tensors
        return slope.unsqueeze(-1) * _Gradient.apply(scores, gradient, *ctx.parameters), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], scores: Tensor, *parameters: Any) -> tuple[Any, Any]:
        scores = scores.movedim(in_dims[0], 0)
        value, gradient = _Expectation.apply(scores.flatten(0, 1), *parameters)
        return (value.view(scores.shape[:-1]), gradient.view(scores.shape)), (0, 0)


class _Gradient(torch.autograd.Function):
    """The gradient [N, C] that was computed with the value, as a differentiable function of the scores."""

    @staticmethod
    def forward(scores: Tensor, gradient: Tensor, k: int, epsilon: float, tolerance: float) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        scores, _, *ctx.parameters = inputs
        ctx.save_for_backward(scores)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Curvature.apply(ctx.saved_tensors[0], direction, *ctx.parameters), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, int]:
        return _mapped(_Gradient, info, in_dims, inputs)


class _Curvature(torch.autograd.Function):
    """Product of the Hessian of each row with a direction; shape [N, C]."""

    @staticmethod
    def forward(scores: Tensor, direction: Tensor, k: int, epsilon: float, tolerance: float) -> Tensor:
        plan = Plan.make(k, scores.shape[-1], tolerance)
        products = []
        for block, along in zip(plan.blocks(scores), plan.blocks(direction), strict=True):
            # The Hessian is symmetric: the transposed product, with the nodes held fixed, is the product.
            transposed = torch.func.vjp(lambda rows: smoothed_kth(rows, k, epsilon, plan)[1], block)[1]
            products.append(transposed(along)[0])
        return torch.cat(products)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("gaussian_topk should be differentiated at most twice. Found a third derivative.")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, int]:
        return _mapped(_Curvature, info, in_dims, inputs)


def _mapped(function: Any, info: Any, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> tuple[Any, int]:
    """Apply a function of two [N, C] tensors to batches of them, by taking the batch for more rows."""
    pair = [
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(inputs[:2], in_dims[:2], strict=True)
    ]
    return function.apply(*(tensor.flatten(0, 1) for tensor in pair), *inputs[2:]).view(pair[0].shape), 0
