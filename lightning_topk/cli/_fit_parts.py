"""The parts of a ``fit`` without its run, for commands that run many of them."""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import yaml  # type: ignore[import-untyped]

from lightning_topk.cli._command import TopKCLI
from lightning_topk.cli._parser import strict_parsing
from lightning_topk.compare import Launcher, Parts


class _Parsed(TopKCLI):
    """Reads arguments as ``fit`` does, and makes nothing of them."""

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...

    def read(self, args: list[str]) -> dict[str, Any]:
        """Return the configuration for other arguments; to make the parser takes longer than to use it."""
        parser: Any = self._parser("fit")
        parser.files_read.clear()
        self.parse_arguments(self.parser, args)
        self.before_instantiate_classes()
        config: dict[str, Any] = yaml.safe_load(parser.dump(self.config["fit"], skip_none=False))
        return config


class _Built(TopKCLI):
    """Makes what ``fit`` makes, under the seed of the run, and does not run it."""

    def _run_subcommand(self, subcommand: str) -> None: ...


class FitLauncher(Launcher):
    """Reads and builds runs by the very code of ``lightning-topk fit``."""

    def __init__(self) -> None:
        self._reader: _Parsed | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_reader": None}  # other processes make their own

    def prepare(self) -> None:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        strict_parsing()

    def resolve(self, args: Sequence[str]) -> dict[str, Any]:
        with _own_arguments():
            if self._reader is None:
                self._reader = _Parsed(["fit", *args])
            return self._reader.read(["fit", *args])

    def build(self, config: str | Path) -> Parts:
        said = io.StringIO()
        try:
            with _own_arguments(), redirect_stderr(said):
                cli = _Built(["fit", "--config", str(config)])
        except SystemExit:  # by a parser, after it has said what is wrong
            raise ValueError(said.getvalue().strip()) from None
        finally:
            sys.stderr.write(said.getvalue())
        return Parts(cli.model, cli.datamodule, cli.trainer)


@contextmanager
def _own_arguments() -> Iterator[None]:
    """Hide the arguments of this process, of which LightningCLI warns when it is given others."""
    with mock.patch.object(sys, "argv", sys.argv[:1]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        warnings.filterwarnings("ignore", ".*configure_optimizers` will be overridden")
        yield
