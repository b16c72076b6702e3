"""torchrun itself: two machines played by one, found by each other through a port, and one machine of two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from commands import CONFIGS, GLYPHS, QUICKSTART, QUIET, command
from ddp import run_ranks
from distributed.processes import joined, spread
from distributed.test_trainer_configs import CPU, STK, last_weights

ARGS = (*QUICKSTART, *CPU, *GLYPHS, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", *QUIET, *STK)


def torchrun(repository: Path, launch: list[str], *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "lightning_topk", "fit", *ARGS, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


@pytest.mark.timeout(180)
def test_two_machines_end_with_the_weights_of_one(repository: Path) -> None:
    """Each agent starts one process; the result is that of ddp with two processes on one machine."""
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{free_port()}", "--rdzv_id", "test"]
    config = ("--config", str(CONFIGS / "trainer" / "multi_node.yaml"), *CPU, "--trainer.devices", "1")
    launch = ["--nnodes", "2", "--nproc_per_node", "1", "--local_addr", "localhost", *rendezvous]
    agents = [torchrun(repository, [*launch, "--node_rank", str(node)], *config) for node in (0, 1)]
    try:
        printed = [agent.communicate(timeout=150) for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, 9)
    assert [agent.returncode for agent in agents] == [0, 0], printed
    reports = [out for out, _ in printed if "all, macro" in out]
    assert len(reports) == 1
    assert reports[0].splitlines()[-1] == "logs/quickstart/version_0"

    def work(rank: int) -> None:
        joined(rank, 2)
        assert command("fit", *ARGS, "--trainer.devices", "2", "--trainer.strategy", "ddp").status == 0

    run_ranks(work)
    assert sorted(path.name for path in Path("logs/quickstart").iterdir()) == ["version_0", "version_1"]
    assert spread([last_weights(f"logs/quickstart/version_{run}") for run in (0, 1)]) == 0
