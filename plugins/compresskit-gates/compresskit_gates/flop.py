"""FLOP: gates on the ranks of factored matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from compresskit import Masker, Masks, Sizes
from compresskit_gates.gates import GatedModel, HardConcrete


class RankGates(GatedModel):
    """One gate for each number between two factors, of every matrix that has them."""

    def __init__(self, sizes: Sizes, options: Flop) -> None:
        super().__init__(options.sparsity, options.warmup, options.learning_rate)
        self.ranks = nn.ModuleList(
            HardConcrete(split.rank, options.temperature, options.logit) for split in sizes.factored
        )
        self.weights = tuple(split.inputs + split.outputs for split in sizes.factored)

    def sparsity(self) -> Tensor:
        """One less the expected share of the weights; a gate has a column of one factor and a row of the other."""
        left = torch.stack(
            [weight * gate.open().sum() for weight, gate in zip(self.weights, self.gates(), strict=True)]
        )
        whole = sum(weight * len(gate.logits) for weight, gate in zip(self.weights, self.gates(), strict=True))
        return 1 - left.sum() / whole

    def masks(self, number: int, step: int, steps: int) -> Masks:
        """Factors that are drawn anew."""
        return Masks(ranks=tuple(gate.sample() for gate in self.gates()))

    def final(self) -> Masks:
        """What is left, of every matrix at least the likeliest number."""
        return Masks(ranks=tuple(_some(gate) for gate in self.gates()))


def _some(gate: HardConcrete) -> Tensor:
    factors = gate.settled()
    if not bool(factors.any()):
        factors[int(gate.logits.argmax())] = 1.0
    return factors


@final
@dataclass(frozen=True)
class Flop(Masker):
    """Learn which numbers between two factors to cut (FLOP, Wang et al. 2020, arXiv:1910.04732).

    Matrices must be two factors by then, such as `factorize: attention`, `factorize: ffn` and
    `factorize: word-embeddings` make of them: a gate stands between the two for each number of the rank, random in
    training and open with a probability that is learnt, while two multipliers that climb hold the expected sparsity,
    counted over all of these matrices together, at its target. In the end as many are cut as are expected to be closed,
    and what the others let through goes into the weights.

    Args:
        sparsity: part of the weights of all factors to cut.
        warmup: fraction of the training over which the target rises to it.
        temperature: of the hard concrete distribution.
        logit: of every gate at the start; at 0 and a temperature of 1 it is open with a probability of 0.917.
        learning_rate: of gates and multipliers; no schedule moves it.
    """

    name: ClassVar[str] = "flop"

    sparsity: Annotated[float, Field(gt=0, lt=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.3
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    logit: Annotated[float, Field(ge=-4, le=4)] = 0.0
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01

    def build(self, sizes: Sizes) -> RankGates:
        """The gates of a model of these sizes."""
        return RankGates(sizes, self)

    def foresee(self, sizes: Sizes) -> Sizes:
        """All ranks cut alike to the target; where the gates will cut can't be known.

        Raises:
            ValueError: nothing is two factors.
        """
        if not sizes.factored:
            raise ValueError("gates the ranks of factored matrices, and none is; put a factorize step before it")
        left = 1 - self.sparsity
        return replace(
            sizes, factored=tuple(split._replace(rank=max(round(split.rank * left), 1)) for split in sizes.factored)
        )
