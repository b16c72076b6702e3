"""The files of configs/trainer for GPUs: parsed as they are, and run on processes of the CPU as far as it goes."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import EncoderBlock

from commands import CONFIGS, GLYPHS, QUICKSTART, QUIET, command, config_of
from ddp import run_ranks
from distributed.processes import joined, spread

pytestmark = pytest.mark.timeout(120)
ONE_EPOCH = (*GLYPHS, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", *QUIET)
STK = ("--model.loss", "STkLoss", "--model.loss.loss", "NoisedTopKLoss")
CPU = ("--trainer.accelerator", "cpu")
EXPECTED: dict[str, dict[str, Any]] = {
    "ddp.yaml": {"strategy": "ddp", "devices": "auto", "num_nodes": 1},
    "fsdp.yaml": {"devices": "auto", "num_nodes": 1},
    "multi_node.yaml": {"strategy": "ddp", "devices": "auto", "num_nodes": 2},
}


def trainer_config(name: str) -> tuple[str, str]:
    return "--config", str(CONFIGS / "trainer" / name)


def last_weights(folder: str) -> list[Tensor]:
    return list(torch.load(Path(folder, "checkpoints", "last.ckpt"), weights_only=True)["state_dict"].values())


@pytest.mark.parametrize("name", EXPECTED)
def test_each_is_parsed_over_the_quickstart(name: str) -> None:
    trainer = config_of(*QUICKSTART, *trainer_config(name), "--print_config=full")["trainer"]
    assert trainer["accelerator"] == "gpu"
    assert {key: trainer[key] for key in EXPECTED[name]} == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_machine_without_a_gpu_is_told_so(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    printed = command("fit", *QUICKSTART, *trainer_config(name), *ONE_EPOCH)
    assert printed.status not in (0, None)
    assert "No supported gpu backend found" in printed.err
    assert len(printed.err.splitlines()) <= 12


def test_the_strategy_of_fsdp_is_built() -> None:
    trainer = config_of(*QUICKSTART, *trainer_config("fsdp.yaml"))["trainer"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--strategy", type=FSDPStrategy)
    strategy = parser.instantiate_classes(parser.parse_object({"strategy": trainer["strategy"]})).strategy
    assert strategy.sharding_strategy.name == "FULL_SHARD"
    assert strategy._state_dict_type == "full"
    assert strategy.kwargs["auto_wrap_policy"]._module_classes == {BasicBlock, Bottleneck, EncoderBlock}


def test_two_processes_and_two_machines_under_slurm() -> None:
    """Two machines have the variables that srun gives to their tasks; they end with the weights of one machine."""

    def run(name: str, slurm: bool, devices: int) -> list[str]:
        args = ("fit", *QUICKSTART, *trainer_config(name), *CPU, *ONE_EPOCH, *STK, "--trainer.devices", str(devices))

        def work(rank: int) -> tuple[Any, str, str]:
            srun = {
                "SLURM_JOB_ID": "17",
                "SLURM_JOB_NAME": "topk",
                "SLURM_NTASKS": "2",
                "SLURM_NTASKS_PER_NODE": "1",
                "SLURM_NODELIST": "localhost",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": "0",
                "SLURM_NODEID": str(rank),
            }
            if not slurm:
                joined(rank, 2)  # gives this process its place
            # Lightning shares cores among the processes of a machine, and sums of several threads round differently.
            with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", **(srun if slurm else {})}):
                done = command(*args)
            return done.status, done.out, done.err

        results = run_ranks(work)
        assert [status for status, *_ in results] == [0, 0], results
        return [out for _, out, _ in results]

    for version, (first, second) in enumerate([run("ddp.yaml", False, 2), run("multi_node.yaml", True, 1)]):
        assert first.splitlines()[-1] == f"logs/quickstart/version_{version}"
        assert "all, macro" not in second
    assert sorted(path.name for path in Path("logs/quickstart").iterdir()) == ["version_0", "version_1"]
    assert spread([last_weights(f"logs/quickstart/version_{version}") for version in (0, 1)]) == 0
