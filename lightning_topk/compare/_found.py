"""Finished runs of a time when a class had fewer options than it has now."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_topk.compare._jobs import Job, config_of_run, essential

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the latter takes ten times as long


class FoundRuns:
    """The finished runs of a folder by their configurations, which are read when they are asked for.

    The key of a run is that of its complete configuration, so a new option of a class changes it even where the option
    is left at its default. Such a run is found here.

    Args:
        folder: The folder of the runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._configs: dict[str, dict[str, Any]] | None = None

    def key_of(self, job: Job) -> str:
        """Return the key under which the run of a job lies: its own, or that of a finished run that is the same."""
        if job.checkpoint == "best" or (self.folder / job.key / "result.json").is_file():
            return job.key
        if self._configs is None:
            self._configs = _read(self.folder)
        new = essential(config_of_run(job))
        return next((name for name, old in self._configs.items() if continues(old, new)), job.key)


def continues(old: Any, new: Any, path: str = "") -> bool:
    """Tell whether a configuration is another with nothing but new options at their defaults.

    Args:
        old: The earlier configuration, or a part of it.
        new: The later one.
        path: Name of the class whose arguments these are.

    Example:
        >>> loss = {"class_path": "lightning_topk.losses.NoisedTopKLoss", "init_args": {"k": 3}}
        >>> continues(loss, {**loss, "init_args": {"k": 3, "epsilon": 1.0}})
        True
        >>> continues(loss, {**loss, "init_args": {"k": 3, "epsilon": 0.5}})
        False
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if not old.keys() <= new.keys():
            return False
        own = str(new.get("class_path", ""))
        defaults = _defaults(path) if new.keys() - old.keys() else {}
        if any(name not in defaults or defaults[name] != new[name] for name in new.keys() - old.keys()):
            return False
        return all(continues(each, new[name], own if name == "init_args" else "") for name, each in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(continues, old, new))
    return bool(old == new and type(old) is type(new))


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        config = path.parent / "config.yaml"
        if config.is_file():
            content = yaml.load(config.read_text(), _LOADER)
            callbacks = content["trainer"].get("callbacks") or []
            if not any((each.get("init_args") or {}).get("filename") == "best" for each in callbacks):
                found[path.parent.name] = essential(content)
    return found


def _defaults(path: str) -> dict[str, Any]:
    cls = locate(path) if path else None
    if not inspect.isclass(cls):
        return {}
    parameters = inspect.signature(cls).parameters.items()
    return {name: _plain(each.default) for name, each in parameters if each.default is not each.empty}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
