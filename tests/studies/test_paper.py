"""The page of the paper's rivals: its arithmetic on numbers worked out by hand, and what is kept of a real sweep."""

from __future__ import annotations

import json
import random
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from compresskit.cli import cli
from compresskit.papers import versions
from compresskit.run import pick_bf16
from compresskit.sweep.results import cells
from compresskit.testing import save_tiny, tiny_text

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "studies"))

import paper_claims  # noqa: E402
import paper_page  # noqa: E402
import paper_tables  # noqa: E402
from paper_keep import keep, stale  # noqa: E402
from paper_results import (  # noqa: E402
    Comparison,
    Found,
    Results,
    Rows,
    accuracy,
    data_of_study,
    deciding,
    difference,
    digits,
    f1,
    load,
    numbers,
    run_of,
    verdict,
)

ROWS = Rows(labels=(1, 0, 1, 1), tokens=(9, 5, 7, 8))


def line(name, seed, answers, early="", exits="", data="mrpc", **more):
    """What is kept of a run, with answers by layer; the original costs 80, and each layer of this 10 and its head 1."""
    per_exit = [{"exit": n, "accuracy": 0.5 + n / 100 + seed / 1000, "f1": 0.5} for n in answers]
    point = {"policy": {"by": "entropy", "more": 1}, "threshold": 0.3, "flops_reduction": 4.0, "value": 0.4}
    point |= {"accuracy": 0.5, "f1": 0.4, "histogram": {str(min(answers)): 2, str(max(answers)): 2}}
    last = str(max(answers))
    sweep = [
        {"threshold": 0.7, "value": 0.51, "histogram": {str(min(answers)): 4}},
        {"threshold": 0.0, "value": 0.9, "histogram": {last: 4}},
    ]
    evaluation = {
        "metric": "f1" if data == "mrpc" else "accuracy", "value": 0.5, "rows": len(ROWS.labels), "per_exit": per_exit,
        "sweep": sweep if exits else [], "operating_point": point if exits else None, "milliseconds": [],
    }  # fmt: skip
    depth = max(answers)
    shape = {"heads": [1] * depth, "exits": sorted(answers) if exits else [], "read_out": not exits}
    layers = [{"part": "ffn", "layer": n, "macs": 5} for n in range(1, depth + 1)]
    heads = [{"part": "exits", "layer": None, "macs": 0.5 * len(answers)}] if exits else []
    whole = {"heads": [1] * 8, "exits": [], "read_out": True}
    original = {"parameters": 100, "shape": whole, "blocks": [{"part": "ffn", "layer": 8, "macs": 40}]}
    return {
        "data": data, "checkpoint": "minilm", "run": name, "seed": seed, "state": "done",
        "seconds": {"01 finetune": 2.0},
        "command": ["apply", f"{name}.yaml", "--model", "CHECKPOINT", "--data", "DATA", "--seed", str(seed)],
        "report": {"original": original, "model": {"parameters": 50, "shape": shape, "blocks": layers + heads}},
        "evaluation": evaluation | more,
        "answers": {"per_exit": {str(n): said for n, said in answers.items()}, "leaving_early": early, "exits": exits},
        "versions": {"compresskit": "0.1.0", "torch": "2.13.0"}, "precision": "bf16",
    }  # fmt: skip


def run(name, seed, answers, **more):
    return run_of(line(name, seed, answers, **more), ROWS)


