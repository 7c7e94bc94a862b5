"""What charts show, and that the page needs nothing else."""

from __future__ import annotations

import re
import struct

import pytest

from compresskit.sweep.charts import COLOURS, GREY, MARKERS, draw, draw_panels, frontier, styles, write_charts
from compresskit.sweep.results import Cell, tables


def cell(run, values, flops, early=(), sweep=(), **more):
    per_exit = {1: 0.6, 2: 0.7} if early else {2: values[0]}
    times = {("full depth", 32): 4.0, **({("leaving early", 32): 3.0} if early else {})}
    return Cell(
        "mrpc", "mini", run, "accuracy", values, early, 10.0, 10.0 / flops, millions=5.0,
        milliseconds=times, sweep=sweep, per_exit=per_exit, rows=100, **more,
    )  # fmt: skip


CELLS = [
    cell("plain", (0.8, 0.9), 2.0),
    cell("early <b>", (0.7, 0.7), 1.0, early=(0.6, 0.8), sweep=(((5.0, 0.6), (10.0, 0.7)), ((2.5, 0.4), (10.0, 0.9)))),
]


def test_points_that_no_other_beats():
    assert frontier([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (4, 0.9)]) == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_in_grey_too_every_run_looks_otherwise():
    looks = styles([str(number) for number in range(40)])
    assert len({(look["marker"], look["linestyle"]) for look in looks.values()}) == 40
    assert len({look["color"] for look in looks.values()}) == len(COLOURS)


def lines_of(axes):
    return {
        (line.get_color(), tuple(round(float(x), 6) for x in line.get_xdata())): [
            round(float(y), 6) for y in line.get_ydata()
        ]
        for line in axes.lines
        if line.get_marker() in MARKERS  # the others are the caps of error bars
    }


def test_axes_have_units_and_the_title_n():
    figure = draw(CELLS)
    assert figure.get_suptitle() == (
        "mrpc, mini (n = 100 rows, 2 seeds)\na large marker: a run with its standard deviation over seeds; "
        "a line: its exits, or every setting by which it leaves early"
    )
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "GFLOPs per text of 128 tokens, heads included",
        "parameters, millions",
        "ms per text, batch 32, measured here, leaving early",
        "exit after layer",
    ]
    assert {axes.get_ylabel() for axes in figure.axes} == {"accuracy"}


def test_the_legend_names_every_run_and_the_frontier():
    (legend,) = draw(CELLS).legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "early <b>", "the best at each cost"]


def looks(line):
    return line.get_color(), line.get_marker(), line.get_linestyle()


def test_the_legend_shows_each_run_as_its_curve_is_drawn():
    figure = draw(CELLS)
    (legend,) = figure.legends
    for axes in (figure.axes[0], figure.axes[-1]):
        (curve,) = [line for line in axes.lines if line.get_linestyle() not in ("None", ":")]
        assert looks(legend.get_lines()[1]) == looks(curve)


def test_more_runs_than_markers_have_numbers_beside_their_points():
    """Or two runs, each a single point, would be the same in grey."""
    many = [cell(f"run {number}", (0.8, 0.9), 2.0) for number in range(1, len(MARKERS) + 1)]
    assert not any(axes.texts for axes in draw(many).axes[:3])
    figure = draw([*many, CELLS[1]])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["12 early <b>", "the best at each cost"]
    assert [text.get_text() for text in figure.axes[0].texts] == [str(number) for number in range(1, 13)]
    (last,) = figure.axes[-1].texts
    assert (last.get_text(), last.xy) == ("12", (2, 0.7))


def test_scores_have_their_spread_over_seeds():
    (bar, *_), _, _, _ = (axes.collections for axes in draw(CELLS).axes)
    ((_, low), (_, high)) = bar.get_segments()[0]
    assert (low, high) == (pytest.approx(0.85 - 0.005**0.5), pytest.approx(0.85 + 0.005**0.5))


def test_each_run_is_where_it_belongs():
    flops, _, milliseconds, exits = draw(CELLS).axes
    plain, early = (look["color"] for look in styles(["plain", "early <b>"]).values())
    assert lines_of(flops)[plain, (5.0,)] == [0.85]
    assert lines_of(flops)[early, (10.0,)] == [0.7]
    # The curve: means over seeds of 5 and 2.5 GFLOPs, and of the values there.
    assert lines_of(flops)[early, (3.75, 10.0)] == [0.5, 0.8]
    assert lines_of(milliseconds)[plain, (4.0,)] == [0.85]
    assert lines_of(milliseconds)[early, (3.0,)] == [0.7]  # the mean of what leaving early came to
    assert lines_of(exits)[early, (1.0, 2.0)] == [0.6, 0.7]
    assert not any(colour == plain for colour, _ in lines_of(exits))


