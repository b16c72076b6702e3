"""The command ``lightning-topk compare``."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from lightning_topk.cli._fit_parts import FitLauncher
from lightning_topk.compare import RayWorkers, compare, dry_run, plan_sentence, plan_table, print_table, read_comparison
from lightning_topk.compare._stop import note_sigterm

_PROGRAM = "lightning-topk compare"
_ANY_CLUSTER = "auto or local"
_WIDTH = 160  # of what is printed to a file


def main(args: Sequence[str]) -> None:
    """Run the command; see :mod:`lightning_topk.compare`.

    Args:
        args: The arguments after ``compare``.

    Raises:
        SystemExit: With status 1 when a run has failed, 130 after Ctrl-C.
        SIGTERMException: The process was told to stop.
    """
    options, rest = _parser().parse_known_args(list(args))
    if options.jobs < 0:
        raise ValueError(f"Option `--jobs` should be an integer >= 0. Found `{options.jobs}`.")
    launcher = FitLauncher()
    launcher.prepare()
    comparison = read_comparison(options.comparison, base=options.config, last_args=rest)
    if options.losses:
        comparison = comparison.with_columns(options.losses)
    if options.seeds:
        comparison = comparison.with_seeds(options.seeds)
    if options.dry_run:
        planned = dry_run(comparison, options.output, launcher, jobs=options.jobs)
        Console(width=None if sys.stdout.isatty() else _WIDTH).print(plan_table(planned))
        print(plan_sentence(planned, options.jobs))
        return
    workers = None
    if options.ray is not None:
        address = None if options.ray == _ANY_CLUSTER else options.ray
        workers = RayWorkers(launcher, address=address, cpus=options.cpus_per_run, gpus=options.gpus_per_run)
    here = options.jobs == 0 and workers is None
    before = note_sigterm() if here else signal.signal(signal.SIGTERM, _raise)
    try:
        table = compare(
            comparison,
            options.output if workers is None else options.output.resolve(),
            launcher,
            jobs=options.jobs,
            workers=workers,
            keep=options.keep_checkpoints,
            timing=not options.no_timing,
            console=Console(stderr=True),
            command=[*_PROGRAM.split(), *args],
        )
    except (KeyboardInterrupt, SIGTERMException) as stop:
        sys.stderr.write("Stopped. The same command goes on where it was.\n")
        if isinstance(stop, SIGTERMException):
            raise
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    console = Console()
    print_table(table, console if console.is_terminal else Console(width=_WIDTH))
    print(options.output)
    if table.failures:
        raise SystemExit(1)


def _raise(number: int, frame: Any) -> None:
    raise SIGTERMException


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Train several losses on the same data, and tabulate what they reach.",
        epilog="Any other option is one of `lightning-topk fit`, for all runs: --trainer.max_epochs 3",
    )
    add = parser.add_argument
    add("comparison", type=Path, help="YAML file of the comparison")
    add("-o", "--output", type=Path, required=True, help="folder of the runs, tables and figure")
    add("-c", "--config", action="append", default=[], help="configuration of all runs, as of `fit`; can be repeated")
    add("--losses", nargs="+", metavar="NAME", help="columns of the comparison; all when not given")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="seeds in place of those of the file")
    add(
        "--jobs",
        type=int,
        default=1,
        help="runs at a time, each in a process of its own (default: 1; 0: none of its own)",
    )
    add("--ray", nargs="?", const=_ANY_CLUSTER, metavar="ADDRESS", help="make the runs on a Ray cluster")
    add("--cpus_per_run", type=int, default=1, metavar="N", help="processors of a run on Ray (default: 1)")
    add("--gpus_per_run", type=float, metavar="X", help="GPUs of a run on Ray (default: 1 where there are any)")
    add("--keep_checkpoints", action="store_true", help="keep the weights of finished runs")
    add("--dry_run", action="store_true", help="print what would be run and how long it would take, and run nothing")
    add("--no_timing", action="store_true", help="do not measure the time of a training step")
    return parser
