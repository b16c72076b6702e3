"""Mistakes in configuration files, made from the files themselves: every option of every file, in every way here.

A mutation is the text of a file with one mistake. Nothing is drawn at random: the same files give the same mutations.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pydoc import locate
from typing import Any

import yaml
from lightning.pytorch import Trainer

from commands import CONFIGS
from lightning_topk.cli._families import FAMILIES, _subclasses

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Path = tuple[str | int, ...]
# Those of the table command are no options of a run; tests/compare has what is said to mistakes there. Recipes have the
# options of the other files.
_OTHERS = ("compare", "recipes")
FILES = sorted(
    path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if path.parent.name not in _OTHERS
)


@dataclass(frozen=True)
class Mutation:
    """One mistake in one file.

    Attributes:
        file: Name below ``configs``.
        kind: The kind of mistake, a row of the table.
        path: Keys on the way to the option, empty for the file as a whole.
        content: The file with the mistake; None when there is no such file.
        names: What a message has to say, all of it: the option and the value. A tuple within holds alternatives.
        meant: The value that a user obviously meant, in a tuple, where the mistake may be passed over.
        args: Options of the command line after the file, where the mistake is in them.
    """

    file: str
    kind: str
    path: Path
    content: bytes | None
    names: tuple[str | tuple[str, ...], ...] = ()
    meant: tuple[Any, ...] = ()
    args: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.file}: {self.kind}: {'.'.join(map(str, self.path)) or ' '.join(self.args) or 'file'}"


def mutations() -> list[Mutation]:
    """Return all mutations of all files."""
    foreign = sorted({str(path[-1]) for file in FILES if file.startswith("loss/") for path, _ in leaves(read(file))})
    return [each for file in FILES for each in _of_file(file, foreign)]


def representative() -> list[Mutation]:
    """Return one mutation of each kind for each option, in each folder of files."""
    chosen: dict[Any, Mutation] = {}
    for each in mutations():
        option = tuple(key for key in each.path if key != "init_args")[-2:]
        chosen.setdefault((each.kind, option, each.args[:1], each.file.rpartition("/")[0]), each)
    return list(chosen.values())


def read(file: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / file).read_text())


def leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of each option that is no class, group or list of classes."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _groups(node: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of each mapping below the top."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict):
            yield (*path, key)
        if isinstance(value, dict | list):
            yield from _groups(value, (*path, key))


def _of_file(file: str, foreign: list[str]) -> Iterator[Mutation]:
    tree = read(file)
    for path, value in leaves(tree):
        yield from _of_option(file, tree, path, value)
        yield from _of_line(file, path, value)
    for path in _groups(tree):
        yield from _of_group(file, tree, path, foreign)
    yield from _of_whole(file, tree)
    yield from _conflicts(file, tree)
    yield from _of_command_line(file, tree)


def _of_option(file: str, tree: dict[str, Any], path: Path, value: Any) -> Iterator[Mutation]:
    key = str(path[-1])
    named = _NAMES_OF_CLASS_KEYS.get(key, (key,))

    def changed(kind: str, new: Any, *shown: str, meant: tuple[Any, ...] = ()) -> Mutation:
        return Mutation(file, kind, path, _text(_with(tree, path, new)), (named, *shown), meant)

    yield Mutation(file, "missing", path, _text(_without(tree, path)), (named,))
    misspelt = _typo(key)
    yield Mutation(file, "misspelt key", path, _text(_renamed(tree, path, misspelt)), (misspelt,))
    yield changed("null", None)
    if key == "class_path":
        yield changed("misspelt class", _typo(value), _typo(value))
        yield changed("misspelt class", _typo(value.rpartition(".")[2]), _typo(value.rpartition(".")[2]))
        yield changed("misspelt class", f"no_such_module.{value.rpartition('.')[2]}", "no_such_module")
        yield changed("class of another kind", "torch.nn.Linear", "torch.nn.Linear")
        yield changed("class of another kind", "os.system", "os.system")
        yield changed("wrong type", 5, "5")
        yield changed("wrong type", ["a"], "a")
        return
    if isinstance(value, bool):
        yield changed("wrong type", "abc", "abc")
        yield changed("wrong type", 7, "7")
        yield changed("wrong type", [value], "[")
        for word in ("yes", "no", "on", "True", "FALSE"):
            meant = word.lower() in ("yes", "on", "true")
            yield Mutation(file, "boolean in words", path, _replaced(file, path, word), (named, word.lower()), (meant,))
        return
    if isinstance(value, int | float):
        yield changed("wrong type", "abc", "abc")
        yield changed("wrong type", [value], "[")
        yield changed("wrong type", {"value": value}, "value")
        yield changed("wrong type", f"{value} items", "items")
        yield changed("number in quotes", str(value), str(value), meant=(value,))
        number = f"{value:e}" if isinstance(value, float) else f"{value}e0"
        yield changed("number in quotes", number, (number, str(float(value))), meant=(value,))  # type: ignore[arg-type]
        for new in (-3, 0, 10**12, float("nan"), float("inf"), 2.5):
            if new != value:
                yield changed("out of range", new, (str(new), repr(new), yaml.safe_dump(new).split()[0]))  # type: ignore[arg-type]
        return
    if isinstance(value, str):
        yield changed("misspelt value", _typo(value), _typo(value))
        yield changed("wrong type", {"a": 1}, "a")
        yield changed("wrong type", ["a", "b"], "a")
        return
    yield changed("wrong type", "abc", "abc")
    yield changed("wrong type", ["abc", *value[1:]], "abc")
    yield changed("wrong type", {"a": 1}, "a")
    yield changed("out of range", [], "[]")
    if all(isinstance(each, str) for each in value):
        yield changed("misspelt value", [_typo(value[0]), *value[1:]], _typo(value[0]))
    else:
        yield changed("out of range", [-each for each in value], "-")


def _of_line(file: str, path: Path, value: Any) -> Iterator[Mutation]:
    """Mistakes in the writing of one line."""
    key = str(path[-1])
    lines, number = _lines(file, path)
    line = lines[number]
    indent = line[: len(line) - len(line.lstrip(" -"))]
    body = line[len(indent) :]
    edits = {
        "tab": "\t" + line.lstrip(" "),
        "unclosed bracket": f"{indent}{key}: [1, 2",
        "unclosed quote": f'{indent}{key}: "abc',
        "no colon": f"{indent}{body.replace(':', '', 1)}",
        "no space after the colon": f"{indent}{body.replace(': ', ':', 1)}",
        "indented too far": "   " + line,
        "two colons": f"{indent}{key}: : 1",
    }
    for kind, new in edits.items():
        yield Mutation(file, f"broken YAML: {kind}", path, _joined(lines, number, [new]), (("line", key),))
    twin = " " * len(indent) + f"{key}: {'other' if isinstance(value, str) else 7}"
    yield Mutation(file, "duplicated key", path, _joined(lines, number, [line, twin]), (key,))


def _of_group(file: str, tree: dict[str, Any], path: Path, foreign: list[str]) -> Iterator[Mutation]:
    key = str(path[-1])
    group = _at(tree, path)

    def changed(kind: str, new: Any, *names: str | tuple[str, ...]) -> Mutation:
        return Mutation(file, kind, path, _text(_with(tree, path, new)), names)

    if isinstance(path[-1], int):
        return
    yield changed("list in place of a mapping", [group], key)
    yield changed("list in place of a mapping", [{name: each} for name, each in group.items()], key)
    yield changed("text in place of a mapping", "abc", key, "abc")
    yield changed("null", None, key)
    yield Mutation(file, "missing", path, _text(_without(tree, path)), ((key, *map(str, group)),))
    yield Mutation(file, "misspelt key", path, _text(_renamed(tree, path, _typo(key))), (_typo(key),))
    yield changed("nested too deep", {key: group}, key)
    if key == "init_args":
        owner = _at(tree, path[:-1])
        beside = {name: each for name, each in owner.items() if name != "init_args"} | group
        names = (("class_path", *map(str, group)),)
        yield Mutation(file, "arguments beside class_path", path, _text(_with(tree, path[:-1], beside)), names)
        cls = _class(owner["class_path"])
        known = set(inspect.signature(cls).parameters)
        option = next(name for name in foreign if name not in known and name not in _NOT_ARGUMENTS)
        yield changed("option of another class", {**group, option: 1}, option)


def _of_whole(file: str, tree: dict[str, Any]) -> Iterator[Mutation]:
    text = (CONFIGS / file).read_text()
    contents = {
        "empty": b"",
        "comments alone": b"# nothing\n",
        "binary": bytes(range(256)) * 8,
        "null bytes": b"\0" * 64,
        "not UTF-8": text.replace("# ", "# \u00e9 ", 1).encode("latin-1"),
        "UTF-16": text.encode("utf-16"),
        "list": _text([tree]),
        "text": b"just text",
        "two documents": text.encode() + b"---\n" + text.encode(),
        "Python tag": text.encode() + b"seed_everything: !!python/object/apply:os.mkdir [made-by-a-tag]\n",
        "unknown alias": text.encode() + b"seed_everything: *nowhere\n",
        "of a subcommand": _text({"fit": tree}),
        "missing": None,
    }
    for kind, content in contents.items():
        yield Mutation(file, f"file: {kind}", (), content)


def _conflicts(file: str, tree: dict[str, Any]) -> Iterator[Mutation]:
    """Values that are right on their own and wrong together."""
    for path, value in leaves(tree):
        key = path[-1]
        if key == "k" and len(path) > 3:
            classes = 300 if file == "quickstart.yaml" else 12
            for k in (classes, classes + 1):
                content = _text(_with(tree, path, k))
                yield Mutation(file, "conflict: k and the number of classes", path, content, ("k", str(k)))
            other = _with(tree, ("model", "init_args", "k"), value + 1)
            yield Mutation(file, "conflict: k of model and loss", path, _text(other), ("k", str(value + 1)))
        if key == "p_k":
            content = _text(_with(tree, path, [*value, 0.5]))
            yield Mutation(file, "conflict: k and p_k", path, content, ("p_k",))
        if key == "num_candidates":
            yield Mutation(file, "conflict: k and num_candidates", path, _text(_with(tree, path, 3)), (key, "3"))
        if key == "test_values":
            content = _text(_without(tree, (*path[:-1], "test_key")))
            yield Mutation(file, "conflict: test_values without test_key", path, content, ("test_key",))
        if key in ("epsilon", "margin", "scale"):
            content = _text(_with(tree, path, {"min": 0, "max": value}))
            yield Mutation(file, "wrong type", path, content, (str(key), "min"))


def _of_command_line(file: str, tree: dict[str, Any]) -> Iterator[Mutation]:
    """Mistakes in options beside a file that has none."""
    content = (CONFIGS / file).read_bytes()

    def given(kind: str, *args: str, names: tuple[str, ...] = (), path: Path = ()) -> Mutation:
        return Mutation(file, f"command line: {kind}", path, content, names or args, args=args)

    for path, value in leaves(tree):
        option = "--" + ".".join(str(key) for key in path if key != "init_args")
        if path[-1] == "class_path" or any(isinstance(key, int) for key in path):
            continue
        yield given("no value", option, path=path)
        yield given("unknown option", _typo(option), "1", names=(_typo(option).rpartition(".")[2],))
        if not isinstance(value, str):
            yield given("wrong type", option, "abc", path=path)
            yield given("wrong type", f"{option}={{}}", names=(option, "{}"))
    if file == "quickstart.yaml":
        for name in inspect.signature(Trainer).parameters:
            path = ("trainer", name)
            yield given(
                "nonsense for the trainer", f"--trainer.{name}", "nonsense", names=(name, "nonsense"), path=path
            )
        yield given("file", "--config", names=("--config",))
        yield given("file", "--config", "nowhere.yaml")
        yield given("file", "--config", ".", names=("--config",))
        yield given("file", "--config", "", names=("nothing",))
        yield given("unknown option", "--config.x", "1", names=("--config.x",))
        yield given("unknown option", "fit")
        yield given("unknown option", "-x")


# What a message may call the class that a key names.
_NAMES_OF_CLASS_KEYS: dict[str, tuple[str, ...]] = {
    "class_path": (
        "class_path",
        "--model",
        "--data",
        "--model.loss",
        "--trainer.callbacks",
        "--trainer.logger",
        "class",
    )
}
_NOT_ARGUMENTS = {"class_path", "normalized_head"}


def _typo(word: str) -> str:
    """Swap two letters in the middle of the last part, or double the last one."""
    head, dot, last = word.rpartition(".")
    middle = len(last) // 2
    if len(last) > 3 and last[middle - 1] != last[middle] and last[middle - 1 : middle + 1].isalpha():
        last = last[: middle - 1] + last[middle] + last[middle - 1] + last[middle + 1 :]
    else:
        last += last[-1]
    return f"{head}{dot}{last}"


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _with(tree: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    _at(tree, path[:-1])[path[-1]] = value
    return tree


def _without(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    del _at(tree, path[:-1])[path[-1]]
    return tree


def _renamed(tree: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    parent = _at(tree, path[:-1])
    parent[name] = parent.pop(path[-1])
    return tree


def _text(content: Any) -> bytes:
    return yaml.dump(content, Dumper=_DUMPER, sort_keys=False).encode()


def _lines(file: str, path: Path) -> tuple[list[str], int]:
    """Return the lines of a file, and the number of the one with the key at the end of a path."""
    text = (CONFIGS / file).read_text()
    node = _composed(text)
    for key in path:
        if isinstance(key, int):
            node = node.value[key]
        else:
            pair = next(pair for pair in node.value if pair[0].value == key)
            line, node = pair[0].start_mark.line, pair[1]
    return text.splitlines(), line


@cache
def _composed(text: str) -> Any:
    return yaml.compose(text)


def _joined(lines: list[str], number: int, new: list[str]) -> bytes:
    return "\n".join([*lines[:number], *new, *lines[number + 1 :], ""]).encode()


def _replaced(file: str, path: Path, value: str) -> bytes:
    lines, number = _lines(file, path)
    return _joined(lines, number, [f"{lines[number].partition(':')[0]}: {value}"])


def _class(path: str) -> Any:
    """Return a class by its import path or, as the command knows it, by its bare name."""
    kinds = (kind for family in FAMILIES.values() for kind in [family, *_subclasses(family)])
    return locate(path) or next(kind for kind in kinds if kind.__name__ == path)
