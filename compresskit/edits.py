"""The records of what was done to a model, their JSON form, and what each does to a model's shape.

Edits are data: they can be printed, saved, and replayed on the original by `surgery.perform`. `shape.after(edit)` needs
no weights, which is how a plan foresees cost and how a checkpoint is rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

from compresskit.anatomy import ATTENTION, FFN, ROLES, Role, UnitTarget
from compresskit.catalogue import build, load_catalogue, options_of
from compresskit.errors import CheckpointError, RecipeError
from compresskit.interfaces import ExitHead


@dataclass(frozen=True)
class LayerShape:
    """How large a layer is.

    Args:
        heads, neurons: how many it has.
        ranks: of its matrices, in the order of `ROLES`, with None for one that is whole; empty where all are.
    """

    heads: int
    neurons: int
    ranks: tuple[int | None, ...] = ()

    def rank(self, role: Role) -> int | None:
        """Of one matrix, or None where it is whole."""
        return self.ranks[ROLES.index(role)] if self.ranks else None

    def with_units(self, target: UnitTarget, count: int) -> LayerShape:
        """The same layer with so many heads or neurons. Matrices of which nothing is left have no factors either."""
        left = replace(self, heads=count) if target == "heads" else replace(self, neurons=count)
        gone = () if count else ATTENTION if target == "heads" else FFN
        return replace(left, ranks=_some(None if name in gone else self.rank(name) for name in ROLES))

    def with_rank(self, role: Role, rank: int) -> LayerShape:
        """The same layer with one matrix as two factors of that rank."""
        return replace(self, ranks=_some(rank if name == role else self.rank(name) for name in ROLES))


@dataclass(frozen=True)
class Shape:
    """Everything about a model's size that edits can change.

    Args:
        layers: one entry per layer.
        rank: of the factored word embedding, or None where it is one table.
        exits: 1-based numbers of the layers that have an exit head; empty where the original read-out answers alone.
        head: what the exits read with, or None without exits.
        read_out: whether the original's own read-out (pooler, classifier) is still there. With exits it answers at the
            last layer.
        owners: for each layer the 0-based position of the one whose weights it uses, itself or an earlier one; empty
            where each has its own.
        embedding: width of the embedding tables and their norm, where a linear layer with bias leads from them to the
            hidden states; None where they are as in the original.
        hidden: width of the hidden states, or None where it is the original's.
    """

    layers: tuple[LayerShape, ...]
    rank: int | None = None
    exits: tuple[int, ...] = ()
    head: ExitHead | None = None
    read_out: bool = True
    owners: tuple[int, ...] = ()
    embedding: int | None = None
    hidden: int | None = None

    def after(self, edit: Edit) -> Shape:
        """The shape once `edit` is performed."""
        return edit.reshape(self)

    @property
    def factored(self) -> tuple[FactorizeEmbedding | FactorizeMatrix, ...]:
        """What is two factors, as the edits that split it: the word embedding, then matrices from the first layer."""
        embedding = () if self.rank is None else (FactorizeEmbedding(self.rank),)
        return embedding + tuple(
            FactorizeMatrix(index, role, rank)
            for index, layer in enumerate(self.layers)
            for role in ROLES
            if (rank := layer.rank(role)) is not None
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {
            "heads": [layer.heads for layer in self.layers],
            "neurons": [layer.neurons for layer in self.layers],
            "rank": self.rank,
            "exits": list(self.exits),
            "head": None if self.head is None else head_to_json(self.head),
            "read_out": self.read_out,
            # Left out of a shape that has none, so that it reads as it did before there were any.
            **({"owners": list(self.owners)} if self.owners else {}),
            **({} if self.embedding is None else {"embedding": self.embedding}),
            **({} if self.hidden is None else {"hidden": self.hidden}),
            **(
                {"ranks": [list(layer.ranks) for layer in self.layers]} if any(one.ranks for one in self.layers) else {}
            ),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Shape:
        """Read what `to_json` wrote."""
        ranks = data.get("ranks", [()] * len(data["heads"]))
        return Shape(
            tuple(LayerShape(h, n, tuple(r)) for h, n, r in zip(data["heads"], data["neurons"], ranks, strict=True)),
            data["rank"],
            tuple(data["exits"]),
            None if data["head"] is None else head_from_json(data["head"]),
            data["read_out"],
            tuple(data.get("owners", ())),
            data.get("embedding"),
            data.get("hidden"),
        )


@dataclass(frozen=True)
class CutHeads:
    """Keep these heads of a layer, numbered as they are before the cut, ascending; none where its attention goes."""

    kind: ClassVar[str] = "cut-heads"
    layer: int
    keep: tuple[int, ...]

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the cut."""
        return _with_layer(shape, self.layer, shape.layers[self.layer].with_units("heads", len(self.keep)))