def test_f1_is_of_class_1():
    """Two of three found and one false alarm: precision and recall 2/3."""
    assert f1([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]) == pytest.approx(2 / 3)
    assert f1([0, 0], [0, 0]) == 0.0
    assert accuracy([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("tokens", "simple"),
    [((9, 5, 7, 8), [1, 2]), ((9, 5, 7), [1]), ((6, 6, 6, 9), []), ((4, 6, 6, 6, 9), [0])],
)
def test_simple_rows_are_shorter_than_the_median(tokens, simple):
    """Rows as long as the median are not simple, or half of the rows would be where all are alike."""
    assert Rows((0,) * len(tokens), tokens).simple == simple


def test_always_saying_the_commonest_class():
    assert Rows((1, 0, 1, 1), (9, 5, 7, 8)).commonest == 0.75


def test_rows_are_right_at_an_exit_at_the_last_and_on_average_below_it():
    one = run("a", 1, {1: "1111", 2: "0011", 10: "1010"})
    assert one.right(1) == [1, 0, 1, 1]
    assert one.right("last") == [1, 1, 1, 0]  # 10 is behind 2, although "10" is not
    assert one.right("below the last") == [0.5, 0.5, 1.0, 1.0]
    with pytest.raises(ValueError) as caught:
        run("a", 1, {6: "1111"}).right("below the last")
    assert str(caught.value) == "a has no exit below the last"


def test_flops_are_of_the_rows_that_are_asked_about():
    """Of four rows two leave at layer 1 for 11, one at 2 for 22 and one at 4 for 43; the original costs 80."""
    one = run("a", 1, {1: "1111", 2: "1111", 4: "1111"}, early="1111", exits="1124")
    assert one.reduction(range(4)) == pytest.approx(80 / ((11 + 11 + 22 + 43) / 4))
    assert one.reduction([0, 2]) == pytest.approx(80 / 16.5)


def test_classes_and_layers_are_a_character_each():
    assert numbers(digits([0, 1, 9, 10, 24])) == (0, 1, 9, 10, 24)
    assert digits([0, 1, 12]) == "01c"


def test_steps_that_runs_share_are_counted_once():
    """Teacher 10 s; b goes on from a's cut; c's cut only took as long as theirs, after another teacher; 2 is anew."""
    seconds = {
        ("a", 1): {"01 finetune": 10.0, "02 prune": 5.0, "03 distill": 60.0},
        ("b", 1): {"01 finetune": 10.0, "02 prune": 5.0, "03 distill": 20.0},
        ("c", 1): {"01 finetune": 11.0, "02 prune": 5.0},
        ("a", 2): {"01 finetune": 10.0},
    }
    runs = [run_of(line(*named, {6: "1011"}) | {"seconds": told}, ROWS) for named, told in seconds.items()]
    assert paper_tables.hours(runs) * 3600 == pytest.approx(10 + 5 + 60 + 20 + 11 + 5 + 10)
    told = " ".join(paper_tables.spent(Results({"mrpc": runs, "qnli": []})))
    assert told == (
        "The steps of the runs above come to 0.0 hours of one thread, those that runs share counted once: 0.0 of MRPC."
    )


def test_of_each_row_seeds_that_both_runs_have_are_averaged():
    """Seed 1: a is right on all rows and b on the first two. Seed 2: alike. Seed 3 is of b alone."""
    runs = [run("a", 1, {6: "1011"}), run("a", 2, {6: "1011"})]
    runs += [run("b", 1, {6: "1000"}), run("b", 2, {6: "1011"}), run("b", 3, {6: "0100"})]
    assert Comparison("a", "b").differences(runs) == [0, 0, 0.5, 0.5]
    assert Comparison("b", "a").differences(runs) == [0, 0, -0.5, -0.5]
    assert Comparison("a", "c").differences(runs) == []
    assert difference([]) is None
    assert difference([[]]) is None
    assert difference([[0, 0, 0.5, 0.5]]).points == pytest.approx(0.25)
    assert difference([[0, 0, 0.5, 0.5]]).rows == 4


def test_data_sets_count_alike_however_many_rows_they_have():
    """-3 and -3.2 points on the small ones and +3 on the large one are -1.07 on average; pooled they would be +1."""
    sets = [[-0.03] * 872, [-0.032] * 408, [0.03] * 2732]
    found = difference(sets)
    assert found.points == pytest.approx((-0.03 - 0.032 + 0.03) / 3)
    assert (found.low, found.high) == (pytest.approx(found.points), pytest.approx(found.points))
    assert found.rows == 4012


def test_the_interval_of_an_average_is_that_of_its_parts():
    """Two sets of +1 and -1, half and half: standard errors 1 / sqrt(n), halved and added in squares."""
    found = difference([[1, -1] * 200, [1, -1] * 50])
    error = (1 / 400 + 1 / 100) ** 0.5 / 2
    assert found.high == pytest.approx(1.96 * error, abs=0.003)
    assert found.low == pytest.approx(-1.96 * error, abs=0.003)
    assert found.most == pytest.approx(found.high)
    # 2.5 % over six comparisons: 2.64 standard errors.
    assert difference([[1, -1] * 200, [1, -1] * 50], among=6).most == pytest.approx(2.64 * error, abs=0.01)


def test_data_sets_are_drawn_apart():
    """Drawn alike, two sets of equal rows would rise and fall together, and their average vary as one does."""
    rows = [1, -1] * 100
    assert difference([rows, rows]).high == pytest.approx(1.96 / 200**0.5 / 2**0.5, abs=0.006)


def between(low, high, most=None):
    return Found((low + high) / 2, low, high, high if most is None else most, 100)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (between(0.01, 0.03), "holds"),
        (between(-0.03, -0.01), "fails"),
        (between(-0.01, 0.03), "cannot be told at this n"),
        (between(0.0, 0.03), "cannot be told at this n"),
        (between(-0.03, 0.0), "cannot be told at this n"),
        (between(-0.03, -0.01, most=0.001), "cannot be told at this n"),
        (None, "to be run"),
    ],
)
def test_verdicts(found, said):
    assert verdict(found) == said


