"""What the runs of a sweep came to: means over seeds, differences that can be told, and who is dominated."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from compresskit.sweep.costs import Side, flops_at_full_depth, mean_flops
from compresskit.tables import Table

COUNTED = "with every exit head that is asked"
"""FLOPs here."""
REDUCTIONS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""FLOPs reductions at which ways to leave early are compared."""
RESAMPLES = 10_000
"""Of the paired bootstrap."""


@dataclass(frozen=True)
class Answers:
    """To every row at the last exit, as `compresskit evaluate --answers` wrote them.

    Args:
        rows: each one's label and length, by which two models can be seen to have answered the same.
        right: whether its answer is its label; nothing in regression, where no answer is right or wrong.
    """

    rows: list[tuple[Any, ...]]
    right: list[bool]


def read_answers(path: Path) -> Answers:
    """Read a run's `.answers.json`."""
    told = json.loads(path.read_text(encoding="utf-8"))
    labels = told["labels"]
    rows = list(zip(labels, told["tokens"], strict=True))
    if told["task"] == "regression":
        return Answers(rows, [])
    return Answers(rows, [said == label for said, label in zip(told["answers"], labels, strict=True)])


@dataclass(frozen=True)
class Difference:
    """How a run compares with another on the same rows, all seeds together.

    Args:
        points: mean difference of the accuracies.
        low, high: the middle 95 % of the paired bootstrap's.
        p: of McNemar's exact test on the rows that one of them got right, or right with more seeds, and not the other.
        rows: that were compared.
        seeds: that both runs have.
    """

    points: float
    low: float
    high: float
    p: float
    rows: int
    seeds: int = 1


@dataclass(frozen=True)
class Cell:
    """One recipe on one checkpoint and one data set, all seeds together.

    Args:
        values: of the task's metric at full depth, one a seed.
        early: of the same, leaving early; empty where nobody does.
        whole: GFLOPs of the original for one text of 128 tokens, `COUNTED` as all of them here.
        gflops: of the model at full depth, the mean over seeds.
        gflops_early: leaving early, the mean over seeds, or None.
        before: parameters of the original, in millions.
        millions: parameters of the model, the mean over seeds.
        milliseconds: per example by (label, batch), the mean over seeds.
        sweep: of each seed, the points (GFLOPs, value) of leaving early at every setting.
        per_exit: the metric by 1-based layer, the mean over seeds.
        rows: that were evaluated on, 0 where it is not known.
        machines: that milliseconds were measured on.
    """

    data: str
    checkpoint: str
    run: str
    metric: str
    values: tuple[float, ...]
    early: tuple[float, ...]
    whole: float
    gflops: float
    gflops_early: float | None = None
    before: float = 1.0
    millions: float = 1.0
    milliseconds: Mapping[tuple[str, int], float] = field(default_factory=dict)
    sweep: tuple[tuple[tuple[float, float], ...], ...] = ()
    per_exit: Mapping[int, float] = field(default_factory=dict)
    rows: int = 0
    machines: tuple[str, ...] = ()
    difference: Difference | None = None

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.mean(self.values)

    @property
    def parameters(self) -> float:
        """How many times fewer than the original's."""
        return self.before / self.millions

    @property
    def flops(self) -> float:
        """FLOPs reduction at full depth."""
        return self.whole / self.gflops

    @property
    def flops_early(self) -> float | None:
        """FLOPs reduction leaving early, or None."""
        return None if self.gflops_early is None else self.whole / self.gflops_early

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(GFLOPs, value) of leaving early at every setting, the means over seeds, cheapest first."""
        if not self.sweep or len({len(points) for points in self.sweep}) > 1:
            return []
        means = [tuple(map(statistics.mean, zip(*points, strict=True))) for points in zip(*self.sweep, strict=True)]
        return sorted((cost, value) for cost, value in means)

    @property
    def points(self) -> list[tuple[float, float]]:
        """(GFLOPs, value) of all that it can do: at full depth, and leaving early at every setting."""
        return [(self.gflops, self.mean), *self.curve]

    def quickest(self, batch: int) -> float | None:
        """Milliseconds per example, leaving early where that is measured, or None."""
        times = [time for (_, size), time in self.milliseconds.items() if size == batch]
        return times[-1] if times else None


def cells(
    lines: Sequence[Mapping[str, Any]],
    out: Path,
    against: str | None,
    others: Sequence[Mapping[str, Any]] = (),
) -> list[Cell]:
    """The finished runs, seeds put together, in the order of the lines.

    Args:
        lines: of the runs that are to be shown.
        out: the sweep's folder, where their answers are.
        against: the run that they are compared with.
        others: lines among which that run may be, where it is not to be shown; of those of one seed the last counts.
    """
    done = [line for line in lines if line["state"] == "done"]
    order = {place: number for number, place in reversed(list(enumerate(map(_place, done))))}
    found = []
    for _, group in groupby(sorted(done, key=lambda line: order[_place(line)]), key=_place):
        mine = list(group)
        known = [*(line for line in others if line["state"] == "done"), *done]
        theirs = [line for line in known if line["run"] == against and _place(line)[:2] == _place(mine[0])[:2]]
        found.append(_cell(mine, _difference(mine, theirs, out) if mine[0]["run"] != against else None))
    return found


def _place(line: Mapping[str, Any]) -> tuple[str, str, str]:
    return line["data"], line["checkpoint"], line["run"]


def _cell(lines: Sequence[Mapping[str, Any]], difference: Difference | None) -> Cell:
    first = lines[0]
    evaluations = [line["evaluation"] for line in lines]
    sides = [line["report"]["model"] for line in lines]
    both = list(zip(sides, evaluations, strict=True))
    own = [(side, point) for side, evaluation in both if (point := evaluation["operating_point"])]
    before = first["report"]["original"]
    times: dict[tuple[str, int], list[float]] = {}
    for evaluation in evaluations:
        for time in evaluation["milliseconds"]:
            times.setdefault((time["label"], time["batch"]), []).append(time["median"])
    return Cell(
        data=first["data"],
        checkpoint=first["checkpoint"],
        run=first["run"],
        metric=evaluations[0]["metric"],
        values=tuple(evaluation["value"] for evaluation in evaluations),
        early=tuple(point["value"] for _, point in own),
        whole=flops_at_full_depth(before) / 1e9,
        gflops=statistics.mean(map(flops_at_full_depth, sides)) / 1e9,
        gflops_early=statistics.mean(_gflops(*one) for one in own) if own else None,
        before=before["parameters"] / 1e6,
        millions=statistics.mean(side["parameters"] for side in sides) / 1e6,
        milliseconds={key: statistics.mean(found) for key, found in times.items()},
        sweep=tuple(
            tuple((_gflops(side, point), point["value"]) for point in evaluation["sweep"]) for side, evaluation in both
        ),
        per_exit=_per_exit(evaluations),
        rows=evaluations[0]["rows"],
        machines=machines(evaluations),
        difference=difference,
    )


def machines(evaluations: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Processor, threads and precision of everything that was timed."""
    times = [time for evaluation in evaluations for time in evaluation["milliseconds"]]
    found = sorted({(time["processor"], time["threads"], time["dtype"]) for time in times})
    return tuple(f"{name}, {count} {'thread' if count == 1 else 'threads'}, {dtype}" for name, count, dtype in found)


