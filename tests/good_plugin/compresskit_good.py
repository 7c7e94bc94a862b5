"""A pruner and an anatomy, as an outsider would offer them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from compresskit import Pruner, hookimpl
from compresskit.architectures import BERT


@dataclass(frozen=True)
class Flat(Pruner):
    """Every unit is as good
    as any other.

    Args:
        level: of all scores.
    """

    name: ClassVar[str] = "flat"

    level: float = 0.0

    def score(self, group, context):
        return torch.full((group.units,), self.level)


CAMEMBERT = replace(BERT, model_type="camembert")


@hookimpl
def compresskit_strategies():
    return [Flat]


@hookimpl
def compresskit_architectures():
    return [CAMEMBERT]
