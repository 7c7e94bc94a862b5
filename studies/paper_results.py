"""What is kept of each run of recipes/studies/paper.yaml, and the arithmetic of docs/results/paper.md on it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from compresskit.sweep.costs import flops_at_full_depth, flops_by_exit
from compresskit.sweep.results import resampled

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "recipes" / "studies" / "paper.yaml"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""A character for each class and each layer, as answers are kept."""

Where = int | Literal["last", "below the last"]
"""A layer (1-based) at whose exit rows are answered, the last exit, or the mean of all exits below the last."""


@dataclass(frozen=True)
class Rows:
    """The rows that a data set is evaluated on: class ids, and tokens without padding."""

    labels: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def commonest(self) -> float:
        """The part that has the commonest class: the accuracy of always saying it."""
        return self.labels.count(statistics.mode(self.labels)) / len(self.labels)

    @property
    def simple(self) -> list[int]:
        """Positions of the rows shorter than the median (COST-EFF's simple inputs)."""
        middle = statistics.median(self.tokens)
        return [row for row, tokens in enumerate(self.tokens) if tokens < middle]


@dataclass(frozen=True)
class Run:
    """One recipe on one data set with one seed.

    Args:
        line: what is kept of its line in `results.jsonl`, as `compresskit.sweep.results.cells` reads it.
        rows: that it was evaluated on.
        answers: to each row at each exit, by 1-based layer.
        early: to each row where it left, and `exits` the layer there; empty where nobody leaves early.
    """

    line: Mapping[str, Any]
    rows: Rows
    answers: Mapping[int, tuple[int, ...]]
    early: tuple[int, ...] = ()
    exits: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As the study calls it."""
        return str(self.line["run"])

    def right(self, where: Where) -> list[float]:
        """How often each row is answered rightly: 0 or 1, or a part of several exits.

        Raises:
            ValueError: there is no exit below the last.
        """
        *below, last = sorted(self.answers)
        layers = [last] if where == "last" else below if where == "below the last" else [where]
        if not layers:
            raise ValueError(f"{self.name} has no exit below the last")
        each = [[said == label for said, label in zip(self.answers[n], self.rows.labels, strict=True)] for n in layers]
        return [sum(row) / len(layers) for row in zip(*each, strict=True)]

    def reduction(self, positions: Sequence[int]) -> float:
        """FLOPs of the original at full depth over the mean of these rows, each where it left."""
        costs = flops_by_exit(self.line["report"]["model"])
        mean = statistics.mean(costs[self.exits[row]] for row in positions)
        return flops_at_full_depth(self.line["report"]["original"]) / mean


def accuracy(answers: Sequence[int], labels: Sequence[int]) -> float:
    """Part of the rows whose answer is the label."""
    return statistics.mean(float(said == label) for said, label in zip(answers, labels, strict=True))


def f1(answers: Sequence[int], labels: Sequence[int]) -> float:
    """Of class 1, where there are two; 0 where neither has it."""
    both = sum(said and label for said, label in zip(answers, labels, strict=True))
    either = sum(answers) + sum(labels)
    return 2 * both / either if either else 0.0


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same rows; the claim that it tests wants the difference above 0."""

    better: str
    worse: str
    where: Where = "last"

    def differences(self, runs: Sequence[Run]) -> list[float]:
        """Of each row of one data set, the mean over the seeds that both runs have; empty where there is none."""
        ours, theirs = (
            {run.line["seed"]: run for run in runs if run.name == name} for name in (self.better, self.worse)
        )
        each = [
            [a - b for a, b in zip(ours[seed].right(self.where), theirs[seed].right(self.where), strict=True)]
            for seed in ours
            if seed in theirs
        ]
        return [statistics.mean(row) for row in zip(*each, strict=True)]


@dataclass(frozen=True)
class Found:
    """By how much one run is ahead of another.

    Args:
        points: difference of the accuracies, the mean over data sets.
        low, high: the middle 95 % of the paired bootstrap's.
        most: what it is below in all but 2.5 % of the resamples, or in all but that over the number of comparisons of
            its claim: of several that are ties one easily looks lost.
        rows: of all data sets together.
    """

    points: float
    low: float
    high: float
    most: float
    rows: int


