"""Run the command in this process, on small data, and see what it prints."""

import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from lightning_topk.cli import main

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
QUICKSTART = ("--config", str(CONFIGS / "quickstart.yaml"))
GLYPHS = ("--data", "GlyphsDataModule", "--data.num_classes", "12", "--data.max_count", "30")
SMALL = ("--model.backbone", "small_convnet")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
SHORT = (
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
    *("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2", "--trainer.limit_predict_batches", "2"),
    *QUIET,
)


@dataclass
class Printed:
    """The exit status of a command, and what it printed."""

    status: Any
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.splitlines()[-1]


def command(*args: str) -> Printed:
    """Run the command; errors that it does not handle itself are raised. The process is left as it was."""
    status: Any = 0
    out, err = StringIO(), StringIO()
    own = mock.patch.dict(os.environ), mock.patch.object(sys, "path", [*sys.path])
    with own[0], own[1], redirect_stdout(out), redirect_stderr(err):
        try:
            main(args)
        except SystemExit as stopped:
            status = stopped.code
    return Printed(status, out.getvalue(), err.getvalue())


def config_of(*args: str) -> dict[str, Any]:
    """Return what ``fit --print_config`` prints, by default what differs from the defaults."""
    flag = [] if any(arg.startswith("--print_config") for arg in args) else ["--print_config"]
    printed = command("fit", *args, *flag)
    assert printed.status == 0, printed.err
    return yaml.safe_load(printed.out)
