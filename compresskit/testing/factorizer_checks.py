"""What every Factorizer must do, on small matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from compresskit.interfaces import Factorizer
from compresskit.scoring import ScoreContext
from compresskit.testing.requirements import like, other_luck, require, same

SIZES = ((40, 8), (8, 8), (8, 20))
"""Taller than wide, as word embeddings are, square, and wider than tall, as the last matrix of an FFN is."""

CLOSE = 1e-4
"""Of the largest entry: what fp32 may lose."""


def checks() -> Iterator[tuple[str, Callable[[Factorizer], None]]]:
    """Every check with its name."""
    for check in (has_thin_factors, loses_nothing_at_full_rank, decides_by_the_generator_alone, changes_nothing):
        yield check.__name__, check


def has_thin_factors(factorizer: Factorizer) -> None:
    """(m, rank) and (rank, n), finite, in the weight's precision, at every rank."""
    for rows, columns in SIZES:
        for rank in range(1, min(rows, columns) + 1):
            factors = _factor(factorizer, like((rows, columns), seed=1), rank)
            shapes = [tuple(factor.shape) for factor in factors]
            require(
                shapes == [(rows, rank), (rank, columns)],
                type(factorizer),
                f"returns factors of shapes {shapes} for rank {rank} of ({rows}, {columns})",
            )
            sound = all(factor.dtype == torch.float32 and bool(torch.isfinite(factor).all()) for factor in factors)
            require(sound, type(factorizer), f"returns factors that are not finite float32 at rank {rank}")


def loses_nothing_at_full_rank(factorizer: Factorizer) -> None:
    """The product is the weight again."""
    for rows, columns in SIZES:
        weight = like((rows, columns), seed=2)
        left, right = _factor(factorizer, weight, min(rows, columns))
        lost = float((left @ right - weight).abs().max() / weight.abs().max())
        require(lost < CLOSE, type(factorizer), f"loses {lost:.2g} of a ({rows}, {columns}) matrix at full rank")


def decides_by_the_generator_alone(factorizer: Factorizer) -> None:
    """The same weight and seed of `context.generator` give the same factors, whatever torch's own state is."""
    found = []
    for luck in (1, 2):
        with other_luck(luck):
            found.append(_factor(factorizer, like((40, 8), seed=3), 3))
    require(
        all(same(one, other) for one, other in zip(*found, strict=True)),
        type(factorizer),
        "factors otherwise the second time; draw from context.generator and keep no state",
    )


def changes_nothing(factorizer: Factorizer) -> None:
    """The weight is the core's to replace."""
    weight = like((40, 8), seed=4)
    before = weight.clone()
    _factor(factorizer, weight, 3)
    require(same(weight, before), type(factorizer), "changes the weight that it is given; work on a copy")


def _factor(factorizer: Factorizer, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    return factorizer.factor(weight, rank, ScoreContext(Generator().manual_seed(0), None))
