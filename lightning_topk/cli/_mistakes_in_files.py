"""Mistakes that a configuration file shows by itself: what YAML lets pass, or the parser reports in its own words."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode  # type: ignore[import-untyped]

_OF_CLASS = ("class_path", "init_args")
_NULL, _TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str"


def mistake_in_file(path: str) -> str | None:
    """Return law and fact of the first mistake that is found in a file without its parser, or None.

    A key that is written twice would pass as the second one, a misspelt ``class_path`` would make its class pass for
    the arguments of another, and of what is no text only a codec would complain. Errors of YAML's own grammar are left
    to the parser.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"A configuration file should be text in UTF-8. Found the byte {error.object[error.start]:#04x}."
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    mappings = list(_mappings(root))
    found = (mistake for each in mappings for mistake in (_twice(each), _class(each)) if mistake)
    return next(found, None) or (_group(root) if isinstance(root, MappingNode) else None)


def _mappings(root: Node | None) -> Iterator[MappingNode]:
    """Yield each mapping once, however often aliases repeat it."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield node
            waiting.extend(value for _, value in reversed(node.value))
        elif isinstance(node, SequenceNode):
            waiting.extend(reversed(node.value))


def _twice(mapping: MappingNode) -> str | None:
    lines: dict[str, int] = {}
    for key, _ in mapping.value:
        if key.value in lines and isinstance(key, ScalarNode):
            where = f"in the lines {lines[key.value]} and {_line(key)}"
            return f"A configuration file should give each option once. Found `{key.value}` {where}."
        lines[str(key.value)] = _line(key)
    return None


def _class(mapping: MappingNode) -> str | None:
    """Check a mapping that gives a class, or means to."""
    keys = {str(key.value): (key, value) for key, value in mapping.value}
    others = [name for name in keys if name not in (*_OF_CLASS, "dict_kwargs", "<<")]
    near = [name for name in others if get_close_matches(name, _OF_CLASS, n=1, cutoff=0.8)]
    if near or (others and keys.keys() & set(_OF_CLASS)):
        name = (near or others)[0]
        law = "A class should be given by the keys `class_path` and `init_args` alone."
        return f"{law} Found `{name}` in line {_line(keys[name][0])}."
    if "class_path" in keys and keys["class_path"][1].tag != _TEXT:
        found = _found(keys["class_path"][1])
        return f"The key `class_path` should have the name or import path of a class as its value. {found}"
    if "init_args" in keys and not isinstance(keys["init_args"][1], MappingNode):
        found = _found(keys["init_args"][1])
        return f"The key `init_args` should have arguments below it, each as `name: value`. {found}"
    return None


def _group(root: MappingNode) -> str | None:
    """Check what is read as if it were not there."""
    for key, value in root.value:
        if key.value in ("model", "trainer") and value.tag == _NULL:
            return f"The key `{key.value}` should have options below it, each as `name: value`. {_found(value)}"
    return None


def _found(node: Node) -> str:
    where = f"in line {_line(node)}"
    if node.tag == _NULL:
        return f"Found nothing (null) {where}."
    shown = f"`{node.value:.80}`" if isinstance(node, ScalarNode) else f"a {node.id}"
    return f"Found {shown.replace('a sequence', 'a list')} {where}."


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
