"""Milliseconds per example on real rows, with and without leaving early, and beside another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compresskit.batches import Collate, Encoded
from compresskit.cost import longest
from compresskit.model import CompressedForSequenceClassification
from compresskit.report import Milliseconds
from compresskit.run import Run
from compresskit.runtime.latency import Timing, milliseconds, processor

SAMPLES: Mapping[int, int] = {1: 32, 32: 64}
"""Rows that are timed, by batch size: at equal distances over all rows, again from the first where there are fewer."""

SHAPES = (1, 8)
"""Batch sizes that are timed without text."""

TOKENS = 128
FULL, EARLY = "full depth", "leaving early"


class Times(NamedTuple):
    """Milliseconds of the original, empty where none was given, and of the model."""

    original: tuple[Milliseconds, ...]
    model: tuple[Milliseconds, ...]


@dataclass(frozen=True)
class _Sample:
    """Batches of one size, in the order of the rows, as a server would meet them."""

    size: int
    batches: tuple[dict[str, Tensor], ...]

    @property
    def tokens(self) -> int:
        """Mean length of a row with its padding."""
        return round(sum(batch["input_ids"].shape[1] for batch in self.batches) / len(self.batches))


def time_rows(
    model: CompressedForSequenceClassification,
    rows: Encoded,
    collate: Collate,
    run: Run,
    original: CompressedForSequenceClassification | None = None,
) -> Times:
    """Times on real rows at each batch size of `SAMPLES`; where there are too few rows, they are taken again.

    The model is timed at full depth and, where it has trained exits and a policy, leaving early; the original, if
    given, at full depth. What is to be compared runs in turns on the same batches.
    """
    samples = [_sample(rows, collate, size, model.device) for size in SAMPLES]
    leaves = model.policy is not None and bool(model.shape.exits) and not model.untrained
    return _time(model, samples, run, original, leaves)


def time_shape(
    model: CompressedForSequenceClassification,
    run: Run,
    original: CompressedForSequenceClassification | None = None,
    tokens: int = TOKENS,
) -> Times:
    """Times at full depth on random tokens, where there is no text: batches of `SHAPES` examples without padding.

    Where an example of random tokens would leave says nothing, so nobody leaves early.
    """
    config = model.network.config
    tokens = min(tokens, longest(model.anatomy, config))
    chance = torch.Generator().manual_seed(0)
    samples = []
    for size in SHAPES:
        ids = torch.randint(config.vocab_size // 2, config.vocab_size, (size, tokens), generator=chance)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        samples.append(_Sample(size, ({name: tensor.to(model.device) for name, tensor in batch.items()},)))
    return _time(model, samples, run, original, leaves=False)


def _time(
    model: CompressedForSequenceClassification,
    samples: Sequence[_Sample],
    run: Run,
    original: CompressedForSequenceClassification | None,
    leaves: bool,
) -> Times:
    before: list[Milliseconds] = []
    after: list[Milliseconds] = []
    turns = [(before, FULL, _call(original, run, early=False))] if original is not None else []
    turns.append((after, FULL, _call(model, run, early=False)))
    turns += [(after, EARLY, _call(model, run, early=True))] if leaves else []
    with run.progress.task("measuring speed", len(samples)) as task, _eval_mode(model):
        for sample in samples:
            timings = milliseconds([call for _, _, call in turns], sample.batches)
            for (times, label, _), timing in zip(turns, timings, strict=True):
                times.append(_record(label, timing, sample, run))
            task.advance()
    return Times(tuple(before), tuple(after))


@contextmanager
def _eval_mode(model: CompressedForSequenceClassification) -> Iterator[None]:
    was = model.training, model.leave_early
    model.eval()
    try:
        yield
    finally:
        model.train(was[0])
        model.leave_early = was[1]


def _sample(rows: Encoded, collate: Collate, size: int, device: torch.device) -> _Sample:
    count = SAMPLES[size]
    positions = [index * len(rows) // count if len(rows) >= count else index % len(rows) for index in range(count)]
    batches = tuple(
        {
            name: tensor.to(device)
            for name, tensor in collate([rows[at] for at in positions[start : start + size]]).items()
        }
        for start in range(0, count, size)
    )
    return _Sample(size, batches)


def _call(
    model: CompressedForSequenceClassification, run: Run, early: bool
) -> Callable[[Mapping[str, Tensor]], object]:
    def call(batch: Mapping[str, Tensor]) -> object:
        model.leave_early = early
        with run.autocast():
            return model(**{name: batch[name] for name in model.input_names if name in batch})

    return call


def _record(label: str, timing: Timing, sample: _Sample, run: Run) -> Milliseconds:
    return Milliseconds(
        label,
        sample.size,
        sample.tokens,
        timing.median,
        timing.low,
        timing.high,
        processor(run.device),
        torch.get_num_threads(),
        "bfloat16" if run.bf16 else "float32",
    )
