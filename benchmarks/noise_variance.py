"""What the exact Gaussian smoothing removes: the noise of the sampled top-K loss; and what it costs.

    python benchmarks/noise_variance.py --classes 1000 --k 5 --threads 1 --cost 100 1000 10000

Logits are 3 x normal with the true class raised by 8, epsilon and margin are 1. Over many draws for each row, the first
table has the standard deviation of the sampled loss, its mean difference to the exact loss, and the L1 distance of its
gradient to the exact one (whose L1 norm is near 2), all averaged over the rows whose exact loss is positive. The exact
loss is the limit of many draws; at few draws the sampled loss has a larger mean, as the hinge is outside of the mean
over the draws.

The second table has the time of one step forward and backward as a multiple of cross-entropy (interleaved, medians of
the time of the process) and the peak of torch's allocations in it as a multiple of the logits, for each number of
classes given to ``--cost``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_topk.losses import gaussian_topk_loss, noised_topk_loss

Loss = Callable[[Tensor, Tensor], Tensor]


def batch(rows: int, num_classes: int) -> tuple[Tensor, Tensor]:
    logits, targets = 3 * torch.randn(rows, num_classes), torch.randint(num_classes, (rows,))
    logits[torch.arange(rows), targets] += 8
    return logits, targets


def losses_and_gradients(loss: Loss, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    values = loss(leaf, targets)
    values.sum().backward()
    assert leaf.grad is not None
    return values.detach(), leaf.grad


def noise(num_samples: int, logits: Tensor, targets: Tensor, k: int, draws: int) -> tuple[float, float, float]:
    """Standard deviation and bias of the sampled loss, and L1 error of its gradient, averaged over the active rows."""

    def sampled(scores: Tensor, labels: Tensor) -> Tensor:
        return noised_topk_loss(scores, labels, k=k, num_samples=num_samples, reduction="none")

    exact, slopes = losses_and_gradients(
        lambda scores, labels: gaussian_topk_loss(scores, labels, k=k, reduction="none"), logits, targets
    )
    repeats = [losses_and_gradients(sampled, logits, targets) for _ in range(draws)]
    values = torch.stack([value for value, _ in repeats])
    distance = torch.stack([(gradient - slopes).abs().sum(-1) for _, gradient in repeats])
    active = exact > 0
    return tuple(float(part[active].mean()) for part in (values.std(0), values.mean(0) - exact, distance.mean(0)))


def peak(loss: Loss, logits: Tensor, targets: Tensor) -> int:
    """Most bytes that torch held at a time during a step."""
    leaf = logits.clone().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss(leaf, targets).backward()
    used = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            used += event.nbytes()
            most = max(most, used)
    return most


def cost(num_classes: int, rows: int, k: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Time and memory of one step of each loss, in seconds and in multiples of the logits."""
    logits, targets = batch(rows, num_classes)
    candidates: dict[str, Loss] = {
        "cross-entropy": cross_entropy,
        "noised, B = 5": lambda scores, labels: noised_topk_loss(scores, labels, k=k),
        "exact, tolerance 1e-3": lambda scores, labels: gaussian_topk_loss(scores, labels, k=k, tolerance=1e-3),
        "exact, tolerance 1e-5": lambda scores, labels: gaussian_topk_loss(scores, labels, k=k),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats + 1):
        for name, loss in candidates.items():
            leaf = logits.clone().requires_grad_()
            start = time.process_time()
            loss(leaf, targets).backward()
            times[name].append(time.process_time() - start)
    size = logits.numel() * logits.element_size()
    return {
        name: (statistics.median(times[name][1:]), peak(loss, logits, targets) / size)
        for name, loss in candidates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cost", type=int, nargs="*", default=[], help="numbers of classes of the second table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logits, targets = batch(options.rows, options.classes)
    print(f"C = {options.classes}, k = {options.k}, {options.rows} rows, {options.draws} repeats, epsilon 1\n")
    print("| draws B | sd of the loss | mean minus exact | L1 error of the gradient |\n|---|---|---|---|")
    for num_samples in (1, 5, 50):
        sd, bias, error = noise(num_samples, logits, targets, options.k, options.draws)
        print(f"| {num_samples} | {sd:.3f} | {bias:+.4f} | {error:.2f} |")
    print("| exact | 0 | 0 | 0 |")
    if options.cost:
        results = {c: cost(c, options.rows, options.k, 15) for c in options.cost}
        print(f"\nbatch {options.rows}, float32, threads {options.threads}, torch {torch.__version__}\n")
        print("| time and memory |" + "".join(f" C = {c:,} |" for c in results) + "\n|---|" + "---|" * len(results))
        for name in next(iter(results.values())):
            cells = []
            for result in results.values():
                seconds, memory = result[name]
                base = result["cross-entropy"][0]
                shown = f"{seconds * 1e3:.2f} ms = 1" if seconds == base else f"{seconds / base:.1f} x"
                cells.append(f" {shown}, {memory:.1f} logits |")
            print(f"| {name} |" + "".join(cells))


if __name__ == "__main__":
    main()
