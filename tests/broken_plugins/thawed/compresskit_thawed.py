"""Offers a strategy that is a dataclass but not frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from compresskit import Pruner, hookimpl


@dataclass
class Thawed(Pruner):
    name: ClassVar[str] = "thawed"

    def score(self, group, context):
        return torch.zeros(group.units)


@hookimpl
def compresskit_strategies():
    return [Thawed]
