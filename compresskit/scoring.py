"""What the core lends to a Pruner or Factorizer: randomness, and the gradients of a loss over the training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from compresskit.anatomy import Group, Member, UnitTarget, groups
from compresskit.batches import Collate, Encoded
from compresskit.errors import PluginError
from compresskit.interfaces import Batch, Pruner, Reduce, UnitTrace
from compresskit.losses import Losses, needs_attention, needs_hidden, switched_on, total
from compresskit.model import CompressedForSequenceClassification
from compresskit.run import Run
from compresskit.runtime.processor import quick_gradients
from compresskit.teachers import Teacher

Sums = dict[int, Tensor]
"""Sums of gradients by the `id` of their weight."""
Sights = dict[tuple[UnitTarget, int], Tensor]
"""(units,) what was seen of the units of each target and layer, on average over the examples."""


class Measure(Protocol):
    """Passes over the training data; each pass sees the same rows."""

    def gradients(self, reduce: Reduce) -> Sums:
        """Sums over batches of the gradient of every unit's weights."""
        ...

    def sights(self, pruner: Pruner) -> Sights:
        """What the pruner's `observe` makes of an example, on average, for every group."""
        ...


class ScoreContext:
    """The `Context` of one step. Each pass over the data is made at the first request for what it shows."""

    def __init__(self, generator: Generator, measure: Measure | None) -> None:
        self._generator = generator
        self._measure = measure
        self._sums: dict[Reduce, Sums] = {}
        self._sights: dict[Pruner, Sights] = {}

    @property
    def generator(self) -> Generator:
        """Seeded from the recipe's seed and the step."""
        return self._generator

    def gradient(self, weight: nn.Parameter, reduce: Reduce) -> Tensor:
        """See `interfaces.Context`.

        Raises:
            PluginError: the strategy does not say that it needs data, or the weight belongs to no unit.
        """
        if reduce not in self._sums:
            self._sums[reduce] = self._data("gradients").gradients(reduce)
        sums = self._sums[reduce]
        if id(weight) not in sums:
            raise PluginError("a strategy asks for the gradient of a weight that is no unit's; use the group's members")
        return sums[id(weight)]

    def observed(self, group: Group, pruner: Pruner) -> Tensor:
        """See `interfaces.Context`.

        Raises:
            PluginError: the strategy does not say that it needs data, or its `observe` returns another shape.
        """
        if pruner not in self._sights:
            self._sights[pruner] = self._data("what units put out").sights(pruner)
        return self._sights[pruner][group.target, group.layer]

    def _data(self, what: str) -> Measure:
        if self._measure is None:
            raise PluginError(f"a strategy asks for {what} but does not say `needs_data = True`; add it to its class")
        return self._measure


