"""Which plugins are in use and where things come from; no plugin is imported for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from compresskit.errors import PluginError

ENTRY_POINTS = "compresskit"
VARIABLE = "COMPRESSKIT_PLUGINS"


@dataclass(frozen=True)
class Origin:
    """The distribution that something comes from."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def plugins_named() -> tuple[str, ...] | None:
    """The names in the variable COMPRESSKIT_PLUGINS, or None where it is not set: all plugins are meant."""
    named = os.environ.get(VARIABLE)
    return None if named is None else tuple(name.strip() for name in named.split(",") if name.strip())


def entry_points(plugins: Sequence[str] | None) -> list[metadata.EntryPoint]:
    """Of the plugins of these names, or of all that are installed, sorted by name.

    Raises:
        PluginError: one of them is not installed.
    """
    installed = sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value))
    if plugins is None:
        return installed
    names = {point.name for point in installed}
    for name in plugins:
        if name not in names:
            raise PluginError(
                f"{VARIABLE} names the plugin '{name}', which is not installed "
                f"(installed: {', '.join(sorted(names)) or 'none'}); install it or take it out"
            )
    return [point for point in installed if point.name in plugins]


def origin_of(point: metadata.EntryPoint) -> Origin:
    """The distribution of a plugin."""
    assert point.dist is not None
    return Origin(point.dist.name, point.dist.version)
