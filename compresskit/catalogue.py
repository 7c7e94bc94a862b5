"""Finds strategies and architectures, knows where each comes from, and refuses two of one name.

Built-ins and plugins come through the same two hooks. The built-ins are named here, and imported by name nowhere.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, cast

import pluggy
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from compresskit import __version__, hooks
from compresskit.anatomy import Alias, Anatomy
from compresskit.errors import ArchitectureError, PluginError, RecipeError
from compresskit.installed import VARIABLE, Origin, entry_points, origin_of, plugins_named
from compresskit.interfaces import KINDS, Strategy, kind_of
from compresskit.wording import complaint, did_you_mean, nearest, option

BUILTINS = (
    "compresskit.architectures",
    "compresskit.strategies.taylor",
    "compresskit.strategies.magnitude",
    "compresskit.strategies.svd",
    "compresskit.strategies.entropy",
    "compresskit.strategies.predictions",
    "compresskit.strategies.hidden_states",
    "compresskit.strategies.labels",
    "compresskit.strategies.tanh_heads",
)
HOOKS = ("compresskit_strategies", "compresskit_architectures")
VERBS = {
    "pruner": "prune",
    "factorizer": "factorize",
    "exit-policy": "exit",
    "distiller": "distill",
    "exit-head": "read an exit",
    "masker": "mask",
}
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing in the catalogue. `kind` is that of `interfaces.KINDS`, `architecture` or `alias`."""

    kind: str
    name: str
    what: type[Strategy] | Anatomy | Alias
    origin: Origin

    @property
    def summary(self) -> str:
        """One line that says what it is."""
        if isinstance(self.what, Anatomy):
            return f"Checkpoints whose model_type is {self.name}."
        if isinstance(self.what, Alias):
            return f"Checkpoints whose model_type is {self.name}, read as those of {self.what.family}."
        return (inspect.getdoc(self.what) or "").partition("\n\n")[0].replace("\n", " ")


PLURALS = {"exit-policy": "exit policies", "exit-head": "exit heads", "alias": "aliases"}


class Catalogue:
    """Strategies by (kind, name), and anatomies by `model_type`."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Raises PluginError where two entries have one name."""
        self._entries: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            first = self._entries.setdefault((entry.kind, entry.name), entry)
            if first is not entry:
                raise PluginError(
                    f"two {PLURALS.get(entry.kind, f'{entry.kind}s')} are called '{entry.name}', "
                    f"one from {first.origin} and one from {entry.origin}"
                    f"; uninstall one of them or name the plugins to load in {VARIABLE}"
                )

    def strategy(self, kind: str, name: str) -> type[Strategy]:
        """The strategy class of that kind and name.

        Raises:
            RecipeError: there is none; the message gives the nearest name and the known ones.
        """
        entry = self._entries.get((kind, name))
        if entry is None:
            known = self.names(kind)
            meant = nearest(name, known)
            hint = f"; did you mean '{meant}'?" if meant else ""
            raise RecipeError(f"no way to {VERBS[kind]} by '{name}'{hint} (known: {', '.join(known) or 'none'})")
        assert isinstance(entry.what, type)
        return entry.what

    def anatomy(self, model_type: str) -> Anatomy:
        """The anatomy of a family of encoders.

        Raises:
            ArchitectureError: there is none; the message lists the known families and says how to add one.
        """
        entry = self._entries.get(("architecture", model_type))
        if entry is None:
            alias = self.alias(model_type)
            if alias is not None:
                raise ArchitectureError(
                    f"'{model_type}' has no anatomy of its own; its checkpoints are read as those of '{alias.family}'"
                )
            known = sorted([*self.names("architecture"), *self.names("alias")])
            raise ArchitectureError(
                f"no anatomy for model_type '{model_type}' (known: {', '.join(known)}); "
                f"add one with the hook compresskit_architectures, as docs/how-to shows"
            )
        assert isinstance(entry.what, Anatomy)
        return entry.what

    def alias(self, model_type: str) -> Alias | None:
        """What reads checkpoints of that `model_type` as a family's; None where it is a family's own, or unknown."""
        if ("architecture", model_type) in self._entries or ("alias", model_type) not in self._entries:
            return None
        return cast(Alias, self._entries["alias", model_type].what)

    def origin(self, what: type[Strategy] | Anatomy) -> Origin:
        """Where a strategy or an anatomy of this catalogue comes from; an alias has its origin in `entries`."""
        key = ("architecture", what.model_type) if isinstance(what, Anatomy) else (kind_of(what), what.name)
        return self._entries[key].origin

    def entries(self) -> list[Entry]:
        """Everything, sorted by kind and name."""
        return [self._entries[key] for key in sorted(self._entries)]

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return [entry.name for entry in self.entries() if entry.kind == kind]


def load_catalogue(plugins: Sequence[str] | None = None) -> Catalogue:
    """The built-ins and the installed plugins.

    Args:
        plugins: entry-point names of the plugins to load; None means those in the variable COMPRESSKIT_PLUGINS (comma
            separated, empty for none), or every installed one where it is not set.

    Raises:
        PluginError: a plugin is missing, can't be imported, or offers what can't be used.
    """
    if plugins is not None:
        return _load(tuple(plugins))
    return _load_once(plugins_named())


def build(strategy: type[Strategy], options: Mapping[str, object]) -> Strategy:
    """An instance with these options, as a recipe gives them under `with:`.

    Raises:
        RecipeError: the options don't fit the strategy's fields.
    """
    built, mistakes = try_build(strategy, options)
    if built is None:
        raise RecipeError("; ".join(text for _, text in mistakes))
    return built


