"""The verbs of a recipe, as the core reads them: one frozen model for each, with its strategies built.

Field aliases are the recipe's keys (`prune: heads` is `Prune.target`). The docstring under a field is its entry in the
reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PlainValidator, ValidationInfo, field_validator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from compresskit.anatomy import ATTENTION, FFN, Role
from compresskit.catalogue import build, load_catalogue
from compresskit.interfaces import Distiller, ExitHead, ExitPolicy, Factorizer, Masker, Pruner, Strategy
from compresskit.wording import show

ORIGINAL = "original"
"""Stands for the checkpoint as it was given, where a recipe names banks and a run its saved models."""

Exits: TypeAlias = Literal["all", "last"]
AMOUNT = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "string", "pattern": r"^[0-9]+/[0-9]+$"},
    ]
}
NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "uniqueItems": True}
ANYTHING = WithJsonSchema({})


def parse_amount(value: object) -> int | Fraction:
    """A count (1, 2, ...) or a fraction between 0 and 1 (0.5, `1/6`), kept exactly.

    Raises:
        ValueError: it is neither; read after the option's name.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    fraction: Fraction | None = None
    if isinstance(value, Fraction):
        fraction = value
    elif isinstance(value, str) and (match := re.fullmatch(r"(\d+)/(\d+)", value.replace(" ", ""))) and int(match[2]):
        fraction = Fraction(int(match[1]), int(match[2]))
    elif isinstance(value, float) and 0 < value < 1:
        fraction = Fraction(repr(value))
    if fraction is None or not 0 < fraction < 1:
        raise ValueError(
            f"must be a count from 1 or a fraction between 0 and 1 (such as 0.5 or 1/6), not {show(value)}"
        )
    return fraction


def parse_layers(value: object) -> tuple[int, ...]:
    """Numbers of layers, counted from 1, sorted.

    Raises:
        ValueError: it is no list of different whole numbers from 1.
    """
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise ValueError(f"must be a list of different layer numbers, counted from 1, not {show(value)}")
    return tuple(sorted(numbers))


def parse_exits(value: object) -> Literal["all"] | tuple[int, ...]:
    """`all`, or the numbers of the layers that get an exit."""
    if value == "all":
        return "all"
    if not isinstance(value, (list, tuple)):
        # pydantic turns a ValueError into a complaint about the field, and a TypeError into a crash.
        raise ValueError(f"must be 'all' or a list of layer numbers such as [2, 4, 6], not {show(value)}")  # noqa: TRY004
    return parse_layers(value)


Amount: TypeAlias = Annotated[int | Fraction, PlainValidator(parse_amount), WithJsonSchema(AMOUNT)]
ExitLayers: TypeAlias = Annotated[
    Literal["all"] | tuple[int, ...],
    PlainValidator(parse_exits),
    WithJsonSchema({"anyOf": [{"const": "all"}, NUMBERS]}),
]


@dataclass(frozen=True)
class Loss:
    """One term of what a step minimizes.

    Args:
        distiller: measures the term.
        weight: the term's factor.
        after: fraction of the step's training after which the term is on.
        banks: models that the term compares the student with: names that earlier steps saved, model folders, or
            `original`, the checkpoint as it was given; for distillers that need banks, and for no others.
    """

    distiller: Distiller
    weight: float = 1.0
    after: float = 0.0
    banks: tuple[str, ...] = ()


Losses: TypeAlias = Annotated[dict[str, InstanceOf[Loss]], ANYTHING]
"""Terms by the name of their distiller, in the recipe's order."""


def _usual_head() -> ExitHead:
    return cast(ExitHead, build(load_catalogue().strategy("exit-head", "cls-tanh"), {}))