SURE, UNSURE, WIDE, WRONG = between(0.01, 0.02), between(-0.01, 0.03), between(-0.2, 0.4), between(-0.03, -0.01)


@pytest.mark.parametrize(
    ("found", "one"),
    [
        ([SURE, between(0.02, 0.05)], SURE),
        ([SURE, UNSURE], UNSURE),
        # The one that fails decides, though another's interval begins lower, and another's mean is lower still.
        ([SURE, UNSURE, WRONG, WIDE], WRONG),
        ([between(-0.04, 0.01), WRONG], WRONG),
        ([between(-0.04, -0.01, most=0.01), UNSURE], between(-0.04, -0.01, most=0.01)),
        ([SURE, None], None),
        ([], None),
    ],
)
def test_a_claim_needs_all_of_its_comparisons(found, one):
    assert deciding(found) == one


def test_at_equal_flops_seeds_are_averaged_before_a_line_is_drawn():
    """Means over seeds: all leave last for 62 and 0.8, or half of them at 1 and half at 2 for 16.5 and 0.6."""
    answers = dict.fromkeys(range(1, 7), "1111")
    points = [
        [
            {"threshold": 0.0, "value": 0.82, "histogram": {"6": 4}},
            {"threshold": 0.7, "value": 0.62, "histogram": {"1": 4}},
        ],
        [
            {"threshold": 0.0, "value": 0.78, "histogram": {"6": 4}},
            {"threshold": 0.7, "value": 0.58, "histogram": {"2": 4}},
        ],
    ]
    # The last of six exits has all heads behind it: 6 times 10 and 6.
    runs = [run("a", seed, answers, exits="1111", sweep=curve) for seed, curve in enumerate(points)]
    middle = 80 / ((66 + 16.5) / 2)
    assert paper_tables.at_equal_flops(paper_tables.cell_of(runs), (1.0, 80 / 66, middle, 80 / 16, 80 / 17)) == [
        "", "0.800", "0.700", "", "0.602"
    ]  # fmt: skip


def test_scores_are_means_over_the_seeds_that_are_there():
    assert paper_tables.plus_minus([0.5, 0.6, 0.7], paper_tables.asked("mrpc")) == "0.600 ± 0.100"
    assert paper_tables.plus_minus([0.5, 0.7], 3) == "0.600 ± 0.141 (2 of 3 seeds)"
    assert paper_tables.plus_minus([0.5], paper_tables.asked("sst2")) == "0.500"


