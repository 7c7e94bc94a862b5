"""First-order Taylor importance of what units put out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from compresskit import Context, Group, Pruner, UnitTrace
from compresskit_scores.layers import normalized


@final
@dataclass(frozen=True)
class Molchanov(Pruner):
    """Keep the units whose outputs the loss would miss most, to first order (Molchanov et al. 2017, arXiv:1611.06440).

    The built-in `taylor` multiplies gradients by weights; this one, as the paper, by what the units put out. With z_m
    the M numbers that a unit puts out for an example (one a token for a neuron, head size a token for a head) and g_m
    the gradients there:

    - `paper`, its equation 8: |1/M sum over m of g_m z_m|, averaged over examples.
    - `positions`: 1/M sum over m of |g_m z_m|, averaged over examples, as in the re-implementation beside Molchanov et
      al. 2019. Nothing cancels.
    - `signed`: |1/M sum over m of g_m z_m averaged over examples|, as in much public code. Examples cancel too.

    It is meant for `scope: global`.

    Args:
        reading: `paper`, `positions` or `signed`.
        normalize: divide a layer's scores by the root of the sum of their squares before layers compete, as the paper.
    """

    name: ClassVar[str] = "molchanov"
    needs_data: ClassVar[bool] = True

    reading: Literal["paper", "positions", "signed"] = "paper"
    normalize: bool = True

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) importance."""
        scores = context.observed(group, self).abs()
        return normalized(scores) if self.normalize else scores

    def observe(self, trace: UnitTrace) -> Tensor:
        """(batch, units) importance for each example, or its signed part."""
        products = trace.outputs * trace.gradients * trace.mask[:, :, None, None]
        numbers = trace.mask.sum(dim=1, keepdim=True).clamp(min=1) * products.shape[-1]  # (batch, 1): M
        if self.reading == "positions":
            return products.abs().sum(dim=(1, 3)) / numbers
        means = products.sum(dim=(1, 3)) / numbers
        return means.abs() if self.reading == "paper" else means
