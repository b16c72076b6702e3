"""Checkpoints that are written in one step."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_topk.report import replacing, unwritable


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside the old one, in the same folder, and put it in its place when it is on the disk.

    Lightning writes to the folder for temporary files and moves the file from there. When that folder is on another
    file system, such as a ``/tmp`` in memory, the move is a copy: a process that is killed within it, or a disk that
    is full, leaves a torn ``last.ckpt`` in the place of a whole one. Here the old file stays until the new one is
    complete. The file is written straight to the disk, without a second copy of the checkpoint in memory.

    A killed process may leave a file with a leading dot and the ending ``.tmp``, which the next checkpoint of that name
    takes the place of. Paths with a protocol, such as ``s3://``, are left to Lightning.

    Raises:
        OSError: The folder cannot be written or the disk is full.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(plugins=[AtomicCheckpointIO()], logger=False, enable_checkpointing=False)
        >>> type(trainer.strategy.checkpoint_io).__name__
        'AtomicCheckpointIO'
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        with replacing(path, own=False) as beside:
            _save(checkpoint, beside)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            # What torch says when its writer gets an error of the file, and hides it.
            if not isinstance(error.__context__, OSError):
                raise
            raise error.__context__ from None
        file.flush()
        os.fsync(file.fileno())
