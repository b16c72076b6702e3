"""Argument checks whose messages state the law and then the fact.

Scalars are checked where they are set, shapes and dtypes at every call. Values of tensors are read only
where that costs no device synchronisation (on the CPU, outside ``torch.compile``).
"""

import math
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST_INT = 2**63 - 1  # of int64, the dtype of class indices and sizes
# Numbers between this and its inverse may be multiplied with logits, or divide them, within float32.
LARGEST_FLOAT = 1e30
# More classes than fit into memory are a mistake, such as an identifier in the place of a label.
MOST_CLASSES = 10**8
MOST_SAMPLES = 10**6
LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int, or raise when it is no integer in [low, high] that fits into 64 bits."""
    bound = f">= {low}" if high is None else f"in [{low}, {high}]"
    law = f"Parameter `{name}` should be an integer {bound}."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{law} Found `{name} = {value!r}` of type {type(value).__name__}.")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise ValueError(f"{law} Found `{name} = {_shown(number)}`.")
    if number > LARGEST_INT:
        raise ValueError(f"Parameter `{name}` should be an integer of 64 bits. Found `{name} = {_shown(number)}`.")
    return number


def check_float(
    name: str, value: Any, low: float | None = None, high: float | None = None, *, low_open: bool = False
) -> float:
    """Return ``value`` as a float, or raise when it is no finite number within the bounds.

    Its size should be at most 1e30, and at least 1e-30 where it should be above 0, as it may be divided by: what is
    beyond becomes infinite or 0 in float32, and a loss of it NaN.
    """
    bounds = []
    if low is not None:
        bounds.append(f"{'>' if low_open else '>='} {low:g}")
    if high is not None:
        bounds.append(f"<= {high:g}")
    law = f"Parameter `{name}` should be a finite number{' ' if bounds else ''}{' and '.join(bounds)}."
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{law} Found `{name} = {value!r}` of type {type(value).__name__}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    too_low = low is not None and (number <= low if low_open else number < low)
    if not math.isfinite(number) or too_low or (high is not None and number > high):
        raise ValueError(f"{law} Found `{name} = {_shown(value)}`.")
    if abs(number) > LARGEST_FLOAT or (low_open and low == 0 and number < 1 / LARGEST_FLOAT):
        size = "in [1e-30, 1e30]" if low_open else "of at most 1e30 in size"
        raise ValueError(
            f"Parameter `{name}` should be {size}, as float32 holds little more. Found `{name} = {_shown(value)}`."
        )
    return number


def check_ints(name: str, values: Any, low: int) -> list[int]:
    """Return ``values`` as a list of ints, or raise when they are no integers >= low."""
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(
            f"Parameter `{name}` should be a list of integers. Found {type(values).__name__}: {values!r:.80}."
        )
    return [check_int(name, value, low) for value in values]


def check_floats(name: str, values: Any, low: float | None = None, high: float | None = None) -> list[float]:
    """Return ``values`` as a list of floats, or raise when it is no list of finite numbers within the bounds."""
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)) or getattr(values, "ndim", 1) == 0:
        raise TypeError(
            f"Parameter `{name}` should be a list of numbers. Found {type(values).__name__}: {values!r:.80}."
        )
    return [check_float(name, value, low, high) for value in values]


def _shown(value: Any) -> str:
    """Show a number; Python refuses to print integers of thousands of digits."""
    if isinstance(value, Integral) and abs(int(value)) >= 10**40:
        return f"{'-' if value < 0 else ''}2**{int(value).bit_length() - 1} or more in size"
    return str(value)


def as_numbers(values: Any, law: str) -> Tensor:
    """Return a list, array or tensor of real numbers as a tensor, or raise a TypeError of the law."""
    try:
        # An array is copied: it may be read-only, or run backwards, which a tensor cannot.
        tensor = torch.from_numpy(values.copy()) if isinstance(values, np.ndarray) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{law} Found {type(values).__name__}: {values!r:.80}.") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{law} Found {tensor.dtype}.")
    return tensor.detach()


def check_choice(name: str, value: Any, choices: Collection[str]) -> Any:
    """Return ``value``, or raise when it is none of the choices, which are strings."""
    if not isinstance(value, str) or value not in choices:
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


def check_ignore_index(ignore_index: Any) -> int:
    """Return ``ignore_index`` as an int, or raise when it is no integer of 64 bits."""
    return check_int("ignore_index", ignore_index, -LARGEST_INT - 1)


def check_num_samples(num_samples: Any) -> int:
    """Return ``num_samples`` as an int, or raise when it is no integer >= 1 of draws that end in reasonable time."""
    number = check_int("num_samples", num_samples, 1)
    if number > MOST_SAMPLES:
        raise ValueError(f"Parameter `num_samples` should be at most 10**6. Found `num_samples = {number}`.")
    return number


def check_num_classes(num_classes: Any) -> int:
    """Return ``num_classes`` as an int, or raise when it is no integer >= 1 of a size that fits into memory."""
    number = check_int("num_classes", num_classes, 1)
    if number > MOST_CLASSES:
        raise ValueError(f"Parameter `num_classes` should be at most 10**8. Found `num_classes = {number}`.")
    return number


def check_logits(logits: Any) -> None:
    """Raise when ``logits`` is no floating point tensor with a class dimension."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"Argument `logits` should be a tensor [..., C]. Found {type(logits).__name__}.")
    if logits.dtype not in LOGIT_DTYPES:
        law = "a floating point dtype of 16 to 64 bits" if logits.is_floating_point() else "a floating point dtype"
        raise TypeError(f"Argument `logits` should have {law}. Found {logits.dtype}.")
    if logits.layout != torch.strided:
        raise TypeError(f"Argument `logits` should be a dense tensor. Found the layout {logits.layout}.")
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(
            f"Argument `logits` should have shape [..., C] with at least one class. Found {list(logits.shape)}."
        )


def check_values(name: str, values: Any) -> None:
    """Raise when ``values`` is no floating point tensor."""
    if not isinstance(values, Tensor) or values.dtype not in LOGIT_DTYPES:
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"Argument `{name}` should be a floating point tensor of 16 to 64 bits. Found {found}.")


def check_indices(name: str, indices: Any, logits: Tensor, *, one_per_row: bool = False) -> None:
    """Raise when ``indices`` is no int64 tensor [..., L], or [...] with one per row; the values are not read."""
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        found = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"Argument `{name}` should be a tensor of dtype int64. Found {found}.")
    rows = list(logits.shape[:-1])
    leading = list(indices.shape if one_per_row else indices.shape[:-1])
    if leading != rows or (not one_per_row and indices.ndim < 1):
        law = rows if one_per_row else [*rows, "L"]
        raise ValueError(
            f"Argument `{name}` should have shape {law} for logits of {list(logits.shape)}. "
            f"Found {list(indices.shape)}."
        )


def check_per_class(name: str, values: Any, logits: Tensor) -> None:
    """Raise when ``values`` has not one real number for each class of the logits."""
    if not isinstance(values, Tensor) or values.is_complex() or values.dtype == torch.bool:
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"Parameter `{name}` should be a tensor of one real number per class. Found {found}.")
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
    if targets.layout != torch.strided:
        raise TypeError(f"Argument `targets` should be a dense tensor. Found the layout {targets.layout}.")
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
        index = targets.long()  # in a narrow dtype the number of classes and the ignored index may wrap around
        low, high = index.aminmax()
        if int(low) >= 0 and int(high) < num_classes:
            return False
        outside = (index < 0) | (index >= num_classes)
        if ignore_index is not None:
            outside &= index != ignore_index
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