def difference(sets: Sequence[Sequence[float]], among: int = 1) -> Found | None:
    """Of the rows of some data sets, each of which counts as much as another; None where one has no rows.

    Args:
        sets: for each row of each, by how much the one run is ahead.
        among: comparisons that a claim needs.
    """
    import numpy as np

    if not sets or not all(sets):
        return None
    drawn = np.mean([resampled(rows, seed=number) for number, rows in enumerate(sets)], axis=0)
    low, high, most = (float(one) for one in np.quantile(drawn, (0.025, 0.975, 1 - 0.025 / among)))
    return Found(statistics.mean(map(statistics.mean, sets)), low, high, most, sum(map(len, sets)))


def verdict(found: Found | None) -> str:
    """What the intervals say of a claim that wants the difference above 0."""
    if found is None:
        return "to be run"
    return "holds" if found.low > 0 else "fails" if found.most < 0 else "cannot be told at this n"


def deciding(found: Sequence[Found | None]) -> Found | None:
    """The comparison on which a claim that needs them all depends; None where one has not been run.

    It is the one that fails most clearly, if any does, else the one whose interval begins lowest, so that its verdict
    is the claim's.
    """
    known = [each for each in found if each is not None]
    if len(known) < len(found) or not known:
        return None
    worst = min(known, key=lambda each: each.most)
    return worst if worst.most < 0 else min(known, key=lambda each: each.low)


@dataclass(frozen=True)
class Results:
    """All that is kept: runs and rows by the name of the data set."""

    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)

    def on(self, data: str, names: Sequence[str]) -> list[Run]:
        """Runs of these names, in their order, seeds in order."""
        found = [run for run in self.runs.get(data, ()) if run.name in names]
        return sorted(found, key=lambda run: (names.index(run.name), run.line["seed"]))


def load(folder: Path) -> Results:
    """What `keep` wrote there; nothing where there is none."""
    rows = {path.stem: rows_of(json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("rows/*.json")}
    runs: dict[str, list[Run]] = {data: [] for data in rows}
    for path in sorted(folder.glob("runs/*.json")):
        line = json.loads(path.read_text(encoding="utf-8"))
        runs[line["data"]].append(run_of(line, rows[line["data"]]))
    return Results(runs, rows)


def rows_of(kept: Mapping[str, Any]) -> Rows:
    """Rows as they are kept."""
    return Rows(numbers(kept["labels"]), tuple(kept["tokens"]))


def run_of(line: Mapping[str, Any], rows: Rows) -> Run:
    """A run as it is kept."""
    told = line["answers"]
    per_exit = {int(layer): numbers(said) for layer, said in told["per_exit"].items()}
    evaluation = line["evaluation"]
    whole = {**line, "evaluation": {**evaluation, "sweep": swept(evaluation)}}
    return Run(whole, rows, per_exit, numbers(told["leaving_early"]), numbers(told["exits"]))


def swept(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points of leaving early, for entropies with the one at which all leave at the first exit.

    An entropy of two classes is at most ln 2, so at a threshold above it the first exit's answers are all there are.
    The thresholds of `evaluate` ended below when the study was run.
    """
    points: list[Mapping[str, Any]] = list(evaluation["sweep"])
    entropic = bool(points) and evaluation["operating_point"]["policy"]["by"] == "entropy"
    if entropic and max(point["threshold"] for point in points) < math.log(2):
        first, *_ = evaluation["per_exit"]
        everybody = dict.fromkeys(points[0]["histogram"], 0) | {str(first["exit"]): evaluation["rows"]}
        points.insert(0, {"threshold": 0.7, "value": first[evaluation["metric"]], **first, "histogram": everybody})
    return points


def numbers(text: str) -> tuple[int, ...]:
    """Classes or layers as they are kept, a character each."""
    return tuple(map(DIGITS.index, text))


def digits(values: Sequence[int]) -> str:
    """What `numbers` reads."""
    return "".join(DIGITS[value] for value in values)


@cache
def data_of_study() -> dict[str, dict[str, Any]]:
    """What the study says of each data set, its seeds with it."""
    study = YAML(typ="safe").load(STUDY.read_text(encoding="utf-8"))
    return {data: {"seeds": study["seeds"], **told} for data, told in study["data"].items()}
