"""Time of a training step of each column, measured in turns in one process."""

import json
import random
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml  # type: ignore[import-untyped]

from lightning_topk.compare._data import kept_data
from lightning_topk.compare._jobs import PLAIN, Job, config_of_run
from lightning_topk.compare._launcher import Launcher, Parts
from lightning_topk.report import json_text, write_atomically

_REFERENCE = "cross-entropy"
_LOSS = "lightning_topk.losses.CrossEntropyLoss"
_ROUNDS = 40
_WARM_UP = 5
_STEPS_FOR_A_GUESS = 3


def step_times(grid: Any, workers: Any, output: Path, console: Any) -> dict[str, Any] | None:
    """Measure the columns of a table, or take what was measured for the same columns before.

    Returns:
        ``relative`` and ``milliseconds`` by column, ``reference``, ``device`` and ``clock``; None when nothing could be
        measured.
    """
    jobs = {
        name: job
        for name, candidate in grid.chosen.items()
        if candidate is not None and candidate.variant == PLAIN
        if (job := grid.first_job(candidate.setting)).key in grid.results
    }
    if not jobs:
        return None
    path = output / "step_time.json"
    keys = {name: job.key for name, job in jobs.items()}
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["runs"] == keys:
            return found
    for event in workers.run([partial(_measure_task, list(jobs.values()), list(jobs))]):
        if event.kind == "failed":
            console.print(f"The time of a step could not be measured: {event.value}", highlight=False, markup=False)
        if event.kind == "done":
            found = {**event.value, "runs": keys}
            write_atomically(path, json_text(found))
            return found
    return None


def _measure_task(
    jobs: Sequence[Job], names: Sequence[str], launcher: Launcher, report: Any, cache: dict[str, Any]
) -> dict[str, Any]:
    return measure(jobs, names, launcher, cache)


def measure(jobs: Sequence[Job], names: Sequence[str], launcher: Launcher, cache: dict[str, Any]) -> dict[str, Any]:
    """Return the median time of a training step of each column, with that of cross-entropy as the unit.

    The steps of all columns, forward, loss, backward and AdamW on one batch, are made in turns, in changing order, so
    that what else the machine does meets all alike. On the CPU the time is that of the processor, on one thread.
    """
    configs = {name: config_of_run(job) for name, job in zip(names, jobs, strict=True)}
    reference = next((name for name, config in configs.items() if _is_cross_entropy(config)), None)
    if reference is None and (config := _with_cross_entropy(next(iter(configs.values())))) is not None:
        reference = _REFERENCE
        configs[reference] = config
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {name: _Step(jobs[0].folder, config, launcher, cache) for name, config in configs.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(_WARM_UP + _ROUNDS):
            # In another order each time: a step depends on what the one before it has left in the caches.
            for name in random.Random(turn).sample(list(steps), len(steps)):
                seconds = steps[name]()
                if turn >= _WARM_UP:
                    times[name].append(seconds)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(each) for name, each in times.items()}
    unit = medians[reference if reference is not None else next(iter(medians))]
    first = next(iter(steps.values()))
    return {
        "relative": {name: medians[name] / unit for name in names},
        "milliseconds": {name: 1e3 * value for name, value in medians.items()},
        "reference": reference or names[0],
        "rounds": _ROUNDS,
        "device": str(first.device),
        "clock": "process time, one thread" if first.device.type == "cpu" else "wall time, synchronised",
    }


def run_seconds(job: Job, launcher: Launcher, cache: dict[str, Any]) -> float:
    """Return the time that the training of a run would take, from a few of its steps on this machine as it is."""
    job.folder.mkdir(parents=True, exist_ok=True)
    step = _Step(job.folder, config_of_run(job), launcher, cache)
    step()
    since = time.perf_counter()
    for _ in range(_STEPS_FOR_A_GUESS):
        step()
    return step.number * (time.perf_counter() - since) / _STEPS_FOR_A_GUESS


class _Step:
    """A training step on one batch."""

    def __init__(self, folder: Path, config: Mapping[str, Any], launcher: Launcher, cache: dict[str, Any]) -> None:
        path = folder / "timing.yaml"
        write_atomically(path, yaml.safe_dump(dict(config), sort_keys=False))
        try:
            self.parts: Parts = launcher.build(path)
        finally:
            path.unlink()
        self.device = self.parts.trainer.strategy.root_device
        self.model = cast(Any, self.parts.model)
        self.model.to(self.device).train()
        self.model.log = self.model.log_dict = lambda *args, **options: None  # there is no trainer to log for
        self.parts.datamodule = kept_data(cache, config, self.parts.datamodule)
        source: Any = self.parts.datamodule or self.parts.model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.parts.datamodule is not None:
                source.prepare_data()
                source.setup("fit")
            torch.manual_seed(0)  # the same batch for all
            loader = source.train_dataloader()
            batch = next(iter(loader))
        self.number = _steps_of(self.parts.trainer, loader)
        self.batch = self.model.transfer_batch_to_device(batch, self.device, 0)
        criterion = self.model.topk_criterion
        counts = getattr(source, "class_counts", None)
        if getattr(criterion, "needs_class_counts", False) and criterion.class_counts is None and counts is not None:
            criterion.bind_class_counts(torch.as_tensor(counts).to(self.device))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def __call__(self) -> float:
        since = self._now()
        self.optimizer.zero_grad()
        with self.parts.trainer.precision_plugin.train_step_context():
            loss = self.model.training_step(self.batch, 0)
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        self.optimizer.step()
        return self._now() - since

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


def _steps_of(trainer: Any, loader: Any) -> int:
    """Return the number of training steps, in batches, of a run."""
    limit = trainer.limit_train_batches
    batches = min(len(loader), limit) if isinstance(limit, int) else int(len(loader) * limit)
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else 1000
    steps = batches * epochs
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps * trainer.accumulate_grad_batches)


def _is_cross_entropy(config: Mapping[str, Any]) -> bool:
    loss = (config["model"].get("init_args") or {}).get("loss")
    return isinstance(loss, Mapping) and str(loss.get("class_path")).endswith("CrossEntropyLoss")


def _with_cross_entropy(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if "loss" not in (config["model"].get("init_args") or {}):
        return None
    changed = deepcopy(dict(config))
    changed["model"]["init_args"]["loss"] = {"class_path": _LOSS}
    changed["model"]["init_args"]["k"] = changed["model"]["init_args"].get("k") or 5
    return changed
