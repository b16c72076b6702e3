"""Time of the noised loss' draws where lazy noise or the noise of all classes is chosen, over that of all noise.

    python benchmarks/noise_choice.py --classes 550 700 1000 1500 2400

Scores are of 18 laws: normal, normal beside the log-priors of an imbalanced data set, uniform, and of one long tail, up
or down. Both ways take turns on one thread; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_topk.ops._full_noise import full_draws_on_cpu
from lightning_topk.ops._lazy_noise_choice import cheapest_draws

BATCH, RANK, DRAWS = 128, 6, 5


def laws(num_classes: int) -> dict[str, Tensor]:
    """Scores of each law; the label's are 8 higher, or 8 times the spread where this is below 1."""
    random = torch.Generator().manual_seed(0)
    normal = torch.randn(BATCH, num_classes, generator=random)
    uniform = torch.rand(BATCH, num_classes, generator=random)
    gumbel = -(-uniform.log()).log()
    counts = (torch.arange(num_classes) % 100 + 1).float()
    priors = (counts / counts.sum()).log()
    made = {f"normal, {spread}": spread * normal for spread in (0.8, 1.05, 1.2, 1.4, 1.7, 2.0, 3.0)}
    made |= {f"normal, {spread}, and log-priors": spread * normal + priors for spread in (0.5, 1.0, 2.0)}
    made |= {f"uniform on [0, {width}]": width * uniform for width in (3, 6, 12)}
    made |= {f"Gumbel, {scale}": scale * gumbel for scale in (0.5, 1.0, 2.0, -1.0, -2.0)}
    targets = torch.randint(num_classes, (BATCH, 1), generator=random)
    return {name: s.scatter_add(1, targets, (8 * s.std().clamp(max=1)).expand(BATCH, 1)) for name, s in made.items()}


def median_ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, kept in zip((first, second), times, strict=True):
            start = time.perf_counter()
            run()
            kept.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[550, 700, 1000, 1500, 2400])
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = [laws(num_classes) for num_classes in options.classes]
    print("| law | " + " | ".join(f"C = {c:,}" for c in options.classes) + " |\n|---|" + "---:|" * len(columns))
    for name in columns[0]:
        ratios = []
        for scores in (column[name] for column in columns):
            arguments = (scores, RANK, 1.0, DRAWS, None)
            ways = (lambda a=arguments: cheapest_draws(*a)), (lambda a=arguments: full_draws_on_cpu(*a))
            ratios.append(median_ratio(*ways, options.rounds))
        print(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
