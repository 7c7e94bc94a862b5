"""What a model costs and how well it does, before and after, as data: to JSON, to Markdown, to tables for the terminal.

A ratio of FLOPs is called a FLOPs reduction, never a speed-up: only a clock can tell about speed. Where the clock shows
none, the report says "no gain".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, PlainSerializer, TypeAdapter, ValidationError

from compresskit.cost import Block, Convention, Dims, by_block, flops, parameters
from compresskit.edits import Shape
from compresskit.errors import CheckpointError
from compresskit.tables import Table, markdown, tables_of


def _read_shape(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    try:
        return Shape.from_json(value)
    except KeyError as error:
        raise ValueError(f"no {error}") from error


SavedShape = Annotated[InstanceOf[Shape], BeforeValidator(_read_shape), PlainSerializer(Shape.to_json)]


@dataclass(frozen=True)
class Score:
    """How well a model does.

    Args:
        metric: name, `accuracy` for instance.
        value: over all examples, each answered where it left.
        per_exit: by 1-based layer number, the value if every example left there; empty without exits.
    """

    metric: str
    value: float
    per_exit: Mapping[int, float]


@dataclass(frozen=True)
class Milliseconds:
    """Measured time per example.

    Args:
        label: what was timed: `full depth` or `leaving early`.
        batch, tokens: shape of the batches; with too few rows for one, rows stand in it again.
        median, low, high: milliseconds per example, with first and third quartile.
        processor: name of the processor or GPU.
        threads: that torch could use.
        dtype: `float32` for instance.
    """

    label: str
    batch: int
    tokens: int
    median: float
    low: float
    high: float
    processor: str
    threads: int
    dtype: str

    @property
    def setting(self) -> tuple[int, int, str, int, str]:
        """Two times compare only where this is the same."""
        return self.batch, self.tokens, self.processor, self.threads, self.dtype

    @property
    def measured(self) -> str:
        """`measured on Some CPU, 2 threads, float32`."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"measured on {self.processor}, {threads}, {self.dtype}"


@dataclass(frozen=True)
class Leaving:
    """What leaving early came to on some data.

    Args:
        policy: in words: `entropy, threshold 0.3`.
        histogram: how many examples left at each layer (1-based).
        flops: mean FLOPs of an example, by convention.
    """

    policy: str
    histogram: Mapping[int, int]
    flops: Mapping[Convention, float]

    @property
    def mean_exit(self) -> float:
        """Mean number of the layer at which examples left."""
        return sum(layer * n for layer, n in self.histogram.items()) / sum(self.histogram.values())


@dataclass(frozen=True)
class Side:
    """One model: what it costs, and what was measured of it.

    Args:
        name: folder or Hub id.
        shape: heads and neurons per layer, ranks, exits, which layers share weights, how wide hidden states are.
        parameters: how many.
        flops: of one example at full depth, by convention.
        blocks: where parameters and work are.
        bytes_on_disk: of the weights, or None where there is none yet.
        scores, milliseconds, leaving: as far as they were measured.
        always: the label that it gives every row it was scored on, or None where it gives several.
    """

    name: str
    shape: SavedShape
    parameters: int
    flops: Mapping[Convention, float]
    blocks: tuple[Block, ...]
    bytes_on_disk: int | None = None
    scores: tuple[Score, ...] = ()
    milliseconds: tuple[Milliseconds, ...] = ()
    leaving: Leaving | None = None
    always: str | None = None

    @staticmethod
    def sized(name: str, dims: Dims, shape: Shape, tokens: int = 128) -> Side:
        """A side of which nothing is measured yet; add measurements with `dataclasses.replace`."""
        return Side(
            name, shape, parameters(dims, shape), dict(flops(dims, shape, tokens)), by_block(dims, shape, tokens)
        )


@dataclass(frozen=True)
class StepTime:
    """How long a step of the recipe took, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """A model, beside the original where one was given.

    Args:
        model: the model that the report is about.
        original: what it is compared with, or None.
        tokens: length of the example that FLOPs are counted for.
        steps: training time of each step, in order; of a prune step that looks at data, the time of scoring.
    """

    model: Side
    original: Side | None = None
    tokens: int = 128
    steps: tuple[StepTime, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        data: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Report:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: it is not a report, or one of another version.
        """
        try:
            return _ADAPTER.validate_python(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(
                f"the saved report is wrong at '{where}' ({first['msg'].lower()}); "
                "copy the folder again, or apply its recipe again"
            ) from error

    def tables(self) -> tuple[Table, ...]:
        """The report in words and figures; a table with nothing in it is left out."""
        return tables_of(self)

    def to_markdown(self) -> str:
        """Sections for a model card."""
        return "\n".join(markdown(table) for table in self.tables())


_ADAPTER: TypeAdapter[Report] = TypeAdapter(Report)
