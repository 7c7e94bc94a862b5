"""Plans, evaluations and the catalogue as tables, for people at a terminal. Reports bring their own tables."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from compresskit.tables import Table

if TYPE_CHECKING:
    from compresskit.catalogue import Entry
    from compresskit.edits import Shape
    from compresskit.evaluate import Evaluation, Point
    from compresskit.plan import Plan
    from compresskit.predict import Prediction
    from compresskit.recipe_files import RecipeFile


UNUSUAL = ("round", "ranks in layers")
"""Columns of a plan that few have."""


def plan_tables(plan: Plan) -> list[Table]:
    """The steps, and what they will leave of the original."""
    from compresskit.report import Report, Side

    rows: list[tuple[str, ...]] = []
    for number, step in enumerate(plan.steps, start=1):
        shape = step.shape
        done = (str(number), step.name, step.place, str(step.iteration or ""))
        heads, neurons = ({getattr(layer, unit) for layer in shape.layers} for unit in ("heads", "neurons"))
        rank = shape.rank or shape.embedding
        ranks = {one for layer in shape.layers for one in layer.ranks if one}
        sizes = (
            _depth(shape),
            _range(heads),
            _range(neurons),
            f"{rank:,}" if rank else "",
            _range(ranks) if ranks else "",
        )
        rows.append((*done, *sizes, _list(shape.exits)))
    columns: tuple[str, ...] = (
        "step",
        "does",
        "place",
        "round",
        "layers",
        "heads",
        "neurons",
        "rank",
        "ranks in layers",
        "exits",
    )
    # A column that says nothing takes room from the others.
    told = [place for place, name in enumerate(columns) if name not in UNUSUAL or any(row[place] for row in rows)]
    columns, rows = tuple(columns[place] for place in told), [tuple(row[place] for place in told) for row in rows]
    title = f"{plan.recipe.name} on {plan.original.name}: the shape after each step"
    dims = plan.original.dims
    sides = Side.sized("as planned", dims, plan.shape), Side.sized(plan.original.name, dims, plan.original.shape)
    note = f"{_places(plan)}{_guesses(plan)}"
    return [Table(title, columns, tuple(rows), note), *Report(*sides).tables()]


def _guesses(plan: Plan) -> str:
    """Training that cuts learns what to cut."""
    from compresskit.verbs import Training

    before = [plan.original.shape, *(step.shape for step in plan.steps)]
    cuts = any(
        isinstance(step.work, Training) and step.shape != shape for step, shape in zip(plan.steps, before, strict=False)
    )
    return " What a mask leaves is foreseen; it learns what to cut." if cuts else ""


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """Every exit, the sweep, the confusions and the measured times."""
    tables = [_per_exit(evaluation), _sweep(evaluation)]
    last = f"layer {max(evaluation.per_exit)}"
    tables.append(_confusion(f"Answers at the last exit ({last})", evaluation.task.labels, evaluation.confusion))
    if evaluation.own is not None:
        title = f"Answers, leaving early by {_policy(evaluation)}"
        tables.append(_confusion(title, evaluation.task.labels, evaluation.own.confusion))
    tables.append(_times(evaluation))
    return [table for table in tables if table.rows]


def prediction_table(texts: Sequence[tuple[str, ...]], answers: Sequence[Prediction]) -> Table:
    """Each text, or pair of texts, with its answer."""
    rows = []
    for text, answer in zip(texts, answers, strict=True):
        label = answer.label if isinstance(answer.label, str) else f"{answer.label:.4f}"
        sure = "" if answer.probability is None else f"{answer.probability:.3f}"
        rows.append((*text, label, sure, str(answer.exit)))
    names = ("text", "text pair")[: len(texts[0])]
    return Table("", (*names, "label", "probability", "exit"), tuple(rows))


def catalogue_tables(entries: Iterable[Entry]) -> list[Table]:
    """One table per kind of strategy, then those of the architectures."""
    by_kind: dict[str, list[tuple[str, ...]]] = {}
    for entry in entries:
        by_kind.setdefault(entry.kind, []).append((entry.name, entry.summary, str(entry.origin)))
    last = {"architecture": 1, "alias": 2}
    kinds = sorted(by_kind, key=lambda kind: last.get(kind, 0))
    return [Table(kind, ("name", "what it does", "from"), tuple(by_kind[kind])) for kind in kinds]


def manual_page(entry: Entry) -> str:
    """A strategy's docstring under its name, kind and origin."""
    page = inspect.getdoc(entry.what) if isinstance(entry.what, type) else entry.summary
    return f"{entry.kind} {entry.name} (from {entry.origin})\n\n{_narrowed(page or '')}"


ITEM = re.compile(r"[-*] |\d+\. ")


