"""Options of the model on the command line, which a checkpoint's hyper-parameters do not override."""

import re
from collections.abc import Iterable
from typing import Any

_OPTION = re.compile(r"--model\.([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)(?:=|$)")


def model_options(args: Iterable[str]) -> list[str]:
    """Return the names below ``--model.`` among the arguments, help apart."""
    names = [match[1] for arg in args if (match := _OPTION.match(arg))]
    return [name for name in dict.fromkeys(names) if not name.endswith("help")]


def option_values(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return what a configuration of a model has for options by name."""
    return {name: place[key] for name in names for place, key in _place(model, name)}


def set_options(model: Any, values: dict[str, Any]) -> None:
    """Put values back; one whose class the checkpoint has replaced has no place any more, which is an error."""
    for name, value in values.items():
        places = list(_place(model, name))
        if not places:
            raise ValueError(
                f"An option `--model.{name}` should be one of the model in the checkpoint, whose classes are taken "
                f"from there. Found no such argument: it has {model.get('init_args', model)}."
            )
        place, key = places[0]
        place[key] = value


def _place(model: Any, name: str) -> Iterable[tuple[Any, str]]:
    """The mapping that holds an option, and its key there; nothing where there is none."""
    *way, key = name.split(".")
    for step in (*way, None):
        model = model.get("init_args", model) if hasattr(model, "get") else None
        if model is None:
            return
        if step is not None:
            model = model.get(step)
    if key in model:
        yield model, key