def test_who_is_no_better_than_a_guess_is_named():
    """The mean over seeds counts: of `bad` one seed is better and one worse than 3 of 4."""
    runs = [run("good", 42, {4: "1111"}), run("bad", 42, {4: "1111"}), run("bad", 43, {4: "0000"})]
    rows = replace(runs[0].rows, labels=(1, 1, 1, 0))
    runs = [replace(one, rows=rows) for one in runs]
    told = list(paper_tables.guessing(Results({"mrpc": tuple(runs)}, {"mrpc": rows}), "mrpc"))
    assert told == ["Less accurate than always saying the commonest class (0.750): `bad`.", ""]
    assert list(paper_tables.guessing(Results({"mrpc": tuple(runs[:1])}, {"mrpc": rows}), "mrpc")) == []
    assert list(paper_tables.guessing(Results({}, {}), "mrpc")) == []


def test_versions_are_told_with_how_many_runs_are_of_them():
    assert list(paper_tables.versions(Results({}, {}))) == []
    runs = [run("a", seed, {4: "1001"}) for seed in (42, 43, 44)]
    runs[0] = replace(runs[0], line={**runs[0].line, "precision": "fp32"})
    assert list(paper_tables.versions(Results({"mrpc": tuple(runs)}, {}))) == [
        "Made with compresskit 0.1.0, torch 2.13.0, fp32 (1 of 3 runs).",
        "Made with compresskit 0.1.0, torch 2.13.0, bf16 (2 of 3 runs).",
    ]


def test_short_rows_are_scored_apart():
    """Rows 1 and 2 are short. Full depth: rows 0, 1 and 3 right; leaving early: 1, 2 and 3; MRPC counts F1."""
    one = run("a", 42, {1: "0011", 4: "1001"}, early="0011", exits="4114")
    seeds = " (1 of 3 seeds)"
    assert paper_tables.on_simple([one], "mrpc") == [
        f"{80 / ((42 + 11 + 11 + 42) / 4):.2f}", f"{80 / 11:.2f}",
        f"0.800{seeds}", f"0.000{seeds}", f"0.800{seeds}", f"1.000{seeds}",
    ]  # fmt: skip
    assert paper_tables.on_simple([one], "sst2")[2:] == ["0.750", "0.500", "0.750", "1.000"]
    assert paper_tables.on_simple([run("a", 42, {4: "1001"})], "sst2") == ["2.00", "2.00", "0.750", "0.500"]


def test_a_wrapped_command_is_the_same_to_a_shell():
    words = ["compresskit", "apply", *(word for number in range(20) for word in ("--set", f"a.{number}=[b, c]"))]
    lines = list(paper_tables.wrapped([shlex.quote(word) for word in words], width=60))
    assert len(lines) > 5
    assert max(map(len, lines)) <= 64
    assert all(line.startswith("    --set ") for line in lines[1:])
    joined = "\n".join(lines).replace("\\\n", "")  # as a shell does first
    assert shlex.split(joined) == words


NAMES = [
    "original",
    *(f"{name}-{size}" for size in paper_tables.SIZES for name in paper_tables.METHODS),
    *paper_tables.ABLATIONS[1:],
]


def made(data, name, seed, chance):
    """A run of random answers, with exits where the method has some."""
    several = name.split("-")[0] not in ("original", "layers", "distilbert", "tinybert", "cofi")
    said = {n: "".join(chance.choices("01", k=4)) for n in (range(1, 7) if several else [6])}
    exits = "".join(chance.choices("123456", k=4)) if several else ""
    return line(name, seed, said, "".join(chance.choices("01", k=4)) if several else "", exits, data=data)


@pytest.fixture
def whole():
    """Results of every run that the page shows."""
    chance = random.Random(0)
    runs = {
        data: [run_of(made(data, name, seed, chance), ROWS) for name in NAMES for seed in told["seeds"]]
        for data, told in data_of_study().items()
    }
    return Results(runs, dict.fromkeys(runs, ROWS))


