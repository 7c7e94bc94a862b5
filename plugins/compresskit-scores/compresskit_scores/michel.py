"""How much a head, or a neuron, matters: its output times the gradient there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from compresskit import Context, Group, Pruner, UnitTrace
from compresskit_scores.layers import normalized


@final
@dataclass(frozen=True)
class Michel(Pruner):
    """Keep the units whose outputs the loss hangs on (Michel et al. 2019, arXiv:1905.10650, equation 2).

    With c_t the output of a unit at token t and g_t the gradient of the example's loss there:

    - `tokens`, as the authors' code: the sum over tokens of |c_t . g_t|.
    - `gate`: |sum over tokens of c_t . g_t|, the gradient of a gate on the unit, which the `run_bertology` script that
      came with transformers looks at.

    Either is averaged over examples. The paper ranks heads; CAP (Xu et al. 2022, arXiv:2112.07198) ranks neurons by
    `gate` too. It is meant for `scope: global`.

    Args:
        reading: `tokens` or `gate`.
        normalize: divide a layer's scores by the root of the sum of their squares before layers compete.
    """

    name: ClassVar[str] = "michel"
    needs_data: ClassVar[bool] = True

    reading: Literal["tokens", "gate"] = "tokens"
    normalize: bool = True

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) importance."""
        scores = context.observed(group, self)
        return normalized(scores) if self.normalize else scores

    def observe(self, trace: UnitTrace) -> Tensor:
        """(batch, units) importance for each example."""
        products = (trace.outputs * trace.gradients).sum(dim=-1) * trace.mask[:, :, None]  # (batch, tokens, units)
        return products.abs().sum(dim=1) if self.reading == "tokens" else products.sum(dim=1).abs()
