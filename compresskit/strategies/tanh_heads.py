"""Exit heads that pool a layer's output, apply tanh, and then a linear layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from compresskit import ExitHead, hookimpl


class TanhHead(nn.Module):
    """tanh of what is pooled, dropout, a linear layer; no dense layer between."""

    def __init__(self, size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, classes)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, size) and (batch, tokens) to (batch, classes)."""
        return cast(Tensor, self.classifier(self.dropout(torch.tanh(self.pool(hidden, mask)))))

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The first token, (batch, size)."""
        return hidden[:, 0]


class MeanTanhHead(TanhHead):
    """The same, of the mean."""

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The mean over the tokens that are not padding, (batch, size)."""
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


@final
@dataclass(frozen=True)
class ClsTanh(ExitHead):
    """tanh of the first token, then a linear layer (Shen et al. 2022, arXiv:2210.15523, released code)."""

    name: ClassVar[str] = "cls-tanh"

    def build(self, size: int, classes: int, dropout: float) -> nn.Module:
        """The module of one exit."""
        return TanhHead(size, classes, dropout)

    def macs(self, size: int, classes: int, tokens: int) -> int:
        """Those of the linear layer."""
        return size * classes


@final
@dataclass(frozen=True)
class MeanTanh(ExitHead):
    """tanh of the mean of all tokens, then a linear layer: for checkpoints whose first token knows little."""

    name: ClassVar[str] = "mean-tanh"

    def build(self, size: int, classes: int, dropout: float) -> nn.Module:
        """The module of one exit."""
        return MeanTanhHead(size, classes, dropout)

    def macs(self, size: int, classes: int, tokens: int) -> int:
        """Those of the linear layer."""
        return size * classes


@hookimpl
def compresskit_strategies() -> Iterable[type[ExitHead]]:
    """This file's strategies."""
    return [ClsTanh, MeanTanh]
