"""A report as tables of strings, the same for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from compresskit.anatomy import ROLES
from compresskit.cost import Block, Convention
from compresskit.edits import LayerShape

if TYPE_CHECKING:
    from compresskit.report import Milliseconds, Report, Side

PRINTED: tuple[Convention, ...] = ("flops_all", "torch110")
"""Conventions shown to people; JSON has them all. COST-EFF prints the second, which leaves attention products out."""

Row = tuple[str, str, str, str]
"""What, before, after, change."""


@dataclass(frozen=True)
class Table:
    """A titled table of strings, and a line to stand below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables_of(report: Report) -> tuple[Table, ...]:
    """Every table of a report that has a row."""
    tables = (
        summary(report),
        exits(report.model),
        times(report),
        layers(report),
        blocks(report.model),
        steps(report),
    )
    return tuple(table for table in tables if table.rows)


def summary(report: Report) -> Table:
    """Parameters, FLOPs, bytes, scores and milliseconds, before and after."""
    model, original = report.model, report.original
    notes = [f"FLOPs of one example of {report.tokens} tokens, padding included."]
    if model.leaving is not None:
        notes.append(f"Leaving early by {model.leaving.policy}: mean exit {model.leaving.mean_exit:.2f}.")
    notes += [f"Milliseconds per example, {text}." for text in _unique(t.measured for t in model.milliseconds)]
    sides = (("The original", original), ("The compressed model", model)) if original else (("The model", model),)
    notes += [f"{whose} answers '{side.always}' to every row." for whose, side in sides if side.always is not None]
    rows = (*_sizes(model, original), *_scores(model, original), *(_time(t, original) for t in model.milliseconds))
    if original is None:
        return Table(model.name, ("", "value"), tuple((what, after) for what, _, after, _ in rows), " ".join(notes))
    title = f"{model.name} against {original.name}"
    return Table(title, ("", "original", "compressed", "change"), rows, " ".join(notes))


def exits(model: Side) -> Table:
    """Per exit: each metric, and the part of the examples that left there."""
    scores = {score.metric: score.per_exit for score in model.scores if score.per_exit}
    left = model.leaving.histogram if model.leaving is not None else {}
    examples = sum(left.values())
    rows = []
    for layer in model.shape.exits if scores or left else ():
        cells = [f"{values[layer]:.4f}" if layer in values else "" for values in scores.values()]
        cells += [f"{left.get(layer, 0) / examples:.1%}"] if left else []
        rows.append((f"layer {layer}", *cells))
    nobody = [layer for layer, count in left.items() if count] == [len(model.shape.layers)]
    note = "Nobody leaves early by this setting; `compresskit evaluate` shows what others come to." if nobody else ""
    return Table("Exits", ("exit", *scores, *(["left here"] if left else [])), tuple(rows), note)


def times(report: Report) -> Table:
    """Every measured time with its spread."""
    # Not their names, which are paths: a long one would break the line.
    sides = {"": report.model}
    if report.original is not None:
        sides = {"original, ": report.original, "compressed, ": report.model}
    measured = [(whose, time) for whose, side in sides.items() for time in side.milliseconds]
    rows = tuple(
        (whose + t.label, str(t.batch), str(t.tokens), f"{t.median:.2f}", f"{t.low:.2f} to {t.high:.2f}")
        for whose, t in measured
    )
    note = "Per example, " + "; ".join(_unique(t.measured for _, t in measured)) + "."
    return Table("Measured time", ("model", "batch", "tokens", "milliseconds", "quartiles"), rows, note)


def layers(report: Report) -> Table:
    """Heads, neurons and exits of each run of equal layers."""
    shape = report.model.shape
    given = set(report.original.shape.layers) if report.original is not None else set()
    # "2 of 12" says something only where all layers of the original were alike.
    whole = given.pop() if len(given) == 1 else None
    rows: list[tuple[str, ...]] = []
    for first, last, layer in _runs(shape.layers):
        heads = _kept(layer.heads, whole.heads if whole else None)
        neurons = _kept(layer.neurons, whole.neurons if whole else None)
        rows.append((_span(first, last), heads, neurons, _spans([n for n in shape.exits if first <= n <= last])))
    embedding = "one table" if shape.rank is None else f"two factors of rank {shape.rank}"
    if shape.embedding is not None:
        embedding = f"{shape.embedding} wide, as all embeddings, then a linear layer"
    sharing = "".join(f" Layers {_spans(run)} share one set of weights." for run in _sharing(shape.owners))
    told = ""
    columns: tuple[str, ...] = ("layers", "heads each", "FFN neurons each", "exits after")
    if any(layer.ranks for layer in shape.layers):
        columns, told = (*columns, "ranks"), f" Ranks of {', '.join(ROLES)}; - is one matrix."
        rows = [(*row, _ranks(layer)) for row, (_, _, layer) in zip(rows, _runs(shape.layers), strict=True)]
    narrow = "" if shape.hidden is None else f" Hidden states: {shape.hidden} wide."
    head = "" if shape.head is None else f" Exit heads: {shape.head.name}."
    return Table("Layers", columns, tuple(rows), f"Word embeddings: {embedding}.{narrow}{sharing}{head}{told}")


