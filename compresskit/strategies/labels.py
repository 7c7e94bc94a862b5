"""Learning the labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from compresskit import Batch, Distiller, Trace, hookimpl


@final
@dataclass(frozen=True)
class Labels(Distiller):
    """Cross-entropy with the labels, added up over the student's exits. Needs no teacher.

    With one output (regression) it is the squared error, and with several labels at once (float labels, one column per
    class) the mean of the binary cross-entropies.
    """

    name: ClassVar[str] = "labels"
    needs_teacher: ClassVar[bool] = False

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over exits."""
        z = torch.stack([logits.float() for logits in student.logits.values()])  # (exits, batch, classes)
        labels = batch["labels"]
        if z.shape[-1] == 1:
            each = (z.squeeze(-1) - labels.reshape(1, -1).float()).square()
        elif labels.is_floating_point():
            each = binary_cross_entropy_with_logits(z, labels.float().expand_as(z), reduction="none").mean(dim=-1)
        else:
            each = -torch.log_softmax(z, dim=-1).gather(-1, labels.expand(z.shape[:2]).unsqueeze(-1)).squeeze(-1)
        return each.mean(dim=1).sum()


@hookimpl
def compresskit_strategies() -> Iterable[type[Distiller]]:
    """This file's strategy."""
    return [Labels]
