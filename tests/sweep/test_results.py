"""Means, differences and who is dominated, on numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from compresskit.sweep.results import Cell, at_cost, cells, compare, dominated, tables


def side(parameters, gflops, exits=()):
    """Of four layers, each with a quarter of the cost, and heads that cost nothing."""
    blocks = [{"part": "ffn", "layer": number, "macs": gflops * 1e9 / 8} for number in (1, 2, 3, 4)]
    return {
        "parameters": parameters,
        "shape": {"heads": [1] * 4, "exits": list(exits), "read_out": not exits},
        "blocks": blocks,
    }


def setting(value, leave):
    """A setting of which so many of ten texts leave at each of four layers."""
    return {"value": value, "histogram": {str(layer): count for layer, count in enumerate(leave, start=1)}}


def line(
    run, seed, value, *, gflops=5.0, parameters=25, exits=(), answers=None, labels=None, tokens=None, out=None, **more
):
    folder = f"runs/{run}-{seed}"
    if out is not None:
        path = out / f"{folder}.answers.json"
        path.parent.mkdir(exist_ok=True)
        labels, tokens = labels or [1] * len(answers), tokens or [9] * len(answers)
        path.write_text(json.dumps({"task": "classification", "labels": labels, "answers": answers, "tokens": tokens}))
    evaluation = {"metric": "accuracy", "value": value, "operating_point": None, "sweep": [], "milliseconds": []}
    evaluation |= {"per_exit": [{"exit": 2, "accuracy": value}], "rows": 8}
    before, after = side(100, 10.0), side(parameters, gflops, exits)
    return {
        "data": "d", "checkpoint": "c", "run": run, "seed": seed, "state": "done", "folder": folder,
        "evaluation": evaluation | more, "report": {"original": before, "model": after},
    }  # fmt: skip


def test_seeds_are_put_together_in_the_order_of_the_runs(tmp_path):
    lines = [line("a", 1, 0.5), line("b", 1, 0.9), line("a", 2, 0.7), line("b", 2, 0.9), line("a", 3, 0.6)]
    first, second = cells(lines, tmp_path, None)
    assert (first.run, first.values, second.run) == ("a", (0.5, 0.7, 0.6), "b")
    assert first.mean == pytest.approx(0.6)
    assert (first.parameters, first.flops, first.flops_early) == (4.0, 2.0, None)


def test_answers_to_other_rows_are_not_compared(tmp_path):
    """As many rows, but with other labels: what is in the folder may be older than the data."""
    ours = line("a", 1, 0.5, answers=[1, 1, 0, 0], labels=[1, 1, 1, 1], out=tmp_path)
    theirs = line("b", 1, 0.5, answers=[1, 1, 0, 0], labels=[0, 0, 1, 1], out=tmp_path)
    assert cells([ours], tmp_path, "b", [theirs])[0].difference is None
    theirs = line("b", 1, 0.5, answers=[0, 0, 0, 0], tokens=[9, 9, 9, 8], out=tmp_path)
    assert cells([ours], tmp_path, "b", [theirs])[0].difference is None
    theirs = line("b", 1, 0.5, answers=[0, 0, 0, 0], out=tmp_path)
    assert cells([ours], tmp_path, "b", [theirs])[0].difference.points == 0.5


def test_answers_that_somebody_deleted_are_not_compared(tmp_path):
    ours, theirs = (line(name, 1, 0.5, answers=[1, 0], out=tmp_path) for name in "ab")
    (tmp_path / f"{theirs['folder']}.answers.json").unlink()
    assert cells([ours], tmp_path, "b", [theirs])[0].difference is None


def test_where_seeds_are_missing_a_score_says_so(tmp_path):
    lines = [line("a", 1, 0.5), line("b", 1, 0.9), line("a", 2, 0.7)]
    scores, _ = tables(cells(lines, tmp_path, None), None)
    assert [row[1] for row in scores.rows] == ["0.600 ± 0.141", "0.900 (1 of 2 seeds)"]


def test_sizes_that_differ_from_seed_to_seed_are_averaged_as_sizes(tmp_path):
    """2 and 5 GFLOPs of 10 are 3.5 on average, a reduction of 2.86; the mean of the reductions would be 3.5."""
    lines = [line("a", 1, 0.5, gflops=5.0, parameters=20), line("a", 2, 0.5, gflops=2.0, parameters=60)]
    for order in (lines, lines[::-1]):
        (found,) = cells(order, tmp_path, None)
        assert (found.gflops, found.flops) == (pytest.approx(3.5), pytest.approx(10 / 3.5))
        assert found.parameters == pytest.approx(100 / 40)


def test_leaving_early_is_averaged_in_flops(tmp_path):
    """All leave at layer 1 with one seed and none with the other: 2.5 and 10 GFLOPs."""
    own = [setting(0.6, (10, 0, 0, 0)), setting(0.8, (0, 0, 0, 10))]
    lines = [
        line("a", seed, 0.8, gflops=10.0, exits=(1, 2, 3, 4), operating_point=point) for seed, point in enumerate(own)
    ]
    (found,) = cells(lines, tmp_path, None)
    assert found.gflops_early == pytest.approx(6.25)
    assert found.flops_early == pytest.approx(10 / 6.25)
    assert found.early == (0.6, 0.8)


def test_failed_runs_are_left_out(tmp_path):
    assert cells([line("a", 1, 0.5) | {"state": "failed"}], tmp_path, None) == []


def test_mcnemar_is_exact():
    """Of ten rows that one alone got right nine are ours: 2 * (1 + 10) / 2^10."""
    found = compare([1.0] * 9 + [-1.0] + [0.0] * 30)
    assert found.p == pytest.approx(2 * 11 / 2**10)
    assert found.points == pytest.approx(8 / 40)
    assert found.rows == 40
    assert compare([0.0] * 5).p == 1.0


def test_the_interval_is_that_of_the_mean():
    """800 rows of +1 and 200 of -1: mean 0.6, standard error 0.8 / sqrt(1000)."""
    found = compare([1.0] * 800 + [-1.0] * 200)
    error = 1.96 * 0.8 / 1000**0.5
    assert found.low == pytest.approx(0.6 - error, abs=0.004)
    assert found.high == pytest.approx(0.6 + error, abs=0.004)
    assert compare([1.0] * 800 + [-1.0] * 200) == found


def test_answers_of_several_seeds_to_one_row_stand_or_fall_together(tmp_path):
    """Two seeds that answer alike tell no more than one: the interval stays as wide, and so does p."""
    ours, theirs = [1, 1, 1, 1, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0, 1, 1]
    once = [line("a", 1, 0.8, answers=ours, out=tmp_path), line("b", 1, 0.3, answers=theirs, out=tmp_path)]
    twice = [*once, line("a", 2, 0.8, answers=ours, out=tmp_path), line("b", 2, 0.3, answers=theirs, out=tmp_path)]
    one, two = (cells(lines, tmp_path, "b")[0].difference for lines in (once, twice))
    assert replace(one, seeds=2) == two
    assert (one.points, one.rows) == (pytest.approx(4 / 8), 8)
    assert one.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert cells(once, tmp_path, "b")[1].difference is None


def cell(run, value, flops, **more):
    return Cell("d", "c", run, "accuracy", (value,), (), 8.0, 8.0 / flops, **more)


def test_a_run_is_dominated_by_one_that_is_no_worse_and_somewhere_better():
    good, cheap, poor, twin = (
        cell("good", 0.9, 2.0),
        cell("cheap", 0.8, 4.0),
        cell("poor", 0.8, 2.0),
        cell("g", 0.9, 2.0),
    )
    everyone = [good, cheap, poor, twin]
    assert [dominated(one, everyone) for one in everyone] == [False, False, True, False]


def test_leaving_early_dominates_and_saves_from_it():
    slow = cell("slow", 0.9, 1.0, sweep=(((4.0, 0.85), (1.0, 0.7)),))
    whole = cell("whole", 0.8, 2.0)
    cheap = cell("cheap", 0.6, 4.0, sweep=(((2.0, 0.6), (0.5, 0.5)),))
    everyone = [slow, whole, cheap]
    assert [dominated(one, everyone) for one in everyone] == [False, True, False]
    assert not dominated(whole, [whole, cheap])
    assert dominated(cell("cheap", 0.6, 4.0), everyone[:2])


def test_between_two_settings_a_line_is_drawn_and_outside_nothing_is_told():
    points = [(2.0, 0.8), (4.0, 0.9), (1.0, 0.7)]
    assert at_cost(points, 3.0) == pytest.approx(0.85)
    assert at_cost(points, 1.5) == pytest.approx(0.75)
    assert at_cost(points, 1.0) == pytest.approx(0.7)
    assert at_cost(points, 4.1) is None
    assert at_cost(points, 0.9) is None
    assert at_cost([(2.0, 0.5)], 2.0) == 0.5


def test_a_mixture_of_two_settings_is_between_them():
    """Of ten texts all leave at the end, or all at the first layer; half and half costs and scores the mean."""
    assert at_cost([(10.0, 0.9), (2.5, 0.5)], 6.25) == pytest.approx(0.7)


def test_ways_to_leave_early_are_compared_at_equal_flops(tmp_path):
    """Of two seeds the means: 10 GFLOPs and 0.8, or 3.75 and 0.6; 5, half of 10, are a fifth of the way."""
    points = [
        [setting(0.82, (0, 0, 0, 10)), setting(0.62, (10, 0, 0, 0))],
        [setting(0.78, (0, 0, 0, 10)), setting(0.58, (0, 10, 0, 0))],
    ]
    lines = [line("a", seed, 0.8, gflops=10.0, exits=(1, 2, 3, 4), sweep=curve) for seed, curve in enumerate(points)]
    *_, table = tables(cells([*lines, line("b", 1, 0.9)], tmp_path, None), None)
    assert table.title == "d, c: leaving early at equal FLOPs"
    assert table.columns == ("run", "1", "1.25", "1.5", "2")
    assert table.rows == (("a", "0.800", "0.736", "0.693", "0.640"),)


def test_curves_that_pass_no_reduction_make_no_table(tmp_path):
    """Between 9.065 and 9.8 of the original's 10 GFLOPs lies no reduction that is looked at."""
    curve = [setting(0.8, (0, 0, 0, 10)), setting(0.8, (1, 0, 0, 9))]
    of_cells = cells([line("a", 1, 0.8, gflops=9.8, exits=(1, 2, 3, 4), sweep=curve)], tmp_path, None)
    assert [cost for cost, _ in of_cells[0].curve] == pytest.approx([9.065, 9.8])
    assert [table.title for table in tables(of_cells, None)] == ["d, c", "d, c: costs"]


