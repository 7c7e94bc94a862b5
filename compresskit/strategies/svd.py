"""Truncated singular value decomposition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from compresskit import Context, Factorizer, hookimpl
from compresskit.errors import SurgeryError


@final
@dataclass(frozen=True)
class Svd(Factorizer):
    """The closest product of two thin matrices in the least-squares sense (Eckart and Young 1936).

    With W = U S V^T and its first r singular vectors, the factors are U_r S_r, which holds all the singular values, and
    V_r^T, whose rows are orthonormal, as COST-EFF's authors have it (Shen et al. 2022, arXiv:2210.15523).
    """

    name: ClassVar[str] = "svd"

    def factor(self, weight: Tensor, rank: int, context: Context) -> tuple[Tensor, Tensor]:
        """(m, rank) and (rank, n), in the weight's precision.

        Raises:
            SurgeryError: the rank is more than the matrix can have.
        """
        rows, columns = weight.shape
        if not 1 <= rank <= min(rows, columns):
            raise SurgeryError(
                f"svd: rank {rank} does not fit a {rows} x {columns} matrix; choose 1 to {min(rows, columns)}"
            )
        # V comes from the n x n matrix W^T W, and U S is W V, so the (m, m) or (m, n) matrix U is never held. Squaring
        # loses half of the digits, which float64 can spare for float32 weights.
        tall = weight.detach().double()
        _, vectors = torch.linalg.eigh(tall.t() @ tall)  # ascending
        right = vectors[:, -rank:].flip(1)  # (n, rank)
        # A singular vector's sign is arbitrary; making its largest entry positive gives the same factors everywhere.
        largest = right.gather(0, right.abs().argmax(dim=0, keepdim=True))
        right = right * torch.where(largest < 0, -1.0, 1.0)
        return (tall @ right).to(weight.dtype), right.t().contiguous().to(weight.dtype)


@hookimpl
def compresskit_strategies() -> Iterable[type[Factorizer]]:
    """This file's strategy."""
    return [Svd]
