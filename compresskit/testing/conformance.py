"""What every strategy must do, as checks that a plugin's tests run in three lines.

    @pytest.mark.parametrize(**parametrize(Margin(threshold=0.5)))
    def test_is_a_good_strategy(check):
        check()

Each check is a function without arguments that raises AssertionError with one sentence. They need no network and, all
together, a second or two. To leave one out, filter `strategy_checks` by name, and say why.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypedDict, cast

from compresskit.catalogue import NAME, build, options_of
from compresskit.interfaces import Distiller, ExitHead, ExitPolicy, Factorizer, Masker, Pruner, Strategy
from compresskit.testing import (
    distiller_checks,
    exit_head_checks,
    exit_policy_checks,
    factorizer_checks,
    masker_checks,
    pruner_checks,
)
from compresskit.testing.requirements import require

Check = Callable[[], None]


class Parameters(TypedDict):
    """Keyword arguments of `pytest.mark.parametrize`."""

    argnames: str
    argvalues: list[Check]
    ids: list[str]


def parametrize(*strategies: Strategy) -> Parameters:
    """The checks of these strategies, for `@pytest.mark.parametrize(**parametrize(...))`; the argument is `check`."""
    named = [(f"{strategy!r}-{name}", check) for strategy in strategies for name, check in strategy_checks(strategy)]
    return Parameters(argnames="check", argvalues=[check for _, check in named], ids=[name for name, _ in named])


def check_strategy(strategy: type[Strategy], **options: Any) -> None:
    """Run every check on the strategy with these options.

    Raises:
        AssertionError: at the first check that fails; the message says what is wrong.
    """
    for _, check in strategy_checks(strategy(**options)):
        check()


def strategy_checks(strategy: Strategy) -> list[tuple[str, Check]]:
    """Every check of a strategy of its kind, with its name."""
    named: dict[str, Callable[[Any], None]] = dict(COMMON)
    named |= dict(_of_its_kind(strategy))
    return [(name, partial(check, strategy)) for name, check in named.items()]


def is_a_frozen_dataclass(strategy: Strategy) -> None:
    """Fields are options; nothing can change between calls."""
    cls = type(strategy)
    parameters = cls.__dict__.get("__dataclass_params__")
    require(parameters is not None and parameters.frozen, cls, "is not a frozen dataclass; use @dataclass(frozen=True)")


def has_a_name(strategy: Strategy) -> None:
    """Recipes name it after `by:`."""
    cls = type(strategy)
    name = getattr(cls, "name", None)
    require(
        isinstance(name, str) and NAME.fullmatch(name) is not None,
        cls,
        f"has the name {name!r}; recipes need one in small letters, digits and hyphens",
    )


def has_a_manual_page(strategy: Strategy) -> None:
    """The docstring is what `compresskit strategies NAME` and the reference print."""
    cls = type(strategy)
    page = inspect.cleandoc(cls.__doc__ or "")
    # A dataclass without a docstring gets its signature as one.
    require(bool(page) and not page.startswith(f"{cls.__name__}("), cls, "has no docstring; it is the manual page")
    summary = page.partition("\n\n")[0]
    require(summary.endswith("."), cls, "has a docstring whose first paragraph does not end with a full stop")
    for field in dataclasses.fields(cast(Any, cls)):
        require(field.name in page, cls, f"has a docstring that does not explain the option '{field.name}'")


def options_survive_json(strategy: Strategy) -> None:
    """Recipes and checkpoints keep the options as text."""
    cls = type(strategy)
    written = json.dumps(options_of(cls).dump_python(strategy, mode="json"))
    read = build(cls, json.loads(written))
    require(read == strategy, cls, f"becomes {read!r} when its options {written} are read back")


COMMON: dict[str, Callable[[Strategy], None]] = {
    check.__name__: check for check in (is_a_frozen_dataclass, has_a_name, has_a_manual_page, options_survive_json)
}


def _of_its_kind(strategy: Strategy) -> Iterator[tuple[str, Callable[[Any], None]]]:
    if isinstance(strategy, Pruner):
        yield from pruner_checks.checks()
    elif isinstance(strategy, Factorizer):
        yield from factorizer_checks.checks()
    elif isinstance(strategy, ExitPolicy):
        yield from exit_policy_checks.checks()
    elif isinstance(strategy, Distiller):
        yield from distiller_checks.checks()
    elif isinstance(strategy, ExitHead):
        yield from exit_head_checks.checks()
    elif isinstance(strategy, Masker):
        yield from masker_checks.checks()
    else:
        kinds = "a Pruner, a Factorizer, an ExitPolicy, a Distiller, an ExitHead nor a Masker"
        require(False, type(strategy), f"is neither {kinds}")
