"""Sub-networks of any width and depth for compresskit: DynaBERT."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Distiller, hookimpl

__all__ = ["compresskit_strategies"]


@hookimpl
def compresskit_strategies() -> Iterable[type[Distiller]]:
    """What this distribution offers."""
    return []
