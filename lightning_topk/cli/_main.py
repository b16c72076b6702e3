"""The command: what it is given goes to a tool or to LightningCLI, and mistakes of users end in a few lines."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_topk.cli._command import TopKCLI
from lightning_topk.cli._errors import debugging, report_mistake, user_mistake
from lightning_topk.cli._parser import strict_parsing

# Commands that are no subcommands of LightningCLI: each a function of the arguments that follow, imported on demand.
_TOOLS = {"data": "lightning_topk.cli._data:main", "compare": "lightning_topk.cli._compare:main"}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Arguments in place of those of the process.

    Raises:
        SystemExit: With status 2 and a few lines on stderr after a user's mistake; with status 143 and one line after
            SIGTERM in a training, which goes on with ``--ckpt_path last``; with status 0 after help.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a console script does not see the files of the current folder otherwise
    strict_parsing()
    words = list(sys.argv[1:] if args is None else args)
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addFilter(_no_advertisement)
    try:
        with warnings.catch_warnings():
            # Lightning's own code on torch >= 2.9.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            # Every run has a folder of its own, so a checkpoint always comes from another one.
            warnings.filterwarnings("ignore", "The dirpath has changed from")
            # What `--optimizer` is for.
            warnings.filterwarnings("ignore", ".*configure_optimizers` will be overridden")
            if words and words[0] in _TOOLS:
                module, _, function = _TOOLS[words[0]].partition(":")
                getattr(import_module(module), function)(words[1:])
            else:
                TopKCLI(list(args) if args is not None else None)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        message = None if debugging() else user_mistake(error)
        if message is None:
            raise
        report_mistake(message)
        sys.exit(2)
    finally:
        log.removeFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
