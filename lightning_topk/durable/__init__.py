"""What a run needs so that it can be stopped at any moment and go on: whole files, and a stop at the right place.

The command line uses all three. In Python:

.. code-block:: python

    trainer = Trainer(
        logger=ResumableCSVLogger("logs", name="mine", version="one"),
        callbacks=[SafeStop(), ModelCheckpoint(save_last=True)],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(model, datamodule=data, ckpt_path="last")

===========================  ========================================================================================
Name                         What it does
===========================  ========================================================================================
:class:`SafeStop`            ends a run that got SIGTERM where it can go on exactly, with a checkpoint
:class:`AtomicCheckpointIO`  writes checkpoints so that none is ever torn or missing
:class:`ResumableCSVLogger`  goes on with the file ``metrics.csv`` of a run that is resumed, and never leaves it torn
===========================  ========================================================================================
"""

from lightning_topk.durable._checkpoint_io import AtomicCheckpointIO
from lightning_topk.durable._csv_logger import ResumableCSVLogger
from lightning_topk.durable._safe_stop import SafeStop

__all__ = ["AtomicCheckpointIO", "ResumableCSVLogger", "SafeStop"]
