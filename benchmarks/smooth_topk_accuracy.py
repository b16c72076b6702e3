"""Errors of the smooth top-k loss in float32, ours and the authors', against a reference in 200 bits.

    python benchmarks/smooth_topk_accuracy.py --rows 4000 --classes 60
    python benchmarks/smooth_topk_accuracy.py --rows 20 --classes 10000 --no-peer

Rows are drawn with k from 1 to 50, tau and the spread of the logits from 1e-4 to 1e4, labels near the k-th place half
of the time, and seven kinds of logits: normal, all equal, tied, nearly tied, two values, heavy-tailed, and a step at
the k-th place. The error of the value is relative; that of the gradient relative to its L1 norm, and that of its worst
entry relative to its largest. The authors' code is run in the copy that ``difftopk`` ships.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightning_topk.losses import smooth_topk_loss

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from references import smooth_topk

KINDS = ("normal", "equal", "ties", "near ties", "two values", "heavy", "step")
# Below the smallest normal number of float32 errors count as those of this number.
TINY = 2.0**-126
Loss = Callable[[Tensor, Tensor, int, float, float], Tensor]


def ours(logits: Tensor, targets: Tensor, k: int, tau: float, alpha: float) -> Tensor:
    return smooth_topk_loss(logits, targets, k=k, tau=tau, alpha=alpha)


def authors(logits: Tensor, targets: Tensor, k: int, tau: float, alpha: float) -> Tensor:
    from difftopk.smooth_topk import Topk_Hard_SVM, Topk_Smooth_SVM, detect_large

    labels = torch.arange(logits.shape[1])
    hard = bool(detect_large(logits, k, tau, 1e3)[1])
    loss = Topk_Hard_SVM(labels, k, alpha) if hard else Topk_Smooth_SVM(labels, k, tau, alpha)
    return loss(logits, targets).sum()


def draw(kind: str, k: int, classes: int, scale: float, random: torch.Generator) -> Tensor:
    z = torch.randn(classes, generator=random)
    if kind == "equal":
        z = torch.ones(classes)
    elif kind == "ties":
        z = z.round()
    elif kind == "near ties":
        z = z.round() + 1e-6 * torch.randn(classes, generator=random)
    elif kind == "two values":
        z = (z > 1).float()
    elif kind == "heavy":
        z = (2 * z).exp()
    elif kind == "step":
        jump = k + int(torch.randint(-1, 2, (), generator=random))
        z = (torch.arange(classes) < jump).float() + 1e-3 * z
    return z * scale


def errors(loss: Loss, scores: Tensor, label: int, k: int, tau: float, alpha: float, reference: tuple) -> list[float]:
    leaf = scores.clone().unsqueeze(0).requires_grad_()
    value = loss(leaf, torch.tensor([label]), k, tau, alpha)
    value.backward()
    exact, gradient = reference
    off = [abs(found - true) for found, true in zip(leaf.grad[0].tolist(), gradient, strict=True)]
    sizes = [abs(true) for true in gradient]
    return [
        float(abs(value.item() - exact) / max(exact, TINY)),
        float(sum(off) / max(sum(sizes), TINY)),
        float(max(off) / max(max(sizes), TINY)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=60, help="k + 1 classes and this many more at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(options.seed)

    def pick(*choices: float) -> float:
        return choices[int(torch.randint(len(choices), (), generator=random))]

    powers = [10.0**power for power in range(-4, 5)]
    losses = {"ours": ours} if options.no_peer else {"ours": ours, "authors": authors}
    found: dict[str, list[tuple]] = {name: [] for name in losses}
    for _ in range(options.rows):
        k, tau, scale, alpha = int(pick(1, 2, 3, 5, 10, 20, 50)), pick(*powers), pick(*powers), pick(0.0, 0.1, 1.0)
        more = int(pick(0, 1, k, 2 * k, options.classes, options.classes))
        kind = KINDS[int(torch.randint(len(KINDS), (), generator=random))]
        scores = draw(kind, k, k + 1 + more, scale, random)
        place = int(torch.randint(max(0, k - 2), k + 1, (), generator=random))
        label = int(scores.argsort(descending=True)[place]) if pick(0, 1) else int(pick(*range(len(scores))))
        reference = smooth_topk(scores.tolist(), label, k, tau, alpha)
        for name, loss in losses.items():
            if name == "authors" and (k == 1 or len(scores) - 1 < k + int(1 + 0.2 * k)):
                continue  # refused there
            row = f"k={k} C={len(scores)} tau={tau:g} scale={scale:g} alpha={alpha:g} {kind}"
            found[name].append((errors(loss, scores, label, k, tau, alpha, reference), row))
    print(f"{options.rows} rows, float32, torch {torch.__version__}\n")
    print("| | value: median | 99% | worst | gradient, L1: median | 99% | worst | largest entry: worst | not finite |")
    print("|---|" + 8 * "---|")
    for name, results in found.items():
        finite = torch.tensor([error for error, _ in results], dtype=torch.float64)
        bad = ~finite.isfinite().all(-1)
        value, norm, entry = finite[~bad].T
        cells = [value.median(), value.quantile(0.99), value.max(), norm.median(), norm.quantile(0.99), norm.max()]
        print(f"| {name} |" + "".join(f" {cell:.1e} |" for cell in [*cells, entry.max()]) + f" {int(bad.sum())} |")
    for name, results in found.items():
        results = [result for result in results if torch.tensor(result[0]).isfinite().all()]
        for what, column in (("value", 0), ("gradient", 1)):
            worst = max(results, key=lambda result: result[0][column])
            print(f"worst {what} of {name}: {worst[0][column]:.1e} at {worst[1]}")


if __name__ == "__main__":
    main()