class Verb(BaseModel):
    """What all verbs share. `line` and `label` say where the step stands in the recipe."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )
    name: ClassVar[str]
    slots: ClassVar[dict[str, str]] = {}
    """Keys that name one strategy, with its kind."""
    parts: ClassVar[dict[str, str]] = {}
    """Keys that name one strategy, with its options below its name, and its kind: `head: {attention: {width: 128}}`."""
    losses: ClassVar[tuple[str, ...]] = ()
    """Keys that name losses."""

    line: int = 0
    label: str = ""

    def __eq__(self, other: object) -> bool:
        """Equal steps may stand on different lines."""
        if not isinstance(other, Verb) or type(self) is not type(other):
            return NotImplemented
        return {**dict(self), "line": 0} == {**dict(other), "line": 0}

    __hash__ = None  # type: ignore[assignment]  # losses are a mapping

    @classmethod
    def options(cls) -> dict[str, str]:
        """Recipe key to field name, the verb itself first, then who decides."""
        names = {field.alias or key: key for key, field in cls.model_fields.items() if key not in ("line", "label")}
        return {
            key: names[key] for key in sorted(names, key=lambda key: (key != getattr(cls, "name", None), key != "by"))
        }

    def strategies(self) -> list[Strategy]:
        """Every strategy that decides something in this step."""
        found: list[Strategy] = []
        for value in dict(self).values():
            if isinstance(value, Strategy):
                found.append(value)
            elif isinstance(value, dict):
                found += [loss.distiller for loss in value.values()]
        return found


class Training(Verb):
    """The options of every verb that trains."""

    parts: ClassVar[dict[str, str]] = {"mask": "masker"}

    epochs: float = Field(gt=0)
    """Passes over the training data; a fraction trains on part of it."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Highest learning rate of AdamW."""
    batch_size: int = Field(default=32, ge=1)
    """Examples per batch, over all processes."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Parts that a batch is computed in, to save memory."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the step's training over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay; not applied to biases and layer norms."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """How the learning rate goes on after the warm-up."""
    exits: Exits = "all"
    """Exits whose losses count."""
    train: Literal["all", "layers", "exits", "shallow-exits"] = "all"
    """Parameters that move: all, or all but those of the embeddings and of a linear layer after them (`layers`), or
    those of the exit heads alone (`exits`), or of every exit head but the last layer's (`shallow-exits`)."""
    gradient_equilibrium: bool = True
    """Give each layer the mean, not the sum, of the gradients of the exits above it; acts only with several exits."""
    exit_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate of the exit heads, where it is not `learning_rate`."""
    restore: float = Field(default=0.0, ge=0)
    """Inside a repeat, multiply the learning rate by (1 + restore) ** round, rounds counted from 1."""
    mask: Annotated[Masker | None, ANYTHING] = None
    """Parts of the model that are trained in place of the whole, or gates that learn what to cut: a masker's name, or
    the name with its options below it."""
    rewind: bool = False
    """Begin from the original's weights, with those units cut that are cut by now."""
    save_as: str | None = None
    """Name under which later steps may take the model as a teacher or in a bank."""


class Finetune(Training):
    """Train without a teacher. Skipped where the checkpoint's head is trained already, unless `when: always`."""

    name: ClassVar[str] = "finetune"
    losses: ClassVar[tuple[str, ...]] = ("by",)

    by: Losses = {}
    """The terms of the loss, none of which needs a teacher; `labels` where nothing is said."""
    when: Literal["untrained", "always"] = "untrained"
    """Whether to train a checkpoint whose head is trained already."""
    save_as: str | None = "teacher"
    """Name under which later steps may take the model as a teacher or in a bank; bound though the step be skipped."""


class Exit(Verb):
    """Put exits after layers, and say who may leave there."""

    name: ClassVar[str] = "exit"
    slots: ClassVar[dict[str, str]] = {"by": "exit-policy"}
    parts: ClassVar[dict[str, str]] = {"head": "exit-head"}

    layers: ExitLayers = Field(alias="exit")
    """Layers that get an exit, counted from 1, the last one among them; or `all`."""
    by: Annotated[ExitPolicy, ANYTHING]
    """Exit policy."""
    head: Annotated[ExitHead, ANYTHING] = Field(default_factory=_usual_head)
    """How an exit reads its layer: a head's name, or the name with its options below it; `cls-tanh` by default."""
    pooler: Literal["remove", "keep"] = "remove"
    """Whether the original's own read-out is replaced at the last layer or goes on answering there."""
    start: Literal["current", "original"] = "current"
    """Weights to go on from: those of now, or the original's as they were given."""


class Scored(Verb):
    """The options of every verb that scores units."""

    slots: ClassVar[dict[str, str]] = {"by": "pruner"}
    losses: ClassVar[tuple[str, ...]] = ("loss",)

    if TYPE_CHECKING:
        target: str  # each verb's own, and of its own type
    teacher: str | None = None
    """Saved name or folder of the teacher that the loss needs."""
    loss: Losses = {}
    """The loss whose gradients the pruner sees; `labels` where nothing is said and there is no teacher."""
    portion: float = Field(default=1.0, gt=0)
    """Rows drawn from the training data, with replacement, as a fraction of them."""
    batch_size: int = Field(default=32, ge=1)
    """Examples per gradient."""
    exits: Exits = "all"
    """Exits whose losses count."""
    gradient_equilibrium: bool = True
    """Give each layer the mean, not the sum, of the gradients of the exits above it; never with `scope: global`."""

    @classmethod
    def options(cls) -> dict[str, str]:
        """What is done first, then how scores are made."""
        return dict(sorted(super().options().items(), key=lambda item: item[1] in Scored.model_fields))


class Rewire(Scored):
    """Number the heads or neurons of each layer anew, the best first, so that the first ones are the best sub-network.

    Nothing is cut, and answers stay as they are (Hou et al. 2020, arXiv:2004.04037, section 2.1).
    """

    name: ClassVar[str] = "rewire"

    target: Literal["heads", "neurons"] = Field(alias="rewire")
    """What is numbered anew."""
    by: Annotated[Pruner, ANYTHING]
    """Pruner, whose scores say who is best."""


