"""Learning the teacher's predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from compresskit import Batch, Distiller, Trace, hookimpl


@final
@dataclass(frozen=True)
class Predictions(Distiller):
    """Cross-entropy with the teacher's soft predictions (Hinton et al. 2015, arXiv:1503.02531), as COST-EFF has it.

    The sum over the student's exits of -sum_c softmax(q / T)_c * log softmax(z / T)_c, averaged over the batch, without
    a factor T^2 (Shen et al. 2022, arXiv:2210.15523, equation 5). Each exit z learns from the teacher's exit q at its
    layer; where the teacher has none there, and at the student's last exit, from the teacher's last. With one output
    (regression) it is the squared error to the teacher's value, and with several labels at once (float labels, one
    column per class) the mean of the binary cross-entropies.

    Args:
        temperature: T, which softens both predictions.
    """

    name: ClassVar[str] = "predictions"

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over exits."""
        assert teacher is not None
        deepest = max(student.logits)
        targets = [
            teacher.last if exit == deepest else teacher.logits.get(exit, teacher.last) for exit in student.logits
        ]
        z = torch.stack([logits.float() for logits in student.logits.values()])  # (exits, batch, classes)
        q = torch.stack([logits.detach().float() for logits in targets])
        labels = batch.get("labels")
        if z.shape[-1] == 1:
            each = (z - q).square().squeeze(-1)
        elif labels is not None and labels.is_floating_point():
            t = self.temperature
            each = binary_cross_entropy_with_logits(z / t, torch.sigmoid(q / t), reduction="none").mean(dim=-1)
        else:
            t = self.temperature
            each = -(torch.softmax(q / t, dim=-1) * torch.log_softmax(z / t, dim=-1)).sum(dim=-1)
        return each.mean(dim=1).sum()


@hookimpl
def compresskit_strategies() -> Iterable[type[Distiller]]:
    """This file's strategy."""
    return [Predictions]
