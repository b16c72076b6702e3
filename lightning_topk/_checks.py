"""Argument checks whose messages state the law and then the fact.

Scalars are checked where they are set, shapes and dtypes at every call. Values of tensors are read only
where that costs no device synchronisation (on the CPU, outside ``torch.compile``).
"""

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int, or raise when it is no integer in [low, high]."""
    bound = f">= {low}" if high is None else f"in [{low}, {high}]"
    law = f"Parameter `{name}` should be an integer {bound}."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{law} Found `{name} = {value!r}` of type {type(value).__name__}.")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise ValueError(f"{law} Found `{name} = {value}`.")
    return number


def check_float(
    name: str, value: Any, low: float | None = None, high: float | None = None, *, low_open: bool = False
) -> float:
    """Return ``value`` as a float, or raise when it is no finite number within the bounds."""
    bounds = []
    if low is not None:
        bounds.append(f"{'>' if low_open else '>='} {low:g}")
    if high is not None:
        bounds.append(f"<= {high:g}")
    law = f"Parameter `{name}` should be a finite number{' ' if bounds else ''}{' and '.join(bounds)}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{law} Found `{name} = {value!r}` of type {type(value).__name__}.")
    number = float(value)
    too_low = low is not None and (number <= low if low_open else number < low)
    if not math.isfinite(number) or too_low or (high is not None and number > high):
        raise ValueError(f"{law} Found `{name} = {value}`.")
    return number


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return ``value``, or raise when it is none of the choices."""
    if value not in choices:
        options = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Parameter `{name}` should be one of {options}. Found `{name} = {value!r}`.")
    return value


def check_classes_exceed_k(k: int, num_classes: int) -> None:
    """Raise when there are too few classes for a threshold at the (k + 1)-th largest score."""
    if k >= num_classes:
        raise ValueError(
            f"Parameter `k` should be in [1, C), as the loss compares with the (k + 1)-th largest of C logits. "
            f"Found `k = {k}` with `C = {num_classes}`."
        )


def check_logits(logits: Any) -> None:
    """Raise when ``logits`` is no floating point tensor with a class dimension."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"Argument `logits` should be a tensor [..., C]. Found {type(logits).__name__}.")
    if not logits.is_floating_point():
        raise TypeError(f"Argument `logits` should have a floating point dtype. Found {logits.dtype}.")
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(
            f"Argument `logits` should have shape [..., C] with at least one class. Found {list(logits.shape)}."
        )


def check_per_class(name: str, values: Tensor, logits: Tensor) -> None:
    """Raise when ``values`` has not one entry for each class of the logits."""
    if values.shape != logits.shape[-1:]:
        raise ValueError(
            f"Parameter `{name}` should have one entry per class, shape [{logits.shape[-1]}]. "
            f"Found {list(values.shape)} with logits of {list(logits.shape)}."
        )


def check_scores(logits: Any, targets: Any, *, ignore_index: int | None = None, soft: bool = True) -> bool:
    """Check a pair of logits and targets; return whether the targets are soft.

    Args:
        logits: Scores, shape [..., C], floating point.
        targets: Class indices, shape [...], int64 or another integer dtype; or soft labels, shape [..., C], floating.
        ignore_index: The target value that is allowed although it is no class index.
        soft: Whether soft labels are accepted.

    Raises:
        TypeError: A dtype that is neither.
        ValueError: A shape that does not fit, or (on the CPU) an index outside [0, C).
    """
    check_logits(logits)
    num_classes = logits.shape[-1]
    if not isinstance(targets, Tensor):
        found = type(targets).__name__
        raise TypeError(f"Argument `targets` should be a tensor of class indices [...]. Found {found}.")
    if targets.is_floating_point():
        if not soft:
            raise TypeError(
                "Argument `targets` should hold class indices of an integer dtype; soft labels are not defined here. "
                f"Found {targets.dtype}. One-hot targets become indices by `targets.argmax(-1)`."
            )
        if targets.shape != logits.shape:
            raise ValueError(
                "Argument `targets` of a floating point dtype should hold soft labels of the shape of the logits "
                f"{list(logits.shape)}. Found {list(targets.shape)} of {targets.dtype}; class indices need an integer "
                "dtype."
            )
        return True
    if targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"Argument `targets` should have an integer or floating point dtype. Found {targets.dtype}.")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"Argument `targets` of class indices should have the shape of the logits without the last dimension, "
            f"{list(logits.shape[:-1])}. Found {list(targets.shape)} with logits of {list(logits.shape)}."
        )
    if targets.device.type == "cpu" and targets.numel() and readable(targets):
        outside = (targets < 0) | (targets >= num_classes)
        if ignore_index is not None:
            outside &= targets != ignore_index
        if outside.any():
            allowed = "" if ignore_index is None else f" or `ignore_index = {ignore_index}`"
            raise ValueError(
                f"Argument `targets` should hold class indices in [0, C){allowed}. "
                f"Found {int(targets[outside][0])} with `C = {num_classes}`."
            )
    return False


def readable(tensor: Tensor) -> bool:
    """Tell whether values may be read: outside ``torch.compile`` and ``torch.func`` transforms."""
    return not (torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor))
