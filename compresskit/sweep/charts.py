"""Draws what the runs of a sweep came to: PNG files, and one page of HTML that needs nothing else.

Runs differ in colour (Okabe and Ito's palette, which colour-blind people can tell apart), marker and line, so that a
print in grey is as good.
"""

from __future__ import annotations

import html
import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compresskit.sweep.results import Cell
from compresskit.tables import Table
from compresskit.writing import saving

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
DASHES = ("-", "--", "-.", ":")
GREY = "#777777"
BEST = "the best at each cost"
PAGE = "report.html"
WORK = "GFLOPs per text of 128 tokens, heads included"

Style = dict[str, Any]
FRONTIER: Style = {"color": GREY, "linewidth": 1, "linestyle": ":"}


def styles(runs: Sequence[str]) -> dict[str, Style]:
    """A colour, a marker and a line for each run; no two share a marker and a line before 44 runs."""
    looks = zip(cycle(COLOURS), cycle(MARKERS), cycle(DASHES), strict=False)
    return {
        run: {"color": colour, "marker": marker, "linestyle": dash}
        for run, (colour, marker, dash) in zip(runs, islice(looks, len(runs)), strict=True)
    }


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, score) that no other beats, from the cheapest to the best."""
    best: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or score > best[-1][1]:
            best.append((cost, score))
    return best


def write_charts(found: Sequence[Cell], tables: Sequence[Table], title: str, out: Path, about: str = "") -> list[Path]:
    """A PNG for each checkpoint and data set, and the page with what it is about, all charts and tables.

    Returns:
        The files.

    Raises:
        CheckpointError: they could not be written.
    """
    parts, files = [f"<p>{html.escape(about)}</p>"] if about else [], []
    with saving(out):
        for (data, checkpoint), group in groupby(found, key=lambda cell: (cell.data, cell.checkpoint)):
            cells = list(group)
            figure = draw(cells)
            files.append(out / f"{data}@{checkpoint}.png")  # names may have hyphens, but no @
            figure.savefig(files[-1], dpi=150)
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            mine = [table for table in tables if table.title.split(":")[0] == f"{data}, {checkpoint}"]
            parts += [_svg(drawn.getvalue(), f"{data}, {checkpoint}: {_words(cells)}"), *map(_html_table, mine)]
        page = out / PAGE
        page.write_text(_page(title, parts), encoding="utf-8")
    return [*files, page]


def draw(cells: Sequence[Cell]) -> Figure:
    """Score against FLOPs, parameters and milliseconds, and at each exit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    look = styles([cell.run for cell in cells])
    first = cells[0]
    figure.suptitle(f"{first.data}, {first.checkpoint} ({_counted(cells)})\n{_explained(cells)}")
    axes = figure.subplots(2, 2).flat
    whole = [cell.values for cell in cells]
    # Where examples leave early, what was measured is the time and the score of that.
    quick = [cell.early or cell.values for cell in cells]
    first_axes = next(axes)
    _against(first_axes, cells, look, [cell.gflops for cell in cells], whole, [p for cell in cells for p in cell.curve])
    _curves(first_axes, cells, look)
    first_axes.set_xlabel(WORK)
    _against(next_axes := next(axes), cells, look, [cell.millions for cell in cells], whole)
    next_axes.set_xlabel("parameters, millions")
    _against(next_axes := next(axes), cells, look, [cell.quickest(32) for cell in cells], quick)
    next_axes.set_xlabel("ms per text, batch 32, measured here, leaving early")
    _exits(next(axes), cells, look)
    _legend(figure, look, columns=4, best=True)
    return figure


def draw_panels(groups: Mapping[str, Sequence[Cell]], what: Literal["curves", "exits"]) -> Figure:
    """A panel for each data set, side by side, in which every run looks the same.

    Args:
        groups: the runs to be shown, by the title of their panel; a panel without one says so.
        what: `curves` for scores against FLOPs along every setting of leaving early, where a run that nobody leaves is
            one point; `exits` for the score of each exit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(groups), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    look = styles(list(dict.fromkeys(cell.run for cells in groups.values() for cell in cells)))
    for axes, (title, cells) in zip(figure.subplots(1, len(groups), squeeze=False).flat, groups.items(), strict=True):
        axes.set_title(f"{title} ({_counted(cells)})" if cells else title, fontsize=10)
        if cells:
            _panel(axes, cells, look, what)
        else:
            axes.text(0.5, 0.5, "no run yet", ha="center", transform=axes.transAxes, color=GREY)
    if look:
        _legend(figure, look, columns=5)
    return figure


def _legend(figure: Figure, look: Mapping[str, Style], columns: int, best: bool = False) -> None:
    """Every run with its marker on its line, as curves have them, long enough to tell dashes apart."""
    from matplotlib.lines import Line2D

    numbers = _numbers(look)
    handles = [
        Line2D([], [], label=f"{numbers.get(run, '')} {run}".strip(), markersize=5, linewidth=1, **style)
        for run, style in look.items()
    ]
    if best:
        handles.append(Line2D([], [], label=BEST, **FRONTIER))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=4)


def _numbers(look: Mapping[str, Style]) -> dict[str, str]:
    """A number for each run where they are more than there are markers: a single point has no line to know it by."""
    return {run: str(number) for number, run in enumerate(look, 1)} if len(look) > len(MARKERS) else {}


def _tag(axes: Axes, look: Mapping[str, Style], run: str, point: tuple[float, float]) -> None:
    """Write the run's number beside a point of it, where runs have numbers."""
    if number := _numbers(look).get(run):
        axes.annotate(number, point, xytext=(4, 4), textcoords="offset points", fontsize=7)


