"""The k-th largest score under Gaussian noise, by Monte Carlo."""

import torch
from torch import Tensor

from lightning_topk._checks import LARGEST_FLOAT, check_float, check_int, check_logits, check_num_samples, readable
from lightning_topk.ops._compiled import draws_for_compiler, may_call
from lightning_topk.ops._full_noise import kth_of_noise
from lightning_topk.ops._gather import gather_float32
from lightning_topk.ops._lazy_noise_choice import cheapest_draws
from lightning_topk.ops._noised_device import device_draws
from lightning_topk.ops._precision import at_least_float32


def noised_topk(
    logits: Tensor,
    k: int,
    *,
    epsilon: float = 1.0,
    num_samples: int = 5,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Monte Carlo estimate of the smoothed k-th largest score.

    .. math::
        \widehat{\mathrm{top}}_{k,\epsilon,B}(s) = \frac1B \sum_{b=1}^B \mathrm{top}_k(s + \epsilon Z_b),
        \qquad Z_b \sim \mathcal N(0, I_C)

    where :math:`\mathrm{top}_k(s)` is the k-th largest entry of s. Its gradient is the mean over b of the indicator
    of the class that was k-th: non-negative, of sum 1, with at most B entries that are not zero; an unbiased
    estimate of the gradient of the expectation :math:`\mathrm{top}_{k,\epsilon}`. The estimate is piecewise linear in
    s, so that its own second derivatives are zero; they say nothing on the curvature of the expectation.

    On the CPU the noise of few classes is drawn where that is cheaper, in the law of drawing it for all: only classes
    near the threshold matter, and how many others exceed it is a Poisson number. The same generator gives the same
    result, but not that of another version or path. With ``noise``, on other devices and under ``torch.func``
    transforms the noise of all classes is used, in blocks, as the work of the other way depends on values;
    ``torch.compile`` calls the other way as one operator, unless a generator is given. The memory that is needed for it
    does not grow with ``num_samples``: on the CPU less than the gradient of large logits takes, about a megabyte for
    small ones, and a few times one row at least; elsewhere noise for as many draws at a time as 4 million entries hold,
    or for one draw.

    On the CPU a gradient of 4 MB and more is memory that the system hands out zeroed, of which only what is touched
    costs time. Torch's memory profiler does not see it.

    Args:
        logits: Scores s, shape [..., C].
        k: Rank in [1, C].
        epsilon: Standard deviation of the noise, >= 0, in units of the logits; 0, as all below 1e-30, gives the hard
            k-th largest score.
        num_samples: Number of draws B in [1, 10**6].
        noise: Standard normal noise to use instead of drawing it, shape [B, C] (the same for every row) or
            [..., B, C].
        generator: Source of the noise, on the device of ``logits``; torch's global one when None.

    Returns:
        Smoothed k-th largest scores, shape [...].

    Raises:
        TypeError: ``logits`` of an integer dtype, or a parameter of the wrong type.
        ValueError: A parameter out of its range, or noise of another shape.

    References:
        Garcin, Servajean, Joly, Salmon, "Stochastic smoothing of the top-K calibrated hinge loss for deep imbalanced
        classification", ICML 2022, section 3.

    Example:
        >>> logits = torch.tensor([4.0, -1.5, 2.5, 1.0], requires_grad=True)
        >>> noise = torch.tensor([[0.0, 0.0, 0.0, 2.0], [-2.0, 0.0, 0.0, 0.0]])
        >>> value = noised_topk(logits, 2, epsilon=1.0, noise=noise)
        >>> value.backward()
        >>> value, logits.grad
        (tensor(2.5000, grad_fn=<MeanBackward1>), tensor([0.5000, 0.0000, 0.0000, 0.5000]))
    """
    check_logits(logits)
    num_classes = logits.shape[-1]
    k = check_int("k", k, 1)
    if k > num_classes:
        raise ValueError(f"Parameter `k` should be in [1, C]. Found `k = {k}` with `C = {num_classes}`.")
    check_float("epsilon", epsilon, 0.0)
    num_samples = check_num_samples(num_samples)
    classes, offsets, _ = kth_draws(logits, k, epsilon, num_samples, noise, generator)
    return (gather_float32(logits, classes) + offsets).mean(-1).to(logits.dtype)


def kth_draws(
    logits: Tensor, k: int, epsilon: float, num_samples: int, noise: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, bool]:
    """Class and added noise of the k-th largest noised score for each draw; shapes [..., B].

    And whether all logits were seen to be finite; False where nobody looked.

    Drawn lazily on the CPU, and within a kernel on CUDA devices with Triton. Elsewhere, and where values cannot be read
    (``torch.func`` transforms, ``torch.compile`` of what draws from a generator or on a device), the noise of all
    classes is drawn: how much the lazy path draws depends on values, which a device would be waited for. Noise that is
    given is the noise of all classes too.
    """
    scores = logits.detach()
    if epsilon < 1 / LARGEST_FLOAT:  # noise that float32 hardly holds, and its inverse not at all
        hard = torch.topk(scores, k).indices[..., -1:]
        return hard, torch.zeros_like(hard, dtype=at_least_float32(scores[..., :0]).dtype), False
    if noise is not None:
        if noise.shape[-1:] != logits.shape[-1:] or noise.ndim not in (2, logits.ndim + 1):
            raise ValueError(
                f"Argument `noise` should have shape [B, C] or [..., B, C] for logits of {list(logits.shape)}. "
                f"Found {list(noise.shape)}."
            )
        return *kth_of_noise(scores, k, epsilon, noise), False
    scores = scores.reshape(-1, logits.shape[-1])
    finite = False
    if scores.device.type == "cpu" and readable(scores):
        classes, offsets, finite = cheapest_draws(scores, k, epsilon, num_samples, generator)
    elif generator is None and may_call(scores):
        classes, offsets = draws_for_compiler(scores, k, epsilon, num_samples)
    else:
        classes, offsets = device_draws(scores, k, epsilon, num_samples, generator)
    shape = (*logits.shape[:-1], num_samples)
    return classes.reshape(shape), offsets.reshape(shape), finite
