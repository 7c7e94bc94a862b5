"""Fewer or shared layers for compresskit: LayerDrop, cross-layer sharing, and CAP's contrastive terms."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Strategy, hookimpl
from compresskit_layers.cap import InfoNCE, SupCon
from compresskit_layers.layerdrop import LayerDrop

__all__ = ["InfoNCE", "LayerDrop", "SupCon", "compresskit_strategies"]


@hookimpl
def compresskit_strategies() -> Iterable[type[Strategy]]:
    """What this distribution offers."""
    return [InfoNCE, SupCon, LayerDrop]
