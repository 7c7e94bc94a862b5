"""What TinyBERT's students learn before they learn the predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from compresskit import Batch, Projections, Trace
from compresskit_students.means import HeadByHead, LayerByLayer, matched, over_pairs, over_tokens, same_heads


def scores(layer: Projections) -> Tensor:
    """(batch, heads, tokens, tokens) attention scores before the softmax, unmasked, in fp32."""
    query, key = layer.query.float(), layer.key.float()
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


@final
@dataclass(frozen=True)
class AttentionScores(HeadByHead):
    """Squared error of the attention scores before the softmax (TinyBERT, Jiao et al. 2020, arXiv:1909.10351, eq. 7).

    Layer i of M learns from the teacher's layer i * N / M, counted from 1, where the teacher has N: 3 6 9 12 of twelve
    for four. Heads are compared one by one, so there must be as many. It is a sum over layers.

    Args:
        average: `examples` is the mean over the pairs of a text's tokens, then over texts; `positions` that over all
            positions of the batch, those of padding counting as equal, as in the released code.
    """

    name: ClassVar[str] = "attention-scores"
    needs_attention: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False

    average: Literal["examples", "positions"] = "examples"

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over layers.

        Raises:
            CompresskitError: layers or heads do not match.
        """
        assert teacher is not None
        same_heads(student, teacher, self.name)
        pairs = matched(student.attention, teacher.attention, self.name)
        errors = [(scores(ours) - scores(theirs)).square() for ours, theirs in pairs]
        return torch.stack([self._mean(error, student.mask) for error in errors]).sum()

    def _mean(self, error: Tensor, mask: Tensor) -> Tensor:
        if self.average == "examples":
            return over_pairs(error, mask)
        # Keys of padding carry the mask, which both sides set to zero; queries of padding count as they are.
        return (error * mask.float()[:, None, None, :]).mean()


@final
@dataclass(frozen=True)
class ProjectedStates(LayerByLayer):
    """Squared error of the hidden states, the student's through a linear layer (TinyBERT, Jiao et al. 2020, eq. 8).

    The embedding output and layer j of M learn from the teacher's state j * N / M: 0 3 6 9 12 of twelve layers for
    four. One linear layer with bias, which is trained along and then thrown away, maps them all to the teacher's size,
    as in the released code; it is there even where the sizes are equal, and begins as the identity then. It is a sum
    over states.
    """

    name: ClassVar[str] = "projected-hidden-states"
    needs_hidden: ClassVar[bool] = True
    projects: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over states.

        Raises:
            CompresskitError: layers do not match.
        """
        assert teacher is not None
        embedding = student.projected[0], teacher.hidden[0]
        pairs = [embedding, *matched(student.projected[1:], teacher.hidden[1:], self.name)]
        errors = [(ours.float() - theirs.float()).square().mean(dim=-1) for ours, theirs in pairs]
        return torch.stack([over_tokens(error, student.mask) for error in errors]).sum()
