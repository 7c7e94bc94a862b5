"""Early exit as the papers have it: exit heads, exit policies and losses."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit import Strategy, hookimpl
from compresskit_early_exit.heads import Attention, DenseTanh, LearnedCertainty, SharedDenseTanh
from compresskit_early_exit.losses import AlternatingLabels, Certainty, SelfDistillation, WeightedLabels
from compresskit_early_exit.policies import Learned, MaximumProbability, NormalizedEntropy, Patience

__all__ = [
    "AlternatingLabels",
    "Attention",
    "Certainty",
    "DenseTanh",
    "Learned",
    "LearnedCertainty",
    "MaximumProbability",
    "NormalizedEntropy",
    "Patience",
    "SelfDistillation",
    "SharedDenseTanh",
    "WeightedLabels",
    "compresskit_strategies",
]


@hookimpl
def compresskit_strategies() -> Iterable[type[Strategy]]:
    """What this distribution offers."""
    heads: list[type[Strategy]] = [Attention, DenseTanh, LearnedCertainty, SharedDenseTanh]
    policies: list[type[Strategy]] = [Learned, MaximumProbability, NormalizedEntropy, Patience]
    losses: list[type[Strategy]] = [AlternatingLabels, Certainty, SelfDistillation, WeightedLabels]
    return [*heads, *policies, *losses]
