"""Adds up the losses of a step. What each loss is, a Distiller says; the core only weighs and sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from compresskit.interfaces import Batch, Distiller, Trace
from compresskit.teachers import Teacher
from compresskit.verbs import Loss

Losses = Mapping[str, Loss]


def switched_on(losses: Losses, done: float) -> list[Loss]:
    """The losses that count once this fraction of the step's training is done."""
    return [loss for loss in losses.values() if done >= loss.after]


def looks_at_hidden(distiller: Distiller) -> bool:
    """Whether it wants hidden states recorded."""
    return distiller.needs_hidden or distiller.projects


def needs_hidden(losses: Losses) -> bool:
    """Whether any of them looks at hidden states."""
    return any(looks_at_hidden(loss.distiller) for loss in losses.values())


def needs_attention(losses: Losses) -> bool:
    """Whether any of them looks at queries, keys and values."""
    return any(loss.distiller.needs_attention for loss in losses.values())


def of_teacher(losses: Losses) -> Losses:
    """Those that need a teacher."""
    return {name: loss for name, loss in losses.items() if loss.distiller.needs_teacher}


def banks_of(losses: Losses) -> tuple[str, ...]:
    """Names of the banks that the losses look at, each once."""
    return tuple(dict.fromkeys(name for loss in losses.values() for name in loss.banks))


def total(losses: list[Loss], student: Trace, teacher: Teacher | None, batch: Batch) -> Tensor:
    """The weighted sum, a scalar in fp32."""
    asked = [loss.distiller for loss in losses if loss.distiller.needs_teacher]
    said = None
    if teacher and asked:
        attention = any(distiller.needs_attention for distiller in asked)
        said = teacher.trace(batch, any(map(looks_at_hidden, asked)), attention)
    parts = [loss.weight * loss.distiller.loss(_shown(student, loss), said, batch) for loss in losses]
    return torch.stack([part.float() for part in parts]).sum()


def _shown(student: Trace, loss: Loss) -> Trace:
    """The student's trace with no banks but those that the loss names."""
    return replace(student, banks={name: student.banks[name] for name in loss.banks})
