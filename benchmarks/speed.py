"""Time and memory of every loss against cross-entropy and against every peer that can be imported.

    pip install -e ".[bench,test]"
    python benchmarks/speed.py --output build/speed

A step is forward and backward into the logits. In each setting all losses run in turn in one process, in every round in
another order, so that a busy machine, and what the last one left in the caches, slow all of them alike; the tables have
medians of the time as multiples of ``torch.nn.functional.cross_entropy`` in the same process. Memory is the peak of
torch's allocations during a step, the gradient included, and the growth of the resident set in a fresh process, both in
sizes of the logits. Each setting has a process of its own: ``--threads`` and ``--allocators`` (``huge`` is
``THP_MEM_ALLOC_ENABLE=1``) take effect there.

Settings are the ones named by ``--threads``, ``--allocators`` and ``--classes``, then those that vary one other thing
at a time from the first of them: ``--spreads``, ``--ks``, ``--samples``, ``--batches``, ``--epsilons``, ``--dtypes``.
What is done is kept in ``results.json`` in the output folder and not measured again for the same rows, so that a run
may be broken off by Ctrl-C or ``--time-limit`` and goes on where it stopped. ``--only`` takes some rows alone, by the
beginning of their names, and ``--without`` leaves some out. ``--compile`` measures the rows that it names a second
time, by `torch.compile`, without their memory. Beside ``results.json`` there are ``results.csv``, ``speed.md`` for the
docs, and with ``--figures`` the figures of these rows, with what was measured in the same folder before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from speed_output import facts, figures, write
from speed_rows import Setting

HERE = Path(__file__).resolve().parent


def parser() -> argparse.ArgumentParser:
    line = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    line.add_argument("--classes", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    line.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    line.add_argument("--allocators", nargs="+", choices=["default", "huge"], default=["default", "huge"])
    line.add_argument("--spreads", type=float, nargs="+", default=[3.0], help="standard deviation of the logits")
    line.add_argument("--ks", type=int, nargs="+", default=[5])
    line.add_argument("--samples", type=int, nargs="+", default=[5], help="draws B of the noised losses")
    line.add_argument("--batches", type=int, nargs="+", default=[128])
    line.add_argument("--epsilons", type=float, nargs="+", default=[1.0])
    line.add_argument("--dtypes", nargs="+", choices=["float32", "float16", "bfloat16"], default=["float32"])
    line.add_argument("--only", nargs="+", metavar="ROW", help="rows whose names begin so")
    line.add_argument("--without", nargs="+", metavar="ROW", default=[], help="rows that are left out, the same way")
    line.add_argument("--compile", nargs="*", default=[], metavar="ROW", help="rows that `torch.compile` runs as well")
    line.add_argument("--profile", nargs="*", default=[], metavar="ROW", help="rows whose operators are listed")
    line.add_argument(
        "--peer-path", nargs="*", default=[], metavar="NAME=PATH", help="sources of smooth-topk, LDAM-DRW"
    )
    line.add_argument("--no-peers", action="store_true", help="the losses of this package and cross-entropy alone")
    line.add_argument("--seconds", type=float, default=10.0, help="time spent on each setting, at least 3 rounds")
    line.add_argument("--time-limit", type=float, default=3600.0, help="seconds after which no setting is begun")
    line.add_argument("--clock", choices=["wall", "process"], default="wall", help="process time suits a busy machine")
    line.add_argument("--no-memory", action="store_true")
    line.add_argument("--figures", action="store_true")
    line.add_argument("--output", type=Path, default=Path("build/speed"))
    return line


def settings(options: argparse.Namespace) -> list[Setting]:
    """The main settings, then those that differ from them in one thing."""
    first = Setting(
        spread=options.spreads[0],
        k=options.ks[0],
        samples=options.samples[0],
        batch=options.batches[0],
        epsilon=options.epsilons[0],
        dtype=options.dtypes[0],
    )
    main = [
        replace(first, classes=classes, threads=threads, huge_pages=allocator == "huge")
        for threads in options.threads
        for allocator in options.allocators
        for classes in options.classes
    ]
    others = {
        "spread": options.spreads,
        "k": options.ks,
        "samples": options.samples,
        "batch": options.batches,
        "epsilon": options.epsilons,
        "dtype": options.dtypes,
    }
    varied = [
        replace(setting, **{name: value})
        for name, values in others.items()
        for value in values[1:]
        for setting in main[: len(options.classes)]
        if name != "k" or value < setting.classes
    ]
    return main + varied


def measure(setting: Setting, options: argparse.Namespace) -> dict:
    """Run one setting in a process of its own; its results by row."""
    task = {
        "setting": asdict(setting),
        "peer_paths": None if options.no_peers else dict(pair.split("=", 1) for pair in options.peer_path),
        "only": options.only,
        "without": options.without,
        "compile": options.compile,
        "memory": not options.no_memory,
        "seconds": options.seconds,
        "clock": options.clock,
        "profile": options.profile,
    }
    environment = os.environ | {
        "OMP_NUM_THREADS": str(setting.threads),
        "MKL_NUM_THREADS": str(setting.threads),
        "THP_MEM_ALLOC_ENABLE": str(int(setting.huge_pages)),
        "KINETO_LOG_LEVEL": "99",
    }
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, str(HERE / "speed_measure.py"), json.dumps(task), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        print("".join(f"  {line}\n" for line in done.stderr.splitlines() if "left out" in line), end="")
        return json.loads(result.read_text())


def main() -> None:
    options = parser().parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    store = options.output / "results.json"
    results: list[dict] = json.loads(store.read_text())["results"] if store.exists() else []
    known = {json.dumps(result["setting"], sort_keys=True): result for result in results}
    end = time.monotonic() + options.time_limit
    wanted = settings(options)
    rows_asked = [
        options.only,
        options.without,
        options.compile,
        options.profile,
        options.peer_path,
        options.no_peers,
        options.no_memory,
    ]
    for number, setting in enumerate(wanted, 1):
        key = json.dumps(asdict(setting), sort_keys=True)
        if key in known and rows_asked in known[key]["asked"]:
            continue
        if time.monotonic() > end:
            print(f"time limit: {len(wanted) - number + 1} settings left, run the same command again")
            break
        print(f"[{number}/{len(wanted)}] {setting}", flush=True)
        rows = measure(setting, options)
        if key not in known:
            known[key] = {"setting": asdict(setting), "rows": {}, "asked": []}
            results.append(known[key])
        # Rows of an earlier run of this setting stay: their ratios are to the cross-entropy measured beside them.
        base = rows["cross-entropy"]["median"]
        known[key]["rows"] |= {name: row | {"base": base} for name, row in rows.items()}
        known[key]["asked"].append(rows_asked)
        known[key]["when"] = time.strftime("%Y-%m-%d %H:%M")
        store.write_text(json.dumps({"facts": facts(sys.argv), "results": results}, indent=1))
    write(results, facts(sys.argv), options.output)
    if options.figures:
        figures(results, options.output, options.only)


if __name__ == "__main__":
    main()
