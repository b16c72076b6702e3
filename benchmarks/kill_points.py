"""Kill trainings at random moments, resume them, and compare with the training that was never stopped.

    python benchmarks/kill_points.py                     # 20 kill points, 35 minutes on 2 busy cores
    python benchmarks/kill_points.py --points 4 --seed 1

Every run is the command ``lightning-topk fit ... --ckpt_path last`` as a process of its own, on the glyphs of the
quickstart (30 letters, augmentation, a schedule of epsilon): half of them with the imbalanced noised top-K loss, and
half with STk, whose lambda is trained. A kill point is a place and a signal: after a training batch, within a
validation, within the writing of a checkpoint, within the writing of a report or of ``metrics.csv``, each at a random
time, or at a random time of the clock. The process gets SIGKILL or SIGTERM there. Then every file below the log
directory has to parse; the same command is run again (and half of the time stopped once more), until it ends by
itself. The last checkpoint (weights, optimizer, margins, lambda, callbacks and with them the noise's seed, loops,
loaders), ``metrics.csv``, ``history.csv`` and the tables of the report have to be those of the run that was never
stopped, bit for bit; nothing but paths of best checkpoints may differ.

The places are found by ``sitecustomize``: the process under test imports this file before the command and counts the
calls of the functions that make the place. The code of the package is not touched.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = {
    "num_classes": 30,
    "max_count": 60,
    "imbalance_factor": 10,
    "val_count": 4,
    "test_count": 1,
    "batch_size": 16,
    "augment": "true",
}
SETTINGS = ("max_epochs=3", "log_every_n_steps=3", "accelerator=cpu", "enable_progress_bar=false")
LOSSES = {"imbalanced": (), "stk": ("--config", str(ROOT / "configs/loss/stk.yaml"))}
#: Places, and the largest number of times that a run passes them.
PLACES = {"batch": 120, "validation": 20, "checkpoint": 10, "report": 40, "metrics": 30, "clock": 1}


def arguments(loss: str, save_dir: Path) -> list[str]:
    """Return the arguments of the command under test."""
    args = ["fit", "--config", str(ROOT / "configs/quickstart.yaml"), *LOSSES[loss]]
    args += [f"--data.{name}={value}" for name, value in DATA.items()]
    args += [f"--trainer.{setting}" for setting in (*SETTINGS, "enable_model_summary=false")]
    return [*args, "--trainer.logger.save_dir", str(save_dir), "--ckpt_path", "last"]


def start(loss: str, folder: Path, kill: dict[str, Any] | None = None) -> tuple[int, str]:
    """Run the command to its end, whichever that is; return the status and what it printed to stderr."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'benchmarks')!r})\nimport kill_points\nkill_points.arm()\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "KILL_POINT": json.dumps(kill or {}),
    }
    command = [sys.executable, "-m", "lightning_topk", *arguments(loss, Path("logs"))]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def arm() -> None:
    """Send this process a signal at the place that the environment names; called before the command."""
    kill = json.loads(os.environ.get("KILL_POINT", "{}"))
    if kill:
        # The modules that hold the places are heavy, and wait for the first import of the package's own entry point.
        import importlib.abc

        class Finder(importlib.abc.MetaPathFinder):
            def find_spec(self, name: str, *_: Any) -> None:
                if name == "lightning_topk.cli":
                    sys.meta_path.remove(self)
                    place(kill)

        sys.meta_path.insert(0, Finder())


def place(kill: dict[str, Any]) -> None:
    """Send this process a signal at a place, for good: the functions of the place are replaced."""

    def fire() -> None:
        time.sleep(kill["delay"])
        os.kill(os.getpid(), getattr(signal, kill["signal"]))

    if kill["place"] == "clock":
        import threading

        threading.Thread(target=fire, daemon=True).start()
        return
    count = 0

    def passed() -> None:
        nonlocal count
        count += 1
        if count == kill["number"]:
            fire()

    _watch(kill["place"], passed)


def _watch(place: str, passed: Callable[[], None]) -> None:
    """Call ``passed`` within what makes the place: after half of a file was written, or at the end of a step."""
    from lightning.pytorch.loops import evaluation_loop, training_epoch_loop

    if place in ("batch", "validation"):
        loop = training_epoch_loop._TrainingEpochLoop if place == "batch" else evaluation_loop._EvaluationLoop
        name = "advance" if place == "batch" else "_evaluation_step"
        inner = getattr(loop, name)

        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, *args, **kwargs)
            passed()
            return result

        setattr(loop, name, step)
    else:
        suffix = {"checkpoint": ".ckpt", "report": "", "metrics": "metrics.csv"}[place]
        write = os.fsync

        def fsync(number: int) -> None:
            path = os.readlink(f"/proc/self/fd/{number}")
            wanted = "/report" in path if place == "report" else suffix in path
            if wanted:
                passed()  # the new file is written and not in its place
            write(number)

        os.fsync = fsync