def test_a_page_without_a_run_says_so_in_every_place():
    text = paper_page.page(Results())
    # These figures chose a rate, and stand there whatever the results are.
    chosen = re.compile("## Rates of the layer-dropped students\n.*?(?=\n## )", re.DOTALL)
    rows = [row for row in chosen.sub("", text).splitlines() if row.startswith("|")]
    cells = [cell.strip() for row in rows for cell in row.split("|")]
    assert chosen.search(text)
    assert not [cell for cell in cells if cell.startswith("0.") or "%" in cell.replace("(95 % interval)", "")]
    assert cells.count("to be run") > 150
    assert '**0 of 115 runs are done.** What has no result yet says "to be run".' in text
    assert cells.count("not reproduced: needs the published weights") == 6
    assert "<!--" not in text


def test_a_page_of_all_runs_leaves_nothing_to_be_run_but_times(whole):
    text = paper_page.page(whole)
    assert "to be run" not in text.lower() and "runs are done.**" not in text
    assert "seeds)" not in text and "so far" not in text
    assert text == paper_page.page(whole)
    assert "| original, fine-tuned | 2.00 | 1.33 | 0.500 ± 0.000 | 0.603 ± 0.001 | to be measured | to" in text
    assert (
        "| cost-eff-8x | entropy, 0.3 | 2.08 | 0.400 ± 0.000 | 0.500 ± 0.000 | to be measured | to be measured |"
        in text
    )
    assert "Milliseconds are measured once all runs are done." in text


def test_milliseconds_are_of_the_last_seed_that_all_runs_were_timed_with():
    def one(name, seed, *medians):
        time = {"label": "full depth", "batch": 1, "processor": "A", "threads": 1, "dtype": "float32"}
        return run(name, seed, {6: "1011"}, milliseconds=[time | {"median": median} for median in medians])

    runs = [one("a", 1, 2.0), one("b", 1, 3.0), one("a", 2, 4.0), one("b", 2, 5.0), one("a", 3, 6.0), one("b", 3)]
    assert paper_tables.timed(runs) == "Milliseconds are of seed 2, measured on A, 1 thread, float32."
    assert paper_tables.seed_timed(runs) == 2
    assert paper_tables.milliseconds(runs[::2], 2, "full depth") == ["4.00", "to be measured"]
    assert paper_tables.timed(runs[4:]) == "Milliseconds are measured once all runs are done."


def test_the_curve_of_an_entropy_reaches_the_first_exit():
    """At a threshold above ln 2 nobody goes on: the score and the cost are those of exit 1."""
    answers = {1: "1111", 2: "1011"}
    usual = [{"threshold": 0.6, "value": 0.9, "histogram": {"1": 3, "2": 1}}]
    kept = line("a", 1, answers, early="1111", exits="1112", data="sst2", sweep=usual)
    first, *others = run_of(kept, ROWS).line["evaluation"]["sweep"]
    assert others == usual
    assert (first["value"], first["histogram"]) == (pytest.approx(0.511), {"1": 4, "2": 0})
    assert run_of(run_of(kept, ROWS).line, ROWS).line["evaluation"]["sweep"] == [first, *usual], "once"


def test_the_curve_of_another_policy_is_left_as_it_is():
    kept = line("a", 1, {1: "1111", 2: "1011"}, early="1111", exits="1112")
    kept["evaluation"]["operating_point"]["policy"]["by"] = "patience"
    kept["evaluation"]["sweep"] = [{"threshold": 1.0, "value": 0.9, "histogram": {"2": 4}}] * 2
    assert len(run_of(kept, ROWS).line["evaluation"]["sweep"]) == 2


def test_every_column_of_a_table_is_in_every_row(whole):
    for results in (Results(), whole):
        rows = [row for row in paper_page.page(results).splitlines() if row.startswith("|")]
        tables = "\n".join(paper_page.page(results).splitlines()).split("\n\n")
        found = [{row.count("|") for row in table.splitlines()} for table in tables if table.startswith("|")]
        assert rows and all(len(counts) == 1 for counts in found)