def _gflops(side: Side, point: Mapping[str, Any]) -> float:
    return mean_flops(side, point["histogram"]) / 1e9


def _per_exit(evaluations: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """The task's metric at each exit, the mean over seeds."""
    metric = evaluations[0]["metric"]
    found: dict[int, list[float]] = {}
    for evaluation in evaluations:
        for point in evaluation["per_exit"]:
            found.setdefault(point["exit"], []).append(point[metric])
    return {layer: statistics.mean(values) for layer, values in found.items()}


def _difference(mine: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], out: Path) -> Difference | None:
    """Of runs with the same seeds, where both answered the same rows."""
    by_seed = {line["seed"]: line for line in theirs}
    each: list[list[int]] = []
    for line in mine:
        if line["seed"] in by_seed:
            paths = [out / f"{one['folder']}.answers.json" for one in (line, by_seed[line["seed"]])]
            if not all(path.is_file() for path in paths):
                continue  # somebody has made room
            ours, other = map(read_answers, paths)
            if ours.right and ours.rows == other.rows:
                each.append([int(a) - int(b) for a, b in zip(ours.right, other.right, strict=True)])
    if not each or len({len(rows) for rows in each}) > 1:
        return None
    return replace(compare([statistics.mean(row) for row in zip(*each, strict=True)]), seeds=len(each))


def compare(rows: Sequence[float], resamples: int = RESAMPLES) -> Difference:
    """The difference of two accuracies on the same rows.

    Rows are what is drawn, not answers: those of several seeds to one row stand or fall together.

    Args:
        rows: of each row, how often we are right minus how often they are, from -1 to 1, the mean over seeds.
        resamples: of the bootstrap, whose draws are the same every time.
    """
    import numpy as np
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    each = np.asarray(rows, dtype=np.float64)
    low, high = np.quantile(resampled(rows, resamples), (0.025, 0.975))
    won, lost = int((each > 0).sum()), int((each < 0).sum())
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return Difference(float(each.mean()), float(low), float(high), p, len(each))


