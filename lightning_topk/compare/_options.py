"""From what a comparison says about options to arguments of the command line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def base_arguments(files: Any, folder: Path) -> list[str]:
    """Return the arguments that read configuration files.

    Args:
        files: A path or a list of them, from the folder of the comparison or, where they are not found there, from the
            current folder.
        folder: The folder of the comparison.

    Raises:
        FileNotFoundError: A file that is in neither folder.
    """
    args = []
    for name in [files] if isinstance(files, str) else files or []:
        found = next((path for path in (folder / str(name), Path(str(name))) if path.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"A configuration file should lie in the folder of the comparison, `{folder}`, or in the current one. "
                f"Found no `{name}`."
            )
        args += ["--config", str(found)]
    return args


def option_arguments(name: str, options: Any) -> list[str]:
    """Return the arguments for options by their names, with dots or as mappings within mappings.

    Raises:
        TypeError: Something else than a mapping.

    Example:
        >>> option_arguments("config", {"model.loss.k": 3, "trainer": {"max_epochs": 2}})
        ['--model.loss.k=3', '--config', '{"trainer": {"max_epochs": 2}}']
    """
    if options is None:
        return []
    if not isinstance(options, Mapping):
        raise TypeError(f"Options below `{name}` should be a mapping, each as `option: value`. Found {options!r:.80}.")
    args = []
    for key, value in options.items():
        if isinstance(value, Mapping) and "class_path" not in value and "." not in str(key):
            args += ["--config", json.dumps({key: value})]
        else:
            args.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return args
