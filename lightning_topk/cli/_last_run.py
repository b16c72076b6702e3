"""Where ``--ckpt_path last`` goes on."""

import re
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

_LAST = re.compile(r"last(-v\d+)?\.ckpt")
# First line of the configuration in a folder of `validate`, `test` or `predict`.
EVALUATION = "# evaluation"


def folder_of_runs(trainer: Namespace) -> Path | None:
    """Return the folder of the first logger; ``None`` where the run has a name, or the logger does not count runs."""
    options = logger_options(trainer)
    if options is None or options.get("version") is not None or "save_dir" not in options:
        return None
    return Path(str(options["save_dir"]), str(options.get("name") or ""))


def last_run(trainer: Namespace) -> int | None:
    """Return the number of the latest training run in the folder of the first logger, when that counts its runs.

    Args:
        trainer: Options of the trainer.

    Returns:
        The largest n of the folders ``version_<n>`` that are not of an evaluation, or ``None`` where there is none, the
        run has a name, or the logger is of a kind that does not count.
    """
    folder = folder_of_runs(trainer)
    if folder is None:
        return None
    runs = [path for path in folder.glob("version_*") if path.is_dir() and not _evaluates(path)]
    numbers = [path.name.removeprefix("version_") for path in runs]
    return max((int(number) for number in numbers if number.isdecimal()), default=None)


def _evaluates(folder: Path) -> bool:
    try:
        with (folder / "config.yaml").open(encoding="utf-8") as file:
            return file.readline().rstrip() == EVALUATION
    except (OSError, UnicodeDecodeError):
        return False


def logger_options(trainer: Namespace) -> Any:
    """Return the arguments of the first logger, or ``None`` without one that was named by its class."""
    logger: Any = trainer.get("logger")
    first = logger[0] if isinstance(logger, list) and logger else logger
    return first.get("init_args") if isinstance(first, Namespace) else None


def last_checkpoint(trainer: Namespace, number: int) -> Path | None:
    """Return the newest ``last.ckpt`` in the folder of a run that :func:`last_run` found."""
    folder = folder_of_runs(trainer)
    files = [] if folder is None else (folder / f"version_{number}" / "checkpoints").glob("last*.ckpt")
    found = [path for path in files if _LAST.fullmatch(path.name)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
