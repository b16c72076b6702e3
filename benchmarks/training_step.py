"""Time of a whole training step through Lightning with each loss, as a multiple of the step with cross-entropy.

    python benchmarks/training_step.py --classes 100 1000 --seconds 300

One ResNet-18 on random images of 32 x 32, trained by `lightning.Trainer` with SGD; the batches take the losses in
turns, in changing order, so that a busy machine and what a step leaves in the caches slow all of them alike. A step
is what lies between the hooks `on_train_batch_start` and `on_train_batch_end`: forward, loss, backward and optimizer.
With torchvision's stem (a stride of 4 before the first block) the network is at its fastest, and the losses weigh the
most; ``--stem cifar`` keeps all pixels.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
import warnings
from typing import Any

import lightning as L
import torch
from speed_rows import BASE, Setting, ours
from torch import Tensor, nn
from torchvision.models import resnet18


def turn(batch_idx: int, count: int) -> int:
    """Which of the losses a batch takes: in every round each of them, in another order."""
    number, place = divmod(batch_idx, count)
    return random.Random(number).sample(range(count), count)[place]


class Net(L.LightningModule):
    """A network whose loss is another one in each batch."""

    def __init__(self, losses: dict[str, nn.Module], num_classes: int, stem: str) -> None:
        super().__init__()
        self.network = resnet18(num_classes=num_classes)
        if stem == "cifar":
            self.network.conv1, self.network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        self.names = list(losses)
        self.losses = nn.ModuleList(losses.values())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        return self.losses[turn(batch_idx, len(self.losses))](self.network(images), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


class Timer(L.Callback):
    """Seconds of the steps of each loss."""

    def __init__(self, names: list[str], seconds: float, clock: str) -> None:
        self.times: dict[str, list[float]] = {name: [] for name in names}
        self.names, self.end, self.done = names, time.monotonic() + seconds, False
        self.now = time.process_time if clock == "process" else time.perf_counter

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.start = self.now()

    def on_train_batch_end(self, trainer: L.Trainer, module: Net, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx >= len(self.names):  # the first round warms up
            self.times[self.names[turn(batch_idx, len(self.names))]].append(self.now() - self.start)
        self.done = time.monotonic() > self.end and batch_idx >= 3 * len(self.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="for each number of classes, at least 2 rounds")
    parser.add_argument("--stem", choices=["imagenet", "cifar"], default="imagenet")
    parser.add_argument("--clock", choices=["wall", "process"], default="wall", help="process suits a busy machine")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows whose names begin so")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # of data loaders and loggers, which are left out on purpose
    print(
        f"batch {options.batch}, {options.pixels} pixels, {options.stem} stem, threads {options.threads}, "
        f"torch {torch.__version__}, lightning {L.__version__}, {time.strftime('%Y-%m-%d')}\n"
    )
    print("| loss | C | step / cross-entropy: median | lower quartile | upper quartile | steps |\n|---|" + 5 * "---:|")
    for num_classes in options.classes:
        rows = ours(Setting(classes=num_classes, batch=options.batch))
        chosen = {n: loss for n, loss in rows.items() if not options.only or n.startswith(tuple(options.only))}
        losses = {BASE: nn.CrossEntropyLoss(), **chosen}
        images = torch.randn(options.batch, 3, options.pixels, options.pixels)
        batch = images, torch.randint(num_classes, (options.batch,))
        timer = Timer(list(losses), options.seconds, options.clock)
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, callbacks=[timer], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        batches = itertools.takewhile(lambda _, timer=timer: not timer.done, itertools.repeat(batch))
        trainer.fit(Net(losses, num_classes, options.stem), batches)
        base = statistics.median(timer.times[BASE])
        for name, times in timer.times.items():
            low, median, high = (part / base for part in statistics.quantiles(times, n=4, method="inclusive"))
            shown = f"{base * 1e3:.1f} ms = 1" if name == BASE else f"{median:.3f}"
            print(f"| {name} | {num_classes:,} | {shown} | {low:.3f} | {high:.3f} | {len(times)} |")


if __name__ == "__main__":
    main()
