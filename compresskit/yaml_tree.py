"""YAML read into a tree that remembers where each value was written. The only file that knows the YAML reader."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode

Plain: TypeAlias = "None | bool | int | float | str | list[Plain] | dict[str, Plain]"

Scalar: TypeAlias = "None | bool | int | float | str"

PREFIX = "tag:yaml.org,2002:"
OPENED = {"flow mapping": "the {", "flow sequence": "the [", "quoted scalar": "the quote"}
"""What is open, by words of the YAML reader's."""


@dataclass(frozen=True)
class Where:
    """A line of the file (from 1), or the `--set` argument that wrote the value."""

    line: int
    override: str = ""

    def __str__(self) -> str:
        return f"--set {self.override}" if self.override else f"line {self.line}"


@dataclass
class Node:
    """A value and where it was written; a mapping's value is written where its key is.

    Args:
        value: a scalar, a list of nodes, or a dict of nodes.
    """

    value: Scalar | list[Node] | dict[str, Node]
    where: Where

    def plain(self) -> Plain:
        """The value without lines."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def at(self, path: Iterable[int | str]) -> Node:
        """The node at a path, or the deepest one on the way to it."""
        node = self
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                node = node.value[str(part)]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            else:
                break
        return node


class Mistakes:
    """Mistakes gathered on the way, each with its place, reported together."""

    def __init__(self) -> None:
        """No mistakes yet."""
        self._found: list[tuple[Where, str]] = []

    def add(self, where: Where, text: str) -> None:
        """One more, unless the same was said of the same place."""
        if (where, text) not in self._found:
            self._found.append((where, text))

    def __len__(self) -> int:
        return len(self._found)

    def listing(self, source: str) -> str:
        """`half.yaml: 2 mistakes`, then one line for each in the order of the file, with overrides last."""
        lines = [
            f"  {where}: {text}" for where, text in sorted(self._found, key=lambda m: (bool(m[0].override), m[0].line))
        ]
        return "\n".join([f"{source}: {len(lines)} mistake{'s' if len(lines) > 1 else ''}", *lines])


def read(text: str, mistakes: Mistakes) -> Node | None:
    """The tree of a YAML document, or None where it is no YAML at all. Duplicate keys are mistakes."""
    try:
        root = _yaml().compose(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        mistakes.add(Where(line), _syntax(str(error.problem or error.context)) + _left_open(error, line))
        return None
    except YAMLError as error:
        mistakes.add(Where(1), _syntax(str(error).splitlines()[0]))
        return None
    if root is None:
        return Node(None, Where(1))
    return _Reader(mistakes).node(root, Where(root.start_mark.line + 1), ())


def override(root: Node, argument: str, mistakes: Mistakes) -> None:
    """Carry out `steps.3.epochs=1` on the tree. New options may be set; a path that leads nowhere is a mistake."""
    where = Where(0, argument)
    path, equals, text = argument.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        mistakes.add(where, "an override is written PATH=VALUE, such as steps.3.epochs=1")
        return
    value = read(text, own := Mistakes())
    if value is None or own:
        mistakes.add(where, f"'{text}' is not a YAML value")
        return
    _relocate(value, where)
    node = root
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth]) or "the recipe"
        if isinstance(node.value, list):
            if not part.isdigit() or int(part) >= len(node.value):
                mistakes.add(where, f"{here} has no item {part} (it has {len(node.value)}, numbered from 0)")
                return
            node = node.value[int(part)]
            continue
        if node.value is None and depth:
            node.value = {}
        if not isinstance(node.value, dict):
            mistakes.add(where, f"{here} is {node.plain()!r} and has no part '{part}'")
            return
        node = node.value.setdefault(part, Node(None, where))
    node.value, node.where = value.value, where


def write(data: Mapping[str, object]) -> str:
    """YAML text that `read` reads back to the same values."""
    stream = io.StringIO()
    _yaml().dump(dict(data), stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared None, meant to be set
    yaml.width = 120
    return yaml


def _syntax(problem: str) -> str:
    if "'\\t'" in problem:
        return "a tab where YAML wants spaces; indent with spaces"
    return f"not YAML: {problem}"


def _left_open(error: MarkedYAMLError, line: int) -> str:
    """Where a bracket or quote began whose end was looked for in vain, if that is on another line."""
    opened = next((sign for begun, sign in OPENED.items() if begun in str(error.context)), None)
    if opened is None or error.context_mark is None or error.context_mark.line + 1 == line:
        return ""
    return f"; {opened} on line {error.context_mark.line + 1} is not closed"


def _relocate(node: Node, where: Where) -> None:
    node.where = where
    children: Sequence[Node] = ()
    if isinstance(node.value, list):
        children = node.value
    elif isinstance(node.value, dict):
        children = list(node.value.values())
    for child in children:
        _relocate(child, where)


class _Reader:
    def __init__(self, mistakes: Mistakes) -> None:
        self.mistakes = mistakes
        self.scalars = _yaml().constructor

    def node(self, node: YamlNode, where: Where, parents: tuple[YamlNode, ...]) -> Node:
        if any(node is parent for parent in parents):
            self.mistakes.add(where, "an alias (*) stands inside what it names")
            return Node(None, where)
        if isinstance(node, MappingNode):
            return Node(self.mapping(node, (*parents, node)), where)
        if isinstance(node, SequenceNode):
            items = [self.node(item, Where(item.start_mark.line + 1), (*parents, node)) for item in node.value]
            return Node(items, where)
        assert isinstance(node, ScalarNode)
        return Node(self.scalar(node, where), where)

    def mapping(self, node: MappingNode, parents: tuple[YamlNode, ...]) -> dict[str, Node]:
        result: dict[str, Node] = {}
        for key, value in node.value:
            where = Where(key.start_mark.line + 1)
            if not isinstance(key, ScalarNode):
                self.mistakes.add(where, "a key must be one word, not a list or mapping")
                continue
            name = str(key.value)
            if name in result:
                self.mistakes.add(where, f"duplicate key '{name}' (first on {result[name].where})")
                continue
            result[name] = self.node(value, where, parents)
        return result

    def scalar(self, node: ScalarNode, where: Where) -> Scalar:
        kind = str(node.tag).removeprefix(PREFIX)
        if kind in ("null", "bool", "int", "float"):
            value: Scalar = self.scalars.construct_object(node)
            return value
        if kind not in ("str", "timestamp"):
            self.mistakes.add(where, f"the YAML tag '{node.tag}' means nothing here; take it out")
        return str(node.value)
