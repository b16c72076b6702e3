"""End a run that is told to stop where it can go on."""

import os
import signal
import threading
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_topk.durable._csv_logger import ResumableCSVLogger


class SafeStop(Callback):
    """End ``fit`` after SIGTERM at the next place where it can go on exactly, and leave a checkpoint of that place.

    The place is the end of a training batch whose gradients were used: not within the batches of
    ``accumulate_grad_batches``, as a checkpoint has no room for gradients, and not within or before a validation that
    is due, but after it. In the last epoch the run comes to its regular end. On several processes it is the same batch
    on all of them, whichever of them got the signal. The checkpoint is ``last.ckpt`` in the folder of the first
    :class:`~lightning.pytorch.callbacks.ModelCheckpoint`, one with ``save_last`` if there is any, from which
    ``fit(ckpt_path="last")`` goes on. Then Lightning's ``SIGTERMException`` ends the run; the command line makes the
    exit status 143 of it.

    Lightning itself ends a run at any batch, also of a validation, and writes no checkpoint unless
    ``save_on_exception`` is set. It tells other processes by a collective operation from within the signal handler,
    which may meet another one under way.

    Before every checkpoint, of whatever kind, loggers are asked to write what they have, so that nothing that was
    logged before the checkpoint is missing when a run goes on from it. A
    :class:`~lightning_topk.durable.ResumableCSVLogger` is told whether the run is resumed.

    Signals can be caught in the main thread alone; elsewhere Lightning's own way remains.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[SafeStop()], logger=False, enable_checkpointing=False)
        >>> trainer.callbacks[0]
        SafeStop()
    """

    def __init__(self) -> None:
        self._told = self._resumed = self._trains = False
        self.path: str | None = None  #: The checkpoint that was written for the stop.

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path, self._trains = None, True
        self._resumed = trainer.ckpt_path is not None
        for logger in trainer.loggers:
            if isinstance(logger, ResumableCSVLogger) and trainer.is_global_zero:
                logger.experiment.begin(resumed=self._resumed)
        connector = trainer._signal_connector
        self._told, connector.received_sigterm = connector.received_sigterm, False
        if threading.current_thread() is threading.main_thread():
            # Lightning puts the handlers that it found back at the end of the run.
            before = connector._original_handlers.get(signal.SIGTERM)

            def note(number: int, frame: Any) -> None:
                self._told = True
                if callable(before):
                    before(number, frame)

            signal.signal(signal.SIGTERM, note)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._resumed and pl_module.automatic_optimization:
            # Lightning counts a step twice for its loggers where a run goes on at a batch after which it validates.
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        self._resumed = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.fit_loop._should_accumulate():
            self._agree(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            # Lightning would leave a validation half way, and not come back to it.
            self._let(trainer, stop=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fit_loop._should_accumulate():
            self._agree(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ends = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= int(trainer.max_epochs or 0)
        if ends or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps):
            self._let(trainer, stop=False)  # nothing is left to go on with

    def _agree(self, trainer: Trainer) -> None:
        """Let Lightning stop all processes at the end of this batch if one of them was told to."""
        self._let(trainer, stop=trainer.strategy.reduce_boolean_decision(self._told, all=False))

    @staticmethod
    def _let(trainer: Trainer, *, stop: bool) -> None:
        trainer._signal_connector.received_sigterm = stop

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            logger.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trains = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        callbacks = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
        trains, self._trains = self._trains, False
        if not trains or not callbacks or not isinstance(exception, SIGTERMException):
            return
        chosen = next((each for each in callbacks if each.save_last), callbacks[0])
        self.path = os.path.join(str(chosen.dirpath), chosen.CHECKPOINT_NAME_LAST + chosen.FILE_EXTENSION)
        chosen.last_model_path = self.path
        trainer.save_checkpoint(self.path)
        rank_zero_info(
            f"SafeStop: the run was told to stop at step {trainer.global_step} and goes on from {self.path}."
        )
