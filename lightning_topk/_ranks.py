"""What random numbers of a run are addressed by: its seed, and the share of the samples that a process works on."""

import os
from typing import Any

import torch


def seed_of_process() -> int:
    """Return the seed of ``seed_everything``, or else the one that torch's global generator started from."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed()))


def seed_of_run(trainer: Any) -> int:
    """Return the seed of rank 0; all ranks have to ask."""
    return int(trainer.strategy.broadcast(seed_of_process()))


def share_of_samples(trainer: Any) -> int:
    """Return the rank among those that work on different samples; under tensor parallelism several have the same."""
    return int((trainer.distributed_sampler_kwargs or {}).get("rank", trainer.global_rank))
