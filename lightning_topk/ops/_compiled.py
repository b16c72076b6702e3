"""Ways whose work depends on values, as operators that ``torch.compile`` calls and does not look into.

A compiler traces a program without values. Traced, the noised and the exact Gaussian losses would be left with their
plain formulas, which cost several times as much on the CPU.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_topk.ops._gaussian_function import value_and_gradient
from lightning_topk.ops._lazy_noise_choice import cheapest_draws
from lightning_topk.ops._precision import working_dtype

_LARGEST_SEED = 2**63 - 1


def may_call(scores: Tensor) -> bool:
    """Tell whether a trace by the compiler may call these operators: they are there for the CPU."""
    return torch.compiler.is_compiling() and scores.device.type == "cpu"


def draws_for_compiler(scores: Tensor, k: int, epsilon: float, num_samples: int) -> tuple[Tensor, Tensor]:
    """Class and added noise of the k-th largest noised score of scores [N, C]; shapes [N, B].

    The seed comes from the program around the operator. So it has no state of its own, and may be moved or repeated.
    """
    seed = torch.randint(_LARGEST_SEED, (1,))
    drawn: tuple[Tensor, Tensor] = _draws(scores, k, epsilon, num_samples, seed)
    return drawn


def expectation_for_compiler(scores: Tensor, k: int, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """Smoothed k-th largest score [N] of scores [N, C], and its gradient [N, C], both in float32."""
    found: tuple[Tensor, Tensor] = _expectation(scores, k, epsilon, tolerance)
    return found


@torch.library.custom_op("lightning_topk::noised_kth", mutates_args=(), device_types="cpu")
def _draws(scores: Tensor, k: int, epsilon: float, num_samples: int, seed: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(int(seed))
    return cheapest_draws(scores, k, epsilon, num_samples, generator)[:2]


@_draws.register_fake
def _(scores: Tensor, k: int, epsilon: float, num_samples: int, seed: Tensor) -> tuple[Tensor, Tensor]:
    shape = scores.shape[0], num_samples
    return scores.new_empty(shape, dtype=torch.int64), scores.new_empty(shape, dtype=working_dtype(scores))


@_draws.register_vmap
def _(
    info: Any, in_dims: tuple[Any, ...], scores: Tensor, k: int, epsilon: float, num_samples: int, seed: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    # One call for each: they have the same seed or one of their own, as the caller's choice of randomness wants it.
    batches = scores.expand(info.batch_size, *scores.shape) if in_dims[0] is None else scores.movedim(in_dims[0], 0)
    seeds = seed.expand(info.batch_size, *seed.shape) if in_dims[4] is None else seed.movedim(in_dims[4], 0)
    drawn = [_draws(batch, k, epsilon, num_samples, own) for batch, own in zip(batches, seeds, strict=True)]
    return (torch.stack([one[0] for one in drawn]), torch.stack([one[1] for one in drawn])), (0, 0)


@torch.library.custom_op("lightning_topk::gaussian_kth", mutates_args=(), device_types="cpu")
def _expectation(scores: Tensor, k: int, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
    return value_and_gradient(scores, k, epsilon, tolerance)


@_expectation.register_fake
def _(scores: Tensor, k: int, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[0], dtype=torch.float32), scores.new_empty(scores.shape, dtype=torch.float32)


@_expectation.register_vmap
def _(
    info: Any, in_dims: tuple[Any, ...], scores: Tensor, k: int, epsilon: float, tolerance: float
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    batches = scores.movedim(in_dims[0], 0)
    value, gradient = _expectation(batches.flatten(0, 1), k, epsilon, tolerance)
    return (value.view(batches.shape[:-1]), gradient.view(batches.shape)), (0, 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _slope(ctx: Any, slope: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return slope.unsqueeze(-1) * ctx.saved_tensors[0], None, None, None


_expectation.register_autograd(_slope, setup_context=_keep)
