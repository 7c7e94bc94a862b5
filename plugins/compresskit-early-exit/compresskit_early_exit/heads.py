"""What the papers put at an exit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias, cast, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from compresskit import ExitHead

Reads: TypeAlias = Literal["first", "mean"]
"""What a pooler works on: the first token, or the mean of all tokens that are not padding."""


class Pooler(nn.Module):
    """A dense layer as wide as the hidden states and tanh, on the first token as BERT's own pooler, or on the mean."""

    def __init__(self, size: int, reads: Reads = "first") -> None:
        super().__init__()
        self.dense = nn.Linear(size, size)
        self.reads = reads

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, size) and (batch, tokens) to (batch, size)."""
        if self.reads == "first":
            read = hidden[:, 0]
        else:
            weights = mask.to(hidden.dtype).unsqueeze(-1)
            read = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.tanh(self.dense(read))


class OwnPooler(nn.Module):
    """A pooler of its own, dropout, a linear layer."""

    def __init__(self, size: int, classes: int, dropout: float, reads: Reads = "first") -> None:
        super().__init__()
        self.pooler = Pooler(size, reads)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, classes)


class PooledHead(OwnPooler):
    """The logits alone."""

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, size) and (batch, tokens) to (batch, classes)."""
        return cast(Tensor, self.classifier(self.dropout(self.pooler(hidden, mask))))


class CertainHead(OwnPooler):
    """Beside the logits, how likely it is to be wrong, from a layer that all exits share."""

    def forward(self, hidden: Tensor, mask: Tensor, certainty: nn.Linear) -> tuple[Tensor, Tensor]:
        """Logits (batch, classes) and the logit of being wrong (batch,)."""
        pooled = self.dropout(self.pooler(hidden, mask))
        return self.classifier(pooled), certainty(pooled).squeeze(-1)


class SharedPoolerHead(nn.Module):
    """A linear layer on what the pooler of all exits makes of this one's layer."""

    def __init__(self, size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, classes)

    def forward(self, hidden: Tensor, mask: Tensor, pooler: Pooler) -> Tensor:
        """(batch, tokens, size) and (batch, tokens) to (batch, classes)."""
        return cast(Tensor, self.classifier(self.dropout(pooler(hidden, mask))))


