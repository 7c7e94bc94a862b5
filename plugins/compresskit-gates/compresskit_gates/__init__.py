"""Learned gates for compresskit: CoFi and FLOP."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Strategy, hookimpl
from compresskit_gates.cofi import CoFi, LayerMatch
from compresskit_gates.flop import Flop

__all__ = ["CoFi", "Flop", "LayerMatch", "compresskit_strategies"]


@hookimpl
def compresskit_strategies() -> Iterable[type[Strategy]]:
    """What this distribution offers."""
    return [CoFi, Flop, LayerMatch]
