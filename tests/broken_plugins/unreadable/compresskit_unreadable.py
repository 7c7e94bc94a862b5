"""Offers a strategy with an option that no recipe can write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from compresskit import Pruner, hookimpl


@dataclass(frozen=True)
class Unreadable(Pruner):
    name: ClassVar[str] = "unreadable"

    mask: torch.Tensor

    def score(self, group, context):
        return self.mask


@hookimpl
def compresskit_strategies():
    return [Unreadable]
