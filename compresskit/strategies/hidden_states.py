"""Learning the teacher's hidden states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from compresskit import Batch, Distiller, Trace, hookimpl
from compresskit.errors import CompresskitError


@final
@dataclass(frozen=True)
class HiddenStates(Distiller):
    """Mean squared error of the embedding output and of every layer's output, added up.

    As in COST-EFF (Shen et al. 2022, arXiv:2210.15523, equation 4). A student of M layers learns in its layer j from a
    teacher's layer j * N / M, rounded, where the teacher has N. Padding never counts as an error.

    Args:
        average: `examples` is the mean over a text's tokens, then over texts, so that a short text counts as much as a
            long one; `positions` divides by all positions of the batch, those of padding too. COST-EFF's authors score
            units by it, on batches that are padded to 128 tokens.
    """

    name: ClassVar[str] = "hidden-states"
    needs_hidden: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    same_hidden_size: ClassVar[bool] = True

    average: Literal["examples", "positions"] = "examples"

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over the L + 1 tensors.

        Raises:
            CompresskitError: the teacher's hidden states are of another size.
        """
        assert teacher is not None
        theirs, ours = teacher.hidden[0].shape, student.hidden[0].shape
        if theirs != ours:
            raise CompresskitError(
                f"hidden-states: the teacher's hidden states are {tuple(theirs)} and the student's {tuple(ours)} "
                f"(batch, tokens, hidden size); distil by predictions alone, or from a teacher of the same hidden size"
            )
        deep, shallow = len(teacher.hidden) - 1, len(student.hidden) - 1
        per_token = []
        for layer, hidden in enumerate(student.hidden):
            model = teacher.hidden[(2 * layer * deep + shallow) // (2 * shallow)]
            # Summed over the hidden axis at once, so that no squared error outlives its layer or is kept for backward.
            per_token.append(mse_loss(hidden.float(), model.float(), reduction="none").sum(dim=-1))
        return (torch.stack(per_token) * self._weights(student.mask, ours[-1])).sum()

    def _weights(self, mask: Tensor, size: int) -> Tensor:
        """(batch, tokens) share of each position's summed squared error in the mean."""
        mask = mask.float()
        if self.average == "positions":
            return mask / (mask.numel() * size)
        tokens = mask.sum(dim=1, keepdim=True).clamp(min=1)
        return mask / (tokens * mask.shape[0] * size)


@hookimpl
def compresskit_strategies() -> Iterable[type[Distiller]]:
    """This file's strategy."""
    return [HiddenStates]