def blocks(model: Side) -> Table:
    """Parameters and MACs from the embeddings to the read-out."""
    rows = []
    for name, merged in _merged(model):
        parameters, macs = sum(block.parameters for block in merged), sum(block.macs for block in merged)
        rows.append((name, f"{parameters:,}", f"{macs / 1e6:,.2f} M", f"{sum(block.share for block in merged):.1%}"))
    note = "MACs include attention products and heads; the share is of the parameters."
    return Table("Blocks", ("block", "parameters", "MACs", "share"), tuple(rows), note)


def steps(report: Report) -> Table:
    """Training time."""
    rows = tuple((step.name, f"{step.seconds:,.0f}") for step in report.steps)
    return Table("Training time", ("step", "seconds"), rows, f"{sum(s.seconds for s in report.steps):,.0f} s in all.")


def markdown(table: Table) -> str:
    """A section with a pipe table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = line(["---", *["---:"] * (len(table.columns) - 1)])
    lines = [f"### {table.title}", "", line(table.columns), rule, *map(line, table.rows), ""]
    return "\n".join([*lines, table.note, ""] if table.note else lines)


def _sizes(model: Side, original: Side | None) -> Iterator[Row]:
    yield _size("parameters", original.parameters if original else None, model.parameters, "fewer", "more")
    for convention in PRINTED:
        before = original.flops[convention] if original else None
        yield _flops(f"FLOPs ({convention})", before, model.flops[convention])
        if model.leaving is not None:
            yield _flops(f"leaving early ({convention})", before, model.leaving.flops[convention])
    if model.bytes_on_disk is not None:
        yield _size(
            "bytes on disk", original.bytes_on_disk if original else None, model.bytes_on_disk, "smaller", "larger"
        )


def _size(what: str, before: int | None, after: int, less: str, more: str) -> Row:
    if before is None:
        return what, "", f"{after:,}", ""
    if before == after:
        return what, f"{before:,}", f"{after:,}", "the same"
    ratio, word = (before / after, less) if before > after else (after / before, more)
    # Exits may add so little that the ratio would read 1.00.
    change = f"{ratio:.2f} times {word}" if ratio >= 1.005 else f"{abs(after - before) / before:.2%} {word}"
    return what, f"{before:,}", f"{after:,}", change


def _flops(what: str, before: float | None, after: float) -> Row:
    if before is None:
        return what, "", f"{after / 1e6:,.1f} M", ""
    return what, f"{before / 1e6:,.1f} M", f"{after / 1e6:,.1f} M", f"FLOPs reduction {before / after:.2f}"


def _scores(model: Side, original: Side | None) -> Iterator[Row]:
    given = {score.metric: score.value for score in original.scores} if original else {}
    for score in model.scores:
        before = given.get(score.metric)
        if before is None:
            yield score.metric, "", f"{score.value:.4f}", ""
        else:
            yield score.metric, f"{before:.4f}", f"{score.value:.4f}", f"{score.value - before:+.4f}"


def _time(time: Milliseconds, original: Side | None) -> Row:
    """Faster only where the quartiles lie apart; a difference within them is noise."""
    what = f"ms, batch {time.batch}, {time.label}"
    alike = [other for other in original.milliseconds if other.setting == time.setting] if original else []
    if not alike:
        return what, "", f"{time.median:.2f}", ""
    before = next((other for other in alike if other.label == time.label), alike[0])
    gain = f"{before.median / time.median:.2f} times as fast" if time.high < before.low else "no gain"
    return what, f"{before.median:.2f}", f"{time.median:.2f}", gain


def _merged(model: Side) -> Iterator[tuple[str, list[Block]]]:
    """Blocks under one name for each run of equal layers, so that a uniform model makes a short table."""
    yield from ((block.name, [block]) for block in model.blocks if block.part.endswith("embeddings"))
    for first, last, _ in _runs(model.shape.layers):
        for part in ("attention", "ffn", "rest"):
            inside = [b for b in model.blocks if b.part == part and b.layer is not None and first <= b.layer <= last]
            if not inside:
                continue
            yield f"{'layer' if first == last else 'layers'} {_span(first, last)} {part}", inside
    yield from ((block.name, [block]) for block in model.blocks if block.part in ("exits", "read-out"))


def _runs(shapes: Sequence[LayerShape]) -> Iterator[tuple[int, int, LayerShape]]:
    """First and last number (1-based) of each run of equal layers."""
    for layer, run in groupby(enumerate(shapes, start=1), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        yield numbers[0], numbers[-1], layer


def _ranks(layer: LayerShape) -> str:
    """Of the matrices from the queries' to the FFN's last, those alike told once: `96`, or `12 11 20 31 40 -`."""
    ranks = ["-" if rank is None else str(rank) for rank in layer.ranks]
    return " ".join(dict.fromkeys(ranks) if len(set(ranks)) == 1 else ranks)


def _sharing(owners: Sequence[int]) -> list[list[int]]:
    """Numbers (1-based) of the layers that use one set of weights, where they are more than one."""
    found = [[number for number, own in enumerate(owners, start=1) if own == owner] for owner in sorted(set(owners))]
    return [numbers for numbers in found if len(numbers) > 1]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _spans(numbers: Sequence[int]) -> str:
    """`1 to 4, 6`."""
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    found = [[number for _, number in run] for _, run in runs]
    return ", ".join(_span(run[0], run[-1]) for run in found)


def _kept(kept: int, whole: int | None) -> str:
    return f"{kept:,}" if whole in (None, kept) else f"{kept:,} of {whole:,}"


def _unique(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))
