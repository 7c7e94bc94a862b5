"""Fewer or shared layers for compresskit: LayerDrop, cross-layer sharing, and CAP's contrastive terms."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Distiller, hookimpl
from compresskit_layers.cap import InfoNCE, SupCon

__all__ = ["InfoNCE", "SupCon", "compresskit_strategies"]


@hookimpl
def compresskit_strategies() -> Iterable[type[Distiller]]:
    """What this distribution offers."""
    return [InfoNCE, SupCon]
