"""FLOP: gates on the rank of a factored matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import Tensor

from compresskit import Masker, Masks, Sizes
from compresskit_gates.gates import GatedModel, HardConcrete


class RankGates(GatedModel):
    """One gate for each number between the two factors of the word embedding."""

    def __init__(self, rank: int, options: Flop) -> None:
        super().__init__(options.sparsity, options.warmup, options.learning_rate)
        self.rank = HardConcrete(rank, options.temperature, options.logit)

    def sparsity(self) -> Tensor:
        """Every gate stands for as many parameters, a column of one factor and a row of the other."""
        return 1 - self.rank.open().mean()

    def masks(self, number: int, step: int, steps: int) -> Masks:
        """Factors that are drawn anew."""
        self.hold()
        return Masks(rank=self.rank.sample())

    def final(self) -> Masks:
        """What is left, at least the likeliest."""
        self.hold()
        factors = self.rank.settled()
        if not bool(factors.any()):
            factors[int(self.rank.logits.argmax())] = 1.0
        return Masks(rank=factors)


@final
@dataclass(frozen=True)
class Flop(Masker):
    """Learn which numbers between two factors to cut (FLOP, Wang et al. 2020, arXiv:1910.04732).

    The word embedding must be two factors by then, such as `factorize: word-embeddings` at its full rank makes of it: a
    gate stands between them for each number of the rank, random in training and open with a probability that is learnt,
    while two multipliers that climb hold the expected sparsity at its target. In the end as many as are expected to be
    closed are cut, and what the others let through goes into the weights. The authors gate every matrix of their models
    so; here it is the word embedding.

    Args:
        sparsity: part of the rank to cut.
        warmup: fraction of the training over which the target rises to it.
        temperature: of the hard concrete distribution.
        logit: of every gate at the start.
        learning_rate: of gates and multipliers; no schedule moves it.
    """

    name: ClassVar[str] = "flop"

    sparsity: Annotated[float, Field(gt=0, lt=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.3
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    logit: Annotated[float, Field(ge=-4, le=4)] = 2.2
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01

    def build(self, sizes: Sizes) -> RankGates:
        """The gates of a model of these sizes."""
        assert sizes.rank is not None
        return RankGates(sizes.rank, self)

    def foresee(self, sizes: Sizes) -> Sizes:
        """As much of the rank as the target leaves.

        Raises:
            ValueError: there is no rank.
        """
        if sizes.rank is None:
            raise ValueError("gates the rank of the word embedding, which is one table; put a factorize step before it")
        return replace(sizes, rank=max(round(sizes.rank * (1 - self.sparsity)), 1))
