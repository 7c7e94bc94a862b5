"""Size of the weights as importance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from compresskit import Context, Group, Pruner, hookimpl


@final
@dataclass(frozen=True)
class Magnitude(Pruner):
    """Keep the units with the largest weights; looks at no data (Li et al. 2017, arXiv:1608.08710, for filters).

    Args:
        norm: 1 adds up the absolute weights of all the unit's matrices, 2 takes the root of the sum of their squares.
    """

    name: ClassVar[str] = "magnitude"

    norm: Literal[1, 2] = 1

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) norm of each unit's weights, biases aside."""
        weights = [member.per_unit(member.linear.weight.detach()) for member in group.members]
        norms: Tensor = torch.linalg.vector_norm(torch.cat(weights, dim=1).float(), ord=self.norm, dim=1)
        return norms


@hookimpl
def compresskit_strategies() -> Iterable[type[Pruner]]:
    """This file's strategy."""
    return [Magnitude]
