"""From a name or a ``class_path`` with arguments to a loss."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import nn

from lightning_topk.losses._base import TopKLoss


def build_loss(spec: Any, *, k: int | None = None) -> nn.Module:
    """Build a loss from a primitive description, or take one as it is.

    Args:
        spec: Name of a loss in :mod:`lightning_topk.losses`, an import path, a class, a mapping
            ``{"class_path": name or import path, "init_args": {...}}``, or a module ``loss(logits, targets)``.
        k: Number of guesses for a loss that takes ``k`` and was not given one.

    Returns:
        The loss.

    Raises:
        TypeError: Something else, or arguments that the loss does not take.
        ValueError: A name that does not exist, or a loss object whose own ``k`` is another one.

    Example:
        >>> build_loss({"class_path": "NoisedTopKLoss", "init_args": {"epsilon": 0.5}}, k=3)
        NoisedTopKLoss(k=3, epsilon=0.5, num_samples=5)
    """
    if isinstance(spec, nn.Module):
        own = getattr(spec, "k", None)
        if k is not None and isinstance(own, int) and own != k:
            raise ValueError(f"Parameter `k` should be that of the loss. Found `k = {k}` with {spec!r}.")
        return spec
    init_args: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        if "class_path" not in spec or set(spec) - {"class_path", "init_args"}:
            raise ValueError(
                "A loss as a mapping should have the keys `class_path` and `init_args`. "
                f"Found {sorted(map(str, spec))}."
            )
        init_args = dict(spec.get("init_args") or {})
        spec = spec["class_path"]
    cls = _find_class(spec) if isinstance(spec, str) else spec
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(
            "Parameter `loss` should be a name, a mapping with `class_path`, a loss class or a loss module. "
            f"Found {spec!r} of type {type(spec).__name__}."
        )
    parameters = inspect.signature(cls).parameters
    if k is not None and "k" in parameters:
        init_args.setdefault("k", k)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [] if takes_any else [name for name in init_args if name not in parameters]
    if unknown:
        near = get_close_matches(unknown[0], list(parameters), n=2) or list(parameters)
        raise TypeError(
            f"{cls.__name__} should be given its own arguments. Found `{unknown[0]}`; near: {', '.join(near)}."
        )
    return cls(**init_args)


def _find_class(name: str) -> Any:
    module = import_module("lightning_topk.losses")
    if "." in name:
        path, _, attribute = name.rpartition(".")
        try:
            return getattr(import_module(path), attribute)
        except (ImportError, AttributeError) as error:
            law = "Parameter `loss` should name a class that can be imported."
            raise ValueError(f"{law} Found {name!r}: {error}.") from None
    known = [key for key in module.__all__ if isinstance(getattr(module, key), type) and key != TopKLoss.__name__]
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise ValueError(
            f"Parameter `loss` should name a loss of lightning_topk.losses. Found {name!r}; near: {', '.join(near)}."
        )
    return getattr(module, name)