def torn(folder: Path) -> list[str]:
    """Return the files below a folder that do not parse."""
    return [f"{path.name}: {error!r}" for path in sorted(folder.rglob("*")) if (error := _error(path)) is not None]


def _error(path: Path) -> Exception | None:
    import torch
    import yaml
    from PIL import Image

    if path.is_dir() or path.name.startswith("."):
        return None
    try:
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                header, *rows = csv.reader(file)
            assert rows, "there is no row"
            assert {len(row) for row in rows} == {len(header)}, "a row is not complete"
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text()), "it is empty"
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), "it has no end"
        elif path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        else:
            raise AssertionError("no such file is expected")
    except Exception as error:
        return error
    return None


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield the places where two checkpoints differ, paths of checkpoints apart."""
    import torch

    if isinstance(one, dict) and isinstance(other, dict):
        if "best_k_models" in where:
            one, other = ({Path(k).stem.split("-v")[0]: v for k, v in each.items()} for each in (one, other))
        yield from (f"{where}/{key}" for key in one.keys() ^ other.keys())
        for key in one.keys() & other.keys():
            yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, theirs, f"{where}/{index}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif where.endswith("_path"):
        if Path(one).stem.split("-v")[0] != Path(other).stem.split("-v")[0]:
            yield where
    elif one != other:
        yield f"{where}: {one!r:.60} and {other!r:.60}"


def compare(whole: Path, resumed: Path) -> list[str]:
    """Return what differs between the folders of two runs."""
    import torch

    checkpoints = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, resumed)]
    found = list(differences(*checkpoints))
    names = ["metrics.csv", *(f"report/{name}" for name in ("history.csv", "val_table.csv", "val_classes.csv"))]
    return found + [name for name in names if (whole / name).read_bytes() != (resumed / name).read_bytes()]


def draw(generator: random.Random, number: int) -> dict[str, Any]:
    """Draw a kill point; the first ones go through all places and both signals."""
    place = [*PLACES][number % len(PLACES)]
    name = ("SIGKILL", "SIGTERM")[(number // len(PLACES) + number) % 2]
    delay = generator.uniform(4.0, 16.0) if place == "clock" else 0.0
    return {"place": place, "signal": name, "number": generator.randint(1, PLACES[place]), "delay": delay}


def trial(number: int, generator: random.Random, whole: dict[str, Path]) -> tuple[list[str], list[str]]:
    """Stop a run at one place or more, let it end, and return where it was stopped and what was wrong."""
    loss = [*LOSSES][number % 2]
    folder = Path(tempfile.mkdtemp(prefix="kill_point_"))
    stops, wrong = [], []
    try:
        kill: dict[str, Any] | None = draw(generator, number)
        while True:
            status, printed = start(loss, folder, kill)
            wrong += torn(folder / "logs") if (folder / "logs").exists() else []
            if kill is not None:
                stops.append(f"{kill['signal']} {kill['place']} {kill['number']} -> {status}")
            if status == 0:
                break
            if kill is None or status not in (-9, -15, 143):
                wrong.append(f"status {status}: {printed[-300:]}")
                break
            again = len(stops) < 3 and generator.random() < 0.5
            kill = draw(generator, generator.randrange(len(PLACES) * 2)) if again else None
        if not wrong:
            runs = [*(folder / "logs/quickstart").iterdir()]
            wrong += [f"{len(runs)} folders"] if len(runs) > 1 else compare(whole[loss], runs[0])
    finally:
        shutil.rmtree(folder)
    return [loss, *stops], wrong


def main() -> None:
    """Run the experiment and print a line for each kill point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    whole = {}
    begin = time.monotonic()
    for loss in LOSSES:
        folder = Path(tempfile.mkdtemp(prefix="whole_"))
        status, printed = start(loss, folder)
        if status:
            sys.exit(printed)
        whole[loss] = folder / "logs/quickstart/version_0"
    print(f"whole runs: {(time.monotonic() - begin) / len(LOSSES):.0f} s each", flush=True)
    failed = processes = number = regular = 0
    while number - regular < options.points:
        stops, wrong = trial(number, generator, whole)
        number += 1
        # A signal in the last epoch, or for a place that the run does not reach: it counts as no kill point.
        unstopped = stops[1].endswith(" -> 0")
        regular += unstopped and not wrong
        failed += bool(wrong)
        processes += len(stops)
        result = "FAILED" if wrong else "ended " if unstopped else "equal "
        print(f"{number:3d}  {result}  {stops[0]:<11} {'; '.join(stops[1:])}", flush=True)
        for line in wrong:
            print(f"       {line}", flush=True)
    print(
        f"{options.points - failed} of {options.points} kill points passed; {regular} further runs came to their "
        f"regular end; {processes} processes were started"
    )
    for run in whole.values():
        shutil.rmtree(run.parents[2])
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
