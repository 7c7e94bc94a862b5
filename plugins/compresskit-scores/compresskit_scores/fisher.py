"""How curved the loss is: diagonal Fisher information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast, final

import torch
from torch import Tensor, nn

from compresskit import Context, Group, Pruner, UnitTrace


@final
@dataclass(frozen=True)
class Fisher(Pruner):
    """Keep the units whose removal would change the loss most, to second order, by the diagonal of the Fisher matrix.

    - `units`: the mean over examples of the squared gradient of a gate on the unit (Kwon et al. 2022, arXiv:2204.09656,
      equation 9; the gates of Molchanov et al. 2019, arXiv:1906.10771).
    - `weights`: the sum over the unit's weights w of w^2 * sum over batches of g_b^2 (Molchanov et al. 2019, equation
      8, for a set of weights). Squares of batch gradients, so the batch size matters.

    Args:
        of: what has a gradient: the `units`' gates or their `weights`.
    """

    name: ClassVar[str] = "fisher"
    needs_data: ClassVar[bool] = True

    of: Literal["units", "weights"] = "units"

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) importance."""
        if self.of == "units":
            return context.observed(group, self)
        parts = []
        for member in group.members:
            weight = cast(nn.Parameter, member.linear.weight)
            share = weight.detach().square() * context.gradient(weight, "squared")
            parts.append(member.per_unit(share).sum(dim=1))
        return torch.stack(parts).sum(dim=0)

    def observe(self, trace: UnitTrace) -> Tensor:
        """(batch, units) squared gradient of each unit's gate."""
        return (trace.outputs * trace.gradients * trace.mask[:, :, None, None]).sum(dim=(1, 3)).square()
