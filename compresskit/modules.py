"""The small modules that compression leaves behind: factored matrices, no heads, and a rescaled gradient."""

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


class FactorizedLinear(nn.Module):
    """A linear layer as a map (inputs, R) without bias and one (R, outputs) with its bias."""

    def __init__(self, inputs: int, rank: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.reduce = nn.Linear(inputs, rank, bias=False)
        self.expand = nn.Linear(rank, outputs, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return cast(Tensor, self.expand(self.reduce(hidden)))

    def product(self) -> Tensor:
        """The (outputs, inputs) matrix that the factors stand for."""
        return self.expand.weight @ self.reduce.weight

    def merged(self) -> nn.Linear:
        """One linear layer in place of the two."""
        weight, bias = self.product().detach(), self.expand.bias
        whole = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).to(weight)
        with torch.no_grad():
            whole.weight.copy_(weight)
            if bias is not None:
                whole.bias.copy_(bias)
        return whole


class NoHeads(nn.Module):
    """Stands where a layer's attention was once it has no heads: each token gets what the matrix after them adds alone.

    It keeps the parts of the attention that it replaces under their names, with matrices as thin as they come, so that
    paths into the layer stay true. transformers' own can't split nothing into heads.

    Args:
        attention: what it replaces.
        out: name in it of the matrix that reads the heads, where that is in it.
    """

    def __init__(self, attention: nn.Module, out: str | None) -> None:
        super().__init__()
        for name, part in attention.named_children():
            self.add_module(name, part)
        self.out = out

    def forward(self, hidden: Tensor, *others: Any, **more: Any) -> tuple[Tensor, None]:
        """(batch, tokens, hidden) to (batch, tokens, 0), or where the last matrix is in it to what that makes of it."""
        nothing = hidden.new_zeros((*hidden.shape[:-1], 0))
        return (nothing if self.out is None else self.get_submodule(self.out)(nothing)), None