@dataclass(frozen=True)
class CutNeurons:
    """Keep these FFN neurons of a layer, numbered as they are before the cut, ascending; none where its FFN goes."""

    kind: ClassVar[str] = "cut-neurons"
    layer: int
    keep: tuple[int, ...]

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the cut."""
        return _with_layer(shape, self.layer, shape.layers[self.layer].with_units("neurons", len(self.keep)))


@dataclass(frozen=True)
class OrderUnits:
    """Number the heads or neurons of a layer anew: first what is listed first. Nothing is cut."""

    kind: ClassVar[str] = "order-units"
    target: Literal["heads", "neurons"]
    layer: int
    order: tuple[int, ...]

    def reshape(self, shape: Shape) -> Shape:
        """The same shape."""
        return shape


@dataclass(frozen=True)
class CutLayers:
    """Keep these layers, 0-based as they are before the cut, ascending."""

    kind: ClassVar[str] = "cut-layers"
    keep: tuple[int, ...]

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the cut; exits stay with their layers, and the last layer always answers."""
        exits = tuple(new + 1 for new, old in enumerate(self.keep) if old + 1 in shape.exits)
        if shape.exits and len(self.keep) not in exits:
            exits += (len(self.keep),)
        layers = tuple(shape.layers[i] for i in self.keep)
        # Of the layers that share weights, the first that stays owns them.
        old = [shape.owners[i] for i in self.keep] if shape.owners else []
        return replace(shape, layers=layers, exits=exits, owners=_shared([old.index(owner) for owner in old]))


@dataclass(frozen=True)
class ShareLayers:
    """Let each layer use the weights of its owner (0-based), which begin as the mean of all that do, or the first's."""

    kind: ClassVar[str] = "share-layers"
    owners: tuple[int, ...]
    start: Literal["mean", "first"]

    def reshape(self, shape: Shape) -> Shape:
        """Shape with shared layers; as it was where each layer owns its weights."""
        return replace(shape, owners=_shared(self.owners))


@dataclass(frozen=True)
class CutHidden:
    """Keep these dimensions of the hidden states, numbered as they are before the cut, ascending."""

    kind: ClassVar[str] = "cut-hidden"
    keep: tuple[int, ...]

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the cut."""
        return replace(shape, hidden=len(self.keep))


@dataclass(frozen=True)
class CutRank:
    """Keep these of the numbers between the two factors of the word embedding, ascending."""

    kind: ClassVar[str] = "cut-rank"
    keep: tuple[int, ...]

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the cut."""
        return replace(shape, rank=len(self.keep))


@dataclass(frozen=True)
class CutMatrixRank:
    """Keep these of the numbers between the two factors of a layer's matrix, ascending."""

    kind: ClassVar[str] = "cut-matrix-rank"
    layer: int
    role: Role
    keep: tuple[int, ...]

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the cut."""
        return _with_layer(shape, self.layer, shape.layers[self.layer].with_rank(self.role, len(self.keep)))


@dataclass(frozen=True)
class FactorizeMatrix:
    """Replace a layer's matrix, whole or two factors already, by two factors of this rank."""

    kind: ClassVar[str] = "factorize-matrix"
    layer: int
    role: Role
    rank: int

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the factorization."""
        return _with_layer(shape, self.layer, shape.layers[self.layer].with_rank(self.role, self.rank))


@dataclass(frozen=True)
class FactorizeEmbedding:
    """Replace the word embedding, one table or two factors already, by two factors of this rank."""

    kind: ClassVar[str] = "factorize-embedding"
    rank: int

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the factorization."""
        return replace(shape, rank=self.rank)


