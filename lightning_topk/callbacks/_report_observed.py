"""What a report looks at in each batch of an evaluation, beyond the ranks of the labels."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import check_int
from lightning_topk.metrics._pair_counts import PairCounts
from lightning_topk.metrics._set_reliability import SetReliability
from lightning_topk.report._probabilities import sharpness

WAITING = 2**18  # scores that are looked at in one go: what the second-level cache of a CPU holds
REMEMBERED = 2**18  # samples whose best classes rank 0 keeps, for examples of pairs


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows beyond the accuracies; see :class:`~lightning_topk.callbacks.TopKReport`."""

    look_alikes: int = 24
    examples: int = 3
    reliability: bool = True

    def __post_init__(self) -> None:
        check_int("look_alikes", self.look_alikes, 0)
        check_int("examples", self.examples, 0)

    def changed(self) -> str:
        """Name those that are not as usual."""
        usual = ReportOptions()
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return "".join(f", {name}={value}" for name, value in own.items() if value != getattr(usual, name))


@dataclass
class Found:
    """What was seen in one evaluation, summed over processes.

    Attributes:
        pairs: How often each class is among the K best of another one's samples.
        sets: Coverage and sizes of prediction sets.
        labels: Labels of the samples of this process in their order, shape [N].
        best: Their K best classes, shape [N, K].
    """

    pairs: PairCounts | None = None
    sets: SetReliability | None = None
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    best: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int32))


class Observer:
    """Is called with the scores and labels of each batch; nothing in it waits for the device.

    Args:
        k: K of the pairs.
        ks: K of the sets, ascending.
        factor: Factor on the scores under the softmax.
        ignore_index: Label that is not counted.
        pairs: Whether pairs are counted.
        sets: Whether sets are counted.
        remember: Whether the best classes of each sample are kept, for examples.
    """

    def __init__(
        self, k: int, ks: list[int], *, factor: float, ignore_index: int | None, pairs: bool, sets: bool, remember: bool
    ) -> None:
        self.k, self.ks, self.factor, self.ignore_index = k, ks, factor, ignore_index
        self._counts_pairs, self._remembers = pairs, remember
        self._pairs: PairCounts | None = None
        self._sets = SetReliability(ks) if sets else None
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._waiting_size = 0
        self._log: list[tuple[Tensor, Tensor]] = []
        self._logged = 0

    @torch.no_grad()
    def __call__(self, scores: Tensor, labels: Tensor) -> None:
        self._remembers &= scores.ndim == 2  # elsewhere a row is no sample
        scores = scores.reshape(-1, scores.shape[-1])
        # Small batches are looked at together. They are copied, as the scores may be changed after the loss.
        self._waiting.append((scores.clone(), labels.reshape(-1).clone()))
        self._waiting_size += scores.numel()
        if self._waiting_size >= WAITING:
            self._look()

    @torch.no_grad()
    def _look(self) -> None:
        if not self._waiting:
            return
        scores, labels = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._waiting_size = [], 0
        if self.ignore_index is not None:
            labels = labels.masked_fill(labels == self.ignore_index, -1)
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.float()
        size = scores.shape[1]
        found = scores.topk(min(size, max(self.k, self.ks[-1] if self._sets is not None else 0) + 1))
        best = found.indices[:, : self.k]
        if self._counts_pairs:
            self._pairs = self._pairs or PairCounts(size)
            self._pairs.update(labels, best)
        if self._sets is not None:
            scaled = scores if self.factor == 1.0 else self.factor * scores
            self._sets.update(scaled, labels, self.factor * found.values)
        if self._remembers and self._logged < REMEMBERED:
            self._log.append((labels.int(), best.int()))
            self._logged += len(labels)

    def summed(self, num_classes: int, device: torch.device) -> Found:
        """Return the sums over all processes, each of which has to call this."""
        self._look()
        found = Found()
        if self._counts_pairs:
            found.pairs = self._pairs or PairCounts(num_classes)
            found.pairs.sync(device)
        if self._sets is not None:
            found.sets = self._sets
            found.sets.sync(device)
        if self._remembers and self._log:
            found.labels = torch.cat([labels for labels, _ in self._log]).cpu()
            found.best = torch.cat([best for _, best in self._log]).cpu()
        return found


def observer_for(pl_module: Any, ks: list[int] | None, options: ReportOptions, *, remember: bool) -> Observer:
    """Make an observer for a module.

    Args:
        pl_module: A module with the mixin and its metrics.
        ks: The K of tables; those of the module's metrics when not given.
        options: What is to be seen.
        remember: Whether this process shows examples.
    """
    criterion = pl_module.topk_criterion
    return Observer(
        min(pl_module.topk_k, max(pl_module.topk_ks)),
        list(ks or pl_module.topk_ks),
        factor=sharpness(criterion),
        ignore_index=getattr(criterion, "ignore_index", None),
        pairs=options.look_alikes > 0,
        sets=options.reliability,
        remember=remember and options.look_alikes > 0 and options.examples > 0,
    )


class Observers:
    """Puts an observer to each dataloader of an evaluation, and takes them away at its end."""

    def __init__(self) -> None:
        self._make: Callable[[], Observer] | None = None
        self._placed: dict[str, tuple[Any, Observer]] = {}

    def begin(self, make: Callable[[], Observer] | None) -> None:
        """Begin an evaluation that is observed by what ``make`` returns; by nothing where it is ``None``."""
        self.stop()
        self._make = make

    def place(self, pl_module: Any, key: str) -> None:
        """Put an observer to the evaluation of this key, unless there is one."""
        if self._make is not None and key not in self._placed and key in pl_module.topk_evaluations:
            self._placed[key] = pl_module.topk_evaluations[key], self._make()
            self._placed[key][0].observers.append(self._placed[key][1])

    def of(self, key: str) -> Observer | None:
        """Return the observer of a key: an empty one where this process has seen no batch."""
        if self._make is None:
            return None
        return self._placed[key][1] if key in self._placed else self._make()

    def stop(self) -> None:
        """Take all observers away."""
        for evaluation, observer in self._placed.values():
            evaluation.observers.remove(observer)
        self._make, self._placed = None, {}