def test_points_of_fewer_seeds_than_the_means_are_told_so(tmp_path):
    mine = [line("a", seed, 0.8, answers=[1, 1, 0, 1], out=tmp_path) for seed in (1, 2)]
    theirs = line("b", 1, 0.9, answers=[1, 1, 1, 1], out=tmp_path)
    scores, _ = tables(cells([*mine, theirs], tmp_path, "b"), "b")
    assert "on 4 rows. Points are of the seeds that both runs have." in scores.note


def test_tables_tell_scores_and_costs(tmp_path):
    lines = [
        line("good", 1, 0.90, answers=[1, 1, 1, 0], out=tmp_path),
        line("good", 2, 0.92, answers=[1, 1, 1, 1], out=tmp_path),
        line("poor", 1, 0.80, answers=[1, 0, 1, 0], out=tmp_path),
        line("poor", 2, 0.82, answers=[1, 0, 1, 0], out=tmp_path),
    ]
    scores, costs = tables(cells(lines, tmp_path, "good"), "good")
    assert scores.columns == ("run", "accuracy", "leaving early", "points against good", "p")
    assert scores.rows[0] == ("good", "0.910 ± 0.014", "", "", "")
    assert scores.rows[1][:3] == ("· poor", "0.810 ± 0.014", "")
    assert scores.rows[1][3].startswith("-37.5 (")
    told = "A dot: whatever it does, other runs do no worse in score and FLOPs, and better in one."
    assert scores.note.endswith(f"on 4 rows. {told}")
    assert costs.rows[0] == ("good", "4.00", "2.00", "", "", "")
    assert "Measured" not in costs.note


def test_times_are_told_with_their_machine(tmp_path):
    time = {"label": "full depth", "batch": 1, "median": 3.0, "processor": "Some CPU", "threads": 2, "dtype": "float32"}
    lines = [line("a", 1, 0.9, milliseconds=[time, time | {"batch": 32, "median": 1.5}])]
    _, costs = tables(cells(lines, tmp_path, None), None)
    assert costs.rows == (("a", "4.00", "2.00", "", "3.00", "1.50"),)
    assert costs.note.endswith("early where they leave. Measured on Some CPU, 2 threads, float32.")
