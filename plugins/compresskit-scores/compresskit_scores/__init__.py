"""Importance scores for heads and neurons, one idea per file."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Pruner, hookimpl
from compresskit_scores.dropnet import DropNet
from compresskit_scores.fisher import Fisher
from compresskit_scores.michel import Michel
from compresskit_scores.molchanov import Molchanov
from compresskit_scores.random import Random

__all__ = ["DropNet", "Fisher", "Michel", "Molchanov", "Random", "compresskit_strategies"]


@hookimpl
def compresskit_strategies() -> Iterable[type[Pruner]]:
    """What this distribution offers."""
    return [DropNet, Fisher, Michel, Molchanov, Random]
