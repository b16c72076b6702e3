"""The parser: short help and errors, and classes that start from their own defaults."""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from pydoc import locate
from typing import Any, NoReturn
from unittest import mock

import yaml  # type: ignore[import-untyped]
from jsonargparse import ActionConfigFile, DefaultHelpFormatter, _typehints, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from lightning_topk.cli._difference import difference
from lightning_topk.cli._errors import add_fact, debugging, refuse_null
from lightning_topk.cli._explain import explain
from lightning_topk.cli._mistakes_in_files import mistake_in_file

_SHOWN_CLASSES = 12
_ON_CHANGE = "discard_init_args_on_class_path_change"


class ShortHelp(DefaultHelpFormatter):
    """Help that lists classes by their bare names, and few of them."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action) or ""
        head, found, paths = text.partition("known subclasses: ")
        if not found:
            return text
        names = [path.strip(" )").rpartition(".")[2] for path in paths.split(",")]
        more = ", ..." if len(names) > _SHOWN_CLASSES else ""
        return f"{head}known subclasses: {', '.join(names[:_SHOWN_CLASSES])}{more})"


class ConfigFile(ActionConfigFile):
    """The option ``--config``; the parser remembers the files for the message of an error."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: Any) -> None:
        parser.reading = str(value)
        if os.path.isfile(value) and (mistake := mistake_in_file(value)):
            parser.error(mistake)
        ActionConfigFile.apply_config(parser, cfg, dest, value)
        if os.path.isfile(value):
            content = yaml.safe_load(Path(value).read_text())
            if not isinstance(content.get("trainer") or {}, dict):  # passed over otherwise
                parser.error(f"Unexpected config: trainer: {content['trainer']}")
            parser.files_read.append(parser.reading)
        parser.reading = None


class TopKArgumentParser(LightningArgumentParser):
    """Argument parser of :class:`~lightning_topk.cli.TopKCLI`.

    Args:
        examples: Commands that head the help.
        summary: What follows them in place of the list of options.

    Attributes:
        failures: What constructors have raised. jsonargparse tells it in words of its own, about all the types that
            an option can have.
        files_read: The files of ``--config``, and in ``reading`` the one that is being read.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), summary: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", ShortHelp)
        # Or a misspelt option would pass as the abbreviation of another.
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.summary = summary
        self.failures: list[Exception] = []
        self.reading: str | None = None
        self.files_read: list[str] = []

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        head = "examples:\n" + "".join(f"  {example}\n" for example in self.examples) + "\n" if self.examples else ""
        if self.summary is not None:
            return head + self.summary
        # The usage of a subcommand names each of its two hundred options, as the list below it does.
        text = super().format_help(*args, **kwargs)
        return head + re.sub(r"\Ausage:.*?\n\n", "", text, count=1, flags=re.DOTALL)

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        if not kwargs.pop("skip_default", False):
            return super().dump(cfg, *args, **kwargs)
        config = yaml.safe_load(super().dump(cfg, *args, **kwargs))
        defaults = yaml.safe_load(super().dump(self.get_defaults(), *args, **kwargs))
        header = "".join(f"# {line}\n" for line in self.dump_header or ())
        return header + yaml.safe_dump(difference(config, defaults), sort_keys=False)

    def add_instantiator(self, instantiator: Any, *args: Any, **kwargs: Any) -> None:
        @wraps(instantiator)
        def remembering(class_type: Any, *values: Any, **named: Any) -> Any:
            try:
                refuse_null(class_type, named)
                return instantiator(class_type, *values, **named)
            except Exception as error:
                add_fact(error, named)
                self.failures.append(error)
                raise

        super().add_instantiator(remembering, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # the parser of a class within a parser, which will report it
            super().error(message, ex)
        if debugging():
            raise argparse.ArgumentError(None, message) from ex
        parser = getattr(ex, "subcommand_parser", None) or self
        sys.stderr.write(explain(message, parser))
        sys.exit(2)


def strict_parsing() -> None:
    """Let no value name a class that runs commands, nor one where its option does not ask for a class.

    That is the law of jsonargparse 5; before, it warns of the first and makes objects of the second. Values come from
    the hyper-parameters of checkpoints too. Versions below 4.51 know neither.
    """
    known = inspect.signature(set_parsing_settings).parameters
    wanted: dict[str, Any] = {"import_path_denylist": [], "instantiate_subclass_spec_in_any": False}
    set_parsing_settings(**{name: value for name, value in wanted.items() if name in known})


@contextmanager
def own_defaults() -> Iterator[None]:
    """Make every class that replaces another start from its own defaults.

    jsonargparse keeps the arguments that both classes have, whether they were given or are defaults of the replaced
    class, and drops the others silently. ``--model.loss NoisedTopKLoss`` would get the epsilon of the loss that it
    replaces, and a data file the imbalance factor of the data set before it.
    """

    def discard_all(parser_or_action: Any, previous: Any, value: Any) -> None:
        if not previous or "init_args" not in previous:
            return
        before, now = previous["class_path"], value["class_path"]
        if before != now and locate(str(before)) is not locate(str(now)):
            for key in list(previous["init_args"].__dict__):
                del previous["init_args"].__dict__[key]

    # A private name of jsonargparse; should it go, its own law holds and a test of ours fails.
    with mock.patch.object(_typehints, _ON_CHANGE, discard_all) if hasattr(_typehints, _ON_CHANGE) else nullcontext():
        yield
