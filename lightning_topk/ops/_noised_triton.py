"""What starts the Triton kernel of the noised losses, and what checks it.

Triton is optional: ``_noised_device.py`` imports this file on first use.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

import torch
import triton
from torch import Tensor

from lightning_topk.ops._triton_kth import kth_of_row
from lightning_topk.ops._triton_noise import LANES, noise_of, on_device_of

# One lane for each thread: with more, blocks would change their layout between loads and noise, at a barrier each.
WARPS = LANES // 32
# Draws that share the load of a row: three registers and a copy of the code each.
MOST_DRAWS = 6
# Programs that a multiprocessor should get, as many as its registers hold, and classes that are worth a program.
_PROGRAMS = 3
_CLASSES = 2048


def kth_of_kernel(
    scores: Tensor, k: int, epsilon: float, num_samples: int, seed: Tensor, *, splits: int | None = None
) -> tuple[Tensor, Tensor]:
    """Class and added noise of the k-th largest noised score of scores [N, C]; shapes [N, B].

    A row that holds a NaN gives the class of one, so that its value is NaN.

    Args:
        scores: Shape [N, C], float16, bfloat16 or float32, detached, N and C >= 1.
        k: Rank in [1, C], a small one.
        epsilon: Standard deviation of the noise.
        num_samples: Number of draws B.
        seed: One int64 on the device of the scores, which the host never reads.
        splits: Parts of a row; None for as many as fill the device. The result does not depend on it.

    Returns:
        Classes, int64, and added noise, float32.
    """
    scores = scores if scores.stride(-1) == 1 else scores.contiguous()
    num_rows, num_classes = scores.shape
    groups = triton.cdiv(num_samples, MOST_DRAWS)
    draws = triton.cdiv(num_samples, groups)
    groups = triton.cdiv(num_samples, draws)
    blocks = triton.cdiv(num_classes, 4 * LANES)
    if splits is None:
        splits = _splits(num_rows * groups, num_classes, scores.device)
    quads = triton.cdiv(blocks, min(splits, blocks))
    splits = triton.cdiv(blocks, quads)

    shape = (num_rows, num_samples) if splits == 1 else (num_rows, num_samples, splits * k)
    values = scores.new_empty(shape, dtype=torch.float32)
    classes = scores.new_empty(shape, dtype=torch.int64)
    offsets = torch.empty_like(values)
    with on_device_of(scores):
        kth_of_row[(num_rows * splits * groups,)](
            scores,
            seed,
            values,
            classes,
            offsets,
            num_classes,
            scores.stride(0),
            num_samples,
            splits,
            groups,
            quads,
            float(epsilon),
            K=k,
            SLOTS=triton.next_power_of_2(k),
            DRAWS=draws,
            LANES=LANES,
            KTH_ONLY=splits == 1,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    if splits == 1:
        return classes, offsets
    kth = torch.topk(values, k).indices[..., -1:]
    return classes.gather(-1, kth).squeeze(-1), offsets.gather(-1, kth).squeeze(-1)


def _splits(programs: int, num_classes: int, device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    wanted = _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(wanted // max(1, programs), num_classes // _CLASSES))


def check_on(device: torch.device) -> None:
    """Raise a RuntimeError where the kernel does not find what plain operators find with the same noise."""
    scores = torch.linspace(-2.0, 2.0, 5000, dtype=torch.float32, device=device).reshape(2, 2500)
    seed = torch.tensor([2**40 + 1], device=device)
    noise = noise_of(seed, 2, 2, 2500)
    expected = torch.topk(scores.unsqueeze(1) + noise, 3).values[..., -1]
    for splits in (1, 2):
        classes, offsets = kth_of_kernel(scores, 3, 1.0, 2, seed, splits=splits)
        error = float((scores.gather(1, classes) + offsets - expected).abs().max())
        if not error < 1e-4:
            raise RuntimeError(f"The kernel is off by {error}.")
    moments = float(noise.mean()), float(noise.square().mean()), float(noise.pow(4).mean())
    if not (abs(moments[0]) < 0.06 and abs(moments[1] - 1) < 0.08 and abs(moments[2] - 3) < 0.6):
        raise RuntimeError(f"The mean, the square and the fourth power of the noise are {moments}.")
