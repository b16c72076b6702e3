"""Time of one metric update as a multiple of one comparison pass over the logits.

    python benchmarks/metrics.py --classes 100 1000 10000 100000 --threads 1

The pass is ``(~(logits < own)).sum(-1)``, what every rank metric has to do at least when it is written in plain torch.
All rows of a column are timed in turn in one process and the medians are compared, so that a busy machine slows all of
them alike. With THP_MEM_ALLOC_ENABLE=1 in the environment torch's temporaries come from huge pages; without it, page
faults are most of the pass at 100,000 classes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_topk.metrics import RankHistogram, target_ranks, topk_metrics

FIVE = (1, 2, 3, 5, 10)
PASS = "one comparison pass"
# torchmetrics' macro top-1 allocates C x C: seconds and gigabytes beyond this.
SQUARE_LIMIT = 1000


def comparison_pass(logits: Tensor, targets: Tensor) -> Tensor:
    return (~(logits < logits.gather(1, targets[:, None]))).sum(-1)


def candidates(num_classes: int, many_classes: bool) -> dict[str, Callable[[Tensor, Tensor], object]]:
    """Return the rows of the table; the last ones take too long for many classes and are left out there."""
    counts = torch.arange(num_classes) + 1
    rows: dict[str, Callable[[Tensor, Tensor], object]] = {
        PASS: comparison_pass,
        "target_ranks": target_ranks,
        "RankHistogram.update": RankHistogram(num_classes, max(FIVE)).update,
        "topk_metrics.update, micro and macro, five K": topk_metrics(num_classes, FIVE).update,
        "the same and three groups": topk_metrics(num_classes, FIVE, class_counts=counts).update,
        "torchmetrics micro top-5": MulticlassAccuracy(num_classes, top_k=5, average="micro").update,
        "torchmetrics macro top-5": MulticlassAccuracy(num_classes, top_k=5, average="macro").update,
    }
    if not many_classes:
        # Without compute groups: with them the values of different K are mixed up.
        rows["torchmetrics macro, five K"] = MetricCollection(
            {str(k): MulticlassAccuracy(num_classes, top_k=k, average="macro") for k in FIVE}, compute_groups=False
        ).update
    return rows


def measure(num_classes: int, batch: int, seconds: float, clock: str) -> dict[str, float]:
    """Return the median seconds of each row."""
    now = time.process_time if clock == "process" else time.perf_counter
    logits, targets = torch.randn(batch, num_classes), torch.randint(num_classes, (batch,))
    rows = candidates(num_classes, num_classes > SQUARE_LIMIT)
    for _ in range(2):  # warm up; the first update of a collection also finds its compute groups
        for call in rows.values():
            call(logits, targets)
    times: dict[str, list[float]] = {name: [] for name in rows}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[PASS]) < 5:
        for name, call in rows.items():
            start = now()
            call(logits, targets)
            times[name].append(now() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000, 10000, 100000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="time spent on each number of classes")
    parser.add_argument("--clock", choices=["wall", "process"], default="wall", help="process suits a busy machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = {c: measure(c, options.batch, options.seconds, options.clock) for c in options.classes}
    huge = os.environ.get("THP_MEM_ALLOC_ENABLE", "0")
    print(f"batch {options.batch}, float32, threads {options.threads}, huge pages {huge}, torch {torch.__version__}\n")
    print("| multiple of the pass |" + "".join(f" C = {c:,} |" for c in results))
    print("|---|" + "---|" * len(results))
    names = max((result for result in results.values()), key=len)
    for name in names:
        cells = [result[name] / result[PASS] if name in result else None for result in results.values()]
        shown = [f" {cell:.2f} |" if cell is not None else " - |" for cell in cells]
        if name == PASS:
            shown = [f" {result[PASS] * 1e3:.3f} ms = 1 |" for result in results.values()]
        print(f"| {name} |" + "".join(shown))


if __name__ == "__main__":
    main()