def try_build(
    strategy: type[Strategy], options: Mapping[str, object]
) -> tuple[Strategy | None, list[tuple[tuple[int | str, ...], str]]]:
    """As `build`, but returns every mistake as (path of the option, sentence) instead of raising."""
    known = [field.name for field in dataclasses.fields(strategy) if field.init]  # type: ignore[arg-type]
    unknown = [name for name in options if name not in known]
    mistakes: list[tuple[tuple[int | str, ...], str]] = [
        ((name,), f"{strategy.name} has no option '{name}'{did_you_mean(name, known)}") for name in unknown
    ]
    excused = {nearest(name, known) for name in unknown}
    try:
        # From JSON, strict mode still takes a list for a tuple and a mapping for a dataclass, as recipes write them.
        built = options_of(strategy).validate_json(json.dumps(dict(options), default=str), strict=True)
    except ValidationError as error:
        for found in error.errors():
            if found["type"] != "missing" or found["loc"][0] not in excused:
                name = f"'{option(found['loc'])}' " if found["loc"] else "options "
                mistakes.append((found["loc"], f"{strategy.name}'s {name}{complaint(found)}"))
        return None, mistakes
    return (None if mistakes else built), mistakes


@functools.cache
def options_of(strategy: type[Strategy]) -> TypeAdapter[Strategy]:
    """The pydantic adapter of a strategy's dataclass: validates options, dumps them, and gives their JSON schema."""
    return TypeAdapter(strategy)


@functools.cache
def _load_once(plugins: tuple[str, ...] | None) -> Catalogue:
    return _load(plugins)


def _load(plugins: tuple[str, ...] | None) -> Catalogue:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    origins: dict[str, Origin] = {}
    own = Origin("compresskit", __version__)
    for module in BUILTINS:
        _register(manager, importlib.import_module(module), module)
        origins[module] = own
    for point in entry_points(plugins):
        origin = origin_of(point)
        where = f"plugin '{point.name}' ({origin})"
        _register(manager, _import(point, where), where)
        origins[where] = origin
    return Catalogue(_offers(manager, origins))


def _import(point: metadata.EntryPoint, where: str) -> object:
    try:
        return point.load()
    except Exception as error:  # an import can fail in any way, and the person must learn which plugin it was
        raise PluginError(
            f"{where} can't be imported ({type(error).__name__}: {error}); repair or uninstall it, or leave it out of "
            f"{VARIABLE}"
        ) from error


def _register(manager: pluggy.PluginManager, plugin: object, where: str) -> None:
    if manager.is_registered(plugin):
        return
    try:
        manager.register(plugin, name=where)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        strange = [caller.name for caller in manager.get_hookcallers(plugin) or [] if not caller.has_spec()]
        if strange:
            problem = f"implements the hook '{strange[0]}', which does not exist{did_you_mean(strange[0], HOOKS)}"
            raise PluginError(f"{where} {problem}; the hooks are {' and '.join(HOOKS)}") from error
        hook = next(hook for hook in HOOKS if hook in str(error))
        raise PluginError(f"{where} takes arguments in the hook {hook}, which has none; take them out") from error
    if not manager.get_hookcallers(plugin):
        raise PluginError(f"{where} implements no hook; decorate {HOOKS[0]} with @hookimpl")


def _offers(manager: pluggy.PluginManager, origins: Mapping[str, Origin]) -> Iterable[Entry]:
    for hook, check in zip(HOOKS, (_strategy, _architecture), strict=True):
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            where = implementation.plugin_name
            offered = implementation.function()
            if not isinstance(offered, Iterable):
                raise PluginError(f"{where} returns {offered!r} from {hook}; return a list")
            for what in offered:
                yield check(what, where, origins[where])


def _architecture(what: Any, where: str, origin: Origin) -> Entry:
    if not isinstance(what, (Anatomy, Alias)):
        raise PluginError(f"{where} offers {what!r}, which is neither an Anatomy nor an Alias; return records of those")
    return Entry("architecture" if isinstance(what, Anatomy) else "alias", what.model_type, what, origin)


def _strategy(what: Any, where: str, origin: Origin) -> Entry:
    if not (inspect.isclass(what) and issubclass(what, tuple(KINDS.values()))):
        raise PluginError(
            f"{where} offers {what!r}, which is not a strategy; return classes that derive from Pruner, Factorizer, "
            f"ExitPolicy or Distiller"
        )
    strategy = cast(type[Strategy], what)
    parameters = strategy.__dict__.get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise PluginError(
            f"{where} offers {strategy.__name__}, which is not a frozen dataclass; decorate it with "
            f"@dataclass(frozen=True)"
        )
    if inspect.isabstract(strategy):
        missing = ", ".join(sorted(strategy.__abstractmethods__))
        raise PluginError(f"{where} offers {strategy.__name__}, which lacks the method {missing}; write it")
    name = getattr(strategy, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(
            f"{where} offers {strategy.__name__} without a name that recipes can say; "
            f'add name: ClassVar[str] = "like-this", in small letters, digits and hyphens'
        )
    try:
        options_of(strategy)
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise PluginError(
            f"{where} offers {strategy.__name__}, whose options can't be read from a recipe: {reason}"
        ) from error
    return Entry(kind_of(strategy), name, strategy, origin)