@dataclass(frozen=True)
class Scoring:
    """Passes of gradients over rows drawn once (Shen et al. 2022, section 3.2, and the released code's Taylor pass).

    Args:
        model: dropout is off while it is measured, gradient equilibrium as asked.
        rows, collate: the training data.
        losses, teacher: the loss whose gradients are summed.
        portion: of the rows drawn, with replacement.
        batch_size: a short last batch is skipped. Sums of batch-mean gradients depend on it.
        exits: layers whose exits count.
        generator: draws the rows, at the first pass.
    """

    model: CompressedForSequenceClassification
    rows: Encoded
    collate: Collate
    losses: Losses
    teacher: Teacher | None
    portion: float
    batch_size: int
    exits: tuple[int, ...]
    gradient_equilibrium: bool
    run: Run
    generator: Generator

    @cached_property
    def order(self) -> list[list[int]]:
        """Whole batches of row numbers, drawn with replacement and sorted by length so that little is padded."""
        count = max(int(len(self.rows) * self.portion), 1)
        size = min(self.batch_size, count)
        # Cut to whole batches before sorting; afterwards it would always be the longest texts that are skipped.
        whole = count // size * size
        drawn = torch.randint(len(self.rows), (whole,), generator=self.generator).tolist()
        drawn.sort(key=lambda index: (self.rows.lengths[index], index))
        return [drawn[start : start + size] for start in range(0, whole, size)]

    def gradients(self, reduce: Reduce) -> Sums:
        """Sums over batches of the gradient of every unit's weights."""
        weights = [member.linear.weight for group in self._groups() for member in group.members]
        sums = [torch.zeros_like(weight) for weight in weights]

        def add(batch: Batch, gradients: Sequence[Tensor]) -> None:
            for place, gradient in enumerate(gradients):
                sums[place] += REDUCTIONS[reduce](gradient)

        self._each_batch(weights, add)
        return {id(weight): amount for weight, amount in zip(weights, sums, strict=True)}

    def sights(self, pruner: Pruner) -> Sights:
        """What the pruner's `observe` makes of an example, on average, for every group."""
        watched = self._groups()
        found = [torch.zeros(group.units, device=self.run.device) for group in watched]
        with listening([_reader(group).linear for group in watched]) as heard:

            def look(batch: Batch, gradients: Sequence[Tensor]) -> None:
                for place, group in enumerate(watched):
                    seen = _seen(pruner, group, heard[place], gradients[place], batch["attention_mask"])
                    found[place] += seen

            self._each_batch(heard, look)
        examples = sum(len(indices) for indices in self.order)
        return {(group.target, group.layer): sums / examples for group, sums in zip(watched, found, strict=True)}

    def _groups(self) -> list[Group]:
        targets: tuple[UnitTarget, ...] = ("heads", "neurons")
        every = (group for target in targets for group in groups(self.model.anatomy, self.model.network, target))
        return [group for group in every if group.units]

    def _each_batch(self, sources: Sequence[Tensor], take: Callable[[Batch, Sequence[Tensor]], None]) -> None:
        """Hand over each batch with the gradients of its loss with respect to the sources after its forward pass."""
        processor = quick_gradients(self.model, self.run.device)
        with still(self.model), processor, self.run.progress.task("measuring importance", len(self.order)) as task:
            for indices in self.order:
                batch = self._batch(indices)
                loss = self._loss(batch)
                take(batch, torch.autograd.grad(loss, list(sources)))
                task.advance()

    def _batch(self, indices: Sequence[int]) -> Batch:
        rows = self.collate([self.rows[index] for index in indices])
        return {name: tensor.to(self.run.device) for name, tensor in rows.items()}

    def _loss(self, batch: Batch) -> Tensor:
        with self.run.autocast():
            recorded = needs_hidden(self.losses), self.exits, self.gradient_equilibrium, needs_attention(self.losses)
            trace = self.model.trace(batch, *recorded)
        student = replace(trace, logits={n: z.float() for n, z in trace.logits.items()})
        return total(switched_on(self.losses, 1.0), student, self.teacher, batch)


REDUCTIONS: dict[Reduce, Callable[[Tensor], Tensor]] = {
    "signed": lambda gradient: gradient,
    "absolute": torch.abs,
    "squared": torch.square,
}


def _reader(group: Group) -> Member:
    """The matrix that reads what the units put out."""
    return next(member for member in group.members if member.dim == 1)


def _seen(pruner: Pruner, group: Group, outputs: Tensor, gradients: Tensor, mask: Tensor) -> Tensor:
    """(units,) what the pruner sees of a group in a batch, added up over its examples."""
    parts = (*mask.shape, group.units, _reader(group).width)
    # The loss is the mean over the batch, so an example's own is that many times as steep.
    trace = UnitTrace(
        outputs.detach().float().reshape(parts), gradients.float().reshape(parts) * len(mask), mask.float()
    )
    seen = pruner.observe(trace)
    if seen.shape != (len(mask), group.units):
        raise PluginError(
            f"pruner '{pruner.name}' must observe one number for each of {len(mask)} examples and {group.units} "
            f"{group.target}, not a tensor of shape {tuple(seen.shape)}; correct its observe method"
        )
    return seen.sum(dim=0)


@contextmanager
def listening(linears: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What goes into these modules in the latest forward pass, in their order."""
    heard: list[Tensor] = [torch.empty(0)] * len(linears)

    def listen(place: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            heard[place] = inputs[0]

        return hook

    hooks = [module.register_forward_pre_hook(listen(place)) for place, module in enumerate(linears)]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while: no dropout."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
