"""What small students learn from large teachers, as the papers have it."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Distiller, hookimpl
from compresskit_students.distilbert import Cosine
from compresskit_students.minilm import Relations
from compresskit_students.mobilebert import AttentionTransfer, FeatureTransfer
from compresskit_students.tinybert import AttentionScores, ProjectedStates

__all__ = [
    "AttentionScores",
    "AttentionTransfer",
    "Cosine",
    "FeatureTransfer",
    "ProjectedStates",
    "Relations",
    "compresskit_strategies",
]


@hookimpl
def compresskit_strategies() -> Iterable[type[Distiller]]:
    """What this distribution offers."""
    return [AttentionScores, AttentionTransfer, Cosine, FeatureTransfer, ProjectedStates, Relations]
