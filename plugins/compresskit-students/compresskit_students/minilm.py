"""Self-attention relations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from compresskit import Batch, CompresskitError, Distiller, Projections, Sizes, Trace


def relations(layer: Projections, heads: int, mask: Tensor) -> Tensor:
    """(3, batch, heads, tokens, tokens) log probabilities: queries with queries, keys with keys, values with values.

    The vectors of all attention heads are put together and split anew into `heads`, so that student and teacher may
    have different numbers of heads and different sizes.
    """
    parts = []
    for part in layer:
        whole = part.float().transpose(1, 2).flatten(2)  # (batch, tokens, width)
        try:
            check_width(whole.shape[-1], heads)
        except ValueError as error:
            raise CompresskitError(f"relations: {error}") from error
        split = whole.reshape(*whole.shape[:2], heads, -1).transpose(1, 2)
        related = split @ split.transpose(-1, -2) / split.shape[-1] ** 0.5
        parts.append(related.masked_fill(mask[:, None, None, :] == 0, torch.finfo(related.dtype).min))
    return torch.log_softmax(torch.stack(parts), dim=-1)


def check_width(width: int, heads: int) -> None:
    """Raise ValueError where that many relation heads can't share a width, or there is none to share."""
    if not width:
        raise ValueError(
            "a layer without attention heads has no relations; "
            "keep some in the student's last layer, and choose a teacher's 'layer' with some"
        )
    if width % heads:
        raise ValueError(
            f"{heads} relation heads can't share {width} dimensions; "
            "choose a number that divides the widths of student and teacher"
        )


@final
@dataclass(frozen=True)
class Relations(Distiller):
    """Relations among queries, keys and values of one layer (MiniLMv2, Wang et al. 2021, arXiv:2012.15828, eq. 5).

    The divergence KL(teacher || student) of softmax(Q Q^T / sqrt(d)), and likewise for K and V, averaged over relation
    heads and the queries of a text's tokens, then over texts; a sum over the three. The student's last layer learns
    from one of the teacher's. Numbers of heads and sizes may differ.

    Args:
        heads: relation heads, which divide both widths.
        layer: of the teacher, counted from 1; 0 is its last. The paper takes one below the last of large teachers.
    """

    name: ClassVar[str] = "relations"
    needs_attention: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False

    heads: Annotated[int, Field(ge=1)] = 12
    layer: Annotated[int, Field(ge=0)] = 0

    def check(self, student: Sizes, teacher: Sizes) -> None:
        """A layer that the teacher has, and widths that the relation heads can share.

        Raises:
            ValueError: it hasn't, or they can't.
        """
        if self.layer > len(teacher.heads):
            raise ValueError(f"it has {len(teacher.heads)} layers and no layer {self.layer}; correct 'layer'")
        check_width(student.heads[-1] * student.head_size, self.heads)
        check_width(teacher.heads[self.layer - 1] * teacher.head_size, self.heads)

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over the three relations.

        Raises:
            CompresskitError: the heads do not divide a width, or the teacher has no such layer.
        """
        assert teacher is not None
        if self.layer > len(teacher.attention):
            raise CompresskitError(
                f"relations: the teacher has {len(teacher.attention)} layers and no layer {self.layer}"
            )
        ours = relations(student.attention[-1], self.heads, student.mask)
        theirs = relations(teacher.attention[self.layer - 1], self.heads, student.mask)
        apart = (theirs.exp() * (theirs - ours)).sum(dim=-1).mean(dim=2)  # (3, batch, tokens)
        mask = student.mask.float()
        return ((apart * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)).mean(dim=-1).sum()
