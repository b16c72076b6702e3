"""From a message of the parser to a few lines: the law, what was found, what is near, where help is."""

import inspect
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from typing import Any

from lightning_topk.cli._families import FAMILIES, class_names

_LONGEST = 6  # lines of another's message that are shown
_LISTED = 20  # classes that are named when none is near


def explain(message: str, parser: Any) -> str:
    """Turn a message of the parser into at most ten lines.

    Args:
        message: What jsonargparse or argparse says.
        parser: The parser that says so, with the files of ``--config`` in ``files_read``, and in ``reading`` the one
            that it was reading.

    Returns:
        The text, with a newline at its end.
    """
    program = parser.prog.replace(" [options]", "")
    if parser._subcommands_action is not None:
        # An error of the whole configuration is found by the parser above that of the subcommand.
        subparsers = parser._subcommands_action.choices
        for name in [arg for arg in getattr(parser, "args", []) if arg in subparsers][:1]:
            program, parser = f"{program} {name}", subparsers[name]
    complaint = _Complaint(message, parser, program)
    found = next((found for rule in _RULES if (found := rule(complaint))), None) or _Found(shorten(message))
    lines = [f"error: {found.text}"]
    if file := parser.reading or _file_with(found, parser):
        lines.append(f"in:    {file}")
    if found.near:
        lines.append(f"near:  {', '.join(found.near)}")
    return "\n".join([*lines, f"help:  {program} {found.help}"]) + "\n"


def shorten(message: str) -> str:
    """Leave out what says nothing to a user, and all beyond a few lines."""
    noise = re.compile(r"\s*(Subtypes:|Given value|Does not validate|- Expected a <class 'NoneType'>|Errors:$|$)")
    lines = [line[:300] for line in message.splitlines() if not noise.match(line)]
    return "\n".join(lines[:_LONGEST] + ["..."] * (len(lines) > _LONGEST))


class _Complaint:
    """A message with what can be read off it: the option that it is about, and the classes on the way there."""

    def __init__(self, message: str, parser: Any, program: str) -> None:
        self.message, self.parser, self.program = message, parser, program
        self.keys = [key for key in re.findall(r'Parser key "([\w.]+)"', message) if key != "config"]
        self.option = "--" + ".".join(self.keys)
        self.paths = re.findall(r"given class_path '([\w.]+)'", message)

    def search(self, *patterns: str) -> "re.Match[str] | None":
        return next((found for each in patterns if (found := re.search(each, self.message, re.DOTALL))), None)

    @property
    def value(self) -> str | None:
        """What was given in place of what is expected."""
        patterns = r"Got value: ([^\n]*)", r"Given value: ([^\n]*)", r'Unable to load config "([^\n]*)"'
        if not (match := self.search(*patterns)):
            return None
        value = re.sub(r"NestedArg\(key='[\w.]+', val=(.*)\)", r"\1", match[1]).strip("'")
        return "nothing" if value in ("", "None") else f"`{value[:80]}`"

    @property
    def help(self) -> str:
        """The option that prints the arguments of the class in question."""
        if not self.paths or not self.keys or _class(self.paths[0]) is None:
            return "--help"
        # What lies within a list has no option of its own.
        deep = self.keys[0] != "trainer.callbacks" and len(self.paths) == len(self.keys)
        option, path = (self.option, self.paths[-1]) if deep else (f"--{self.keys[0]}", self.paths[0])
        return f"{option}.help {_bare(path) if path.startswith(('lightning', 'torch.')) else path}"


@dataclass
class _Found:
    """Law and fact; what is near; the option that gives help; the key to look for in the files."""

    text: str
    near: list[str] = field(default_factory=list)
    help: str = "--help"
    key: str | None = None


def _unknown_option(complaint: _Complaint) -> _Found | None:
    if not (match := complaint.search(r"[Uu]nrecognized arguments: (\S+)")):
        return None
    given = match[1].partition("=")[0]
    law = f"`{complaint.program}` should be given options that it has."
    return _Found(f"{law} Found `{given}`.", _near(given, complaint.parser._option_string_actions))


