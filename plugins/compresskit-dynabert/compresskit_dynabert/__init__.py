"""Sub-networks of any width and depth for compresskit: DynaBERT."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Strategy, hookimpl
from compresskit_dynabert.subnetworks import DynaBert, First, KeptStates, SlopeOfGates

__all__ = ["DynaBert", "First", "KeptStates", "SlopeOfGates", "compresskit_strategies"]


@hookimpl
def compresskit_strategies() -> Iterable[type[Strategy]]:
    """What this distribution offers."""
    return [DynaBert, First, KeptStates, SlopeOfGates]
