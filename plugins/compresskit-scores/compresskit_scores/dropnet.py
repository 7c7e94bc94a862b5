"""How active units are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from compresskit import Context, Group, Pruner, UnitTrace


@final
@dataclass(frozen=True)
class DropNet(Pruner):
    """Keep the most active units: the mean of the absolute outputs (Tan and Motani 2020, PMLR 119, section 3).

    The outputs are those after the activation, averaged over an example's tokens, then over examples. The paper cuts a
    fifth of what is left in each round and begins each round again from the weights that training began from: `scope:
    global` is its "minimum", `scope: layer` its "minimum layer".
    """

    name: ClassVar[str] = "dropnet"
    needs_data: ClassVar[bool] = True

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) mean activity."""
        return context.observed(group, self)

    def observe(self, trace: UnitTrace) -> Tensor:
        """(batch, units) mean activity in each example."""
        mask = trace.mask[:, :, None]
        return (trace.outputs.abs().mean(dim=-1) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
