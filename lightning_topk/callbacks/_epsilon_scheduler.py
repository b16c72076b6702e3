"""Anneal epsilon, or any other scalar of the loss, by a schedule of the training step."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_topk._checks import check_choice
from lightning_topk.losses import TopKLoss
from lightning_topk.schedules import Schedule


class EpsilonScheduler(Callback):
    r"""Set a scalar of the loss before every training batch: ``loss.epsilon = schedule(step, total)``.

    The step is the trainer's count of optimizer steps (or its epoch), so the callback holds no state: a run that is
    resumed in the middle of an epoch continues with the very value, and the value does not change within a window of
    gradient accumulation. The scalar is logged under its name in each training step.

    Args:
        schedule: Function from step to value, one of :mod:`lightning_topk.schedules`. One without a length of its own
            runs over the whole training.
        parameter: Name of the scalar: ``"epsilon"``, or any other that the loss lets be set, such as
            ``"max_margin"``, ``"margin"`` or ``"scale"``.
        interval: Unit of the schedule: ``"step"`` (optimizer steps) or ``"epoch"``.
        log: Whether the value is logged, and shown in the progress bar.
        strict: Whether a loss without such a scalar is an error. Otherwise nothing is scheduled for it, as one line
            at the start of the run says; so one configuration can serve several losses.

    Raises:
        TypeError: ``schedule`` that is none.
        ValueError: A loss without such a scalar, a value outside its range, or a schedule without a length in a run
            without an end.

    Example:
        >>> import lightning as L
        >>> from lightning_topk.schedules import Cosine
        >>> trainer = L.Trainer(callbacks=EpsilonScheduler(Cosine(start=1.0, end=0.1)), logger=False)
    """

    def __init__(
        self,
        schedule: Schedule,
        parameter: str = "epsilon",
        interval: str = "step",
        log: bool = True,
        strict: bool = True,
    ) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(
                "Parameter `schedule` should be a schedule of lightning_topk.schedules. "
                f"Found {schedule!r} of type {type(schedule).__name__}."
            )
        self.schedule = schedule
        if not isinstance(parameter, str):
            raise TypeError(f"Parameter `parameter` should be the name of a scalar of the loss. Found {parameter!r}.")
        self.parameter = parameter
        self.interval = check_choice("interval", interval, ("step", "epoch"))
        self._logs = bool(log)  # the Trainer gives every callback an attribute `log` of its own
        self.strict = strict
        self._total: float | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.schedule!r}, parameter={self.parameter!r}, interval={self.interval!r})"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            if not self._losses(pl_module):
                rank_zero_info(f"EpsilonScheduler: no loss has a scalar `{self.parameter}`; nothing is scheduled.")
            self._total = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._losses(pl_module):
            self._total = self._length(trainer) if self.schedule.needs_total else None
            self._set(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._losses(pl_module):
            return
        value = self._set(trainer, pl_module)
        if self._logs:
            pl_module.log(self.parameter, value, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    def _set(self, trainer: Trainer, pl_module: LightningModule) -> float:
        step = trainer.global_step if self.interval == "step" else trainer.current_epoch
        value = self.schedule(step, self._total)
        for loss in self._losses(pl_module):
            setattr(loss, self.parameter, value)
        return value

    def _losses(self, pl_module: LightningModule) -> list[TopKLoss]:
        losses = [module for module in pl_module.modules() if isinstance(module, TopKLoss)]
        scheduled = [loss for loss in losses if isinstance(getattr(type(loss), self.parameter, None), property)]
        if not scheduled and self.strict:
            found = ", ".join(sorted({type(loss).__name__ for loss in losses})) or "no loss of this package"
            raise ValueError(
                f"EpsilonScheduler needs a loss with a scalar `{self.parameter}` that can be set. "
                f"Found {found} in {type(pl_module).__name__}."
            )
        return scheduled

    def _length(self, trainer: Trainer) -> float:
        total = trainer.estimated_stepping_batches if self.interval == "step" else trainer.max_epochs
        if total is None or not 0 < total < math.inf:
            raise ValueError(
                "A schedule without `length` needs a run of known length. "
                f"Found {total} {self.interval}s to come: give the schedule a `length`, or the trainer `max_steps`."
            )
        return float(total)