def test_what_is_only_begun_is_told_so_far(whole):
    runs = whole.runs | {"mrpc": [each for each in whole.runs["mrpc"] if each.line["seed"] == 42]}
    text = "\n".join(paper_claims.claims(Results(runs, whole.rows)))
    assert text.count(" so far |") == len(paper_claims.CLAIMS)
    without = {data: [each for each in found if each.name != "two-stage"] for data, found in whole.runs.items()}
    told = list(paper_claims.claims(Results(without, whole.rows)))
    assert [row.split(" | ")[-1] == "to be run |" for row in told[2:]] == [False, False, False, True, True]


MANY = Rows(labels=(1,) * 60, tokens=(5,) * 60)
GOOD, FAIR, POOR = ("1" * count + "0" * (60 - count) for count in (54, 36, 18))


def standing(**better):
    """Results in which every run answers fairly at every exit, but for some: what is said at each exit by name."""
    fair = dict.fromkeys(range(1, 7), FAIR)
    said = dict.fromkeys(NAMES, fair) | {name.replace("_", "-"): each for name, each in better.items()}
    runs = {
        data: [
            run_of(line(name, seed, answers, FAIR, "6" * 60, data=data), MANY)
            for name, answers in said.items()
            for seed in told["seeds"]
        ]
        for data, told in data_of_study().items()
    }
    return Results(runs, dict.fromkeys(runs, MANY))


def every_exit(said):
    return dict.fromkeys(range(1, 7), said)


LAST_ALONE = every_exit(FAIR) | {6: GOOD}
BELOW_ALONE = every_exit(GOOD) | {6: FAIR}


@pytest.mark.parametrize(
    ("better", "claim", "decided", "verdict"),
    [
        ({"cost_eff_8x": every_exit(GOOD)}, 0, "cost-eff-8x over layers-8x", "holds"),
        ({"cost_eff_8x": every_exit(POOR)}, 0, "cost-eff-8x over layers-8x", "fails"),
        ({"cost_eff_8x": every_exit(GOOD), "tinybert_8x": every_exit(GOOD)}, 0, None, "cannot be told at this n"),
        ({"cost_eff_8x": every_exit(FAIR), "tinybert_8x": every_exit(GOOD)}, 0, "tinybert-8x", "fails"),
        ({"cost_eff_8x": LAST_ALONE}, 0, None, "holds"),
        ({"cost_eff_8x": BELOW_ALONE}, 0, None, "cannot be told at this n"),
        ({"cost_eff_2x": every_exit(GOOD)}, 1, "cost-eff-2x over layers-2x", "holds"),
        ({"cost_eff_8x": every_exit(GOOD)}, 1, None, "cannot be told at this n"),
        ({"no_features": every_exit(POOR), "labels": every_exit(POOR)}, 2, None, "holds"),
        ({"no_features": every_exit(POOR)}, 2, "cost-eff-8x over labels", "cannot be told at this n"),
        ({"labels": every_exit(GOOD)}, 2, "cost-eff-8x over labels", "fails"),
        ({"cost_eff_8x": BELOW_ALONE}, 3, "exits below the last", "holds"),
        ({"cost_eff_8x": LAST_ALONE}, 3, "exits below the last", "cannot be told at this n"),
        ({"two_stage": BELOW_ALONE}, 3, "cost-eff-8x over two-stage, exits below the last", "fails"),
        ({"two_stage": every_exit(POOR) | {6: GOOD}}, 4, None, "holds"),
        ({"two_stage": every_exit(POOR)}, 4, "two-stage over cost-eff-8x", "fails"),
        ({"two_stage": every_exit(POOR) | {6: GOOD, 3: GOOD}}, 4, "cost-eff-8x over two-stage, exit 3", "fails"),
    ],
)
def test_claims_hold_and_fail_by_what_they_say(better, claim, decided, verdict):
    row = list(paper_claims.claims(standing(**better)))[2:][claim]
    says, told, _, n, found = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert says == paper_claims.CLAIMS[claim].says
    assert decided is None or decided in told
    assert (n, found.rstrip(" |")) == ("180", verdict)  # sixty rows of each of three data sets


