"""START HERE. The four things a strategy can be, one abstract method each.

A strategy decides; the core does. A Pruner scores units and removes nothing, a Factorizer splits one matrix, an
ExitPolicy says who may leave, a Distiller measures a distance. A strategy is a frozen dataclass: its fields are its
recipe options (under `with:`), its docstring is its manual page, and it keeps no state between calls.

    @final
    @dataclass(frozen=True)
    class Random(Pruner):
        '''Cut units at random: the floor that every other score must beat.'''

        name: ClassVar[str] = "random"

        def score(self, group, context):
            return torch.rand(group.units, generator=context.generator)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import BoolTensor, Generator, Tensor, nn

from compresskit.anatomy import Group

Batch = Mapping[str, Tensor]
"""Tensors of one batch: `labels` (batch,), `attention_mask` (batch, tokens), and the model's inputs."""


class Context(Protocol):
    """What the core lends to a Pruner or Factorizer while it decides."""

    @property
    def generator(self) -> Generator:
        """The only source of randomness a strategy may use; seeded from the recipe's seed and the step."""
        ...

    def gradient(self, weight: nn.Parameter, reduce: Literal["signed", "absolute"]) -> Tensor:
        """Gradients of the step's loss summed over batches of the training data, shaped like `weight`.

        `signed` is the sum of batch gradients, `absolute` the sum of their absolute values. One pass over the data
        serves all weights and both sums. Only strategies with `needs_data` may call it.
        """
        ...


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Args:
        logits: (batch, classes) per exit, by 1-based layer number; the last layer is always there.
        hidden: embedding output and the output of each layer, (batch, tokens, hidden) each: L + 1 tensors. Empty if
            not recorded.
        mask: (batch, tokens), 1 where there is a token and 0 where there is padding.
    """

    logits: Mapping[int, Tensor]
    hidden: tuple[Tensor, ...]
    mask: Tensor

    @property
    def last(self) -> Tensor:
        """Logits of the last exit."""
        return self.logits[max(self.logits)]


@dataclass(frozen=True)
class ExitTrail:
    """What an ExitPolicy knows about the examples still alive at an exit.

    Args:
        logits: (alive, classes) of each exit met so far, earliest first; the last entry is the exit being decided.
        exits: 1-based layer numbers of those exits.
        depth: number of layers of the model.
    """

    logits: tuple[Tensor, ...]
    exits: tuple[int, ...]
    depth: int


class Strategy(ABC):
    """Common to the four kinds. Fields of the dataclass are the options; `name` is what recipes say after `by:`."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False


class Pruner(Strategy):
    """Ranks the units of a group. It never removes anything; the core does."""

    @abstractmethod
    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) finite numbers; the lowest are cut first."""


class Factorizer(Strategy):
    """Splits one weight matrix into two thin ones."""

    @abstractmethod
    def factor(self, weight: Tensor, rank: int, context: Context) -> tuple[Tensor, Tensor]:
        """(m, rank) and (rank, n) whose product is close to the (m, n) weight."""


class ExitPolicy(Strategy):
    """Decides, at each exit but the last, which examples may leave.

    The answer for one example must not depend on the others.
    """

    @abstractmethod
    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the example may leave here."""


class Distiller(Strategy):
    """Measures how far a student is from its teacher, or from the labels."""

    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = True
    """Without it, training the exit heads alone by this loss would move nothing, and is refused."""
    same_hidden_size: ClassVar[bool] = False
    """A teacher whose hidden states have another size than the student's is refused before any work is done."""

    @abstractmethod
    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar, the mean over the examples of the batch."""


KINDS: dict[str, type[Strategy]] = {
    "pruner": Pruner,
    "factorizer": Factorizer,
    "exit-policy": ExitPolicy,
    "distiller": Distiller,
}


def kind_of(strategy: type[Strategy]) -> str:
    """`pruner`, `factorizer`, `exit-policy` or `distiller`."""
    return next(kind for kind, base in KINDS.items() if issubclass(strategy, base))
