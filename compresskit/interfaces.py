"""START HERE. The things a strategy can be, few abstract methods each.

A strategy decides; the core does. A Pruner scores units and removes nothing, a Factorizer splits one matrix, an
ExitPolicy says who may leave, a Distiller measures a distance, an ExitHead builds what an exit reads with, a Masker
says which parts of a model a training uses. A strategy is a frozen dataclass: its fields are its recipe options (under
`with:`), its docstring is its manual page, and it keeps no state between calls.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import BoolTensor, Generator, Tensor, nn

from compresskit.anatomy import Group, Role
from compresskit.errors import PluginError

Batch = Mapping[str, Tensor]
"""Tensors of one batch: `labels` (batch,), `attention_mask` (batch, tokens), and the model's inputs; of training data
`index` too, (batch,), the numbers of the rows."""


Reduce = Literal["signed", "absolute", "squared"]
"""How the gradients of batches are added up: as they are, without their signs, or squared."""


@dataclass(frozen=True)
class UnitTrace:
    """What one batch showed of the units of a group: the numbers that each hands on, and how the loss depends on them.

    A head hands its part of the context to attention-out, a neuron its activation to ffn-out.

    Args:
        outputs: (batch, tokens, units, width), where width is the size of a head, or 1 for neurons; in fp32.
        gradients: of each example's loss with respect to `outputs`, shaped like it; in fp32.
        mask: (batch, tokens), 1 where there is a token and 0 where there is padding, where `outputs` mean nothing.
    """

    outputs: Tensor
    gradients: Tensor
    mask: Tensor


class Context(Protocol):
    """What the core lends to a Pruner or Factorizer while it decides."""

    @property
    def generator(self) -> Generator:
        """The only source of randomness a strategy may use; seeded from the recipe's seed and the step."""
        ...

    def gradient(self, weight: nn.Parameter, reduce: Reduce) -> Tensor:
        """Gradients of the step's loss summed over batches of the training data, shaped like `weight`.

        `signed` is the sum of batch gradients, `absolute` the sum of their absolute values, `squared` that of their
        squares. One pass over the data serves all weights. Only strategies with `needs_data` may call it.
        """
        ...

    def observed(self, group: Group, pruner: Pruner) -> Tensor:
        """(units,) what the pruner's `observe` made of an example of the training data, on average.

        One pass over the data serves all groups. Only strategies with `needs_data` may call it.
        """
        ...


class Projections(NamedTuple):
    """What one layer's attention works with.

    Args:
        query, key, value: (batch, heads, tokens, size) each.
    """

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class Bank:
    """What one or several frozen models made of every training row.

    Args:
        features: (models, rows, size), the first token's last hidden state, in half precision, in the processor's
            memory; rows as `index` of a batch numbers them.
        labels: (rows,).
    """

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Args:
        logits: (batch, classes) per exit, by 1-based layer number; the last layer is always there.
        hidden: embedding output and the output of each layer, (batch, tokens, hidden) each: L + 1 tensors. Empty if
            not recorded.
        mask: (batch, tokens), 1 where there is a token and 0 where there is padding.
        signals: (batch,) per exit, what heads that say more than logits say; empty for all others.
        step, steps: of the training, from 0: how many optimizer steps came before, and how many there are in all.
        attention: of each layer, if recorded.
        projected: the hidden states in the teacher's size, by a linear layer that is trained along and then thrown
            away; only of a student, and only for a distiller that says `projects`.
        alive: positions in `hidden` of the outputs of layers that add something by now: whose attention and FFN are not
            both cut or masked out.
        banks: those that the recipe names for the loss, by name; only of a student, and only for a distiller that says
            `needs_banks`.
        ran: for each layer of the model, whether this pass ran it and `hidden` has its output; () stands for all.
    """

    logits: Mapping[int, Tensor]
    hidden: tuple[Tensor, ...]
    mask: Tensor
    signals: Mapping[int, Tensor] = field(default_factory=dict)
    step: int = 0
    attention: tuple[Projections, ...] = ()
    projected: tuple[Tensor, ...] = ()
    alive: tuple[int, ...] = ()
    banks: Mapping[str, Bank] = field(default_factory=dict)
    steps: int = 1
    ran: tuple[bool, ...] = ()

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
        signals: (alive,) of each exit met so far, where the heads say more than logits; empty where they don't.
    """

    logits: tuple[Tensor, ...]
    exits: tuple[int, ...]
    depth: int
    signals: tuple[Tensor, ...] = ()


