"""Tables say what the data say, and every row has its cells."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import read_original
from compresskit.evaluate import Evaluation, Point
from compresskit.installed import Origin
from compresskit.labels import Task
from compresskit.plan import make_plan
from compresskit.predict import Prediction
from compresskit.recipe import read_recipe
from compresskit.recipe_files import RecipeFile, recipes_installed
from compresskit.report import Milliseconds
from compresskit.testing import save_tiny
from compresskit.views import (
    catalogue_tables,
    evaluation_tables,
    manual_page,
    plan_tables,
    prediction_table,
    recipe_tables,
)

METRICS = {"accuracy": 0.75, "f1": 0.8, "matthews": 0.5}
POINT = Point(0.25, 0.5, METRICS, {1: 3, 2: 1}, 4.0, 5.0, ((1, 1), (0, 2)))
TIME = Milliseconds("full depth", 1, 9, 2.0, 1.5, 2.5, "Some CPU", 1, "float32")


def evaluation(**changes):
    task = Task("classification", ("no", "yes"), "f1")
    given = {
        "task": task, "rows": 4, "mean_tokens": 9.25, "per_exit": {1: METRICS, 2: METRICS}, "sweep": (POINT,),
        "policy": {"by": "entropy", "threshold": 0.25}, "own": POINT, "confusion": ((2, 0), (1, 1)),
        "milliseconds": (TIME,),
    }  # fmt: skip
    return Evaluation(**(given | changes))


def test_an_evaluation():
    exits, sweep, last, own, times = evaluation_tables(evaluation())
    assert exits.columns == ("exit", "f1", "accuracy")
    assert exits.rows == (("layer 1", "0.8000", "0.7500"), ("layer 2", "0.8000", "0.7500"))
    assert sweep.rows[0] == ("0.25", "0.8000", "0.7500", "1.25", "4.00", "5.00")
    assert sweep.rows[1] == ("as saved: 0.25", *sweep.rows[0][1:])
    assert last.rows == (("no", "2", "0", "100.0%"), ("yes", "1", "1", "50.0%"))
    assert own.title == "Answers, leaving early by entropy, threshold 0.25"
    assert own.rows == (("no", "1", "1", "50.0%"), ("yes", "0", "2", "100.0%"))
    assert times.rows == (("full depth", "1", "9", "2.00", "1.50 to 2.50"),)
    assert times.note == "Per example, measured on Some CPU, 1 thread, float32."


def test_what_is_not_there_has_no_table():
    bare = evaluation(
        task=Task("regression", (), "pearson"), per_exit={2: {"pearson": 0.5, "spearman": 0.25}}, sweep=(), policy=None,
        own=None, confusion=(), milliseconds=(),
    )  # fmt: skip
    (exits,) = evaluation_tables(bare)
    assert exits.rows == (("layer 2", "0.5000", "0.2500"),)


def test_a_class_without_examples_has_nothing_right():
    tables = evaluation_tables(evaluation(own=None, policy=None, confusion=((0, 0), (1, 1))))
    assert tables[2].rows[0] == ("no", "0", "0", "0.0%")


def test_predictions():
    table = prediction_table([("a",), ("b",)], [Prediction("yes", 0.91234, 2), Prediction(1.5, None, 3)])
    assert table.rows == (("a", "yes", "0.912", "2"), ("b", "1.5000", "", "3"))


def test_predictions_of_pairs_show_both_texts():
    table = prediction_table([("a", "b")], [Prediction("yes", 0.5, 1)])
    assert (table.columns, table.rows) == (
        ("text", "text pair", "label", "probability", "exit"), (("a", "b", "yes", "0.500", "1"),),
    )  # fmt: skip


def test_a_plan_shows_ranks_in_layers_where_there_are_any(tmp_path):
    folder, recipe = save_tiny(tmp_path / "m", layers=3), tmp_path / "r.yaml"
    recipe.write_text(
        "recipe: 1\nsteps:\n- {prune: heads, by: magnitude, keep: 2}\n- {factorize: attention, by: svd, rank: 3}\n"
    )
    steps, _, layers, *_ = plan_tables(make_plan(read_recipe(recipe), read_original(str(folder))))
    assert steps.columns == ("step", "does", "place", "layers", "heads", "neurons", "rank", "ranks in layers", "exits")
    assert [row[-2] for row in steps.rows] == ["", "3"]
    assert layers.rows == (("1 to 3", "2 of 4", "64", "", "3 3 3 3 - -"),)
    assert layers.note == (
        "Word embeddings: one table. Ranks of query, key, value, attention-out, ffn-in, ffn-out; - is one matrix."
    )


def test_a_plan(tmp_path):
    folder = save_tiny(tmp_path / "m", layers=3, heads=6, hidden=48, neurons=96)
    steps, summary, *_ = plan_tables(make_plan(read_recipe("shape-8x"), read_original(str(folder))))
    assert steps.rows == (
        ("1", "exit", "0", "3", "6", "96", "", "1 to 3"),
        ("2", "prune", "1, 2", "3", "1", "8", "", "1 to 3"),
        ("3", "factorize", "3", "3", "1", "8", "8", "1 to 3"),
    )
    rounds, *_ = plan_tables(make_plan(read_recipe("cost-eff-8x"), read_original(str(folder))))
    assert [row[2] for row in rounds.rows[:8]] == ["0", "1", "2", "3", "4.0, 4.1", "4.2", "4.3", "4.0, 4.1"]
    assert [row[3] for row in rounds.rows[4:8]] == ["1", "1", "1", "2"]
    assert "round" in rounds.columns
    assert "round" not in steps.columns  # where there is none
    assert "foreseen" not in steps.note + rounds.note
    assert summary.columns == ("", "original", "compressed", "change")


def test_a_plan_of_shared_layers_and_projected_embeddings(tmp_path):
    folder = save_tiny(tmp_path / "m", layers=4)
    (tmp_path / "r.yaml").write_text(
        "recipe: 1\nsteps:\n- {share: layers, groups: 2}\n- {prune: layers, keep: [1, 2]}\n"
        "- {factorize: embeddings, by: svd, rank: 8}\n"
    )
    steps, *_ = plan_tables(make_plan(read_recipe(tmp_path / "r.yaml"), read_original(str(folder))))
    assert steps.rows == (
        ("1", "share", "0", "4 in 2 groups", "4", "64", "", ""),
        ("2", "prune", "1", "2 in 1 group", "4", "64", "", ""),
        ("3", "factorize", "2", "2 in 1 group", "4", "64", "8", ""),
    )


def test_every_row_has_its_cells(tmp_path):
    recipe = read_recipe("cost-eff-8x")
    folder = save_tiny(tmp_path / "m", layers=6, heads=6, hidden=48, neurons=96)
    tables = [
        *plan_tables(make_plan(recipe, read_original(str(folder)))),
        *evaluation_tables(evaluation()),
        *catalogue_tables(load_catalogue().entries()),
        *recipe_tables([(file, "What it does.") for file in recipes_installed()]),
    ]
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}, table.title


def test_recipes_stand_below_the_distribution_that_they_come_from():
    files = [RecipeFile(name, Path(name), Origin(from_, "1")) for name, from_ in ("ab", "bb", "ca")]
    first, second = recipe_tables((file, f"About {file.name}.") for file in files)
    assert (first.title, first.rows) == ("Recipes of b 1", (("a", "About a."), ("b", "About b.")))
    assert (second.title, second.columns, second.rows) == ("Recipes of a 1", ("name", "about"), (("c", "About c."),))


@pytest.mark.parametrize("kind", ["architecture", "pruner"])
def test_a_manual_page_opens_with_kind_name_and_origin(kind):
    entry = next(entry for entry in load_catalogue().entries() if entry.kind == kind)
    assert manual_page(entry).startswith(f"{kind} {entry.name} (from {entry.origin})\n\n")


def test_manual_pages_fit_in_80_columns_and_keep_every_word():
    for entry in load_catalogue().entries():
        told = manual_page(entry)
        assert max(map(len, told.splitlines())) <= 80
        if isinstance(entry.what, type):
            assert told.split()[5:] == inspect.getdoc(entry.what).split()


def test_a_manual_page_keeps_its_paragraphs_lists_and_entries():
    def words(count, *more):
        return " ".join(["word"] * count + list(more))

    class What:
        pass

    long = words(20)
    entries = f"Args:\n    a: one.\n    b: {long}\n        goes on.\n    c: {long}"
    What.__doc__ = f"Short.\n\n{long}\nmore.\n\n- {long}\n  goes on\n- two\n\n    as it is\n\n{entries}"
    page = manual_page(replace(next(iter(load_catalogue().entries())), what=What))
    assert page.splitlines()[2:] == [
        *("Short.", "", words(16), words(4, "more."), ""),
        *(f"- {words(15)}", f"  {words(5, 'goes on')}", "- two", "", "    as it is", ""),
        *("Args:", "    a: one.", f"    b: {words(14)}", f"        {words(6, 'goes on.')}"),
        *(f"    c: {words(14)}", f"        {words(6)}"),
    ]


def test_the_shown_metrics_lead_with_the_task_and_leave_matthews_out():
    assert evaluation().shown == ("f1", "accuracy")
    cola = evaluation(task=Task("classification", ("no", "yes"), "matthews"))
    assert cola.shown == ("matthews", "accuracy", "f1")
    assert cola.value == 0.5


def test_what_is_read_comes_after_what_works_on_it():
    titles = [table.title for table in catalogue_tables(load_catalogue([]).entries())]
    assert titles == ["distiller", "exit-head", "exit-policy", "factorizer", "pruner", "architecture", "alias"]