def _narrowed(page: str) -> str:
    """The same in 80 columns: what is indented deeper goes on, what is indented alike is an entry or a paragraph."""
    parts: list[list[str]] = []
    for line in page.splitlines():
        before = parts[-1] if parts else [""]
        ended = not line.strip() or not before[0].strip() or before[-1].endswith(":")
        deeper, level = _indent(line) - _indent(before[0]), _indent(line)
        if not ended and (deeper > 0 or (deeper == 0 and level == 0 and not ITEM.match(line))):
            before.append(line)
        else:
            parts.append([line])
    return "\n".join(map(_filled, parts))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _filled(lines: Sequence[str]) -> str:
    """One paragraph or entry; as it is where it is narrow enough."""
    if max(map(len, lines)) <= 80:
        return "\n".join(lines)
    first = " " * _indent(lines[0])
    rest = " " * _indent(lines[1]) if len(lines) > 1 else first + ("    " if first else "")
    words = " ".join(line.strip() for line in lines)
    return textwrap.fill(
        words, 80, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def recipe_tables(recipes: Iterable[tuple[RecipeFile, str]]) -> list[Table]:
    """Names and what each recipe says of itself, one table per distribution."""
    by_origin: dict[str, list[tuple[str, ...]]] = {}
    for recipe, about in recipes:
        by_origin.setdefault(str(recipe.origin), []).append((recipe.name, about))
    return [Table(f"Recipes of {origin}", ("name", "about"), tuple(rows)) for origin, rows in by_origin.items()]


def _places(plan: Plan) -> str:
    """How to set an option of a step, on the example of the last one that trains."""
    from compresskit.verbs import Finetune, Training

    trains = [step for step in plan.steps if isinstance(step.work, Training)]
    if not trains:
        return ""
    place = trains[-1].place
    path = f"steps.{place.replace('.', '.steps.')}" + (".finetune" if isinstance(trains[-1].work, Finetune) else "")
    return f"The place is that in the recipe, counted from 0, as in --set {path}.epochs=1 for place {place}."


def _per_exit(evaluation: Evaluation) -> Table:
    names = evaluation.shown
    rows = tuple(
        (f"layer {number}", *(f"{metrics[name]:.4f}" for name in names))
        for number, metrics in evaluation.per_exit.items()
    )
    note = (
        f"{evaluation.rows:,} rows of {evaluation.mean_tokens:.1f} tokens on average, all answered at the exit named."
    )
    return Table("Every exit", ("exit", *names), rows, note)


def _sweep(evaluation: Evaluation) -> Table:
    points = [("", point) for point in evaluation.sweep]
    if evaluation.own is not None:
        points.append(("as saved: ", evaluation.own))
    names = evaluation.shown
    rows = tuple(_point(label, point, names) for label, point in points)
    columns = (evaluation.dial, *names, "mean exit", "reduction", "here")
    note = (
        "FLOPs reduction against the original at full depth (flops_all): at 128 tokens, and here, at the mean length "
        f"of these rows ({evaluation.mean_tokens:.0f})."
    )
    return Table("Leaving early", columns, rows, note)


def _point(label: str, point: Point, names: Sequence[str]) -> tuple[str, ...]:
    threshold = "none" if point.threshold is None else f"{point.threshold:g}"
    return (
        label + threshold,
        *(f"{point.metrics[name]:.4f}" for name in names),
        f"{point.mean_exit:.2f}",
        f"{point.flops_reduction:.2f}",
        f"{point.flops_reduction_real:.2f}",
    )


def _confusion(title: str, labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    rows = []
    for label, row in zip(labels, matrix, strict=False):
        right = row[labels.index(label)] / sum(row) if sum(row) else 0.0
        rows.append((label, *(f"{count:,}" for count in row), f"{right:.1%}"))
    note = "Each row counts the examples of one label, each column those that were given one." if rows else ""
    return Table(title, ("label", *labels, "right"), tuple(rows), note)


def _times(evaluation: Evaluation) -> Table:
    rows = tuple(
        (time.label, str(time.batch), str(time.tokens), f"{time.median:.2f}", f"{time.low:.2f} to {time.high:.2f}")
        for time in evaluation.milliseconds
    )
    note = f"Per example, {evaluation.milliseconds[0].measured}." if rows else ""
    return Table("Measured time", ("exits", "batch", "tokens", "milliseconds", "quartiles"), rows, note)


def _policy(evaluation: Evaluation) -> str:
    assert evaluation.policy is not None
    return ", ".join(str(value) if key == "by" else f"{key} {value}" for key, value in evaluation.policy.items())


def _depth(shape: Shape) -> str:
    """`12`, or `12 in 3 groups` where layers share weights."""
    groups = len(set(shape.owners))
    return f"{len(shape.layers)}" + (f" in {groups} group{'s' if groups > 1 else ''}" if groups else "")


def _range(counts: set[int]) -> str:
    return f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


def _list(numbers: Sequence[int]) -> str:
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
