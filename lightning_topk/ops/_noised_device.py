"""The k-th largest noised score away from the CPU: by the Triton kernel where it can be had, or in plain operators."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_topk._checks import readable
from lightning_topk.ops._full_noise import full_draws

Kernel = Callable[[Tensor, int, float, int, Tensor], tuple[Tensor, Tensor]]
# The kernel takes the k largest one by one at its end.
_MOST_K = 16
# It counts classes in 32 bits.
_MOST_CLASSES = 2**30


def device_draws(
    scores: Tensor, k: int, epsilon: float, num_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Class and added noise of the k-th largest noised score of scores [N, C], on any device; shapes [N, B].

    The seed of the kernel is drawn on the device and read there, so that the host does not wait.
    """
    kernel = _kernel_of(scores.device) if _suits(scores, k) else None
    if kernel is None:
        return full_draws(scores, k, epsilon, num_samples, generator)
    seed = torch.randint(2**63 - 1, (1,), device=scores.device, generator=generator)
    return kernel(scores, k, epsilon, num_samples, seed)


def _suits(scores: Tensor, k: int) -> bool:
    return (
        scores.device.type == "cuda"
        and readable(scores)
        and type(scores) is Tensor  # others may have no memory of their own
        and scores.dtype in (torch.float16, torch.bfloat16, torch.float32)
        and k <= _MOST_K
        and 0 < scores.shape[1] <= _MOST_CLASSES
        and scores.shape[0] > 0
        and not torch.cuda.is_current_stream_capturing()
    )


@functools.cache
def _kernel_of(device: torch.device) -> Kernel | None:
    """The kernel, once it was right on an example on this device; None where Triton is not there or does not work."""
    try:
        from lightning_topk.ops import _noised_triton
    except ImportError:
        return None
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        _noised_triton.check_on(device)
    except Exception as error:  # a missing compiler, a driver that is too old: training goes on without
        warnings.warn(
            f"Noised losses draw the noise of all classes on {device}, which takes more time and memory, as the Triton "
            f"kernel does not work there: {type(error).__name__}: {str(error)[:300]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return _noised_triton.kth_of_kernel
