"""No importance at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from compresskit import Context, Group, Pruner


@final
@dataclass(frozen=True)
class Random(Pruner):
    """Keep units at random: the floor that every other score must beat.

    The recipe's seed decides which; another seed keeps others.
    """

    name: ClassVar[str] = "random"

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) numbers drawn evenly between 0 and 1."""
        return torch.rand(group.units, generator=context.generator)
