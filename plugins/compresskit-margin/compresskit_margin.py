"""Leaving when one class is well ahead of the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast, final

import torch
from pydantic import Field
from torch import BoolTensor

from compresskit import ExitPolicy, ExitTrail, hookimpl


@final
@dataclass(frozen=True)
class Margin(ExitPolicy):
    """Leave once the likeliest class is ahead of the next by more than `threshold`.

    The margin is the difference of the two largest probabilities (a confidence measure of Schuster et al. 2022,
    arXiv:2207.07061), so it lies between 0 and 1 whatever the number of classes. At 0 everybody but ties leaves at the
    first exit, at 1 everybody goes to the last layer. With two classes it ranks examples as `entropy` does; with more,
    it does not care how the rest is spread over the classes that have lost. A model with one output (regression) has
    no margin, and nobody leaves.

    Args:
        threshold: a difference of probabilities, from 0 to 1.
    """

    name: ClassVar[str] = "margin"

    threshold: Annotated[float, Field(ge=0, le=1)]

    def settings(self, classes: int, depth: int) -> Sequence[float]:
        """Thresholds for `evaluate` to try, from everybody at the first exit to nobody before the last."""
        return () if classes == 1 else (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)

    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the margin at this exit is strictly above the threshold."""
        logits = trail.logits[-1]
        if logits.shape[-1] == 1:
            return cast(BoolTensor, torch.zeros(len(logits), dtype=torch.bool, device=logits.device))
        first, second = logits.float().softmax(dim=-1).topk(2, dim=-1).values.unbind(dim=-1)  # (alive,) each
        return cast(BoolTensor, first - second > self.threshold)


@hookimpl
def compresskit_strategies() -> Iterable[type[ExitPolicy]]:
    """What this distribution offers."""
    return [Margin]
