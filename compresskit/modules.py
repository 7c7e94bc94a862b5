"""The small modules that compression leaves behind: the factored embedding and a rescaled gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx


class ScaleGradient(torch.autograd.Function):
    """Identity forward; multiplies the gradient backward (Li et al. 2019, gradient equilibrium)."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, factor: float) -> Tensor:
        """Remember the factor."""
        ctx.factor = factor  # type: ignore[attr-defined]
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Scale what flows back."""
        return gradients[0] * ctx.factor, None


def scale_gradient(hidden: Tensor, factor: float) -> Tensor:
    """`hidden` unchanged; its gradient times `factor`."""
    if factor == 1:
        return hidden
    return cast(Tensor, ScaleGradient.apply(hidden, factor))  # type: ignore[no-untyped-call]


class FactorizedEmbedding(nn.Module):
    """A word embedding as a thin table (V, R) and a map (R, H) without bias (Shen et al. 2022, section 3.1)."""

    def __init__(self, words: int, rank: int, size: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(words, rank, padding_idx=padding_idx)
        self.expand = nn.Linear(rank, size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(...,) token ids to (..., H)."""
        return cast(Tensor, self.expand(self.table(ids)))

    def product(self) -> Tensor:
        """The (V, H) table that the factors stand for."""
        return self.table.weight @ self.expand.weight.t()
