"""Pages about Python: the public names, the hooks, the errors, the architectures."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import compresskit
from compresskit import errors as errors_module
from compresskit import hooks as hooks_module
from compresskit import installed, interfaces, model, testing
from compresskit.anatomy import Alias, Anatomy, Slice
from compresskit.catalogue import HOOKS
from compresskit.testing import text
from generator.parts import attribute_doc, doc, fenced, names, page, signature, table
from generator.recipes import BUILT_IN


def architectures() -> str:
    """The built-in anatomies as a table, and what each field means."""
    rows = [entry.what for entry in BUILT_IN.entries() if isinstance(entry.what, Anatomy)]
    body = table(
        ("`model_type`", "layers", "heads", "neurons", "read-out", "`export --format stock`"),
        ([f"`{row.model_type}`", f"`{row.layers}`", _paths(row.heads), _paths(row.neurons), _list(row.read_out),
          "yes" if row.stock else "no"] for row in rows),
    )  # fmt: skip
    others = [entry.what for entry in BUILT_IN.entries() if isinstance(entry.what, Alias)]
    return page(
        "Architectures",
        "The families that come with compresskit. Each is one row, an `Anatomy`, of\n"
        "[`architectures.py`](../../compresskit/architectures.py); no other file knows them.",
        body,
        COLUMNS,
        table(("field", "meaning"), ((names(listed), said) for listed, said in doc(Anatomy).items())),
        ALIASES,
        table(("`model_type`", "read as"), ((f"`{one.model_type}`", f"`{one.family}`") for one in others)),
        "Fields of an `Alias`:",
        table(("field", "meaning"), ((names(listed), said) for listed, said in doc(Alias).items())),
    )


def hooks() -> str:
    """Every hook with its signature and example."""
    blocks = []
    for name in HOOKS:
        function = getattr(hooks_module, name)
        about = doc(function)
        blocks += [f"## {name}{signature(function)}", about.text, fenced(about.sections["Example"], "python")]
    return page(
        "Hooks", doc(hooks_module).text, "In its `pyproject.toml`:", fenced(_ENTRY_POINT, "toml"), *blocks, _RULES
    )


COLUMNS = """\
Heads and neurons are cut from these linear layers, whose paths are inside a layer. The read-out turns the last hidden
states into logits; `:first` takes the first token. `export --format stock` needs a read-out with a tanh.

[Add an architecture](../how-to/add-an-architecture.md) shows how a plugin brings another family. Fields of a row:"""


ALIASES = """\
Checkpoints of another `model_type` that are a family's under other names are read as that family's, and what is written
of them is of that family. An `Alias` says how:"""


_ENTRY_POINT = """\
[project.entry-points.compresskit]
margin = "compresskit_margin"        # the plugin's name, and the module that has the hooks"""

_RULES = f"""\
## What is refused

Two strategies of one kind and name, with both origins in the message; a hook that does not exist; a strategy that is no
frozen dataclass, has no name, or whose options can't be read from a recipe. The variable `{installed.VARIABLE}` names
the plugins to load, with commas between; empty, it loads none."""


def python() -> str:
    """What `compresskit` and `compresskit.testing` export."""
    return page(
        "Python",
        "What strategies and their tests import. Everything else may change without notice.",
        "## compresskit",
        *_members(compresskit),
        "## The model\n\nWhat transformers' Auto classes and pipelines load from a compressed folder.",
        *_class(model.CompressedForSequenceClassification, "forward", "set_policy"),
        "What it returns:",
        *_class(model.CompressedOutput),
        f"## compresskit.testing\n\n{doc(testing).text}",
        *_members(testing),
    )


def errors() -> str:
    """The errors that a user can cause."""
    rows = []
    for name, error in vars(errors_module).items():
        if inspect.isclass(error) and issubclass(error, Exception):
            rows.append([f"`{name}`", f"`{error.__mro__[1].__name__}`", " ".join(doc(error).text.split())])
    return page("Errors", doc(errors_module).text, table(("error", "is a", "raised for"), rows))


def _members(module: ModuleType) -> Iterator[str]:
    for name in vars(module)["__all__"]:
        member = getattr(module, name)
        yield f"### {name}"
        if name in CONSTANTS:
            yield attribute_doc(*CONSTANTS[name])
        elif inspect.isclass(member):
            yield from _class(member)
        elif inspect.isfunction(member):
            yield fenced(f"{name}{signature(member)}", "python")
            yield from _about(member)
        else:
            yield "Marks a function as the implementation of a [hook](hooks.md)."


CONSTANTS = {"Batch": (interfaces, "Batch"), "WORDS": (text, "WORDS")}
"""Documented names that are neither class nor function."""


def _class(cls: type, *only: str) -> Iterator[str]:
    """The class and its public members, or some of them."""
    yield from _about(cls)
    own = [(name, str(hint)) for name, hint in inspect.get_annotations(cls).items() if "ClassVar" in str(hint)]
    if own:
        yield "Set by a strategy: " + ", ".join(f"`{_set(cls, name, hint)}`" for name, hint in own) + "."
    for name, member in vars(cls).items():
        if name.startswith("_") or not member.__doc__ or (only and name not in only):
            continue
        if isinstance(member, property) and member.fget is not None:
            yield fenced(f"{name}{signature(member.fget).replace('()', '', 1).replace(' -> ', ': ')}", "python")
            yield from _about(member)
        elif inspect.isfunction(member):
            yield fenced(f"{name}{signature(member)}", "python")
            yield from _about(member)


def _set(cls: type, name: str, hint: str) -> str:
    """`needs_data: bool = False`."""
    value = f" = {getattr(cls, name)}" if hasattr(cls, name) else ""
    return f"{name}: {hint.removeprefix('ClassVar[').removesuffix(']')}{value}"


def _about(what: object) -> Iterator[str]:
    about = doc(what)
    yield about.text
    yield "\n".join(f"- {names(listed)}: {said}" for listed, said in about.items())
    for section in ("Returns", "Raises"):
        if section in about.sections:
            yield f"{section} {' '.join(about.sections[section].split())}"


def _paths(slices: tuple[Slice, ...]) -> str:
    return _list(tuple(piece.path for piece in slices))


def _list(paths: tuple[str, ...]) -> str:
    return ", ".join(f"`{path}`" for path in paths)