def resampled(rows: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Any:
    """(resamples,) array of the means of as many rows, drawn from these with replacement."""
    import numpy as np

    # Few values occur, so a resample is as many counts and need not be drawn row by row.
    values, counts = np.unique(np.asarray(rows, dtype=np.float64), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=resamples)
    return drawn @ values / len(rows)


def dominated(cell: Cell, others: Sequence[Cell]) -> bool:
    """Whether for everything that it can do, at full depth and leaving early, another run on the same checkpoint and
    data can do something that is no worse in score and FLOPs, and better in one of them.
    """
    rivals = [
        point
        for other in others
        if other is not cell and (other.data, other.checkpoint) == (cell.data, cell.checkpoint)
        for point in other.points
    ]
    return all(any(_beats(rival, point) for rival in rivals) for point in cell.points)


def _beats(rival: tuple[float, float], point: tuple[float, float]) -> bool:
    return rival[0] <= point[0] and rival[1] >= point[1] and rival != point


def at_cost(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """The value at a cost, between the two settings next to it; None outside of what was swept.

    Who leaves as one setting says for a part of the texts, and as the other for the rest, is on the straight line
    between them: costs add up, and so do right answers. Reductions don't, nor do F1 and correlations, for which the
    line is as good a guess as any.
    """
    ordered = sorted(points)
    for (x0, y0), (x1, y1) in pairwise(ordered):
        if x0 <= wanted <= x1:
            return y1 if x1 == x0 else y0 + (y1 - y0) * (wanted - x0) / (x1 - x0)
    return next((y for x, y in ordered if x == wanted), None)


def tables(found: Sequence[Cell], against: str | None) -> list[Table]:
    """Scores and costs for each checkpoint and data set, and curves of leaving early where there are any."""
    made = []
    for (data, checkpoint), group in groupby(found, key=lambda cell: (cell.data, cell.checkpoint)):
        mine = list(group)
        title = f"{data}, {checkpoint}"
        made += [_scores(title, mine, against), _costs(f"{title}: costs", mine)]
        made += _equal(f"{title}: leaving early at equal FLOPs", mine)
    return made


def _scores(title: str, found: Sequence[Cell], against: str | None) -> Table:
    columns = ["run", found[0].metric, "leaving early"]
    if against is not None:
        columns += [f"points against {against}", "p"]
    seeds = max(len(cell.values) for cell in found)
    rows = []
    for cell in found:
        values = [plus_minus(each, seeds) if each else "" for each in (cell.values, cell.early)]
        row = [("· " if dominated(cell, found) else "") + cell.run, *values]
        rows.append((*row, *(_told(cell.difference) if against is not None else ())))
    notes = [f"Mean and standard deviation over {seeds} seeds." if seeds > 1 else "One seed."]
    if any(cell.difference for cell in found):
        n = max(cell.difference.rows for cell in found if cell.difference)
        notes.append(f"Points of accuracy with 95 % intervals (paired bootstrap) and McNemar's p, on {n:,} rows.")
        if any(cell.difference and cell.difference.seeds < len(cell.values) for cell in found):
            notes.append("Points are of the seeds that both runs have.")
    if any(dominated(cell, found) for cell in found):
        notes.append("A dot: whatever it does, other runs do no worse in score and FLOPs, and better in one.")
    return Table(title, tuple(columns), tuple(rows), " ".join(notes))


def _costs(title: str, found: Sequence[Cell]) -> Table:
    columns = ("run", "parameters", "FLOPs", "leaving early", "ms, batch 1", "ms, batch 32")
    rows = []
    for cell in found:
        early = "" if cell.flops_early is None else f"{cell.flops_early:.2f}"
        sizes = (f"{cell.parameters:.2f}", f"{cell.flops:.2f}", early)
        times = (cell.quickest(batch) for batch in (1, 32))
        rows.append((cell.run, *sizes, *("" if time is None else f"{time:.2f}" for time in times)))
    note = f"How many times fewer than the original's (128 tokens, {COUNTED}); ms per example, early where they leave."
    measured = sorted({machine for cell in found for machine in cell.machines})
    note += f" Measured on {'; '.join(measured)}." if measured else ""
    return Table(title, columns, tuple(rows), note)


def _equal(title: str, found: Sequence[Cell]) -> list[Table]:
    """Methods that leave early by rules of their own meet where they cost the same, if they do anywhere."""
    leaving = [cell for cell in found if cell.curve]
    wanted = [r for r in REDUCTIONS if any(at_cost(cell.curve, cell.whole / r) is not None for cell in leaving)]
    rows = []
    for cell in leaving:
        values = (at_cost(cell.curve, cell.whole / reduction) for reduction in wanted)
        rows.append((cell.run, *("" if value is None else f"{value:.3f}" for value in values)))
    told = f"{found[0].metric} by FLOPs reduction ({COUNTED})"
    note = f"{told}, on straight lines between settings; empty outside of them."
    table = Table(title, ("run", *(f"{reduction:g}" for reduction in wanted)), tuple(rows), note)
    return [table] if wanted else []


def plus_minus(values: Sequence[float], asked: int) -> str:
    """Mean and standard deviation over seeds; where there are fewer than asked for, how many."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    missing = f" ({len(values)} of {asked} seeds)" if len(values) < asked else ""
    return f"{statistics.mean(values):.3f}{spread}{missing}"


def _told(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["", ""]
    return [
        f"{100 * difference.points:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})",
        f"{difference.p:.3f}",
    ]
