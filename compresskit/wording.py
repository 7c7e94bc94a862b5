"""How a mistake is put into words, so that every list of mistakes reads alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pydantic_core import ErrorDetails

MUST_BE = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
}
LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, or None where nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'keep'?)`, or nothing where no known name is close."""
    meant = nearest(name, known)
    return f" (did you mean '{meant}'?)" if meant else ""


def show(value: object) -> str:
    """A value as its writer would know it from the recipe."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    return repr(value)


def option(path: Iterable[int | str]) -> str:
    """`exit[1]` for ("exit", 1), `with.size` for ("with", "size")."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def complaint(error: ErrorDetails) -> str:
    """What pydantic found wrong with a value, to be read after the option's name: `must be at least 0, not -1`."""
    kind, value, details = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind in MUST_BE:
        return f"must be {MUST_BE[kind]}, not {show(value)}"
    if kind in LIMITS:
        words, key = LIMITS[kind]
        return f"must be {words} {_number(details[key])}, not {show(value)}"
    if kind == "literal_error":
        expected = str(details["expected"])
        hint = did_you_mean(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else ""
        return f"must be {expected}, not {show(value)}{hint}"
    if kind == "value_error":
        return str(details["error"])
    return f"can't be {show(value)}: {error['msg']}"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
