"""How long a run on two processes outlives the failure of one of them, for each way of starting it.

    python benchmarks/failing_processes.py

Each row is a real run on the CPU (gloo): one of its processes raises an error or is killed in the fifth step of
training, or cannot make the loader whose classes are to be counted. Printed are the seconds from the failure until no
process of the run is left, and whether the words of the error are printed. About 15 s of processor time a row.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAUNCHERS = {
    "strategy=ddp": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}
FAILURES = ["raises", "is killed", "fails to load data"]
WORDS = "this process has failed on purpose"


def child(failure: str, rank: int, folder: Path) -> None:
    """Train, and fail where and when it is said."""
    import lightning.pytorch as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from lightning_topk import TopKClassifier

    def fail() -> None:
        (folder / "failed").write_text(str(time.time()))
        if failure == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError(WORDS)

    class Failing(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5 and trainer.global_rank == rank and failure != "fails to load data":
                fail()

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            assert self.trainer is not None
            if failure == "fails to load data" and self.trainer.global_rank == rank:
                fail()
            return DataLoader(TensorDataset(torch.randn(6400, 8), torch.arange(6400) % 10), batch_size=32)

    class Features(torch.nn.Linear):
        num_features = 16

    model = TopKClassifier(Features(8, 16), num_classes=10, k=3)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=100,
        callbacks=Failing(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Data())


def measure(launcher: str, failure: str, rank: int) -> None:
    """Start a run in a session of its own, and wait until no process of it is left."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*LAUNCHERS[launcher], __file__, "--failure", failure, "--rank", str(rank), "--folder", folder]
        with Path(folder, "out").open("w") as out:
            run = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, cwd=folder)
            deadline = time.time() + 300
            while time.time() < deadline and _alive(run):
                time.sleep(0.05)
        ended = time.time()
        if ended >= deadline:
            os.killpg(run.pid, signal.SIGKILL)
        failed = float(Path(folder, "failed").read_text())
        printed = Path(folder, "out").read_text()
        words = "not raised" if failure == "is killed" else "yes" if WORDS in printed else "no"
        status = run.wait()
        print(f"| {launcher} | rank {rank} {failure} | {ended - failed:.1f} | {status} | {words} |", flush=True)


def _alive(run: subprocess.Popen) -> bool:
    run.poll()  # a child that has ended stays in its session until it is waited for
    try:
        os.killpg(run.pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failure", choices=FAILURES, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.failure:
        child(args.failure, args.rank, args.folder)
        return
    print("| started by | what fails | seconds until all have ended | exit status | the error is printed |")
    print("|---|---|---|---|---|")
    for launcher in LAUNCHERS:
        for failure in FAILURES:
            for rank in (0, 1):
                measure(launcher, failure, rank)


if __name__ == "__main__":
    main()