def test_one_data_set_does_not_decide_alone():
    """Ahead on MRPC and behind on the others, by as much: behind by a third of it."""
    ahead, behind = standing(cost_eff_8x=every_exit(GOOD)), standing(cost_eff_8x=every_exit(POOR))
    mixed = Results(behind.runs | {"mrpc": ahead.runs["mrpc"]}, ahead.rows)
    row = list(paper_claims.claims(mixed))[2]
    assert "| -10.0 (" in row and row.endswith("fails |")


def test_times_are_told_with_their_machine(whole):
    time = {"label": "full depth", "batch": 1, "median": 3.0, "processor": "Some CPU", "threads": 2, "dtype": "float32"}
    runs = [run("original", 42, {6: "1111"}, data="sst2", milliseconds=[time, time | {"batch": 32, "median": 1.5}])]
    text = "\n".join(paper_tables.table_3(Results({"sst2": runs}, {"sst2": ROWS})))
    assert "| original, fine-tuned | 2.00 | 1.33 | 0.602 | 3.00 | 1.50 |" in text
    assert "Milliseconds are of seed 42, measured on Some CPU, 2 threads, float32." in text


RECIPE = """\
recipe: 1
name: one
steps:
- finetune: {epochs: 3}
- {prune: neurons, by: magnitude, keep: 1/2}
- {factorize: word-embeddings, by: svd, rank: 1/2}
- {exit: all, by: entropy, with: {threshold: 0.69}}
- {distill: teacher, by: predictions, epochs: 3}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of one tiny run, and the study with names in place of its paths."""
    place = tmp_path_factory.mktemp("swept")
    save_tiny(place / "model", trained=False)
    tiny_text(place / "rows", 32, eval_rows=16)
    (place / "one.yaml").write_text(RECIPE)
    (place / "study.yaml").write_text(
        "study: 1\ncheckpoints: {minilm: CHECKPOINT}\nruns: [one.yaml]\n"
        "data: {sst2: {data: DATA/rows, max_tokens: 24}}\n"
    )
    paths = ("--set", f"checkpoints.minilm={place / 'model'}", "--set", f"data.sst2.data={place / 'rows'}")
    found = CliRunner().invoke(cli, ["sweep", str(place / "study.yaml"), "--out", str(place / "out"), *paths])
    assert found.exit_code == 0, found.output
    return place


def test_what_is_kept_of_a_sweep_is_what_it_found(swept, tmp_path):
    assert list(keep(swept / "out", tmp_path, swept / "study.yaml")) == ["sst2 one 42: kept"]
    text = (tmp_path / "runs" / "sst2-one-42.json").read_text()
    kept = json.loads(text)
    assert kept["command"][2:] == ["--model", "CHECKPOINT", "--data", "DATA/rows", "--seed", "42", "--max-tokens", "24"]
    assert str(swept) not in text.replace(kept["command"][1], "")
    blocks = json.loads((swept / "out" / "results.jsonl").read_text())["report"]["model"]["blocks"]
    assert [block["macs"] for block in kept["report"]["model"]["blocks"]] == [block["macs"] for block in blocks]
    assert (kept["precision"], kept["versions"]) == ("bf16" if pick_bf16("auto", "cpu") else "fp32", versions())
    (one,) = load(tmp_path).runs["sst2"]
    evaluation = one.line["evaluation"]
    assert len(one.rows.labels) == len(one.rows.tokens) == 16
    assert [sum(one.right(each["exit"])) / 16 for each in evaluation["per_exit"]] == [
        each["accuracy"] for each in evaluation["per_exit"]
    ]
    (cell,) = cells([one.line], tmp_path, None)
    assert one.reduction(range(16)) == pytest.approx(cell.flops_early)
    assert {time["batch"] for time in evaluation["milliseconds"]} == {1, 32}


