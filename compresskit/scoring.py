"""What the core lends to a Pruner or Factorizer: randomness, and the gradients of a loss over the training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from compresskit.anatomy import UnitTarget, groups
from compresskit.batches import Collate, Encoded
from compresskit.errors import PluginError
from compresskit.interfaces import Trace
from compresskit.losses import Losses, needs_hidden, switched_on, total
from compresskit.model import CompressedForSequenceClassification
from compresskit.run import Run
from compresskit.runtime.processor import quick_gradients
from compresskit.teachers import Teacher

Sums = dict[int, Tensor]
"""Sums of gradients by the `id` of their weight."""


class ScoreContext:
    """The `Context` of one step. Gradients are computed at the first request, in one pass for all weights and sums."""

    def __init__(self, generator: Generator, measure: Callable[[], tuple[Sums, Sums]] | None) -> None:
        self._generator = generator
        self._measure = measure
        self._sums: tuple[Sums, Sums] | None = None

    @property
    def generator(self) -> Generator:
        """Seeded from the recipe's seed and the step."""
        return self._generator

    def gradient(self, weight: nn.Parameter, reduce: Literal["signed", "absolute"]) -> Tensor:
        """See `interfaces.Context`.

        Raises:
            PluginError: the strategy does not say that it needs data, or the weight belongs to no unit.
        """
        if self._measure is None:
            raise PluginError("a strategy asks for gradients but does not say `needs_data = True`; add it to its class")
        if self._sums is None:
            self._sums = self._measure()
        sums = self._sums[0 if reduce == "signed" else 1]
        if id(weight) not in sums:
            raise PluginError("a strategy asks for the gradient of a weight that is no unit's; use the group's members")
        return sums[id(weight)]


@dataclass(frozen=True)
class Scoring:
    """One pass of gradients (Shen et al. 2022, section 3.2, and the released code's Taylor pass).

    Args:
        model: dropout is off while it is measured, gradient equilibrium as asked.
        rows, collate: the training data.
        losses, teacher: the loss whose gradients are summed.
        portion: of the rows drawn, with replacement.
        batch_size: a short last batch is skipped. Sums of batch-mean gradients depend on it.
        exits: layers whose exits count.
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

    def draw(self, generator: Generator) -> list[list[int]]:
        """Whole batches of row numbers, drawn with replacement and sorted by length so that little is padded."""
        count = max(int(len(self.rows) * self.portion), 1)
        size = min(self.batch_size, count)
        # Cut to whole batches before sorting; afterwards it would always be the longest texts that are skipped.
        whole = count // size * size
        drawn = torch.randint(len(self.rows), (whole,), generator=generator).tolist()
        drawn.sort(key=lambda index: (self.rows.lengths[index], index))
        return [drawn[start : start + size] for start in range(0, whole, size)]

    def measure(self, generator: Generator) -> tuple[Sums, Sums]:
        """Signed and absolute sums over batches of the gradient of every unit's weights."""
        targets: tuple[UnitTarget, ...] = ("heads", "neurons")
        weights = [
            member.linear.weight
            for target in targets
            for group in groups(self.model.anatomy, self.model.network, target)
            for member in group.members
        ]
        signed = [torch.zeros_like(weight) for weight in weights]
        absolute = [torch.zeros_like(weight) for weight in weights]
        order = self.draw(generator)
        processor = quick_gradients(self.model, self.run.device)
        with still(self.model), processor, self.run.progress.task("measuring importance", len(order)) as task:
            for indices in order:
                loss = self._loss(indices)
                for place, gradient in enumerate(torch.autograd.grad(loss, weights)):
                    signed[place] += gradient
                    absolute[place] += gradient.abs()
                task.advance()
        return _by_id(weights, signed), _by_id(weights, absolute)

    def _loss(self, indices: Sequence[int]) -> Tensor:
        batch = {
            name: tensor.to(self.run.device) for name, tensor in self.collate([self.rows[i] for i in indices]).items()
        }
        with self.run.autocast():
            trace = self.model.trace(batch, needs_hidden(self.losses), self.exits, self.gradient_equilibrium)
        student = Trace({n: z.float() for n, z in trace.logits.items()}, trace.hidden, trace.mask)
        return total(switched_on(self.losses, 1.0), student, self.teacher, batch)


def _by_id(weights: Sequence[Tensor], sums: Sequence[Tensor]) -> Sums:
    return {id(weight): amount for weight, amount in zip(weights, sums, strict=True)}


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while: no dropout."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
