"""MobileBERT's layer-wise transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from compresskit import Batch, Trace
from compresskit_students.means import HeadByHead, LayerByLayer, matched, over_tokens, same_heads
from compresskit_students.tinybert import scores


def due(each: Sequence[Tensor], student: Trace, progressive: bool) -> Tensor:
    """The sum of the layers' losses, or that of the layer whose turn it is: as many turns as layers, equally long."""
    if not progressive:
        return torch.stack(list(each)).sum()
    return each[min(student.step * len(each) // student.steps, len(each) - 1)]


@final
@dataclass(frozen=True)
class FeatureTransfer(LayerByLayer):
    """Squared error of the layers' outputs, each normalised first (MobileBERT, Sun et al. 2020, arXiv:2004.02984).

    Both sides go through a layer norm without parameters, so that mean and variance don't count. Layer j of M learns
    from the teacher's layer j * N / M. It is a sum over layers.

    Args:
        progressive: one layer after the other, from the first, each for an equal part of the step's training (their
            section 3.5). The layers below go on learning, at the same learning rate, where the authors slow them down.
    """

    name: ClassVar[str] = "feature-transfer"
    needs_hidden: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    same_hidden_size: ClassVar[bool] = True

    progressive: bool = False

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over layers or one of them.

        Raises:
            CompresskitError: layers do not match.
        """
        assert teacher is not None
        parts = []
        for pair in matched(student.hidden[1:], teacher.hidden[1:], self.name):
            ours, theirs = (layer_norm(state.float(), state.shape[-1:]) for state in pair)
            parts.append(over_tokens((ours - theirs).square().mean(dim=-1), student.mask))
        return due(parts, student, self.progressive)


@final
@dataclass(frozen=True)
class AttentionTransfer(HeadByHead):
    """Divergence of the attention distributions, head by head (MobileBERT, Sun et al. 2020, arXiv:2004.02984, eq. 2).

    KL(teacher || student), averaged over heads and the queries of a text's tokens, then over texts; layer j of M learns
    from the teacher's layer j * N / M, which must have as many heads. It is a sum over layers.

    Args:
        progressive: one layer after the other, from the first, each for an equal part of the step's training (their
            section 3.5). The layers below go on learning, at the same learning rate, where the authors slow them down.
    """

    name: ClassVar[str] = "attention-transfer"
    needs_attention: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False

    progressive: bool = False

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over layers or one of them.

        Raises:
            CompresskitError: layers or heads do not match.
        """
        assert teacher is not None
        same_heads(student, teacher, self.name)
        hidden = student.mask[:, None, None, :] == 0
        parts = []
        for pair in matched(student.attention, teacher.attention, self.name):
            masked = (scores(one).masked_fill(hidden, torch.finfo(torch.float32).min) for one in pair)
            ours, theirs = (torch.log_softmax(one, dim=-1) for one in masked)
            apart = (theirs.exp() * (theirs - ours)).sum(dim=-1).mean(dim=1)  # (batch, tokens)
            parts.append(over_tokens(apart, student.mask))
        return due(parts, student, self.progressive)