def _no_value(complaint: _Complaint) -> _Found | None:
    if not (match := complaint.search(r"argument (?:-\w/)?(--[\w.]+)\S*: expected one argument")):
        return None
    args = [*getattr(complaint.parser, "args", []), "--"]
    bare = [arg for arg, after in pairwise(args) if arg.startswith(match[1]) and after.startswith("--")]
    return _Found(f"`{(bare or [match[1]])[0]}` should be given a value. Found none.")


def _unknown_argument(complaint: _Complaint) -> _Found | None:
    match = complaint.search(r"(?:Option|[Kk]ey) [\"']([\w.]+)[\"'] is not (?:accepted|expected)")
    if not match:
        return None
    before = re.findall(r"given class_path '([\w.]+)'", complaint.message[: match.start()])
    cls = _class(before[-1]) if before else None
    unknown = match[1].partition(".")[0]
    if unknown == "class_path":
        law = f"A class (`{complaint.option}`) should be given by the keys `class_path` and `init_args` alone."
        return _Found(f"{law} Found others beside them.")
    if cls is None:
        return None
    if cls in FAMILIES.values():
        law = f"`{complaint.option}` should name a class before that is given arguments."
        return _Found(f"{law} Found `{unknown}`, and no class.", key=unknown)
    law = f"{cls.__name__} (`{complaint.option}`) should be given its own arguments."
    return _Found(f"{law} Found `{unknown}`.", _near(unknown, _arguments(cls)), complaint.help, unknown)


def _missing_argument(complaint: _Complaint) -> _Found | None:
    match = complaint.search(r"following arguments are required: ([\w., ]+)", r"[Kk]ey [\"']([\w.]+)[\"'] is required")
    if not match:
        return None
    owner = _bare(complaint.paths[-1]) if complaint.paths else complaint.program
    return _Found(f"{owner} (`{complaint.option}`) should be given `{match[1]}`. Found nothing.", help=complaint.help)


def _unknown_class(complaint: _Complaint) -> _Found | None:
    match = complaint.search(
        r"Expected a dot import path string: (\S+)",
        r"Import path (\S+) does not correspond",
        r"Import path does not correspond.*Given value: ([\w.]+)",  # jsonargparse < 4.50
        r"Importing '(\S+)' is not allowed",
        r"given class_path '([\w.]+)'[^\n]*\n\s*(?:No module|module|Not a|Unexpected import|Expected an inst)",
    )
    if not match or re.search(r"Expected a <class '(int|float)'>", complaint.message[: match.start()]):
        return None  # a number, which a tensor may stand for
    known = class_names(complaint.option.lstrip("-").rpartition(".")[2])
    near = _near(_bare(match[1]), known) or sorted(known) * (len(known) <= _LISTED)
    law = f"`{complaint.option}` should name a class that fits there, by its bare name or its import path."
    return _Found(f"{law} Found `{match[1]}`.", near, key=complaint.option)


def _unknown_key(complaint: _Complaint) -> _Found | None:
    match = complaint.search(
        r"does not accept (?:option|nested key) [\"']([\w.]+)[\"']", r"[Kk]ey [\"']([\w.]+)[\"'] is not expected"
    )
    if not match:
        return None
    options = complaint.parser._option_string_actions
    known = [name[2:] for name in options if name.startswith("--") and not name.endswith(("+", ".help"))]
    text = f"A configuration file should have keys that are options. Found `{match[1]}`."
    return _Found(text, _near(match[1], known), key=match[1])


def _no_file(complaint: _Complaint) -> _Found | None:
    match = complaint.search(r"(File does not exist|File is not readable|Path is not a file)[^:]*: '?([^'\n]+)'?")
    if not match:
        return None
    folder, name = Path(match[2]).parent, Path(match[2]).name
    files = [each.name for each in folder.glob("*.y*ml")] if folder.is_dir() else []
    near = [os.path.relpath(folder / each) for each in _near(name, files)]
    return _Found(f"`--config` should name a file that can be read. {match[1]}: `{os.path.relpath(match[2])}`.", near)


