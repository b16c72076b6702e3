"""What the command says to every mistake in every option of the shipped configurations.

    python benchmarks/config_mutations.py                     # all of them: about half an hour of one core
    python benchmarks/config_mutations.py --representative    # each kind of mistake once for each option and folder

Each mutation goes through the command in this process, up to the point where training would start, and through two
steps of training where only these can tell. Printed is, for each kind, how many were refused by a message that keeps
the law (exit status 2, at most 12 lines, the option, the value and what would be right, no traceback), how many were
understood as they were meant or have a meaning of their own, how many were read alone for want of the accelerator that
they ask for, and how many did something else; the latter are listed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mutation_runs import judge, make_data
from mutations import mutations, representative

OUTCOMES = ("refused", "harmless", "read alone", "else")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--representative", action="store_true", help="one mutation of each kind for each option")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th of them alone")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_topk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    table: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_data(Path(folder))
        chosen = list(representative() if args.representative else mutations())
        for mutation in chosen[:: args.every]:
            verdict = judge(mutation, Path(folder))
            good = verdict.outcome in OUTCOMES and not verdict.faults
            table.setdefault(mutation.kind, Counter())[verdict.outcome if good else "else"] += 1
            if not good:
                print(
                    f"{verdict.outcome}: {mutation.label}: {', '.join(verdict.faults)}\n{verdict.message}", flush=True
                )
        os.chdir("/")
    print(f"{'kind':45}{'number':>8}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES))
    for kind, counts in [*sorted(table.items()), ("all", sum(table.values(), Counter()))]:
        print(f"{kind:45}{counts.total():8}" + "".join(f"{counts[outcome]:12}" for outcome in OUTCOMES))


if __name__ == "__main__":
    main()
