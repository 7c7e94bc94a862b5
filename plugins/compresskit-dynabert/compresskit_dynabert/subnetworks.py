"""The sub-networks of DynaBERT: so much of the width, so much of the depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import floor
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from compresskit import (
    Batch,
    CompresskitError,
    Context,
    Distiller,
    Group,
    Masker,
    MaskModule,
    Masks,
    Pruner,
    Sizes,
    Trace,
    UnitTrace,
)

Part = Annotated[float, Field(gt=0, le=1)]


def kept_layers(depth: int, part: float) -> tuple[int, ...]:
    """0-based layers of a sub-network of so much of the depth: floor(i / part), as in the released code."""
    return tuple(floor(index / part) for index in range(round(depth * part)))


class SubNetworks(MaskModule):
    """One pass for each width at each depth, the largest first."""

    def __init__(self, sizes: Sizes, widths: tuple[float, ...], depths: tuple[float, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.parts = list(product(sorted(depths, reverse=True), sorted(widths, reverse=True)))
        self.passes = len(self.parts)

    def masks(self, number: int, step: int, steps: int) -> Masks:
        """The first units of each layer, and the layers that stay."""
        depth, width = self.parts[number]
        layers = len(self.sizes.heads)
        kept = kept_layers(layers, depth)
        return Masks(
            layers=tuple(index in kept for index in range(layers)),
            heads=tuple(first(count, width) for count in self.sizes.heads),
            neurons=tuple(first(count, width) for count in self.sizes.neurons),
        )


def first(count: int, part: float) -> Tensor:
    """(count,) 1 for the first ones, as many as `prune` keeps for that fraction, and 0 for the others."""
    return (torch.arange(count) < max(floor(count * Fraction(repr(part)) + Fraction(1, 2)), 1)).float()


@final
@dataclass(frozen=True)
class DynaBert(Masker):
    """Train sub-networks of several widths and depths together (DynaBERT, Hou et al. 2020, arXiv:2004.04037).

    Each batch goes through every width at every depth, the largest first, and their gradients add up before the
    optimizer's step. A width takes the first of each layer's heads and neurons, so `rewire` comes before, which puts
    the best first. A depth of m takes layers floor(i / m): 0 1 2 4 5 6 8 9 10 of twelve for 0.75. Nothing is cut: any
    of them can be cut out later, by `prune` with `by: first`.

    Args:
        widths: parts of the heads and neurons of each layer.
        depths: parts of the layers.
    """

    name: ClassVar[str] = "dynabert"

    widths: Annotated[tuple[Part, ...], Field(min_length=1)] = (1.0, 0.75, 0.5, 0.25)
    depths: Annotated[tuple[Part, ...], Field(min_length=1)] = (1.0,)

    def layers_run(self, layers: int) -> Sequence[int]:
        """Those of each depth."""
        return [len(kept_layers(layers, depth)) for depth in self.depths]

    def build(self, sizes: Sizes) -> SubNetworks:
        """One pass for each sub-network."""
        return SubNetworks(sizes, self.widths, self.depths)

    def foresee(self, sizes: Sizes) -> Sizes:
        """All of it.

        Raises:
            ValueError: a depth leaves no layer.
        """
        layers = len(sizes.heads)
        for depth in self.depths:
            if not kept_layers(layers, depth):
                raise ValueError(f"has a depth of {depth:g}, which leaves none of {layers} layers; leave it out")
        return sizes


def taught_states(student: Trace, layers: int) -> list[int]:
    """Of a teacher of so many layers, the state from which each of the student's learns, the embeddings' being 0.

    From the trace, which knows what the mask ran: a depth can't be told from the number of states, 5 layers of twelve
    being 0 2 5 7 10 for 0.4 and 0 2 4 7 9 for 5/12.
    """
    ran = student.ran or (True,) * (len(student.hidden) - 1)
    begun = [index * layers // len(ran) for index, run in enumerate(ran) if run]
    return [*begun, layers] if begun else [0]


@final
@dataclass(frozen=True)
class KeptStates(Distiller):
    """Squared error of the hidden states of a sub-network (DynaBERT, Hou et al. 2020, equations 4 and 6).

    What each layer that runs begins from learns from what the same layer of the teacher begins from, and the last state
    from the teacher's last: 0 1 2 4 5 6 8 9 10 12 of twelve layers for a depth of 0.75. For a student of M layers and a
    teacher of N, the same layer as i is floor(i N / M). It is a sum over states.
    """

    name: ClassVar[str] = "kept-states"
    needs_hidden: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    same_hidden_size: ClassVar[bool] = True

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over an example's tokens, then over examples, sum over states.

        Raises:
            CompresskitError: the teacher's hidden states are of another size.
        """
        assert teacher is not None
        if student.hidden[0].shape != teacher.hidden[0].shape:
            raise CompresskitError(
                "kept-states: the teacher's hidden states are of another size than the student's; distil by "
                "predictions alone, or from a teacher of the same hidden size"
            )
        taught = taught_states(student, len(teacher.hidden) - 1)
        mask = student.mask.float()
        tokens = mask.sum(dim=1).clamp(min=1)
        errors = [
            (hidden.float() - teacher.hidden[place].float()).square().mean(dim=-1)
            for hidden, place in zip(student.hidden, taught, strict=True)
        ]
        return torch.stack([((error * mask).sum(dim=1) / tokens).mean() for error in errors]).sum()


@final
@dataclass(frozen=True)
class SlopeOfGates(Pruner):
    """Keep the units on whose gate the loss hangs most (DynaBERT, Hou et al. 2020, arXiv:2004.04037, section 2.1).

    |d loss / d gate| for a gate of 1 on what a unit puts out, for each example on its own, averaged over examples of
    the training data. The released code takes absolute values of whole batches, lets gradients of earlier batches run
    on into the later ones, and looks at the evaluation data; for neurons it adds the same on their inputs.
    """

    name: ClassVar[str] = "gate-slope"
    needs_data: ClassVar[bool] = True

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) importance."""
        return context.observed(group, self)

    def observe(self, trace: UnitTrace) -> Tensor:
        """(batch, units) importance for each example."""
        products = (trace.outputs * trace.gradients).sum(dim=-1) * trace.mask[:, :, None]
        return products.sum(dim=1).abs()


@final
@dataclass(frozen=True)
class First(Pruner):
    """Keep the first units: after `rewire` the best, and in a DynaBERT those of its sub-networks."""

    name: ClassVar[str] = "first"

    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) the more the earlier."""
        return -torch.arange(group.units, dtype=torch.float32)
