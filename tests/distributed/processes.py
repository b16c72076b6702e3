"""Many runs of Lightning in one set of processes: what torchrun would give them is in their environment."""

import os
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from runs import loader, make_trainer


def joined(rank: int, world_size: int, *callbacks: Any, strategy: Any = None, **options: Any) -> Any:
    """Make a trainer that takes part in the process group of ``run_ranks`` as one of its processes."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",  # the group is there already
        TORCHELASTIC_RUN_ID="tests",
    )
    return make_trainer(*callbacks, devices=world_size, strategy=strategy or DDPStrategy(), **options)


def sharded(world_size: int, **options: Any) -> ModelParallelStrategy:
    """Return a strategy under which ``configure_model`` shards over all processes."""
    return ModelParallelStrategy(
        data_parallel_size=world_size, tensor_parallel_size=1, timeout=timedelta(seconds=20), **options
    )


def whole(parameter: Tensor) -> Tensor:
    """Return a parameter that may be sharded; all processes have to call this."""
    parameter = parameter.detach()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter.clone()


def values(trainer: Any) -> dict[str, float]:
    """Return what was logged at the end."""
    return {name: torch.as_tensor(value).item() for name, value in trainer.callback_metrics.items()}


def in_order(data: Any, rank: int, world_size: int = 2, batch_size: int = 8) -> DataLoader:
    """Return a training loader whose process r takes rows r, r + W, ...; Lightning's own would shuffle them."""
    return loader(data, batch_size, sampler=DistributedSampler(data, world_size, rank, shuffle=False))


def weights(model: Any) -> list[Tensor]:
    """Return copies of all parameters, those of the loss included."""
    return [whole(parameter) for parameter in model.parameters()]


def spread(pair: Any) -> float:
    """Return the largest difference between two lists of tensors."""
    return max(float((a - b).abs().max()) for a, b in zip(*pair, strict=True))