class Factored(NamedTuple):
    """A matrix of a layer, (inputs, outputs), or the word embedding, (words, size), that is two factors of a rank.

    `role` says which matrix of its layer it is; None stands for the word embedding.
    """

    rank: int
    inputs: int
    outputs: int
    role: Role | None = None


@dataclass(frozen=True)
class Sizes:
    """How large a model is, for a Masker.

    Args:
        heads, neurons: of each layer.
        head_size: entries of one head.
        hidden: width of the hidden states.
        factored: what is two factors: the word embedding, then the matrices of each layer, from its queries' to its
            FFN's last; what is whole is not in it.
        exits: whether there are exits already, which are made for hidden states of this width.
        inner: widths of the states inside a layer that heads and neurons read and write, and that values are made
            from; None where both are those of the hidden states.
    """

    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    head_size: int
    hidden: int
    factored: tuple[Factored, ...] = ()
    exits: bool = False
    inner: tuple[int, int] | None = None

    @property
    def head_weights(self) -> int:
        """Entries of matrices that one head owns where all of them are whole."""
        width, values = self.inner or (self.hidden, self.hidden)
        return (3 * width + values) * self.head_size

    @property
    def neuron_weights(self) -> int:
        """Likewise, of one neuron."""
        return 2 * (self.inner or (self.hidden,))[0]


@dataclass(frozen=True)
class Masks:
    """What one pass uses of a model: 1 is whole, 0 not at all, between them a part. None and () stand for all of it.

    Args:
        layers: for each layer, whether it runs; the others are passed over as if they were not there.
        attention, ffn: (layers,) factors on what a layer's attention or FFN adds to the hidden states, bias included.
        heads, neurons: for each layer, (units,) factors on what they put out.
        hidden: (hidden size,) factors on the hidden states after each layer norm, which is taken over the dimensions
            whose factor is not 0.
        ranks: for each entry of `Sizes.factored`, (rank,) factors on the numbers between the two.
    """

    layers: tuple[bool, ...] = ()
    attention: Tensor | None = None
    ffn: Tensor | None = None
    heads: tuple[Tensor, ...] = ()
    neurons: tuple[Tensor, ...] = ()
    hidden: Tensor | None = None
    ranks: tuple[Tensor, ...] = ()


class MaskModule(nn.Module, ABC):
    """What a Masker builds for one training. Randomness comes from torch's global generator, as dropout's does."""

    passes: int = 1
    """How many forward and backward passes each batch makes before the optimizer's step; their gradients add up."""

    @abstractmethod
    def masks(self, number: int, step: int, steps: int) -> Masks:
        """What a pass uses of the model.

        Args:
            number: of the pass, from 0.
            step: of the training, from 0; of `steps`.
        """

    def penalty(self, step: int, steps: int) -> Tensor | None:
        """A scalar, added once to the loss of each batch; None where nothing is."""
        return None

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups of this module's own parameters: `params`, `lr`, and `maximize` where they ascend.

        Their learning rates stay as they are, and their gradients are not clipped.
        """
        return []

    def final(self) -> Masks | None:
        """What is left of the model in the end: what is 0 is cut, and other factors go into the weights. None: all."""
        return None


class Strategy(ABC):
    """Common to all kinds. Fields of the dataclass are the options; `name` is what recipes say after `by:`."""

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False


class Pruner(Strategy):
    """Ranks the units of a group. It never removes anything; the core does."""

    @abstractmethod
    def score(self, group: Group, context: Context) -> Tensor:
        """(units,) finite numbers; the lowest are cut first."""

    def observe(self, trace: UnitTrace) -> Tensor:
        """(batch, units) what each example shows of each unit; only for a `score` that asks for `context.observed`."""
        raise PluginError(f"pruner '{self.name}' asks for context.observed; give it an `observe` method")


class Factorizer(Strategy):
    """Splits one weight matrix into two thin ones."""

    @abstractmethod
    def factor(self, weight: Tensor, rank: int, context: Context) -> tuple[Tensor, Tensor]:
        """(m, rank) and (rank, n) whose product is close to the (m, n) weight."""


class ExitPolicy(Strategy):
    """Decides, at each exit but the last, which examples may leave.

    The answer for one example must not depend on the others.
    """

    dial: ClassVar[str] = "threshold"
    """The option that trades accuracy for speed, over which `evaluate` sweeps."""

    def settings(self, classes: int, depth: int) -> Sequence[float] | None:
        """Values of the dial worth trying, the earliest leaving first; None for the usual thresholds of entropies."""
        return None

    @abstractmethod
    def leave(self, trail: ExitTrail) -> BoolTensor:
        """(alive,) True where the example may leave here."""


class Distiller(Strategy):
    """Measures how far a student is from its teacher, or from the labels."""

    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False
    """Whether it looks at queries, keys and values; a teacher's are computed anew for every batch."""
    projects: ClassVar[bool] = False
    """Whether it looks at `student.projected`. All hidden states share one linear layer; between states of equal size
    it begins as the identity."""
    needs_banks: ClassVar[bool] = False
    """Whether it looks at `student.banks`, which recipes name beside the loss: `{weight: 0.3, banks: [original]}`. What
    it draws from them it draws with torch's global generator, so that a resumed training draws the same."""
    needs_logits: ClassVar[bool] = True
    """Without it, training the exit heads alone by this loss would move nothing, and is refused."""
    needs_classes: ClassVar[bool] = False
    """Regression is refused before any work is done."""
    same_hidden_size: ClassVar[bool] = False
    """A teacher, or a bank's model, whose hidden states have another size than the student's is refused before any
    work is done."""

    def check(self, student: Sizes, teacher: Sizes) -> None:
        """Refuse what can't be compared, before any work is done.

        Args:
            student, teacher: as the plan foresees them.

        Raises:
            ValueError: what is wrong with the teacher, and what to do; told after the names of both.
        """
        if self.same_hidden_size and student.hidden != teacher.hidden:
            raise ValueError(
                f"its hidden states have {teacher.hidden} numbers and not {student.hidden}; distil by predictions "
                "alone, or from a teacher of the same hidden size"
            )

    @abstractmethod
    def loss(self, student: Trace, teacher: Trace | None, batch: Batch) -> Tensor:
        """A scalar, the mean over the examples of the batch."""