class AttentionHead(nn.Module):
    """A narrow self-attention over all tokens, of which the first is read."""

    def __init__(self, size: int, classes: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.narrow = nn.Linear(size, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.dense = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, size) and (batch, tokens) to (batch, classes)."""
        narrow = torch.tanh(self.narrow(hidden))  # (batch, tokens, width)
        query, key, value = (self._split(linear(narrow)) for linear in (self.query, self.key, self.value))
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask.bool()[:, None, None, :])
        out = self.out(seen.transpose(1, 2).flatten(2))
        return cast(Tensor, self.classifier(torch.tanh(self.dense(out[:, 0]))))

    def _split(self, states: Tensor) -> Tensor:
        """(batch, tokens, width) to (batch, heads, tokens, width of a head)."""
        return states.reshape(*states.shape[:-1], self.heads, -1).transpose(1, 2)


@final
@dataclass(frozen=True)
class DenseTanh(ExitHead):
    """A dense layer with tanh on the first token, then a linear layer: a pooler for each exit.

    As in DeeBERT (Xin et al. 2020, arXiv:2004.12993), BERxiT and ElasticBERT. The dense layers begin as copies of the
    model's own pooler at the time of the exit step, where it has one: DeeBERT copies the pre-trained one, so its exit
    step stands before the fine-tuning.

    Args:
        reads: `first` token, as in the papers, or the `mean` of all tokens: for checkpoints whose first token knows
            little.
    """

    name: ClassVar[str] = "dense-tanh"

    reads: Reads = "first"

    def build(self, size: int, classes: int, dropout: float) -> nn.Module:
        """The module of one exit."""
        return PooledHead(size, classes, dropout, self.reads)

    def macs(self, size: int, classes: int, tokens: int) -> int:
        """Those of the dense and of the linear layer."""
        return size * size + size * classes

    def pooler_of(self, module: nn.Module) -> nn.Linear | None:
        """The dense layer."""
        return module.pooler.dense if isinstance(module, OwnPooler) else None


@final
@dataclass(frozen=True)
class LearnedCertainty(ExitHead):
    """As `dense-tanh`, and how likely the exit is to be wrong (Xin et al. 2021, BERxiT, EACL, section 3.3).

    One linear layer that all exits share makes of what an exit has pooled the logit of its being wrong. The loss
    `certainty` teaches it, and the policy `learned` leaves by it.

    Args:
        reads: `first` token, as in the papers, or the `mean` of all tokens: for checkpoints whose first token knows
            little.
    """

    name: ClassVar[str] = "dense-tanh-certain"
    signals: ClassVar[bool] = True

    reads: Reads = "first"

    def build(self, size: int, classes: int, dropout: float) -> nn.Module:
        """The module of one exit."""
        return CertainHead(size, classes, dropout, self.reads)

    def macs(self, size: int, classes: int, tokens: int) -> int:
        """Those of the dense and of the two linear layers."""
        return size * size + size * classes + size

    def build_shared(self, size: int, classes: int, dropout: float) -> nn.Module | None:
        """The layer that tells how likely an exit is to be wrong."""
        return nn.Linear(size, 1)

    def pooler_of(self, module: nn.Module) -> nn.Linear | None:
        """The dense layer."""
        return module.pooler.dense if isinstance(module, OwnPooler) else None


@final
@dataclass(frozen=True)
class SharedDenseTanh(ExitHead):
    """One dense layer with tanh on the first token, shared by all exits, then a linear layer of the exit's own.

    As in PABEE (Zhou et al. 2020, arXiv:2006.04152). The dense layer begins as a copy of the model's own pooler.

    Args:
        reads: `first` token, as in the papers, or the `mean` of all tokens: for checkpoints whose first token knows
            little.
    """

    name: ClassVar[str] = "shared-dense-tanh"

    reads: Reads = "first"

    def build(self, size: int, classes: int, dropout: float) -> nn.Module:
        """The module of one exit."""
        return SharedPoolerHead(size, classes, dropout)

    def macs(self, size: int, classes: int, tokens: int) -> int:
        """Those of the dense layer, which every exit applies anew, and of the linear layer."""
        return size * size + size * classes

    def build_shared(self, size: int, classes: int, dropout: float) -> nn.Module | None:
        """The pooler."""
        return Pooler(size, self.reads)

    def pooler_of(self, module: nn.Module) -> nn.Linear | None:
        """The dense layer that is shared."""
        return module.dense if isinstance(module, Pooler) else None


@final
@dataclass(frozen=True)
class Attention(ExitHead):
    """A narrow self-attention over all tokens, as in FastBERT (Liu et al. 2020, arXiv:2004.02178, released code).

    A linear layer to `width` with tanh, self-attention, then of the first token a dense layer with tanh and a linear
    layer. Padding is not attended to. Nothing is dropped out in training; there some of the attention is. It is no
    small thing beside a narrow layer: count it.

    Args:
        width: of all its layers.
        heads: of the attention; they divide the width.
    """

    name: ClassVar[str] = "attention"

    width: Annotated[int, Field(ge=1)] = 128
    heads: Annotated[int, Field(ge=1)] = 2

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"can't split a width of {self.width} over {self.heads} heads")

    def build(self, size: int, classes: int, dropout: float) -> nn.Module:
        """The module of one exit."""
        return AttentionHead(size, classes, self.width, self.heads)

    def macs(self, size: int, classes: int, tokens: int) -> int:
        """Those of its seven linear layers; products of queries, keys and values left out."""
        each_token = size * self.width + 4 * self.width**2
        return tokens * each_token + self.width**2 + self.width * classes
