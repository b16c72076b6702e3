"""What a configuration says beyond the defaults.

jsonargparse has this too, but not for classes within lists, and not in all versions for an option whose default is no
class.
"""

import inspect
from pydoc import locate
from typing import Any

_SAME = object()


def difference(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a configuration what is a default of its option, or of the class that it is an argument of.

    Example:
        >>> loss = {"class_path": "lightning_topk.losses.NoisedTopKLoss", "init_args": {"k": 3, "epsilon": 1.0}}
        >>> difference({"seed": 0, "loss": [loss]}, {"seed": 0, "loss": None})
        {'loss': [{'class_path': 'lightning_topk.losses.NoisedTopKLoss', 'init_args': {'k': 3}}]}
    """
    found = _difference(config, defaults)
    return {} if found is _SAME else found


def _difference(value: Any, default: Any) -> Any:
    if value == (list(default) if isinstance(default, tuple) else default):
        return _SAME
    if isinstance(value, list):
        return [_difference(each, _SAME) for each in value]
    if isinstance(value, dict):
        return _of_class(value, default) if "class_path" in value else _of_group(value, default)
    return value


def _of_group(value: dict[str, Any], defaults: Any) -> Any:
    known = defaults if isinstance(defaults, dict) else {}
    pairs = {name: _difference(each, known.get(name, _SAME)) for name, each in value.items()}
    kept = {name: each for name, each in pairs.items() if each is not _SAME}
    return kept if kept or not known else _SAME


def _of_class(value: dict[str, Any], default: Any) -> Any:
    cls = locate(str(value["class_path"]))
    own = default if isinstance(default, dict) else {"class_path": default}  # a bare name can be a default
    is_default = str(own.get("class_path")).rpartition(".")[2] == str(value["class_path"]).rpartition(".")[2]
    signature = inspect.signature(cls).parameters if inspect.isclass(cls) else {}
    known = {name: each.default for name, each in signature.items()} | (own.get("init_args", {}) if is_default else {})
    kept = {name: _difference(each, known.get(name, _SAME)) for name, each in value.get("init_args", {}).items()}
    kept = {name: each for name, each in kept.items() if each is not _SAME}
    rest = {name: each for name, each in value.items() if name != "init_args"}
    if is_default and not kept and len(rest) == 1:
        return _SAME
    return {**rest, "init_args": kept} if kept else rest