class Prune(Scored):
    """Keep the best heads or neurons of each layer, or a list of layers."""

    name: ClassVar[str] = "prune"

    target: Literal["heads", "neurons", "layers"] = Field(alias="prune")
    """What is cut."""
    by: Annotated[Pruner | None, ANYTHING] = Field(default=None, validate_default=True)
    """Pruner; none for layers."""
    keep: Annotated[
        int | Fraction | tuple[int, ...],
        PlainValidator(lambda value: value),
        WithJsonSchema({"anyOf": [*AMOUNT["anyOf"], NUMBERS]}),
    ]
    """What stays in each layer, as a count or a fraction of those there when the step or its repeat begins; with
    `scope: global`, in all layers together; for layers, the list of those that stay."""
    scope: Literal["layer", "global"] = "layer"
    """Who competes: the units of a layer, for as many places in each, or those of all layers."""
    least: int = Field(default=1, ge=1)
    """With `scope: global`, units that every layer keeps, however low they score."""

    @field_validator("by", mode="after")
    @classmethod
    def _who_decides(cls, by: Pruner | None, info: ValidationInfo) -> Pruner | None:
        target = info.data.get("target")
        if target in ("heads", "neurons") and by is None:
            raise PydanticKnownError("missing")
        if target == "layers" and by is not None:
            raise PydanticCustomError(
                "value_error", "", {"error": "means nothing for layers; list those that stay in 'keep'"}
            )
        return by

    @field_validator("keep", mode="after")
    @classmethod
    def _how_much(cls, keep: object, info: ValidationInfo) -> int | Fraction | tuple[int, ...]:
        target = info.data.get("target")
        if target == "layers" or (target is None and isinstance(keep, (list, tuple))):
            return parse_layers(keep)
        return parse_amount(keep)

    @field_validator("least", mode="after")
    @classmethod
    def _only_global(cls, least: int, info: ValidationInfo) -> int:
        if least > 1 and info.data.get("scope") == "layer":
            raise PydanticCustomError("value_error", "", {"error": "means nothing without 'scope: global'; add that"})
        return least


class Factorize(Verb):
    """Split a matrix into two thin ones."""

    name: ClassVar[str] = "factorize"
    slots: ClassVar[dict[str, str]] = {"by": "factorizer"}

    target: Literal["word-embeddings", "embeddings", "attention", "ffn"] = Field(alias="factorize")
    """What is split: the word embedding; all embeddings, as in ALBERT, norm included, so train after it; or in every
    layer the four matrices of the attention or the two of the FFN."""
    by: Annotated[Factorizer, ANYTHING]
    """Factorizer."""
    rank: Amount
    """Width of the thin factors, as a count or a fraction of the full rank: of the word embedding's dimensions, or of
    the shorter side of each matrix as it is when the step or its repeat begins. Two factors of a square matrix have
    fewer parameters than it below half of that, of one four times as long as wide below four fifths."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """The matrices of every layer that are split; none where embeddings are."""
        return {"attention": ATTENTION, "ffn": FFN}.get(self.target, ())


class Share(Verb):
    """Let neighbouring layers use one set of weights, as ALBERT does: fewer parameters for the same work."""

    name: ClassVar[str] = "share"

    target: Literal["layers"] = Field(alias="share")
    """What is shared."""
    groups: int = Field(default=1, ge=1)
    """Runs of equally many layers, each with one set of weights."""
    start: Literal["mean", "first"] = "mean"
    """What the weights of a run begin as: the mean of its layers' or those of its first."""


class Distill(Training):
    """Train towards a teacher."""

    name: ClassVar[str] = "distill"
    losses: ClassVar[tuple[str, ...]] = ("by",)

    teacher: str = Field(alias="distill")
    """Name that an earlier step saved, or a model folder."""
    by: Losses
    """The terms of the loss."""


class Repeat(Verb):
    """Do steps several times; what `keep` and `rank` name is reached step by step."""

    name: ClassVar[str] = "repeat"

    times: int = Field(alias="repeat", ge=1)
    """Rounds."""
    pace: Literal["linear", "geometric"] = "linear"
    """How counts get to what `keep` and `rank` name: by equal differences, or by equal ratios."""
    steps: Annotated[tuple[InstanceOf[Verb], ...], ANYTHING]
    """What one round does; no repeat among them."""


VERBS: Mapping[str, type[Verb]] = {
    verb.name: verb for verb in (Finetune, Exit, Prune, Rewire, Share, Factorize, Distill, Repeat)
}


def optimizer_steps(options: Training, rows: int) -> int:
    """How many optimizer steps the options mean for that many rows; a short last batch of an epoch is skipped."""
    return max(round(max(rows // options.batch_size, 1) * options.epochs), 1)


def plain(value: Any) -> Any:
    """A field's value as a recipe writes it; strategies and losses are written by the recipe."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    return list(value) if isinstance(value, tuple) else value
