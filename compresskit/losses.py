"""Adds up the losses of a step. What each loss is, a Distiller says; the core only weighs and sums."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compresskit.interfaces import Batch, Trace
from compresskit.teachers import Teacher
from compresskit.verbs import Loss

Losses = Mapping[str, Loss]


def switched_on(losses: Losses, done: float) -> list[Loss]:
    """The losses that count once this fraction of the step's training is done."""
    return [loss for loss in losses.values() if done >= loss.after]


def needs_hidden(losses: Losses) -> bool:
    """Whether any of them looks at hidden states."""
    return any(loss.distiller.needs_hidden for loss in losses.values())


def needs_teacher(losses: Losses) -> bool:
    """Whether any of them needs a teacher."""
    return any(loss.distiller.needs_teacher for loss in losses.values())


def total(losses: list[Loss], student: Trace, teacher: Teacher | None, batch: Batch) -> Tensor:
    """The weighted sum, a scalar in fp32."""
    hidden = any(loss.distiller.needs_hidden for loss in losses)
    said = teacher.trace(batch, hidden) if teacher and any(loss.distiller.needs_teacher for loss in losses) else None
    parts = [loss.weight * loss.distiller.loss(student, said, batch) for loss in losses]
    return torch.stack([part.float() for part in parts]).sum()