def _subcommand(complaint: _Complaint) -> _Found | None:
    match = complaint.search(
        r"invalid choice: '([^']*)' \(choose from (.*)\)", r'expected "subcommand" to be (one of) \{([\w,]+)\}'
    )
    if not match:
        return None
    choices = re.findall(r"\w+", match[2])
    found = "none" if match[1] == "one of" else f"`{match[1]}`"
    return _Found(f"The subcommand should be one of {', '.join(choices)}. Found {found}.", _near(match[1], choices))


def _not_yaml(complaint: _Complaint) -> _Found | None:
    match = complaint.search(r"(?:[Pp]roblems? parsing config|Unexpected config): *(.*)")
    if not match:
        return None
    text = shorten(match[1].replace('in "<unicode string>", ', "in ")) or "nothing"
    return _Found(f"A configuration file should hold options in YAML, `name: value`. Found:\n{text}")


def _wrong_type(complaint: _Complaint) -> _Found | None:
    types = re.findall(r"Expected (?:a|an) <class '([\w.]+)'>", complaint.message)
    names = [name.rpartition(".")[2] for name in types if name != "NoneType"]
    choices = ", ".join(re.findall(r"Expected a typing\.Literal\[([^\n]*)\]", complaint.message)).replace("'", "")
    if not (complaint.keys and (names or choices) and complaint.value):
        return None
    law = f"be one of {choices}" if choices else f"be of type {' or '.join(dict.fromkeys(names))}"
    text = f"`{complaint.option}` should {law}. Found {complaint.value}."
    return _Found(text, help=complaint.help, key=complaint.option)


def _no_class(complaint: _Complaint) -> _Found | None:
    match = complaint.search(
        r"but ([\w.]+) is abstract", r"Not a valid (subclass) of", r"Unable to load config", r"no attribute 'keys'"
    )
    if not (match and complaint.keys):
        return None
    if match.lastindex is None:
        option = f"--{complaint.keys[0]}" if "load config" in match[0] else complaint.option  # it is named twice there
        law = f"`{option}` should be given options or arguments, each as `name: value`."
        return _Found(f"{law} Found {complaint.value or 'none'}.", help=complaint.help)
    law = f"`{complaint.option}` should name a class, by itself or by the keys `class_path` and `init_args`."
    found = complaint.value if match[1] == "subclass" and complaint.value else "no `class_path`"
    return _Found(f"{law} Found {found}.", help=complaint.help)


_RULES: tuple[Callable[[_Complaint], _Found | None], ...] = (
    _unknown_option,
    _no_value,
    _unknown_argument,
    _missing_argument,
    _unknown_class,
    _unknown_key,
    _no_file,
    _subcommand,
    _not_yaml,
    _wrong_type,
    _no_class,
)


def _near(name: str, known: Iterable[str]) -> list[str]:
    return get_close_matches(name, sorted(set(known)), n=3)


def _file_with(found: "_Found", parser: Any) -> str | None:
    """Return the last file read in which key and value are written; what is an option of the command is in none."""
    if found.key is None:
        return None
    written = re.compile(rf"^[\s-]*{re.escape(found.key.lstrip('-').rpartition('.')[2])}\s*:", re.MULTILINE)
    match = re.search(r"Found `([^`]*)`", found.text)
    value = re.compile(rf"(?<!\w){re.escape(_bare(match[1]))}(?!\w)" if match else "")
    for file in reversed(parser.files_read):
        text = Path(file).read_text()
        if written.search(text) and value.search(text):
            return str(file)
    return None


def _class(path: str) -> Any:
    found = locate(path)
    return found if inspect.isclass(found) else None


def _bare(path: str) -> str:
    return path.rpartition(".")[2]


def _arguments(cls: type) -> list[str]:
    """Names of the arguments of a class and, as these may be handed on, of its bases."""
    inits = [vars(base)["__init__"] for base in cls.__mro__ if inspect.isfunction(vars(base).get("__init__"))]
    return [name for init in inits for name in inspect.signature(init).parameters if name != "self"]