def copy_of(swept, place, change):
    """The sweep's results and answers, changed; the models stay where they are."""
    found = swept / "out" / "results.jsonl"
    told = json.loads(found.read_text())
    (place / "runs").mkdir(parents=True)
    (place / told["folder"]).symlink_to(swept / "out" / told["folder"])
    answers = json.loads((swept / "out" / f"{told['folder']}.answers.json").read_text())
    change(told, answers)
    (place / "results.jsonl").write_text(json.dumps(told) + "\n")
    (place / f"{told['folder']}.answers.json").write_text(json.dumps(answers))
    return place


def test_answers_at_the_last_exit_alone_are_asked_for_anew(swept, tmp_path):
    def earlier(_, answers):
        del answers["per_exit"], answers["tokens"]

    copied = copy_of(swept, tmp_path / "earlier", earlier)
    for out, name in ((swept / "out", "kept"), (copied, "again")):
        list(keep(out, tmp_path / name, swept / "study.yaml"))
    for file in ("runs/sst2-one-42.json", "rows/sst2.json"):
        assert (tmp_path / "again" / file).read_text() == (tmp_path / "kept" / file).read_text()


def test_runs_of_another_recipe_or_that_failed_are_left_out(swept, tmp_path):
    def longer(told, _):
        told["command"][told["command"].index("--max-tokens") + 1] = "32"

    def failed(told, _):
        told["state"] = "failed"

    for change, why in (
        (longer, "the study has no such run, or with another recipe or settings"),
        (failed, "it is not done (failed)"),
    ):
        copied = copy_of(swept, tmp_path / change.__name__, change)
        assert list(keep(copied, tmp_path / "kept", swept / "study.yaml")) == [f"sst2 one 42: left out, {why}"]
    (swept / "two.yaml").write_text(RECIPE.replace("0.69", "0.5"))
    other = (swept / "study.yaml").read_text().replace("one.yaml", "{recipe: two.yaml, name: one}")
    (swept / "other.yaml").write_text(other)
    assert "left out" in next(keep(swept / "out", tmp_path / "kept", swept / "other.yaml"))
    assert not list((tmp_path / "kept" / "runs").iterdir())


def test_what_is_kept_goes_when_the_study_changes(swept, tmp_path):
    study, path = swept / "study.yaml", tmp_path / "kept" / "runs" / "sst2-one-42.json"
    list(keep(swept / "out", tmp_path / "kept", study))
    assert stale(tmp_path / "kept", study) == []
    longer = swept / "longer.yaml"
    longer.write_text(study.read_text().replace("max_tokens: 24", "max_tokens: 32"))
    assert stale(tmp_path / "kept", longer) == [path]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": "another"}))
    told = list(keep(swept / "nothing", tmp_path / "kept", study))
    assert told == ["sst2-one-42: removed, the study has it otherwise now"]
    assert not path.exists()


def test_answers_that_do_not_come_to_the_scores_are_refused(swept, tmp_path):
    def worse(_, answers):
        answers["per_exit"]["1"] = [1 - label for label in answers["labels"]]

    copied = copy_of(swept, tmp_path / "worse", worse)
    with pytest.raises(ValueError) as caught:
        list(keep(copied, tmp_path / "kept", swept / "study.yaml"))
    said = json.loads((copied / "results.jsonl").read_text())["evaluation"]["per_exit"][0]["accuracy"]
    told = f"sst2 one 42: its answers come to 0.0, its evaluation says {said}; run it again"
    assert str(caught.value) == told


def test_other_rows_are_refused(swept, tmp_path):
    kept = tmp_path / "kept"
    list(keep(swept / "out", kept, swept / "study.yaml"))
    path = kept / "rows" / "sst2.json"
    path.write_text(path.read_text().replace('"labels": "', '"labels": "0'))
    with pytest.raises(ValueError) as caught:
        list(keep(swept / "out", kept, swept / "study.yaml"))
    told = f"{path} has other rows than this sweep was evaluated on; delete that folder and keep all anew"
    assert str(caught.value) == told
