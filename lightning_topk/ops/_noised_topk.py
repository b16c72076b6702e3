"""The k-th largest score under Gaussian noise, by Monte Carlo."""

import torch
from torch import Tensor

from lightning_topk._checks import check_float, check_int, check_logits

# Scores are noised in blocks of at most this many entries, so that memory does not grow with num_samples.
_BLOCK = 1 << 22


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

    The draws are made in blocks, and of each only the index and the noise of the k-th class is kept: the memory that
    is needed beside the logits and their gradient is bounded and does not grow with ``num_samples``.

    Args:
        logits: Scores s, shape [..., C].
        k: Rank in [1, C].
        epsilon: Standard deviation of the noise, >= 0, in units of the logits; 0 gives the hard k-th largest score.
        num_samples: Number of draws B >= 1.
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
    check_int("k", k, 1)
    if k > num_classes:
        raise ValueError(f"Parameter `k` should be in [1, C]. Found `k = {k}` with `C = {num_classes}`.")
    check_float("epsilon", epsilon, 0.0)
    check_int("num_samples", num_samples, 1)
    if epsilon == 0.0:
        return torch.topk(logits, k).values[..., -1]
    if noise is not None:
        if noise.shape[-1:] != logits.shape[-1:] or noise.ndim not in (2, logits.ndim + 1):
            raise ValueError(
                f"Argument `noise` should have shape [B, C] or [..., B, C] for logits of {list(logits.shape)}. "
                f"Found {list(noise.shape)}."
            )
        indices, offsets = _kth(logits.detach(), k, epsilon, noise.to(logits))
    else:
        per_block = max(1, _BLOCK // max(1, logits.numel()))
        blocks = []
        for done in range(0, num_samples, per_block):
            shape = (*logits.shape[:-1], min(per_block, num_samples - done), num_classes)
            drawn = torch.randn(shape, dtype=logits.dtype, device=logits.device, generator=generator)
            blocks.append(_kth(logits.detach(), k, epsilon, drawn))
        indices = torch.cat([block[0] for block in blocks], -1)
        offsets = torch.cat([block[1] for block in blocks], -1)
    return (logits.gather(-1, indices) + offsets).mean(-1)


def _kth(logits: Tensor, k: int, epsilon: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Index and added noise of the k-th largest noised score for each draw; shapes [..., B]."""
    noised = torch.add(logits.unsqueeze(-2), noise, alpha=epsilon)
    indices = torch.topk(noised, k).indices[..., -1]
    offsets = noise.expand_as(noised).gather(-1, indices.unsqueeze(-1)).squeeze(-1)
    return indices, epsilon * offsets
