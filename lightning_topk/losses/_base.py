"""The contract that every loss of the package keeps."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_topk._checks import LARGEST_FLOAT, as_numbers, check_choice, check_float, check_ignore_index
from lightning_topk._constants import Constants
from lightning_topk._reduce import REDUCTIONS
from lightning_topk.imbalance import check_counts, nonzero_counts


def checked_scalar(name: str, check: Callable[[str, Any], Any], doc: str) -> Any:
    """Make a property that checks what it is set to, so that a schedule or a user can change it at any time."""
    slot = f"_{name}"

    def get(self: nn.Module) -> Any:
        return self.__dict__[slot]

    def put(self: nn.Module, value: Any) -> None:
        self.__dict__[slot] = check(name, value)
        self._scalar_changed(name)  # type: ignore[operator]

    return property(get, put, doc=doc)


def non_negative(name: str, value: Any) -> float:
    """Check of a finite number >= 0."""
    return check_float(name, value, 0.0)


def positive(name: str, value: Any) -> float:
    """Check of a finite number > 0."""
    return check_float(name, value, 0.0, low_open=True)


class TopKLoss(Constants, ABC):
    """Base of all losses: ``loss(logits [..., C], targets [...]) -> loss``.

    What a subclass inherits:

    * ``targets`` are class indices of an integer dtype, or soft labels [..., C] of a floating point dtype, for which
      the loss is the expectation over the label.
    * Logits of float16 or bfloat16 are computed in float32, and the loss is float32.
    * Rows whose target is ``ignore_index`` count nothing; a batch without counted rows has the loss 0.
    * A row with a NaN or infinite logit has the loss NaN. Every other row has a finite loss and gradient, as long as
      its logits, times ``scale`` or divided by a temperature, are at most 1e30 in size, but for masked classes, whose
      logit may be any down to the lowest of float32.
    * Wrong input is a ``TypeError`` or ``ValueError`` that says what it should be. Class indices are compared with C on
      the CPU alone, where that waits for no device; elsewhere a wrong one ends in an assertion of the device.
    * The value is a pure function of each row in ``eval()``.
    * State is the class counts once they are bound, ``class_counts``, and the trainable parameters of the few losses
      that have any. It loads, ``strict`` too, from checkpoints of any number of classes, and from checkpoints that were
      written with another loss: what only one of the two has is passed over.
    * The counts and what is made of them are no buffers: averages of weights and DDP's broadcasts leave them alone.

    Args:
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"`` (divided by the sum of the weights of the counted targets, as
            :func:`torch.nn.functional.cross_entropy` does), ``"sum"`` or ``"none"``.
    """

    #: Whether the loss cannot be computed before :meth:`bind_class_counts` was called.
    needs_class_counts: ClassVar[bool] = False

    class_counts: Tensor | None
    weight: Tensor | None
    _anchor: Tensor
    _constants: ClassVar[tuple[str, ...]] = ("class_counts", "weight", "_anchor")
    _saves_counts = True

    def __init__(
        self,
        *,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.ignore_index = check_ignore_index(ignore_index)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.weight = None if weight is None else _check_weight(weight)
        self.class_counts = None
        # Follows the module from device to device, so that counts which are bound later land where it is.
        self._anchor = torch.empty(0)

    @abstractmethod
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of ``targets`` [...] or [..., C] under ``logits`` [..., C]."""

    def bind_class_counts(self, counts: Any, *, names: Sequence[str] | None = None) -> None:
        """Tell the loss how many training samples each class has.

        Args:
            counts: One non-negative whole number per class, shape [C]. Kept in ``class_counts``, also by losses that
                do not need them, so that checkpoints carry them.
            names: Class names for error messages.

        Raises:
            ValueError: Counts that are none, or a class without samples when the loss was made with
                ``zero_counts="error"``.
        """
        values = check_counts(counts)
        if self.needs_class_counts:
            nonzero_counts(values, getattr(self, "zero_counts", "clamp"), names=names)
        self.class_counts = values.to(self._anchor.device)
        self._counts_changed()

    def seed_noise(self, *key: int) -> None:
        """Address the noise of the calls that follow by a key of integers; losses without noise ignore it."""

    def spec(self) -> dict[str, Any]:
        """Describe the loss by primitives: ``{"class_path": ..., "init_args": {...}}``.

        This is what goes into hyper-parameters and checkpoints in place of the module, and what LightningCLI reads. The
        description of a loss around another one, or of one that takes an operator, holds that of the inner loss or the
        operator in its ``init_args``.

        Raises:
            TypeError: An argument that has no primitive form, such as a generator.

        Example:
            >>> from lightning_topk.losses import CrossEntropyLoss
            >>> CrossEntropyLoss(reduction="sum").spec()["init_args"]["reduction"]
            'sum'
        """
        cls = type(self)
        init_args = {}
        for name in inspect.signature(cls.__init__).parameters:
            if name == "self":
                continue
            value = getattr(self, name)
            if isinstance(value, Tensor):
                value = value.tolist()
            if isinstance(value, TopKLoss):
                value = value.spec()
            elif is_dataclass(value):
                value = {"class_path": _class_path(type(value)), "init_args": asdict(value)}  # type: ignore[arg-type]
            if value is not None and not isinstance(value, (bool, int, float, str, list, dict)):
                raise TypeError(
                    "A loss that goes into hyper-parameters should be made of numbers, strings and lists. "
                    f"Found `{name}` of type {type(value).__name__} in {cls.__name__}."
                )
            init_args[name] = value
        return {"class_path": _class_path(cls), "init_args": init_args}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters
        shown = []
        for name, parameter in parameters.items():
            value = getattr(self, name, None)
            default = parameter.default
            if name == "self" or (value is None and default is None):
                continue
            if isinstance(value, Tensor):
                shown.append(f"{name}=[{value.numel()} values]")
            elif name in self._always_shown or value != default:
                shown.append(f"{name}={value!r}")
        if self.class_counts is not None and "class_counts" not in parameters:
            shown.append(f"class_counts=[{self.class_counts.numel()} values]")
        return ", ".join(shown)

    _always_shown: ClassVar[tuple[str, ...]] = ("k",)

    def _bound(self, derived: Tensor | None) -> Tensor:
        """Return what was derived from the class counts, or raise when they are not bound yet."""
        if derived is None:
            raise RuntimeError(
                f"{type(self).__name__} should know the training counts of the classes before it is called. "
                "Found none: add the callback ClassFrequencies (TopKMixin does so by itself), or call "
                "`loss.bind_class_counts(counts)`."
            )
        return derived

    def _counts_changed(self) -> None:
        """Recompute what depends on ``class_counts``."""

    def _scalar_changed(self, name: str) -> None:
        """Recompute what depends on the scalar ``name``."""

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._saves_counts and self.class_counts is not None:
            destination[prefix + "class_counts"] = self.class_counts

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "class_counts"
        stored = state_dict.get(key)
        # What another loss saved and this one has not is passed over; what it lacks stays as it is.
        own = {*self._parameters, *self._modules, *self._buffers} - self._non_persistent_buffers_set
        known = {
            name: value
            for name, value in state_dict.items()
            if not name.startswith(prefix) or name[len(prefix) :].partition(".")[0] in own
        }
        missing: list[str] = []
        super()._load_from_state_dict(known, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        # Counts of a checkpoint win over bound ones, whatever their number; a checkpoint without leaves them alone.
        if stored is not None:
            self.class_counts = stored.to(self._anchor.device, copy=True)
            self._counts_changed()


def _class_path(cls: type) -> str:
    """Return the public import path of a class: without the private file in the packages of this project."""
    module = cls.__module__.rsplit("._", 1)[0] if cls.__module__.startswith("lightning_topk.") else cls.__module__
    return f"{module}.{cls.__qualname__}"


def _check_weight(weight: Sequence[float] | Tensor) -> Tensor:
    law = "Parameter `weight` should hold one finite number >= 0 per class."
    values = as_numbers(weight, law).double()
    if values.ndim != 1 or values.numel() == 0 or not bool(((values <= LARGEST_FLOAT) & (values >= 0)).all()):
        raise ValueError(f"{law} Found shape {list(values.shape)}: {values.flatten()[:8].tolist()}.")
    return values.to(torch.float32, copy=True)