class ExitHead(Strategy):
    """Reads an answer off one layer's output.

    It builds a module that the core calls with the layer's output (batch, tokens, hidden) and the mask (batch, tokens),
    and with what `build_shared` made, where it made something. The module returns logits (batch, classes), or with
    `signals` logits and one number an example, (batch,).
    """

    signals: ClassVar[bool] = False
    """Whether its modules say a number beside the logits, for exit policies and losses that know what it means."""

    @abstractmethod
    def build(self, size: int, classes: int, dropout: float) -> nn.Module:
        """The module of one exit, for hidden states of that size."""

    @abstractmethod
    def macs(self, size: int, classes: int, tokens: int) -> int:
        """Multiply-accumulates in the weight matrices that one exit applies to one example of so many tokens."""

    def build_shared(self, size: int, classes: int, dropout: float) -> nn.Module | None:
        """A module that all exits use, or None."""
        return None

    def pooler_of(self, module: nn.Module) -> nn.Linear | None:
        """A dense layer in what was built, (size) to (size), that begins as a copy of the original's pooler."""
        return None


class Masker(Strategy):
    """Trains parts of a model in place of the whole: sub-networks of it, or all of it through gates that learn."""

    @abstractmethod
    def build(self, sizes: Sizes) -> MaskModule:
        """The module that says which parts, for a model of these sizes."""

    def layers_run(self, layers: int) -> Sequence[int]:
        """How many layers a pass may run, of so many; all of them where none is passed over."""
        return (layers,)

    def narrows(self) -> bool:
        """Whether it may cut dimensions of the hidden states, of which `foresee` can't say how many."""
        return False

    def least_steps(self) -> int:
        """Fewer optimizer steps than these are refused before any work is done."""
        return 1

    def foresee(self, sizes: Sizes) -> Sizes:
        """About what will be left of a model of these sizes, for a plan; all of it where nothing is cut.

        Raises:
            ValueError: it can't be applied to such a model; told beside the step's place in the recipe.
        """
        return sizes


KINDS: dict[str, type[Strategy]] = {
    "pruner": Pruner,
    "factorizer": Factorizer,
    "exit-policy": ExitPolicy,
    "distiller": Distiller,
    "exit-head": ExitHead,
    "masker": Masker,
}


def kind_of(strategy: type[Strategy]) -> str:
    """A key of `KINDS`."""
    return next(kind for kind, base in KINDS.items() if issubclass(strategy, base))
