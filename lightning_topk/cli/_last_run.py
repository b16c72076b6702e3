"""Where ``--ckpt_path last`` goes on."""

import re
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

_LAST = re.compile(r"last(-v\d+)?\.ckpt")


def last_run(trainer: Namespace) -> int | None:
    """Return the number of the latest run in the folder of the first logger, when that counts its runs.

    Args:
        trainer: Options of the trainer.

    Returns:
        The largest n of the folders ``version_<n>``, or ``None`` where there is none, the run has a name, or the logger
        is of a kind that does not count.
    """
    options = logger_options(trainer)
    if options is None or options.get("version") is not None or "save_dir" not in options:
        return None
    folder = Path(str(options["save_dir"]), str(options.get("name") or ""))
    numbers = [path.name.removeprefix("version_") for path in folder.glob("version_*") if path.is_dir()]
    return max((int(number) for number in numbers if number.isdecimal()), default=None)


def logger_options(trainer: Namespace) -> Any:
    """Return the arguments of the first logger, or ``None`` without one that was named by its class."""
    logger: Any = trainer.get("logger")
    first = logger[0] if isinstance(logger, list) and logger else logger
    return first.get("init_args") if isinstance(first, Namespace) else None


def last_checkpoint(trainer: Namespace, number: int) -> Path | None:
    """Return the newest ``last.ckpt`` in the folder of a run."""
    options = logger_options(trainer)
    folder = Path(str(options["save_dir"]), str(options.get("name") or ""), f"version_{number}", "checkpoints")
    found = [path for path in folder.glob("last*.ckpt") if _LAST.fullmatch(path.name)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
