"""Class counts of the training data, found once and handed to everything that asks for them."""

import zlib
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_topk._checks import check_choice, check_int
from lightning_topk.callbacks._training_counts import (
    consumers_of,
    copies_of,
    count_training_set,
    known_ignore_index,
    known_names,
    known_num_classes,
    makes_its_data,
    settle_zeros,
    summary,
)
from lightning_topk.callbacks._training_labels import batch_targets, count_by_iteration, padded, single_loader
from lightning_topk.imbalance import ZERO_COUNTS, check_counts, read_counts

# Exceptions that are made of one message, and so can be made again on the other ranks.
_RAISED_ALIKE = (FileNotFoundError, IndexError, OSError, RuntimeError, TypeError, ValueError)


class ClassFrequencies(Callback):
    """Count the classes of the training data before ``fit``, and bind the counts to losses and metrics.

    Rank 0 counts and every rank gets the same counts, or the same error. They go to each submodule that has a method
    ``bind_class_counts``. Looked at, first find wins:

    1. ``counts``;
    2. the attribute ``class_counts`` of the data module, then of the training set;
    3. the labels of the training set (:func:`~lightning_topk.data.find_class_counts`), read without its samples.
       A weighted sampler changes nothing: counts are those of the data set;
    4. with ``iterate=True``, one pass over the training set.

    The number of classes is ``num_classes`` here or, when that is not given, of the module, its hyper-parameters, the
    losses and metrics, or the data module. Without any of these it is the largest label plus one, and at least the
    number of class names (``class_names`` or ``classes`` of the data module or data set).

    On resume the counts in the checkpoint win over those of the data. Validation, test and prediction count nothing.
    A loader that a module with a ``setup`` of its own makes is not asked for before ``on_fit_start``, since its data
    may not be there; everything else is counted in ``setup``.

    Args:
        counts: Training samples per class, shape [C], as a list, tensor or array; or a JSON or CSV file
            (:func:`~lightning_topk.imbalance.read_counts`).
        num_classes: The number of classes C.
        zero_counts: What a class without samples does: ``"error"`` names the classes, ``"clamp"`` counts it as one
            sample. Where every loss that needs counts was made with ``zero_counts="clamp"``, they get the zeros.
        iterate: Whether to read the whole training set where labels cannot be looked up. The pass is made again only
            for another data set or one of another length. A stream that splits itself over ranks is counted on rank
            0 alone: give counts for it. The other ranks wait for rank 0, at most for the timeout of the process
            group, which is 30 minutes by default.
        required: Whether it is an error when the classes cannot be counted. With ``False`` the run then goes on without
            counts, and a class without samples is an error only for a loss that needs the counts.
        get_targets: Function from a batch to its class indices, for ``iterate=True``; labels are then always read
            that way. By default ``batch[1]``, or the key target, targets, label, labels or y.

    Attributes:
        counts: Counts as they were bound, int64, shape [C]; ``None`` before ``fit``.

    Raises:
        TypeError: Counts that are no numbers, or ``get_targets`` that cannot be called.
        ValueError: Counts out of range, or ``get_targets`` without ``iterate``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> callback = ClassFrequencies([1, 16, 81, 256])
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
        >>> callback
        ClassFrequencies(counts=[4 values], num_classes=None, zero_counts='error', iterate=False)
    """

    def __init__(
        self,
        counts: Sequence[int] | str | Path | Tensor | np.ndarray | None = None,
        *,
        num_classes: int | None = None,
        zero_counts: Literal["error", "clamp"] = "error",
        iterate: bool = False,
        required: bool = True,
        get_targets: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = None if num_classes is None else check_int("num_classes", num_classes, 1)
        self.zero_counts = check_choice("zero_counts", zero_counts, ZERO_COUNTS)
        if get_targets is not None and not callable(get_targets):
            raise TypeError(f"Parameter `get_targets` should be a function of a batch. Found {get_targets!r}.")
        if get_targets is not None and not iterate:
            raise ValueError("Parameter `get_targets` should come with `iterate=True`. Found `iterate=False`.")
        self.iterate = bool(iterate)
        self.required = bool(required)
        self.get_targets = get_targets
        self.counts: Tensor | None = None
        if counts is None or isinstance(counts, str | Path):
            self._given: list[int] | str | None = None if counts is None else str(counts)
        else:
            self._given = check_counts(counts, self.num_classes).tolist()
        self._late = self._built = self._restored = False
        self._passed: tuple[Any, int | None, Tensor] | None = None

    @property
    def state_key(self) -> str:
        given = self._given if isinstance(self._given, str) else zlib.crc32(repr(self._given).encode())
        return self._generate_state_key(
            counts=given, num_classes=self.num_classes, zero_counts=self.zero_counts, iterate=self.iterate
        )

    def state_dict(self) -> dict[str, Any]:
        return {} if self.counts is None else {"counts": self.counts.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        restored = check_counts(state_dict["counts"])
        if self.counts is not None and not torch.equal(restored, self.counts):
            rank_zero_info(
                "ClassFrequencies: the counts of the checkpoint differ from those of the training data and are used: "
                + summary(restored)
            )
        self.counts = restored

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._restored = self._built = False
        self._late = self._given is None and makes_its_data(trainer, pl_module)
        if not self._late:
            self._count(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        self._restored = "counts" in state
        if self._restored:
            # What keeps its counts in the checkpoint has them by now.
            self._bind((m for m in consumers_of(pl_module) if "class_counts" not in m.state_dict()), state["counts"])
        if self._built:
            # Lightning gives a loader its place and epoch from the checkpoint only while it makes the loader.
            trainer.fit_loop._combined_loader = None
            self._built = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._late and not self._restored:
            self._count(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._built = False  # a learning rate finder restores while the loader is in use

    def __repr__(self) -> str:
        given = f"[{len(self._given)} values]" if isinstance(self._given, list) else repr(self._given)
        shown = (
            f"counts={given}, num_classes={self.num_classes}, zero_counts={self.zero_counts!r}, iterate={self.iterate}"
        )
        return f"{type(self).__name__}({shown})"

    @staticmethod
    def _bind(consumers: Iterable[Any], counts: Sequence[int]) -> None:
        for module in consumers:
            module.bind_class_counts(torch.tensor(counts))

    def _count(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._given is None:
            trainer.fit_loop.setup_data()
            self._built = True
        answer: tuple[Any, ...] = ()
        failure: Exception | None = None
        if trainer.is_global_zero:
            try:
                counts = self._find(trainer, pl_module)
                answer = (None if counts is None else counts.tolist(),)
            except Exception as error:
                if self.required:
                    failure = error
                    answer = (type(error).__name__, str(error))
                else:
                    rank_zero_info(f"ClassFrequencies: the run goes on without class counts. {error}")
                    answer = (None,)
        answer = trainer.strategy.broadcast(answer)
        if len(answer) == 2:
            # No rank leaves, and closes its connections, before all have read the reason.
            trainer.strategy.barrier("ClassFrequencies")
            raise failure or _rebuilt(*answer)
        self.counts = None if answer[0] is None else torch.tensor(answer[0])
        if self.counts is not None:
            rank_zero_info(f"ClassFrequencies: {summary(self.counts)}")
            for module in (pl_module, *copies_of(pl_module, trainer.callbacks)):  # type: ignore[attr-defined]
                self._bind(consumers_of(module), answer[0])

    def _find(self, trainer: Trainer, pl_module: LightningModule) -> Tensor | None:
        source = trainer.fit_loop._data_source.instance
        # `trainer.datamodule` outlives the fit that it was given to.
        datamodule = source if source is getattr(trainer, "datamodule", None) else None
        consumers = list(consumers_of(pl_module))
        num_classes = known_num_classes((self, pl_module, getattr(pl_module, "hparams", None), *consumers, datamodule))
        names = known_names([datamodule])
        given: Any = self._given if self._given is not None else getattr(datamodule, "class_counts", None)
        if given is not None:
            counts = check_counts(read_counts(given) if isinstance(given, str) else given, num_classes)
        elif trainer.train_dataloader is None:  # limit_train_batches=0
            return None
        else:
            loader = single_loader(trainer.train_dataloader)
            names = names or known_names([getattr(loader, "dataset", loader)])
            ignored = known_ignore_index(consumers)
            show_progress = trainer.progress_bar_callback is not None
            counts = count_training_set(
                loader,
                num_classes,
                ignore_index=ignored,
                look_up=self.get_targets is None,
                by_pass=(lambda: self._pass_over(loader, ignored, show_progress)) if self.iterate else None,
            )
            counts = padded(counts, 0 if num_classes is not None or names is None else len(names))
        return settle_zeros(counts, self.zero_counts, names, consumers, required=self.required)

    def _pass_over(self, loader: Any, ignored: int, show_progress: bool) -> Tensor:
        dataset = getattr(loader, "dataset", loader)
        length = len(dataset) if isinstance(dataset, Sized) else None
        if self._passed is None or self._passed[0] is not dataset or self._passed[1] != length:
            counts = count_by_iteration(
                loader, get_targets=self.get_targets or batch_targets, ignore_index=ignored, show_progress=show_progress
            )
            self._passed = (dataset, length, counts)
        return self._passed[2]


def _rebuilt(name: str, message: str) -> Exception:
    """Make the exception of rank 0 again, or the nearest that takes a message alone."""
    kind = {cls.__name__: cls for cls in _RAISED_ALIKE}.get(name)
    return RuntimeError(f"{name}: {message}") if kind is None else kind(message)
