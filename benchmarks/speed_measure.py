"""Time and memory of one training step of each loss in one setting; `speed.py` starts it in a process of its own.

It reads a description from its first argument and writes the results to the file of its second, both in JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from speed_rows import BASE, COMPILED, Loss, Setting, all_rows
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

LEAST_RUNS = 3


def step(loss: Loss, logits: Tensor, targets: Tensor) -> None:
    """Forward and backward, into a new gradient."""
    logits.grad = None
    loss(logits, targets).backward()


def interleaved(rows: dict[str, Loss], logits: Tensor, targets: Tensor, seconds: float, clock: str) -> dict:
    """Seconds of every run of each row, in turn; a row that takes long is left out of some rounds.

    Each round has an order of its own: what a row leaves in the caches and in the allocator is the same for all others.
    """
    now = time.process_time if clock == "process" else time.perf_counter
    leaf = logits.clone().requires_grad_()
    times: dict[str, list[float]] = {name: [] for name in rows}
    spent = dict.fromkeys(rows, 0.0)
    start = time.perf_counter()
    for round_ in range(100_000):
        elapsed = time.perf_counter() - start
        if round_ > LEAST_RUNS and elapsed > seconds:
            break
        for name in random.Random(round_).sample(list(rows), len(rows)):
            if round_ > LEAST_RUNS and name != BASE and spent[name] > max(elapsed, seconds / 4) / len(rows):
                continue
            begin, first = time.perf_counter(), now()
            step(rows[name], leaf, targets)
            if round_:  # the first round warms up
                times[name].append(now() - first)
                spent[name] += time.perf_counter() - begin
    return times


def allocation_peak(loss: Loss, logits: Tensor, targets: Tensor) -> float:
    """Most bytes held at a time during a step, its gradient included, in sizes of the logits.

    Torch's allocations by its profiler; those of NumPy, and of Python itself, by ``tracemalloc``. The two peaks of the
    forward pass are added, and those of the backward pass: what is found is at most too much.
    """
    leaf = logits.clone().requires_grad_()
    step(loss, leaf, targets)  # what a first step alone makes is not counted
    leaf.grad = None
    gc.collect()
    held = kept = most = 0  # by torch, and by NumPy, after the forward pass; and the most at a time
    value: list[Tensor] = []
    tracemalloc.start()
    try:
        for part in (lambda: value.append(loss(leaf, targets)), lambda: value[0].backward()):
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
                tracemalloc.reset_peak()
                start = tracemalloc.get_traced_memory()[0]
                part()
                end, peak = (traced - start for traced in tracemalloc.get_traced_memory())
            highest = held
            for event in record.profiler.kineto_results.events():
                if event.name() == "[memory]":
                    held += event.nbytes()
                    highest = max(highest, held)
            most = max(most, highest + kept + peak)
            kept = end
    finally:
        tracemalloc.stop()
    return most / (logits.numel() * logits.element_size())


def resident_peak(loss: Loss, setting: Setting) -> float:
    """By how much the resident set of a fresh process grew at most during its second step, in sizes of the logits.

    The first step, on a few rows, brings in the code; the logits are there before.
    """

    def measure() -> float:
        torch.set_num_threads(setting.threads)
        logits, targets = setting.data()
        step(loss, logits[:2].clone().requires_grad_(), targets[:2])
        leaf = logits.requires_grad_()
        with open("/proc/self/statm") as file:
            before = int(file.read().split()[1]) * resource.getpagesize()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak counts from here
        step(loss, leaf, targets)
        with open("/proc/self/status") as file:
            peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
        return (peak - before) / (leaf.numel() * leaf.element_size())

    return in_child(measure)


def in_child(measure: Callable[[], float]) -> float:
    """Run in a fork of this process, which has computed nothing so far; NaN where it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(measure()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else float("nan")


def breakdown(loss: Loss, logits: Tensor, targets: Tensor, steps: int = 10) -> dict[str, float]:
    """Share of each operator in the time of a step, its own time without that of the operators in it."""
    leaf = logits.clone().requires_grad_()
    step(loss, leaf, targets)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(steps):
            step(loss, leaf, targets)
    own = {event.key: event.self_cpu_time_total for event in record.key_averages()}
    total = sum(own.values())
    return {name: time / total for name, time in sorted(own.items(), key=lambda pair: -pair[1])[:12]}


def quartiles(times: list[float]) -> list[float]:
    return statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [*times] * 3


def main() -> None:
    warnings.simplefilter("ignore")  # of peers, on every call
    task = json.loads(sys.argv[1])
    setting = Setting(**task["setting"])
    torch.set_num_threads(1)  # a pool of threads would be missed by the forks, which wait for it
    torch.set_num_interop_threads(1)
    rows = all_rows(setting, task["peer_paths"], task["only"], task["without"], task["compile"])
    weighed = [name for name in rows if task["memory"] and not name.endswith(COMPILED)]
    resident = {name: resident_peak(rows[name], setting) for name in weighed}
    torch.set_num_threads(setting.threads)
    logits, targets = setting.data()
    peaks = {name: allocation_peak(rows[name], logits, targets) for name in weighed}
    result: dict[str, dict] = {}
    for name, times in interleaved(rows, logits, targets, task["seconds"], task["clock"]).items():
        low, median, high = quartiles(times)
        result[name] = {"median": median, "low": low, "high": high, "runs": len(times)}
        if name in weighed:
            result[name] |= {"allocated": peaks[name], "resident": resident[name]}
        if name in task["profile"]:
            result[name]["breakdown"] = breakdown(rows[name], logits, targets)
    Path(sys.argv[2]).write_text(json.dumps(result))  # not to the standard output, where peers print


if __name__ == "__main__":
    main()