@dataclass(frozen=True)
class ProjectEmbeddings:
    """Bring all embedding tables and their norm to this width, and lead from there to the hidden states."""

    kind: ClassVar[str] = "project-embeddings"
    rank: int

    def reshape(self, shape: Shape) -> Shape:
        """Shape after the projection."""
        return replace(shape, embedding=self.rank)


@dataclass(frozen=True)
class AddExits:
    """Put an exit head after each of these layers (1-based). With `read_out` the original's own is the last."""

    kind: ClassVar[str] = "add-exits"
    layers: tuple[int, ...]
    head: ExitHead
    read_out: bool

    def reshape(self, shape: Shape) -> Shape:
        """Shape with the exits."""
        return replace(shape, exits=self.layers, head=self.head, read_out=self.read_out)


Edit: TypeAlias = (
    CutHeads
    | CutNeurons
    | OrderUnits
    | CutLayers
    | ShareLayers
    | CutHidden
    | CutRank
    | CutMatrixRank
    | FactorizeMatrix
    | FactorizeEmbedding
    | ProjectEmbeddings
    | AddExits
)

EDITS: dict[str, type[Edit]] = {edit.kind: edit for edit in get_args(Edit)}


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """`{"edit": "cut-heads", "layer": 3, "keep": [0, 2, 5]}`."""
    return {"edit": edit.kind} | {field.name: _to_json(getattr(edit, field.name)) for field in fields(edit)}


def _to_json(value: Any) -> Any:
    if isinstance(value, ExitHead):
        return head_to_json(value)
    return list(value) if isinstance(value, tuple) else value


def head_to_json(head: ExitHead) -> Any:
    """As a recipe names it: `cls-tanh`, or `{"attention": {"width": 128}}` where there are options."""
    options = options_of(type(head)).dump_python(head, mode="json")
    return {head.name: options} if options else head.name


def head_from_json(data: Any) -> ExitHead:
    """Read what `head_to_json` wrote.

    Raises:
        CheckpointError: no installed plugin knows the head, or not with these options.
    """
    name, options = next(iter(data.items())) if isinstance(data, Mapping) else (data, {})
    try:
        return cast(ExitHead, build(load_catalogue().strategy("exit-head", name), options))
    except RecipeError as error:
        raise CheckpointError(f"the exit heads can't be built: {error}; install the plugin they come from") from error


def edit_from_json(data: Mapping[str, Any]) -> Edit:
    """Read what `edit_to_json` wrote; what a record adds to it, such as the number of the step, is passed over.

    Raises:
        CheckpointError: the edit is of a kind that this version does not know, or lacks a field.
    """
    kind = data.get("edit")
    if kind not in EDITS:
        raise CheckpointError(
            f"unknown edit '{kind}' (known: {', '.join(sorted(EDITS))}); update compresskit to read it"
        )
    given: dict[str, Any] = {}
    for field in fields(EDITS[kind]):
        if field.name not in data:
            raise CheckpointError(f"edit '{kind}' has no '{field.name}'; its file is damaged, copy the folder again")
        value = data[field.name]
        if field.name == "head":
            value = head_from_json(value)
        given[field.name] = tuple(value) if isinstance(value, list) else value
    made: Edit = EDITS[kind](**given)
    return made


def _some(ranks: Iterable[int | None]) -> tuple[int | None, ...]:
    """The ranks, or nothing where every matrix is whole."""
    given = tuple(ranks)
    return given if any(given) else ()


def _shared(owners: Sequence[int]) -> tuple[int, ...]:
    """The owners, or nothing where each layer is its own."""
    return tuple(owners) if len(set(owners)) < len(owners) else ()


def _with_layer(shape: Shape, layer: int, changed: LayerShape) -> Shape:
    return replace(shape, layers=(*shape.layers[:layer], changed, *shape.layers[layer + 1 :]))
