"""Offers a second pruner called taylor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from compresskit import Pruner, hookimpl


@dataclass(frozen=True)
class OtherTaylor(Pruner):
    name: ClassVar[str] = "taylor"

    def score(self, group, context):
        return torch.zeros(group.units)


@hookimpl
def compresskit_strategies():
    return [OtherTaylor]
