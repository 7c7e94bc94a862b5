"""Offers a pruner that can't score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compresskit import Pruner, hookimpl


@dataclass(frozen=True)
class Undecided(Pruner):
    name: ClassVar[str] = "undecided"


@hookimpl
def compresskit_strategies():
    return [Undecided]
