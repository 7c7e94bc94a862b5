"""CoFi: gates from whole attentions down to single neurons, and the layers that learn from the teacher's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import floor
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from compresskit import Batch, CompresskitError, Distiller, Masker, Masks, Sizes, Trace
from compresskit_gates.gates import LEAST, GatedModel, HardConcrete, how_open


class Granularities(GatedModel):
    """Gates on the hidden dimensions, and on the attention, the heads, the FFN and the neurons of each layer."""

    def __init__(self, sizes: Sizes, options: CoFi) -> None:
        super().__init__(options.sparsity, options.warmup, options.learning_rate)
        self.sizes = sizes
        self.free = options.free_steps
        self.depth = len(sizes.heads)
        beta, alpha = options.temperature, options.logit
        self.hidden = HardConcrete(sizes.hidden, beta, alpha) if options.hidden else None
        self.attention, self.ffn = HardConcrete(self.depth, beta, alpha), HardConcrete(self.depth, beta, alpha)
        self.heads = HardConcrete(sum(sizes.heads), beta, alpha)
        self.neurons = HardConcrete(sum(sizes.neurons), beta, options.neuron_logit)

    def sparsity(self) -> Tensor:
        """One less the expected share of the weights of attention and FFN, biases left out on both sides of the ratio.

        A weight is there where its hidden dimension, its unit and its unit's half of the layer all are.
        """
        hidden = torch.ones(()) * self.sizes.hidden if self.hidden is None else self.hidden.open().sum()
        heads = self._by_layer(self.heads.open(), self.sizes.heads)
        neurons = self._by_layer(self.neurons.open(), self.sizes.neurons)
        head, neuron = self.sizes.head_weights, self.sizes.neuron_weights
        units = (self.attention.open() * heads * head + self.ffn.open() * neurons * neuron).sum()
        dense = sum(self.sizes.heads) * head + sum(self.sizes.neurons) * neuron
        return 1 - hidden * units / (self.sizes.hidden * dense)

    def hold(self) -> None:
        """Bring all logits back between their limits."""
        for gate in self.gates():
            gate.hold()

    def masks(self, number: int, step: int, steps: int) -> Masks:
        """Factors that are drawn anew, but in the first steps, in which all of the model learns."""
        self.hold()
        return Masks() if step < self.free else self._masks([gate.sample() for gate in self._each()])

    def penalty(self, step: int, steps: int) -> Tensor:
        """What the constraint adds to the loss, once gates are drawn at all; its target rises from there."""
        if step < self.free:
            return 0 * super().penalty(step, steps)
        return super().penalty(step - self.free, max(steps - self.free, 1))

    def final(self) -> Masks:
        """What is left."""
        self.hold()
        factors = [gate.settled() for gate in self._each()]
        if self.hidden is not None and not bool(factors[4].any()):
            factors[4][int(self.hidden.logits.argmax())] = 1.0
        self._keep_some(factors)
        return self._masks(factors)

    def _keep_some(self, factors: list[Tensor]) -> None:
        """Where every attention and every FFN would go, the likeliest FFN stays with its likeliest neuron.

        Where no FFN has neurons any more, the likeliest attention stays with its likeliest head.
        """
        masks = self._masks(factors)
        pairs = ((factors[0], masks.heads), (factors[1], masks.neurons))
        if any(
            bool(whole[layer]) and bool(units[layer].any()) for whole, units in pairs for layer in range(self.depth)
        ):
            return
        ffns = any(self.sizes.neurons)
        counts = self.sizes.neurons if ffns else self.sizes.heads
        wholes, parts = (self.ffn, self.neurons) if ffns else (self.attention, self.heads)
        whole, units = pairs[1 if ffns else 0]
        layer = max((layer for layer in range(self.depth) if counts[layer]), key=lambda one: float(wholes.logits[one]))
        whole[layer] = 1.0
        logits = torch.split(parts.logits, list(counts))[layer]
        units[layer][int(logits.argmax())] = 1.0

    def _each(self) -> list[HardConcrete]:
        last = [] if self.hidden is None else [self.hidden]
        return [self.attention, self.ffn, self.heads, self.neurons, *last]

    def _masks(self, factors: list[Tensor]) -> Masks:
        attention, ffn, heads, neurons = factors[:4]
        return Masks(
            attention=attention,
            ffn=ffn,
            heads=torch.split(heads, list(self.sizes.heads)),
            neurons=torch.split(neurons, list(self.sizes.neurons)),
            hidden=None if self.hidden is None else factors[4],
        )

    def _by_layer(self, units: Tensor, counts: tuple[int, ...]) -> Tensor:
        return torch.stack([part.sum() for part in torch.split(units, list(counts))])


@final
@dataclass(frozen=True)
class CoFi(Masker):
    """Learn what to cut at five granularities at once (CoFi, Xia et al. 2022, arXiv:2204.00408).

    Whole attentions and FFNs, heads, neurons, and dimensions of the hidden states get gates, random in training and
    open with probabilities that are learnt, while two multipliers that climb hold the expected sparsity at its target.
    In the end as many as are expected to be closed are cut, and what the others let through goes into the weights. It
    goes with `distill` by `predictions` and `layer-match`. No exits may be there yet, as they are made for hidden
    states of one width, unless `hidden` is false.

    Args:
        sparsity: part of the weights of attention and FFN to cut; the embeddings are not counted.
        warmup: fraction of the training over which the target rises to it.
        hidden: whether the hidden states have gates.
        free_steps: steps at the start in which nothing is gated.
        temperature: of the hard concrete distribution.
        logit: of the gates at the start, brought down to ln 100 at once.
        neuron_logit: of those of neurons.
        learning_rate: of gates and multipliers; no schedule moves it.
    """

    name: ClassVar[str] = "cofi"

    sparsity: Annotated[float, Field(gt=0, lt=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    hidden: bool = True
    free_steps: Annotated[int, Field(ge=0)] = 100
    temperature: Annotated[float, Field(gt=0, le=2)] = 2 / 3
    logit: Annotated[float, Field(allow_inf_nan=False)] = 10.0
    neuron_logit: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01

    def build(self, sizes: Sizes) -> Granularities:
        """The gates of a model of these sizes."""
        return Granularities(sizes, self)

    def narrows(self) -> bool:
        """Where hidden states have gates."""
        return self.hidden

    def least_steps(self) -> int:
        """Gates must be drawn at least once."""
        return self.free_steps + 1

    def foresee(self, sizes: Sizes) -> Sizes:
        """Heads and neurons cut alike in every layer to the target; where the gates will cut can't be known.

        Raises:
            ValueError: there are exits, and hidden states have gates; or matrices are two factors; or gates can't be
                closed as often as the sparsity asks for.
        """
        least = float(how_open(torch.tensor(LEAST), self.temperature))
        most = 1 - least ** (3 if self.hidden else 2)
        if self.sparsity > most:
            limit = f"{floor(most * 1e4) / 1e4:g} at most with temperature {self.temperature:g}"
            raise ValueError(f"reaches a sparsity of {limit}, not {self.sparsity:g}; lower either")
        if any(split.role for split in sizes.factored):
            raise ValueError("counts the weights of whole matrices; factorize attention and FFN after it")
        if sizes.exits and self.hidden:
            raise ValueError(
                "cuts hidden states, which the exits that are there read; put the exit step after it, "
                "or set its option 'hidden' to false"
            )
        left = 1 - self.sparsity
        heads, neurons = (tuple(round(count * left) for count in counts) for counts in (sizes.heads, sizes.neurons))
        return replace(sizes, heads=heads, neurons=neurons)


@final
@dataclass(frozen=True)
class LayerMatch(Distiller):
    """Some of the teacher's layers, each learnt by the layer that is nearest to it (Xia et al. 2022, section 3.2).

    From the deepest teacher's layer up to the first, each is matched with that layer of the student whose output,
    through a linear layer that is trained along and begins as the identity, is nearest; below the match before it, and
    only among those that still add something. Where none is left, a teacher's layer teaches nobody.

    Args:
        layers: the teacher's, counted from 1; every third of twelve where nothing is said, and as many of others.
    """

    name: ClassVar[str] = "layer-match"
    projects: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False

    layers: tuple[Annotated[int, Field(ge=1)], ...] = ()

    def __post_init__(self) -> None:
        if any(one >= next_ for one, next_ in pairwise(self.layers)):
            raise ValueError("needs layers in rising order")

    def check(self, student: Sizes, teacher: Sizes) -> None:
        """Layers that the teacher has.

        Raises:
            ValueError: it hasn't.
        """
        if self.layers and self.layers[-1] > len(teacher.heads):
            raise ValueError(f"layer {self.layers[-1]} is not one of its {len(teacher.heads)}; correct 'layers'")

    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar: mean over examples, sum over the teacher's layers that are matched.

        Raises:
            CompresskitError: the teacher has no such layer.
        """
        assert teacher is not None
        deep = len(teacher.hidden) - 1
        taught = self.layers or tuple(sorted({max((2 * deep * part + 4) // 8, 1) for part in range(1, 5)}))
        if taught[-1] > deep:
            raise CompresskitError(
                f"layer-match: layer {taught[-1]} is not one of the teacher's {deep}; correct 'layers'"
            )
        near = {place: [self._away(student, place, teacher, layer) for layer in taught] for place in student.alive}
        matched, below = [], len(student.projected)
        for column in reversed(range(len(taught))):
            candidates = [place for place in near if place < below]
            if not candidates:
                break
            below = min(candidates, key=lambda place: float(near[place][column].detach()))
            matched.append(near[below][column])
        return torch.stack(matched).sum() if matched else student.projected[0].sum() * 0

    def _away(self, student: Trace, place: int, teacher: Trace, layer: int) -> Tensor:
        """The mean squared difference over a text's tokens, then over texts."""
        error = (student.projected[place].float() - teacher.hidden[layer].float()).square().mean(dim=-1)
        mask = student.mask.float()
        return ((error * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
