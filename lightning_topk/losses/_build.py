"""From a name or a ``class_path`` with arguments to a loss."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_topk.losses._base import TopKLoss

if TYPE_CHECKING:
    LossLike = TopKLoss | type[TopKLoss] | Mapping[str, Any] | str
else:
    LossLike = TopKLoss  # What the command line reads: there a misspelt name should be an error, not one more string.


def build_loss(spec: Any, *, k: int | None = None) -> nn.Module:
    """Build a loss from a primitive description, or take one as it is.

    Args:
        spec: Name of a loss in :mod:`lightning_topk.losses`, an import path, a class, a mapping
            ``{"class_path": name or import path, "init_args": {...}}``, or a module ``loss(logits, targets)``.
        k: Number of guesses for a loss that takes ``k`` and was not given one, or wraps such a loss.

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
        init_args = _arguments(spec)
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
    elif k is not None and issubclass(cls, TopKLoss) and init_args.get("loss") is not None:
        init_args["loss"] = build_loss(init_args["loss"], k=k)
    _check_arguments(cls, init_args)
    return cls(**init_args)


def build_operator(name: str, spec: Any, kind: type) -> Any:
    """Build the operator of a loss from ``{"class_path": ..., "init_args": {...}}``, or take one as it is.

    Args:
        name: Name of the parameter, for messages.
        spec: An operator, or a mapping whose ``class_path`` is a name in :mod:`lightning_topk.ops` or an import path.
        kind: Base class of the operators that fit.

    Raises:
        TypeError: Something else, or arguments that the operator does not take.
        ValueError: A class that cannot be imported.
    """
    operator = spec
    if isinstance(spec, Mapping) and "class_path" in spec and not set(spec) - {"class_path", "init_args"}:
        path, _, attribute = str(spec["class_path"]).rpartition(".")
        try:
            cls = getattr(import_module(path or "lightning_topk.ops"), attribute)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            law = f"Parameter `{name}` should name a class that can be imported."
            raise ValueError(f"{law} Found {spec['class_path']!r}: {error}.") from None
        operator = cls
        if isinstance(cls, type) and issubclass(cls, kind):
            init_args = _arguments(spec)
            _check_arguments(cls, init_args)
            operator = cls(**init_args)
    if not isinstance(operator, kind):
        raise TypeError(
            f"Parameter `{name}` should be a {kind.__name__} of lightning_topk.ops, or a mapping with its "
            f"`class_path`. Found {operator!r} of type {type(operator).__name__}."
        )
    return operator


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``init_args`` of a mapping with a ``class_path``."""
    init_args = spec.get("init_args")
    if init_args is not None and not (
        isinstance(init_args, Mapping) and all(isinstance(key, str) for key in init_args)
    ):
        raise TypeError(
            f"Parameter `init_args` should be a mapping from names of arguments to values. Found {init_args!r:.80}."
        )
    return dict(init_args or {})


def _check_arguments(cls: type, init_args: Mapping[str, Any]) -> None:
    """Raise when a class cannot be made, or not from arguments of these names."""
    if inspect.isabstract(cls):
        raise TypeError(
            f"{cls.__name__} is a base class and cannot be made. Found it in the place of one of its kinds."
        )
    parameters = inspect.signature(cls).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    unknown = [name for name in init_args if name not in parameters]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        near = get_close_matches(unknown[0], list(parameters), n=2) or list(parameters)
        raise TypeError(
            f"{cls.__name__} should be given its own arguments. Found `{unknown[0]}`; near: {', '.join(near)}."
        )
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in variadic and name not in init_args
    ]
    if missing:
        raise TypeError(f"{cls.__name__} should be given its required arguments. Found no `{missing[0]}`.")


def _find_class(name: str) -> Any:
    module = import_module("lightning_topk.losses")
    if "." in name:
        path, _, attribute = name.rpartition(".")
        try:
            return getattr(import_module(path), attribute)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            law = "Parameter `loss` should name a class that can be imported."
            raise ValueError(f"{law} Found {name!r}: {error}.") from None
    known = [key for key in module.__all__ if isinstance(getattr(module, key), type) and key != TopKLoss.__name__]
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise ValueError(
            f"Parameter `loss` should name a loss of lightning_topk.losses. Found {name!r}; near: {', '.join(near)}."
        )
    return getattr(module, name)
