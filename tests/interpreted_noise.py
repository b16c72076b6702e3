"""What the Triton kernel of the noised losses finds under Triton's interpreter; ``test_noised_triton.py`` reads it.

    TRITON_INTERPRET=1 python tests/interpreted_noise.py FILE

A program of its own, as the variable has to be set before Triton is imported, and holds for the whole process.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

SEED = torch.tensor([-(2**62) + 12345])
inf, nan = float("inf"), float("nan")


def scores_of(rows: int, classes: int, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(rows, classes, generator=torch.Generator().manual_seed(classes))


def with_values(values: dict[int, float], classes: int = 300) -> Tensor:
    scores = scores_of(1, classes)
    scores[0, list(values)] = torch.tensor(list(values.values()))
    return scores


# Name: scores, k, epsilon, number of draws, splits.
CASES: dict[str, tuple[Tensor, int, float, int, int]] = {
    "several blocks": (scores_of(2, 3000), 6, 1.0, 3, 1),
    "split": (scores_of(2, 3000), 6, 1.0, 3, 3),
    "uneven split": (scores_of(2, 2100), 2, 1.0, 1, 2),
    "several groups of draws": (scores_of(1, 1025), 4, 0.5, 7, 1),
    "several groups of draws, split": (scores_of(1, 1025), 4, 0.5, 7, 2),
    # 256 lanes: the five largest of 300 classes lie in two of them.
    "one lane": (with_values({0: 50.0, 256: 50.0, 1: 50.0, 257: 50.0, 2: 50.0}), 4, 1.0, 2, 1),
    "one lane over blocks": (with_values({256 * i: 50.0 for i in range(6)}, 1300), 5, 1.0, 2, 2),
    "k = 1": (scores_of(1, 257), 1, 2.0, 2, 1),
    "k = 16": (scores_of(1, 600), 16, 1.0, 2, 1),
    "k = C": (scores_of(2, 7), 7, 1.0, 2, 1),
    "one class": (scores_of(2, 1), 1, 1.0, 2, 1),
    "flat": (torch.zeros(1, 1500), 6, 1.0, 2, 2),
    "ties": (torch.tensor([[2.0] * 3 + [1.0] * 300 + [2.0]]), 6, 1e-12, 2, 1),
    "ties in one lane": (torch.full((1, 1100), 4.0), 6, 1e-12, 1, 1),
    "bfloat16": (scores_of(1, 300).bfloat16(), 6, 1.0, 2, 1),
    "float16": (scores_of(1, 300).half(), 6, 1.0, 2, 1),
    "strided rows": (scores_of(2, 600)[:, 5:400], 3, 1.0, 2, 1),
    "strided classes": (scores_of(2, 600)[:, ::2], 3, 1.0, 2, 1),
    "large scores": (scores_of(1, 300, 1e5), 3, 1.0, 2, 1),
    "largest noise": (scores_of(1, 300), 3, 1e30, 2, 1),
    "infinite": (with_values({3: inf, 7: -inf}), 2, 1.0, 2, 1),
    "k-th infinite": (with_values({3: inf, 290: inf}), 2, 1.0, 2, 1),
    "nearly all -inf": (torch.tensor([[-inf, -inf, 1.0, -inf]]), 2, 1.0, 2, 1),
    "not a number": (torch.cat((with_values({77: nan}), scores_of(1, 300))), 2, 1.0, 2, 1),
    "not a number, split": (with_values({1500: nan}, 2000), 2, 1.0, 2, 2),
}
# Scores of which each is often the second largest, the same in all rows.
LAW = torch.tensor([2.0, 1.7, 1.2, 0.8, 0.3, 0.0, -0.6]).repeat(16, 1)
LAW_DRAWS = 6


def main(file: str) -> None:
    from lightning_topk.ops._noised_triton import check_on, kth_of_kernel
    from lightning_topk.ops._triton_noise import noise_of

    results = {}
    for name, (scores, k, epsilon, draws, splits) in CASES.items():
        noise = noise_of(SEED, scores.shape[0], draws, scores.shape[1], block=4096)
        results[name] = (*kth_of_kernel(scores, k, epsilon, draws, SEED, splits=splits), noise)
    results["law"] = kth_of_kernel(LAW, 2, 1.0, LAW_DRAWS, SEED)
    results["noise"] = noise_of(SEED, 2, 3, 1 << 15, block=1 << 15)
    check_on(torch.device("cpu"))
    torch.save(results, file)


if __name__ == "__main__":
    main(sys.argv[1])