def test_the_frontier_goes_along_all_that_runs_can_do():
    """Dotted and grey, and level from a point to the next better one: the curve of leaving early is on it too."""
    flops, _, milliseconds, _ = draw(CELLS).axes
    (drawn,) = [line for line in flops.lines if line.get_color() == GREY]
    assert drawn.get_drawstyle() == "steps-post"
    assert list(zip(drawn.get_xdata(), drawn.get_ydata(), strict=True)) == [(3.75, 0.5), (5.0, pytest.approx(0.85))]
    (drawn,) = [line for line in milliseconds.lines if line.get_color() == GREY]
    assert list(drawn.get_xdata()) == [3.0, 4.0]


def test_panels_show_data_sets_side_by_side_in_the_same_looks():
    figure = draw_panels({"one": CELLS, "two": CELLS[1:], "three": []}, "curves")
    assert [axes.get_title() for axes in figure.axes] == [
        "one (n = 100 rows, 2 seeds)",
        "two (n = 100 rows, 2 seeds)",
        "three",
    ]
    first, second, third = figure.axes
    plain, early = (look["color"] for look in styles(["plain", "early <b>"]).values())
    assert lines_of(first) == {
        (early, (3.75, 10.0)): [0.5, 0.8],
        (plain, (5.0,)): [0.85],
    }
    assert lines_of(second) == {(early, (3.75, 10.0)): [0.5, 0.8]}
    assert [text.get_text() for text in third.texts] == ["no run yet"]
    assert first.get_xlabel() == "GFLOPs per text of 128 tokens, heads included"
    assert first.get_ylabel() == "accuracy"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "early <b>"]


def test_panels_of_exits():
    figure = draw_panels({"one": CELLS}, "exits")
    _, early = (look["color"] for look in styles(["plain", "early <b>"]).values())
    assert lines_of(figure.axes[0]) == {(early, (1.0, 2.0)): [0.6, 0.7]}
    assert figure.axes[0].get_xlabel() == "exit after layer"
    assert not draw_panels({"none": []}, "exits").legends


def test_the_page_and_the_pictures(tmp_path):
    found = write_charts(CELLS, tables(CELLS, None), "A & B", tmp_path, "Which is <better>?")
    assert [path.name for path in found] == ["mrpc@mini.png", "report.html"]
    picture = found[0].read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1650, 1350)
    page = found[1].read_text(encoding="utf-8")
    assert "<title>A &amp; B</title>" in page
    assert page.count("<svg ") == 1 and page.count("<table>") == 3
    assert 'aria-label="mrpc, mini: accuracy against cost. plain 0.850 at 5.00 GFLOPs; early &lt;b&gt; 0.700' in page
    assert "<p>Which is &lt;better&gt;?</p>" in page
    assert "<b>" not in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert set(re.findall(r"https?://[^\"]+", page)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_charts_are_the_same_again(tmp_path):
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_charts(CELLS, [], "t", tmp_path / name)
        pages.append(re.sub(r"\b[pmC0-9a-z_]*[0-9a-f]{10}\b", "", (tmp_path / name / "report.html").read_text()))
    assert pages[0] == pages[1]


def test_without_times_or_exits_the_chart_says_so():
    bare = Cell("d", "c", "a", "accuracy", (0.5,), (), 1.0, 1.0, per_exit={1: 0.5})
    _, _, milliseconds, exits = draw([bare]).axes
    assert [text.get_text() for text in milliseconds.texts] == ["not measured"]
    assert [text.get_text() for text in exits.texts] == ["no run has several exits"]


@pytest.mark.parametrize("count", [1, 3])
def test_seeds_are_counted(count):
    title, marks = draw([cell("a", (0.5,) * count, 1.0)]).get_suptitle().splitlines()
    assert title.endswith("1 seed)" if count == 1 else "3 seeds)")
    assert marks == "a large marker: a run" + (" with its standard deviation over seeds" if count > 1 else "")
