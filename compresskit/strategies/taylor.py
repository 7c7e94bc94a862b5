"""First-order Taylor importance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, final

import torch
from torch import Tensor, nn

from compresskit import Context, Group, Pruner, hookimpl


@final
@dataclass(frozen=True)
class Taylor(Pruner):
    """Keep the units whose removal would change the loss most, to first order (Molchanov 2017, arXiv:1611.06440).

    COST-EFF (Shen et al. 2022, arXiv:2210.15523) can be read in two ways. With weights w and batch gradients g_b of the
    step's loss:

    - `released`, as its authors' code does: sum over the weights of |w| * sum over batches of |g_b|. Nothing cancels. A
      head is judged by its columns of attention-out alone.
    - `paper`, its equation 2: |sum over the weights of w * sum over batches of g_b|. A head is judged by its parts of
      query, key, value and attention-out.

    A neuron is judged by its row of ffn-in and its column of ffn-out in both. Biases don't count.

    Args:
        reading: `released` or `paper`.
        matrices: which matrices judge a head: `attention-out`, `all` four, or `auto` for what the reading says.
    """

    name: ClassVar[str] = "taylor"
    needs_data: ClassVar[bool] = True

    reading: Literal["released", "paper"] = "released"
    matrices: Literal["auto", "attention-out", "all"] = "auto"

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) importance."""
        out_only = self.matrices == "attention-out" or (self.matrices == "auto" and self.reading == "released")
        members = [group.member("attention-out")] if group.target == "heads" and out_only else group.members
        parts = []
        for member in members:
            weight = cast(nn.Parameter, member.linear.weight)
            if self.reading == "released":
                share = weight.detach().abs() * context.gradient(weight, "absolute")
            else:
                share = weight.detach() * context.gradient(weight, "signed")
            parts.append(member.per_unit(share).sum(dim=1))
        total = torch.stack(parts).sum(dim=0)
        return total.abs() if self.reading == "paper" else total


@hookimpl
def compresskit_strategies() -> Iterable[type[Pruner]]:
    """This file's strategy."""
    return [Taylor]
