"""How well a model answers: at every exit, and at every threshold that its examples might leave by.

One pass at full depth gives the logits of all exits. Where each example would leave is worked out from them with the
model's own exit policy; batched inference that stops early gives the same answers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from compresskit.batches import Collate, Encoded, batches
from compresskit.catalogue import build, options_of, try_build
from compresskit.cost import Convention, Dims, dims_of, expected_flops, flops, original_shape
from compresskit.edits import Shape
from compresskit.interfaces import ExitPolicy, ExitTrail
from compresskit.labels import Task
from compresskit.metrics import confusion, predictions, score
from compresskit.model import CompressedForSequenceClassification
from compresskit.passes import leavers
from compresskit.report import Milliseconds
from compresskit.run import Run
from compresskit.speed import TOKENS, time_rows

BATCH = 32
CONVENTION: Convention = "flops_all"
THRESHOLDS_TWO = (0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0)
THRESHOLDS_MORE = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0)
"""Thresholds of the sweep for two and for more classes, in nats (Shen et al. 2022, released code, but for 0.65)."""


@dataclass(frozen=True)
class Point:
    """What leaving early comes to at one threshold.

    Args:
        threshold: the value of the policy's dial, or None for a policy without one.
        value: of the task's metric.
        metrics: all of them.
        histogram: how many examples left at each exit, by 1-based layer.
        flops_reduction: FLOPs of the original at full depth over the mean FLOPs of this model.
        flops_reduction_real: the same at the mean real length, not at the stated one.
        confusion: as `Evaluation.confusion`.
    """

    threshold: float | None
    value: float
    metrics: Mapping[str, float]
    histogram: Mapping[int, int]
    flops_reduction: float
    flops_reduction_real: float
    confusion: tuple[tuple[int, ...], ...]

    @property
    def mean_exit(self) -> float:
        """Mean number of the layer at which examples left."""
        return sum(layer * count for layer, count in self.histogram.items()) / sum(self.histogram.values())

    def to_json(self) -> dict[str, Any]:
        """One row of the sweep."""
        return {
            "threshold": self.threshold,
            "value": self.value,
            **self.metrics,
            "mean_exit": self.mean_exit,
            "flops_reduction": self.flops_reduction,
            "flops_reduction_at_mean_length": self.flops_reduction_real,
            "histogram": {str(layer): count for layer, count in self.histogram.items()},
        }


@dataclass(frozen=True)
class Answers:
    """What was answered to each row, in the order of the rows: class ids, or numbers for regression.

    Args:
        labels: what is right.
        tokens: of each row, without padding, after cutting.
        per_exit: by 1-based layer, as if every row left there.
        early: leaving early by the policy as it is, or None.
        exits: 1-based layer at which each row left, or None.
    """

    labels: tuple[float, ...]
    tokens: tuple[int, ...]
    per_exit: Mapping[int, tuple[float, ...]]
    early: tuple[float, ...] | None = None
    exits: tuple[int, ...] | None = None

    @property
    def last(self) -> tuple[float, ...]:
        """At full depth."""
        return self.per_exit[max(self.per_exit)]

    def to_json(self) -> dict[str, Any]:
        """What `compresskit evaluate --answers` writes, beside the task."""
        return {
            "labels": self.labels,
            "tokens": self.tokens,
            "answers": self.last,
            "leaving_early": self.early,
            "exits": self.exits,
            "per_exit": {str(layer): said for layer, said in self.per_exit.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Args:
        task: kind, labels and metric.
        rows: how many there were.
        mean_tokens: of a row, without padding.
        per_exit: all metrics by 1-based layer, as if every example left there.
        sweep: one point per threshold.
        policy: its name as `by`, and its options; None where nobody leaves early.
        own: the point at the policy as it is, or None.
        confusion: at the last exit: rows of each class (outer) that were taken for each class (inner).
        milliseconds: measured on these rows, or empty.
        answers: each row's, or None.
        dial: the policy's option that the sweep goes over; its value in each point is `threshold`, whatever its name.
    """

    task: Task
    rows: int
    mean_tokens: float
    per_exit: Mapping[int, Mapping[str, float]]
    sweep: tuple[Point, ...]
    policy: Mapping[str, Any] | None
    own: Point | None
    confusion: tuple[tuple[int, ...], ...]
    milliseconds: tuple[Milliseconds, ...] = ()
    answers: Answers | None = None
    dial: str = "threshold"

    @property
    def value(self) -> float:
        """The task's metric at the last exit."""
        return self.per_exit[max(self.per_exit)][self.task.metric]

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the metrics that people are shown: the task's first; Matthews' only where it is the task's."""
        names = self.per_exit[max(self.per_exit)]
        return (self.task.metric, *(name for name in names if name not in (self.task.metric, "matthews")))

    def to_json(self) -> dict[str, Any]:
        """What `compresskit evaluate --json` prints."""
        own = None if self.own is None else {"policy": self.policy, **self.own.to_json()}
        return {
            "metric": self.task.metric,
            "value": self.value,
            "rows": self.rows,
            "per_exit": [{"exit": number, **metrics} for number, metrics in self.per_exit.items()],
            "dial": self.dial,
            "sweep": [point.to_json() for point in self.sweep],
            "operating_point": own,
            "convention": CONVENTION,
            "tokens": TOKENS,
            "mean_tokens": self.mean_tokens,
            "labels": list(self.task.labels),
            "confusion": {
                "last_exit": [list(row) for row in self.confusion],
                "operating_point": [list(row) for row in self.own.confusion] if self.own else None,
            },
            "milliseconds": [dataclasses.asdict(time) for time in self.milliseconds],
        }


