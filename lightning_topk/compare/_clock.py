"""The time that a run takes."""

import signal
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_topk.compare._stop import stop_requested

_SECONDS_BETWEEN_REPORTS = 0.5


class RunClock(Callback):
    """Time that a run takes, summed over its parts when it was stopped, and word of how far it is."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.parts = 1
        self._report = report
        self._since = (0.0, 0.0)
        self._reported = 0.0

    def state_dict(self) -> dict[str, Any]:
        self._add()
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "parts": self.parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.cpu_seconds = state_dict["seconds"], state_dict["cpu_seconds"]
        self.parts = state_dict["parts"] + 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter(), time.process_time()
        if stop_requested():
            # It came before the trainer listened, which is told here once more.
            signal.raise_signal(signal.SIGTERM)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._reported >= _SECONDS_BETWEEN_REPORTS:
            self._reported = now
            steps = trainer.estimated_stepping_batches
            if 0 < steps < float("inf"):
                self._report(min(trainer.global_step / steps, 1.0))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add()

    def _add(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._since != (0.0, 0.0):
            self.seconds += now[0] - self._since[0]
            self.cpu_seconds += now[1] - self._since[1]
            self._since = now