def _panel(axes: Axes, cells: Sequence[Cell], look: dict[str, Style], what: Literal["curves", "exits"]) -> None:
    if what == "exits":
        _exits(axes, cells, look)
        return
    _curves(axes, cells, look)
    for cell in cells:
        if not cell.curve:
            axes.plot(cell.gflops, cell.mean, markersize=7, **{**look[cell.run], "linestyle": ""})
    axes.set_xlabel(WORK)
    axes.set_ylabel(cells[0].metric)
    axes.grid(color="#dddddd", linewidth=0.5)


def _counted(cells: Sequence[Cell]) -> str:
    """Rows and seeds that scores are of."""
    least, most = (some(len(cell.values) for cell in cells) for some in (min, max))
    seeds = "1 seed" if most == 1 else f"{most} seeds" if least == most else f"{least} to {most} seeds"
    return f"n = {cells[0].rows:,} rows, {seeds}"


def _explained(cells: Sequence[Cell]) -> str:
    """What the marks stand for that the legend doesn't tell."""
    bar = " with its standard deviation over seeds" if any(len(cell.values) > 1 for cell in cells) else ""
    line = "; a line: its exits, or every setting by which it leaves early" if any(cell.curve for cell in cells) else ""
    return f"a large marker: a run{bar}{line}"


def _against(
    axes: Axes,
    cells: Sequence[Cell],
    look: dict[str, Style],
    costs: Sequence[float | None],
    scores: Sequence[Sequence[float]],
    more: Sequence[tuple[float, float]] = (),
) -> None:
    """One point a run, with its spread over seeds, and the frontier of these and more points."""
    known = []
    for cell, cost, values in zip(cells, costs, scores, strict=True):
        if cost is not None:
            known.append((cost, statistics.mean(values)))
            spread = statistics.stdev(values) if len(values) > 1 else None
            style = {**look[cell.run], "linestyle": ""}
            axes.errorbar(*known[-1], yerr=spread, capsize=3, markersize=7, **style)
            _tag(axes, look, cell.run, known[-1])
    best = frontier([*known, *more])
    if len(best) > 1:
        axes.step(*zip(*best, strict=True), where="post", zorder=0, **FRONTIER)
    axes.set_ylabel(cells[0].metric)
    axes.grid(color="#dddddd", linewidth=0.5)
    if not known:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color=GREY)


def _curves(axes: Axes, cells: Sequence[Cell], look: dict[str, Style]) -> None:
    """What leaving early comes to at every setting."""
    for cell in cells:
        if cell.curve:
            axes.plot(*zip(*cell.curve, strict=True), markersize=3, linewidth=1, **look[cell.run])


def _exits(axes: Axes, cells: Sequence[Cell], look: dict[str, Style]) -> None:
    from matplotlib.ticker import MaxNLocator

    several = [cell for cell in cells if len(cell.per_exit) > 1]
    for cell in several:
        points = list(cell.per_exit.items())
        axes.plot(*zip(*points, strict=True), markersize=4, linewidth=1, **look[cell.run])
        _tag(axes, look, cell.run, points[-1])
    axes.set_xlabel("exit after layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(cells[0].metric)
    axes.grid(color="#dddddd", linewidth=0.5)
    if not several:
        axes.text(0.5, 0.5, "no run has several exits", ha="center", transform=axes.transAxes, color=GREY)


def _words(cells: Sequence[Cell]) -> str:
    """What the chart shows, for those who can't see it."""
    told = (f"{cell.run} {cell.mean:.3f} at {cell.gflops:.2f} GFLOPs" for cell in cells)
    return f"{cells[0].metric} against cost. " + "; ".join(told)


def _svg(drawn: str, words: str) -> str:
    """The drawing inside the page, with words in place of it for readers; references that leave the file go."""
    inside = drawn[drawn.index("<svg") :]
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    return inside.replace("<svg", f'<svg role="img" aria-label="{html.escape(words)}"', 1)


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> Iterator[str]:
        yield "<tr>"
        yield from (f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        yield "</tr>"

    body = "".join("".join(row(cells, "td")) for cells in table.rows)
    head = "".join(row(table.columns, "th"))
    caption = f"<caption>{html.escape(table.title)}</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table><p>{html.escape(table.note)}</p>"


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;font-weight:bold}"
    "th,td{padding:.2rem .8rem;border-bottom:1px solid #ccc;text-align:right}"
    "th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def _page(title: str, parts: Sequence[str]) -> str:
    name = html.escape(title)
    head = f'<meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>{name}</h1>\n'
        + "\n".join(parts)
        + ("\n</body></html>\n")
    )