def evaluate(
    model: CompressedForSequenceClassification,
    rows: Encoded,
    collate: Collate,
    task: Task,
    run: Run,
    thresholds: Sequence[float] | None = None,
    latency: bool = True,
) -> Evaluation:
    """Answer every row at every exit, and see what each threshold would have made of it.

    Args:
        model: on `run.device`.
        rows, collate: the evaluation data; at least one row.
        task: what the labels mean.
        thresholds: values of the policy's dial for the sweep; where None, those that the policy names, or else the
            paper's thresholds that it takes. A policy without a dial is seen as it is.
        latency: also measure milliseconds.
    """
    policy = model.policy if model.shape.exits else None
    # Before any row is answered: a setting that the policy does not take is refused at once.
    variants = [policy, *_variants(policy, task, model.depth, thresholds)] if policy else []
    logits, signals = exit_answers(model, rows, collate, run)
    labels = rows.labels[list(rows.rows)]
    said = {number: predictions(task, answer) for number, answer in logits.items()}
    mean_tokens = sum(rows.lengths) / len(rows)
    costs = _Costs.of(model, max(round(mean_tokens), 1))
    points = [_point(variant, logits, signals, labels, task, costs) for variant in variants]
    last = max(logits)
    return Evaluation(
        task=task,
        rows=len(rows),
        mean_tokens=mean_tokens,
        per_exit={number: score(task, predicted, labels) for number, predicted in said.items()},
        sweep=tuple(points[1:]),
        policy={"by": policy.name, **options_of(type(policy)).dump_python(policy, mode="json")} if policy else None,
        own=points[0] if points else None,
        confusion=confusion(task, said[last], labels),
        answers=_answers(policy, logits, signals, rows, task),
        milliseconds=time_rows(model, rows, collate, run).model if latency else (),
        dial=policy.dial if policy else "threshold",
    )


def _answers(
    policy: ExitPolicy | None,
    logits: Mapping[int, Tensor],
    signals: Mapping[int, Tensor],
    rows: Encoded,
    task: Task,
) -> Answers:
    labels = tuple(rows.labels[list(rows.rows)].tolist())
    said = {layer: tuple(predictions(task, answer).tolist()) for layer, answer in logits.items()}
    found = Answers(labels, tuple(rows.lengths), said)
    if policy is None:
        return found
    left = simulate(policy, logits, max(logits), signals)
    early = predictions(task, _left_with(logits, left))
    return dataclasses.replace(found, early=tuple(early.tolist()), exits=tuple(left.tolist()))


def _left_with(logits: Mapping[int, Tensor], left: Tensor) -> Tensor:
    """(rows, outputs) of the exit at which each row left."""
    answers = logits[max(logits)].clone()
    for number, answer in logits.items():
        answers[left == number] = answer[left == number]
    return answers


