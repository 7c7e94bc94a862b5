"""Commands about recipes and strategies."""

from __future__ import annotations

import json

import pytest

from compresskit.catalogue import load_catalogue
from compresskit.recipe_files import recipe_text, recipes_shipped

HALF = """\
recipe: 1
name: half
about: Half of the heads.
steps:
  - {prune: heads, by: magnitude, keep: 1/2}
"""


@pytest.fixture
def half(tmp_path):
    path = tmp_path / "half.yaml"
    path.write_text(HALF, encoding="utf-8")
    return path


def test_check_counts_the_steps(command, half):
    assert command("check", half).stdout == f"{half}: no mistakes in 1 step\n"
    assert command("check", "shape-8x").stdout == "shape-8x: no mistakes in 4 steps\n"


def test_check_lists_every_mistake(command, half):
    half.write_text(HALF.replace("keep", "kep").replace("1/2", "2, exits: none"), encoding="utf-8")
    failed = command("check", half, code=1)
    assert failed.stdout == ""
    assert failed.stderr == (
        f"Error: {half}: 2 mistakes\n"
        "  line 5: steps[0] prune: unknown option 'kep' (did you mean 'keep'?)\n"
        "  line 5: steps[0] prune: 'exits' must be 'all' or 'last', not 'none'\n"
    )


def test_set_changes_the_recipe(command, half):
    failed = command("check", half, "--set", "steps.0.keep=0", code=1)
    assert "steps[0] prune" in failed.stderr
    command("check", half, "--set", "steps.0.keep=3", "--set", "name=third")


def test_plan_foresees_shape_and_cost_without_weights(command, half, original, tmp_path):
    (tmp_path / "config.json").write_text((original / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    planned = json.loads(command("plan", half, "--model", tmp_path, "--json").stdout)
    assert planned.keys() == {"original", "planned", "reduction"}
    # Three of six heads go in each of three layers: q, k, v of 24 rows with biases, 24 columns of out.
    gone = 3 * (3 * (24 * 48 + 24) + 24 * 48)
    assert planned["original"]["parameters"] - planned["planned"]["parameters"] == gone
    assert planned["reduction"]["parameters"] == pytest.approx(
        planned["original"]["parameters"] / planned["planned"]["parameters"]
    )
    shown = command("plan", half, "--model", tmp_path, "--set", "steps.0.keep=2").stdout
    assert "2 of 6" in shown
    assert "times fewer" in shown


def test_plan_takes_the_classes_of_a_head_to_come(command, half, original):
    counts = [
        json.loads(command("plan", half, "--model", original, "--json", *more).stdout)["original"]["parameters"]
        for more in ((), ("--num_labels", "3"))
    ]
    assert counts[1] - counts[0] == 49


def test_recipes_are_listed_and_printed(command):
    listed = command("recipes").stdout
    assert listed.startswith("Recipes of compresskit ")
    assert all(name in listed for name in recipes_shipped())
    assert command("recipes", "cost-eff-8x").stdout == recipe_text("cost-eff-8x")
    rows = json.loads(command("recipes", "--json").stdout)
    assert [row["name"] for row in rows] == list(recipes_shipped())
    assert all(row["about"] and row["distribution"] == "compresskit" and row["version"] for row in rows)
    told = json.loads(command("recipes", "shape-8x", "--json").stdout)
    assert told == {"name": "shape-8x", "text": recipe_text("shape-8x")}


def test_strategies_are_listed_with_their_origin(command):
    entries = load_catalogue().entries()
    listed = json.loads(command("strategies", "--json").stdout)
    assert [(row["kind"], row["name"]) for row in listed] == [(entry.kind, entry.name) for entry in entries]
    assert {"kind": "pruner", "name": "taylor", "distribution": "compresskit"}.items() <= next(
        row for row in listed if row["name"] == "taylor"
    ).items()
    shown = command("strategies").stdout
    assert all(entry.name in shown for entry in entries)


def test_a_strategy_has_a_manual_page(command):
    shown = command("strategies", "entropy").stdout
    assert shown.startswith("exit-policy entropy (from compresskit ")
    assert "threshold: in nats" in shown
    failed = command("strategies", "entropi", code=1)
    assert failed.stderr == (
        "Error: there is no strategy 'entropi' (did you mean 'entropy'?); `compresskit strategies` lists them\n"
    )
