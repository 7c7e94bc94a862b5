"""What COST-EFF is to reach on real text, and what the results in docs/results/cost-eff/ come to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One figure, a mean over the seeds that have a result.

    Args:
        task: results' name, with or without the seed.
        recipe: of the results; for what all recipes share, the one that is run first.
        wanted: in words.
        measure: the figure of one result.
        bound: what it must reach.
        most: the bound is an upper one.
        unit: shown behind the figures; points are hundredths.
        seeds: how many results there will be.
    """

    task: str
    recipe: str
    wanted: str
    measure: Callable[[Result], float]
    bound: float
    most: bool = False
    unit: str = ""
    seeds: int = 1


def score(model: str, metric: str = "accuracy") -> Callable[[Result], float]:
    """At full depth."""
    return lambda result: last(result, model, metric)


def below_teacher(result: Result) -> float:
    """Points of accuracy at full depth."""
    return 100 * (last(result, "teacher", "accuracy") - last(result, "model", "accuracy"))


def above_commoner(result: Result) -> float:
    """Points of accuracy by which the worst exit from the second on is better than always the commoner class."""
    counts = [sum(row) for row in result["evaluations"]["model"]["confusion"]["last_exit"]]
    worst = min(found["accuracy"] for found in result["evaluations"]["model"]["per_exit"][1:])
    return 100 * (worst - max(counts) / sum(counts))


def minutes(result: Result) -> float:
    """From the checkpoint to the finished model, three evaluations included."""
    return result["wall_seconds"] / 60


def minutes_compressing(result: Result) -> float:
    """After the fine-tuning, three evaluations included."""
    return (result["wall_seconds"] - result["seconds"]["01-finetune"]) / 60


def last(result: Result, model: str, metric: str) -> float:
    """A score at the last exit."""
    return float(result["evaluations"][model]["per_exit"][-1][metric])


NAMES = {"sst2": "SST-2", "mrpc": "MRPC", "qnli": "QNLI"}
LARGE, SMALL = "cost-eff-2x", "cost-eff-8x"
TARGETS = (
    Target("sst2", SMALL, "teacher, accuracy", score("teacher"), 0.891),
    Target("mrpc", SMALL, "teacher, accuracy", score("teacher"), 0.806, seeds=3),
    Target("mrpc", SMALL, "teacher, F1", score("teacher", "f1"), 0.864, seeds=3),
    Target("qnli", SMALL, "teacher, accuracy", score("teacher"), 0.810),
    Target("sst2", LARGE, f"`{LARGE}`, below its teacher", below_teacher, 1, most=True, unit=" points"),
    Target("sst2", SMALL, f"`{SMALL}`, below its teacher", below_teacher, 4, most=True, unit=" points"),
    Target("sst2", SMALL, f"`{SMALL}`, every exit from layer 2 on, above the commoner class", above_commoner, 10,
           unit=" points"),
    Target("mrpc", SMALL, f"`{SMALL}`, accuracy", score("model"), 0.794, seeds=3),
    Target("mrpc", SMALL, f"`{SMALL}`, F1", score("model", "f1"), 0.861, seeds=3),
    Target("mrpc-42", SMALL, "seed 42 on 2 threads: after fine-tuning", minutes_compressing, 27, most=True,
           unit=" minutes"),
    Target("mrpc-42", SMALL, "seed 42 on 2 threads: from the checkpoint", minutes, 45, most=True, unit=" minutes"),
)  # fmt: skip


def family(task: str) -> str:
    """A task's name without the seed."""
    return task.split("-", maxsplit=1)[0]


def targets(results: list[Result]) -> Iterator[str]:
    """A table, line by line."""
    yield "| task | at full depth, unless it says otherwise | asked for | came to | |"
    yield "| --- | --- | ---: | ---: | --- |"
    for target in TARGETS:
        mine = [r for r in results if target.task in (r["task"], family(r["task"])) and r["recipe"] == target.recipe]
        digits = 1 if target.unit else 3
        bound = f"at {'most' if target.most else 'least'} {target.bound:.{digits}f}{target.unit}"
        found, verdict = "", "not run yet"
        if mine:
            figure = statistics.mean(target.measure(result) for result in mine)
            found = f"{figure:.{digits}f}{target.unit}"
            verdict = "holds" if (figure <= target.bound if target.most else figure >= target.bound) else "missed"
            verdict += f", mean of {target.seeds}" if len(mine) == target.seeds > 1 else ""
            verdict += f" so far, {len(mine)} of {target.seeds} seeds" if len(mine) < target.seeds else ""
        yield f"| {NAMES[family(target.task)]} | {target.wanted} | {bound} | {found} | {verdict} |"