def exit_answers(
    model: CompressedForSequenceClassification, rows: Encoded, collate: Collate, run: Run
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Logits (rows, outputs) of every exit and signals (rows,) of those whose heads have one.

    Both in fp32 on the processor, by 1-based layer, in the order of the rows.
    """
    found: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
    was = model.training
    model.eval()
    order = batches(rows, BATCH, "length")
    with run.progress.task("evaluating", len(order)) as task, torch.inference_mode():
        for positions in order:
            batch = collate([rows[position] for position in positions])
            inputs = {name: batch[name].to(model.device) for name in model.input_names if name in batch}
            with run.autocast():
                trace = model.trace(inputs)
            for tables, said in zip(found, (trace.logits, trace.signals), strict=True):
                for number, answer in said.items():
                    table = tables.setdefault(number, torch.empty(len(rows), *answer.shape[1:]))
                    table[positions] = answer.float().cpu()
            task.advance()
    model.train(was)
    return found


def simulate(
    policy: ExitPolicy, logits: Mapping[int, Tensor], depth: int, signals: Mapping[int, Tensor] | None = None
) -> Tensor:
    """Where each example leaves, (rows,) 1-based layers.

    Args:
        policy: asked at each exit but the last about those still there.
        logits: (rows, outputs) of every exit, by layer; the last at `depth`.
        depth: number of layers.
        signals: (rows,) of every exit whose head has one, by layer.
    """
    exits = sorted(logits)
    alive = torch.arange(len(logits[depth]))
    left = torch.full_like(alive, depth)
    for met in range(1, len(exits)):
        history = tuple(logits[number][alive] for number in exits[:met])
        told = tuple((signals or {})[number][alive] for number in exits[:met] if number in (signals or {}))
        leave = leavers(policy, ExitTrail(history, tuple(exits[:met]), depth, told))
        left[alive[leave]] = exits[met - 1]
        alive = alive[~leave]
        if not len(alive):
            break
    return left


@dataclass(frozen=True)
class _Costs:
    """FLOPs of the original at full depth over those of the model, at two lengths."""

    dims: Dims
    before: Shape
    shape: Shape
    real: int

    @staticmethod
    def of(model: CompressedForSequenceClassification, real: int) -> _Costs:
        config = model.network.config
        return _Costs(dims_of(model.anatomy, config), original_shape(model.anatomy, config), model.shape, real)

    def reduction(self, histogram: Mapping[int, int], tokens: int) -> float:
        whole = flops(self.dims, self.before, tokens)[CONVENTION]
        return whole / expected_flops(self.dims, self.shape, histogram, tokens)[CONVENTION]


def settings(policy: ExitPolicy | None, outputs: int, depth: int) -> Sequence[float]:
    """Values of the policy's dial to sweep over, for a head of so many outputs; empty where it has no dial."""
    if policy is None or policy.dial not in options_of(type(policy)).dump_python(policy):
        return ()
    wanted = policy.settings(outputs, depth)
    if wanted is not None:
        return wanted
    return () if outputs == 1 else usual_thresholds(outputs)


def usual_thresholds(classes: int) -> tuple[float, ...]:
    """Of entropies, in nats, from one that no entropy reaches, at which all leave at the first exit, to none."""
    return (math.ceil(100 * math.log(classes)) / 100, *(THRESHOLDS_TWO if classes == 2 else THRESHOLDS_MORE))


def _variants(policy: ExitPolicy, task: Task, depth: int, given: Sequence[float] | None) -> list[ExitPolicy]:
    usual = settings(policy, task.num_labels, depth)
    if not usual:
        return [policy] if given is None else []
    if given is not None:
        return [cast(ExitPolicy, build(type(policy), options_at(policy, setting))) for setting in given]
    # The usual thresholds are in nats; another policy's may have other limits.
    made = [try_build(type(policy), options_at(policy, setting))[0] for setting in usual]
    return [cast(ExitPolicy, variant) for variant in made if variant is not None]


def options_at(policy: ExitPolicy, setting: float) -> dict[str, object]:
    """The policy's options with another value of its dial."""
    options = options_of(type(policy)).dump_python(policy, mode="json")
    # A dial that counts, such as patience, takes no 3.0.
    return {**options, policy.dial: int(setting) if float(setting).is_integer() else setting}


def _point(
    policy: ExitPolicy,
    logits: Mapping[int, Tensor],
    signals: Mapping[int, Tensor],
    labels: Tensor,
    task: Task,
    costs: _Costs,
) -> Point:
    left = simulate(policy, logits, max(logits), signals)
    said = predictions(task, _left_with(logits, left))
    metrics = score(task, said, labels)
    histogram = {number: int((left == number).sum()) for number in logits}
    return Point(
        threshold=getattr(policy, policy.dial, None),
        value=metrics[task.metric],
        metrics=metrics,
        histogram=histogram,
        flops_reduction=costs.reduction(histogram, TOKENS),
        flops_reduction_real=costs.reduction(histogram, costs.real),
        confusion=confusion(task, said, labels),
    )
