"""Pieces of pages: docstrings, tables, and JSON schemas in words."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from types import ModuleType
from typing import Any

WARNING = "<!-- Written by docs/generate.py from the code. Change the code, then run `make docs`. -->"
SECTIONS = ("Args", "Returns", "Raises", "Example")


@dataclass(frozen=True)
class Doc:
    """A docstring taken apart.

    Args:
        text: everything before the first section, paragraphs kept.
        sections: the lines of each section, dedented.
    """

    text: str
    sections: Mapping[str, str]

    def items(self, section: str = "Args") -> list[tuple[str, str]]:
        """Names, with commas between where the text is of several, and what is said of them, as a sentence."""
        found = []
        for entry in re.split(r"\n(?=\S)", self.sections.get(section, "")):
            names, colon, text = entry.partition(":")
            if colon:
                found.append((names.strip(), sentence(text)))
        return found

    @property
    def arguments(self) -> dict[str, str]:
        """What is said of each argument."""
        return {name: text for names, text in self.items() for name in names.split(", ")}


def doc(what: object) -> Doc:
    """The docstring of a class, function or module."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", inspect.getdoc(what) or "", flags=re.MULTILINE)
    sections = {name: textwrap.dedent(body.strip("\n")) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    return Doc(paragraphs(parts[0]), sections)


def attribute_doc(module: ModuleType, name: str) -> str:
    """The docstring that stands under a module's variable."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, below in pairwise(body):
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            return paragraphs(inspect.cleandoc(str(below.value.value)))
    raise LookupError(f"{module.__name__} has no documented {name}")


def paragraphs(text: str) -> str:
    """Docstring text as Markdown: indented blocks become code."""
    blocks = []
    for indented, run in groupby(re.split(r"\n\s*\n", text.strip("\n")), key=lambda block: block.startswith("    ")):
        joined = "\n\n".join(run)
        blocks.append(fenced(textwrap.dedent(joined), "python") if indented else joined)
    return "\n\n".join(blocks)


def fenced(text: str, language: str = "") -> str:
    """A code block."""
    return f"```{language}\n{text.rstrip()}\n```"


def sentence(text: str) -> str:
    """On one line, with a capital."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def names(listed: str) -> str:
    """`a, b` as code."""
    return ", ".join(f"`{name}`" for name in listed.split(", "))


def signature(member: Callable[..., object]) -> str:
    """Parameters but `self`, and what is returned, as they are written in the code."""
    found = inspect.signature(member)
    parts, starred = [], False
    for name, parameter in found.parameters.items():
        star = "*" * (parameter.kind is parameter.VAR_POSITIONAL) + "**" * (parameter.kind is parameter.VAR_KEYWORD)
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        if name != "self":
            value = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
            parts.append(f"{star}{name}: {_annotation(parameter.annotation)}{value}")
    returned = found.return_annotation
    arrow = "" if returned in (found.empty, None, "None") else f" -> {_annotation(returned)}"
    return f"({', '.join(parts)}){arrow}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def page(title: str, *blocks: str) -> str:
    """A whole page."""
    return "\n\n".join([f"# {title}", WARNING, *(block for block in blocks if block)]) + "\n"


def words(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows."""
    if "anyOf" in schema:
        return _or([words(option) for option in schema["anyOf"]])
    if "const" in schema or "enum" in schema:
        return _or([f"`{value}`" for value in schema.get("enum", [schema.get("const")])])
    kind = str(schema.get("type"))
    if kind in ("integer", "number"):
        return _number(schema)
    items = schema.get("items", {})
    listed = "list of texts" if items.get("type") == "string" else "list of numbers from 0"
    if items.get("type") == "string" or items.get("minimum") == 0:
        return listed
    return "a fraction such as `1/6`" if kind == "string" and "pattern" in schema else WORDS.get(kind, "anything")


WORDS = {
    "string": "text",
    "boolean": "`true` or `false`",
    "array": "list of layer numbers",
    "null": "nothing",
    "object": "mapping",
}
"""Recipes have no lists but those of layers and of steps, which are told apart by their keys."""


def default(schema: Mapping[str, Any], required: bool) -> str:
    """The default as a recipe would write it."""
    if required:
        return "required"
    value = schema.get("default")
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _number(schema: Mapping[str, Any]) -> str:
    noun = "whole number" if schema["type"] == "integer" else "number"
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    limits = [f"from {low:g}"] if low is not None else [f"above {above:g}"] if above is not None else []
    limits += [f"to {high:g}"] if high is not None else [f"below {below:g}"] if below is not None else []
    return f"{noun} {' and '.join(limits)}".rstrip()


def _or(options: Sequence[str]) -> str:
    return " or ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)


def _annotation(annotation: object) -> str:
    """As it is written in the code; without quotes, which `from __future__ import annotations` adds."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
