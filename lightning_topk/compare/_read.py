"""A comparison from its YAML file."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_topk._checks import check_choice, check_float, check_int
from lightning_topk.compare._options import base_arguments, option_arguments
from lightning_topk.compare._plan import Column, Comparison, check_list, check_seeds

_SELECT = re.compile(r"val_(?:(macro|many|medium|few)_)?top([1-9]\d*)")
_KEYS = (*("base", "config", "losses", "seeds", "tuning_seeds", "ks", "select", "posthoc_tau", "checkpoint"),)
_OF_COLUMN = ("file", "loss", "config", "grid", "posthoc_tau")


def read_comparison(path: str | Path, *, base: Sequence[str] = (), last_args: Sequence[str] = ()) -> Comparison:
    """Read a comparison from a YAML file.

    Args:
        path: The file.
        base: Configuration files for all columns, after those that the file names itself.
        last_args: Arguments for all columns, after theirs.

    Returns:
        The comparison.

    Raises:
        ValueError: A key that is not known or missing, or a value out of range.
        TypeError: A value of the wrong type.
        FileNotFoundError: The file, or one that it names, does not exist.
    """
    path = Path(path)
    content = _content(path)
    _check_keys("A comparison", content, _KEYS, required=("losses",))
    losses = content["losses"]
    if not isinstance(losses, Mapping) or not losses:
        raise ValueError(
            "The key `losses` of a comparison should have columns below it, each as `name: what it is`. "
            f"Found {losses!r:.80}."
        )
    folder = path.parent
    shared_tau = _taus(content.get("posthoc_tau"))
    seeds = check_seeds("seeds", content.get("seeds", [0]))
    tuning = check_seeds("tuning_seeds", content.get("tuning_seeds", list(seeds[:1])))
    ks = tuple(sorted({check_int("ks", k, 1) for k in check_list("ks", content.get("ks", [1, 3, 5]))}))
    group, k = _select(content.get("select", f"val_macro_top{5 if 5 in ks else max(ks)}"))
    return Comparison(
        columns=tuple(_column(str(name), entry, folder, shared_tau) for name, entry in losses.items()),
        args=(
            *base_arguments(content.get("base", []), folder),
            *(word for file in base for word in ("--config", file)),
            *option_arguments("config", content.get("config")),
        ),
        last_args=tuple(last_args),
        seeds=seeds,
        tuning_seeds=tuning,
        ks=ks,
        group=group,
        k=k,
        checkpoint=check_choice("checkpoint", content.get("checkpoint", "last"), ("last", "best")),
    )


def _content(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"A comparison should be a YAML file. Found no file `{path}`.")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"A comparison should be a YAML file. `{path}` cannot be read: {error}") from None


def _column(name: str, entry: Any, folder: Path, shared_tau: tuple[float, ...]) -> Column:
    if isinstance(entry, str):
        entry = {"file": entry}
    where = f"Column `{name}`"
    _check_keys(where, entry, _OF_COLUMN)
    if not entry.keys() & {"file", "loss", "config"}:
        raise ValueError(
            f"{where} should have a `file` of options, a `loss` or other options below `config`. Found none of them."
        )
    grid = entry.get("grid") or {}
    if not isinstance(grid, Mapping) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError(f"{where} should have a grid of lists, each as `option: [values]`. Found {grid!r:.80}.")
    args = list(base_arguments(entry.get("file", []), folder))
    if "loss" in entry:
        args += option_arguments("loss", {"model.loss": entry["loss"]})
    args += option_arguments("config", entry.get("config"))
    tau = _taus(entry["posthoc_tau"]) if "posthoc_tau" in entry else shared_tau
    return Column(name, tuple(args), {str(option): values for option, values in grid.items()}, tau)


def _check_keys(where: str, content: Any, known: Sequence[str], required: Sequence[str] = ()) -> None:
    if not isinstance(content, Mapping):
        raise TypeError(f"{where} should be a mapping with keys among {', '.join(known)}. Found {content!r:.80}.")
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            raise ValueError(
                f"{where} should have keys among {', '.join(known)}. Found `{key}`"
                + (f"; near: {near[0]}." if near else ".")
            )
    for key in required:
        if key not in content:
            raise ValueError(f"{where} should have the key `{key}`. Found {', '.join(map(str, content)) or 'none'}.")


def _taus(value: Any) -> tuple[float, ...]:
    if value is None or value is False:
        return ()
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(dict.fromkeys(check_float("posthoc_tau", each) for each in values))


def _select(value: Any) -> tuple[str, int]:
    match = _SELECT.fullmatch(str(value))
    if match is None:
        raise ValueError(
            "Parameter `select` should be an accuracy on validation data: val_macro_top5, val_top5, val_many_top5, "
            f"val_medium_top5 or val_few_top5, with any K. Found `select = {value!r}`."
        )
    return match[1] or "micro", int(match[2])
