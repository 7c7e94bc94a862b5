"""Which runs a study asks for, and every mistake in its words."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from compresskit.cli import cli
from compresskit.errors import CompresskitError
from compresskit.sweep.plans import check, plans_of, plans_to_json
from compresskit.sweep.study_file import read_study
from compresskit.testing import save_tiny

HEADS = """\
recipe: 1
name: heads
steps:
- finetune: {epochs: 1}
- {prune: heads, by: magnitude, keep: 1/2}
"""
STUDY = """\
study: 1
name: two
checkpoints: {tiny: model}
data:
  text: {data: rows, max_tokens: 32, max_train_rows: 20, label_column: y, seeds: [1, 2]}
  other: elsewhere
runs:
- heads.yaml
- {recipe: shape-8x, name: shape, set: [steps.1.keep=2], set_on: {text: [steps.1.keep=3]}, data: [text]}
against: heads
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    save_tiny(root / "model", trained=False, heads=4)
    (root / "rows").mkdir()
    (root / "heads.yaml").write_text(HEADS)
    return root


@pytest.fixture
def read(root):
    def read(text=STUDY, *overrides, **how):
        (root / "study.yaml").write_text(text)
        return read_study(root / "study.yaml", overrides, **how)

    return read


@pytest.fixture
def mistakes(read, root):
    def mistakes(text, *overrides):
        with pytest.raises(CompresskitError) as error:
            read(text, *overrides)
        first, *rest = str(error.value).splitlines()
        assert first == f"{root / 'study.yaml'}: {len(rest)} mistake{'s' if len(rest) > 1 else ''}"
        return [line.strip() for line in rest]

    return mistakes


def test_runs_are_data_by_checkpoints_by_seeds_by_recipes(read):
    runs = read().runs
    assert [(run.data, run.checkpoint, run.seed, run.name) for run in runs] == [
        ("text", "tiny", 1, "heads"),
        ("text", "tiny", 1, "shape"),
        ("text", "tiny", 2, "heads"),
        ("text", "tiny", 2, "shape"),
        ("other", "tiny", 42, "heads"),
    ]


def test_commands_are_those_that_a_person_would_give(read, root):
    heads, shape, *_, other = read().runs
    rows = ("--label-column", "y", "--max-tokens", "32")
    given = ("--model", str(root / "model"), "--data", str(root / "rows"), "--seed", "1")
    assert heads.command == ("apply", str(root / "heads.yaml"), *given, "--max-train-rows", "20", *rows)
    assert heads.rows == rows
    settings = ("--set", "steps.1.keep=2", "--set", "steps.1.keep=3")
    assert shape.command == ("apply", "shape-8x", *given, *settings, "--max-train-rows", "20", *rows)
    # What is not beside the study is a Hub id, or a path from where the command is given.
    assert other.command[4:8] == ("--data", "elsewhere", "--seed", "42")
    assert shape.recipe.steps[1].keep == 3
    assert (heads.recipe.seed, read().runs[2].recipe.seed) == (1, 2)


def test_every_run_has_a_folder_of_its_own_and_another_when_it_changes(read, root):
    folders = [run.folder for run in read().runs]
    assert len(set(folders)) == 5
    assert folders[0].startswith("runs/text-tiny-heads-1-")
    (root / "heads.yaml").write_text(HEADS.replace("1/2", "3/4"))
    again = read()
    (root / "heads.yaml").write_text(HEADS)
    assert [run.folder == folder for run, folder in zip(again.runs, folders, strict=True)] == [
        False, True, False, True, False
    ]  # fmt: skip


def test_other_rows_or_other_weights_are_another_run(read, root):
    text = "study: 1\ncheckpoints: {tiny: model}\ndata: {text: texts}\nruns: [heads.yaml]\n"
    rows = root / "texts"
    rows.mkdir()

    def write(name, label):
        (rows / name).write_text(f"text,label\ngood film,1\nbad film,0\nlong film,{label}\n")

    def folder():
        study, plans = check(read(text))
        assert list(plans) == [run.folder for run in study.runs]
        return study.runs[0].folder

    write("train.csv", 1), write("dev.csv", 1)
    first = folder()
    assert folder() == first
    write("train.csv", 0)
    second = folder()
    write("dev.csv", 0)
    third = folder()
    weights = root / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    fourth = folder()
    weights.write_bytes(before)
    assert len({first, second, third, fourth}) == 4
    assert folder() == third


def test_another_source_of_a_strategy_is_another_run(read, root, monkeypatch):
    """As its author changes it, without a new version."""
    text = "study: 1\ncheckpoints: {tiny: model}\ndata: {text: films}\nruns: [heads.yaml]\n"
    (root / "films").mkdir()
    for name in ("train", "dev"):
        (root / "films" / f"{name}.csv").write_text("text,label\ngood film,1\nbad film,0\n")
    first = check(read(text))[0].runs[0].folder
    monkeypatch.setattr("compresskit.job._source", lambda strategy: "as it is now")
    assert check(read(text))[0].runs[0].folder != first


def test_plans_differ_where_settings_on_data_make_them(read, root):
    shape = "{recipe: shape-8x, name: shape, set_on: {text: [steps.1.keep=1], other: [steps.1.keep=2]}"
    head = "study: 1\ncheckpoints: {tiny: model}\ndata: {text: rows, other: rows}\n"

    def planned(text):
        plans = plans_to_json(read(text))
        return {(plan["run"], *plan["data"]): plan["planned"]["parameters"] for plan in plans}

    both = planned(f"{head}runs: [heads.yaml, {shape}}}]\n")
    assert list(both) == [("heads", "text", "other"), ("shape", "text"), ("shape", "other")]
    assert both["shape", "text"] < both["shape", "other"]
    # The first data set's settings are not those of a run that is not on it.
    assert planned(f"{head}runs: [heads.yaml, {shape}, data: [other]}}]\n")["shape", "other"] == both["shape", "other"]
    assert [plan["data"] for plan in plans_to_json(read(f"{head}runs: [{shape}}}]\n").only(["other"]))] == [["other"]]
    shown = CliRunner().invoke(cli, ["sweep", "--plan-only", "--only", "shape", str(root / "study.yaml")])
    assert [line.split()[:3] for line in shown.output.splitlines() if "tiny" in line] == [
        ["shape", "on", "text"], ["shape", "on", "other"]
    ]  # fmt: skip


def test_a_plan_of_a_study_without_data_takes_runs_that_name_some(read):
    text = "study: 1\ncheckpoints: {tiny: model}\nruns: [{recipe: heads.yaml, data: [text]}]\n"
    assert [plan["data"] for plan in plans_to_json(read(text, data_needed=False))] == [[]]


def test_a_recipe_is_found_beside_a_folder_that_is_called_as_it_is(read, root):
    """Such as what `apply shape-8x --out shape-8x` leaves."""
    (root / "shape-8x").mkdir()
    assert read().runs[1].command[1] == "shape-8x"
    (root / "shape-8x").rmdir()


def test_a_folder_is_no_recipe(mistakes, root):
    told = f"line 8: rows: {root / 'rows'} is a folder; name the recipe file in it"
    assert told in mistakes(STUDY.replace("heads.yaml", "rows"))


def test_names_and_seeds_are_given_once_each(mistakes):
    for wrong in ("[1, 1]", "[]"):
        told = f"line 5: data.text: 'seeds' must list at least one, and each once, not {wrong}"
        assert mistakes(STUDY.replace("[1, 2]", wrong))[0] == told
    told = "line 9: runs[1]: 'data' must list at least one, and each once, not []"
    assert mistakes(STUDY.replace("data: [text]}", "data: []}")) == [told]


def test_a_name_is_text_and_a_format_a_number(mistakes):
    assert mistakes(STUDY.replace("name: two", "name: [two]")) == ["line 2: 'name' must be text, not ['two']"]
    assert mistakes(STUDY.replace("study: 1", "study: true")) == [
        "line 1: the line 'study: 1' is missing; it says what this is"
    ]


def test_only_some_runs(read):
    study = read()
    assert [(run.data, run.name) for run in study.only(["shape"]).runs] == [("text", "shape")] * 2
    assert [(run.data, run.name) for run in study.only(["other"]).runs] == [("other", "heads")]
    assert study.only([]) is study
    with pytest.raises(CompresskitError) as error:
        study.only(["shapes"])
    assert str(error.value) == (
        "--only shapes: the study has no such run or data (did you mean 'shape'?); it has heads, other, shape, text"
    )


def test_recipes_that_do_not_fit_are_all_told_with_their_run_and_checkpoint(read, root):
    more = "- heads.yaml\n- {recipe: heads.yaml, name: more, set: [steps.1.keep=7]}"
    text = STUDY.replace("steps.1.keep=2", "steps.1.keep=9").replace("steps.1.keep=3", "steps.1.keep=8")
    study = read(text.replace("- heads.yaml", more))
    for asked in (plans_of, plans_to_json, check):
        with pytest.raises(CompresskitError) as error:
            asked(study)
        told = [line for line in str(error.value).splitlines() if line.startswith("runs")]
        assert told == [f"runs, more on tiny: {root}/heads.yaml: 1 mistake", "runs, shape on tiny: shape-8x: 1 mistake"]


def test_plans_are_those_of_the_recipes(read):
    study = read()
    plans = plans_of(study)
    assert set(plans) == {run.folder for run in study.runs}
    assert [(plan["run"], plan["checkpoint"]) for plan in plans_to_json(study)] == [
        ("heads", "tiny"),
        ("shape", "tiny"),
    ]
    heads = plans[study.runs[0].folder]
    assert [layer.heads for layer in heads.shape.layers] == [2, 2]


def test_a_plan_needs_no_data(read, root):
    text = "study: 1\ncheckpoints: {tiny: model}\nruns: [heads.yaml]\n"
    assert [plan["run"] for plan in plans_to_json(read(text, data_needed=False))] == ["heads"]
    shown = CliRunner().invoke(cli, ["sweep", "--plan-only", str(root / "study.yaml")])
    assert shown.exit_code == 0
    row = next(line.split() for line in shown.output.splitlines() if line.strip().startswith("heads"))
    (plan,) = plans_to_json(read(text, data_needed=False))
    reduction = plan["reduction"]
    assert row[:3] == ["heads", "tiny", f"{plan['planned']['parameters']:,}"]
    told = (reduction["parameters"], reduction["flops"]["flops_all"], reduction["flops"]["torch110"])
    assert row[3:] == [f"{ratio:.3f}" for ratio in told]
    shown = CliRunner().invoke(cli, ["sweep", "--plan-only", "--json", str(root / "study.yaml")])
    assert json.loads(shown.output) == [plan]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("study: 1\n", "", "line 1: the line 'study: 1' is missing; it says what this is"),
        ("study: 1", "study: 2", "line 1: study format 2 is newer than this compresskit reads (1); update it"),
        ("name: two", "nam: two", "line 2: unknown key 'nam' (did you mean 'name'?)"),
        (
            "{tiny: model}",
            "{tiny: 3}",
            "line 3: checkpoints.tiny must be a folder or a Hub id, not 3",
        ),
        ("{tiny: model}", "[model]", "line 3: 'checkpoints' must be a mapping of names to folders or Hub ids"),
        (
            "max_tokens: 32",
            "max_token: 32",
            "line 5: data.text: unknown option 'max_token' (did you mean 'max_tokens'?)",
        ),
        (
            "name: two",
            "original: tinny",
            "line 2: 'original' must name a checkpoint (did you mean 'tiny'?), one of tiny",
        ),
        ("max_tokens: 32", "max_tokens: 0", "line 5: data.text: 'max_tokens' must be at least 1, not 0"),
        ("seeds: [1, 2]", "seeds: [1, x]", "line 5: data.text: 'seeds[1]' must be a whole number, not 'x'"),
        ("- heads.yaml", "- head.yaml", None),
        (
            "data: [text]",
            "data: [txt]",
            "line 9: runs[1]: data 'txt' is none of the study's (did you mean 'text'?): text, other",
        ),
        ("name: shape", "name: heads", "line 9: runs[1]: another run is called 'heads'; give it a 'name' of its own"),
        (
            "against: heads",
            "against: head",
            "line 10: 'against' must name a run (did you mean 'heads'?), one of heads, shape",
        ),
        (
            "{tiny: model}",
            "{google/tiny: model}",
            (
                "line 3: checkpoints: the name 'google/tiny' becomes part of file names; begin it with a letter or "
                "digit, and use letters, digits, spaces and . _ + - alone"
            ),
        ),
        (
            "name: shape",
            "name: ../shape",
            (
                "line 9: runs[1]: the name '../shape' becomes part of file names; begin it with a letter or digit, "
                "and use letters, digits, spaces and . _ + - alone"
            ),
        ),
        (
            "against: heads",
            "against: [heads]",
            "line 10: 'against' must name a run (did you mean 'heads'?), one of heads, shape",
        ),
        (
            "set: [steps.1.keep=2]",
            "sets: [steps.1.keep=2]",
            "line 9: runs[1]: unknown option 'sets' (did you mean 'set'?)",
        ),
    ],
)
def test_mistakes_are_told_with_their_lines(mistakes, old, new, told):
    assert old in STUDY
    found = mistakes(STUDY.replace(old, new))
    if told is None:
        told = found[0]
        assert told.startswith("line 8: head.yaml: there is no recipe file head.yaml")
    assert told in found


def test_mistakes_in_a_recipe_are_told_at_the_run_that_has_it(mistakes, root):
    assert mistakes(STUDY, "runs.1.set=[steps.1.kep=2]") == [
        "line 9: shape-8x: --set steps.1.kep=2: steps[1] prune: unknown option 'kep' (did you mean 'keep'?)"
    ]


def test_seeds_and_runs_must_be_lists(mistakes):
    bare = "study: 1\ncheckpoints: {a: b}\ndata: {c: d}\n"
    assert mistakes(bare) == ["line 1: 'runs' must be a list of at least one recipe"]
    assert mistakes(f"{bare}runs: [shape-8x]\nseeds: [1, 1]\n") == [
        "line 5: 'seeds' must be a list of different numbers from 0, not [1, 1]"
    ]
    keys = "study, name, about, checkpoints, data, seeds, runs, against, original"
    assert mistakes("- study\n") == [f"line 1: a study is a mapping with the keys {keys}"]


def test_unknown_options_hide_no_other_mistake(mistakes):
    assert mistakes(STUDY.replace("name: shape, set: [steps.1.keep=2]", "nam: shape, set: [steps.1.kep=2]")) == [
        "line 9: runs[1]: unknown option 'nam' (did you mean 'name'?)",
        "line 9: shape-8x: --set steps.1.kep=2: steps[1] prune: unknown option 'kep' (did you mean 'keep'?)",
    ]


def test_data_and_checkpoints_that_are_not_there_are_all_told_before_anything_runs(read, root):
    study = read(STUDY, "checkpoints.tiny=/no/model", "data.more=/no/rows")
    with pytest.raises(CompresskitError) as error:
        check(study)
    told = [line.partition(":")[0] for line in str(error.value).splitlines()]
    assert told == ["checkpoints.tiny", "data.text", "data.other", "data.more"]


def test_a_recipe_is_no_study_and_a_study_no_recipe(mistakes, root, read):
    assert mistakes(HEADS) == ["line 1: this is a recipe, not a study; use compresskit apply"]
    read()
    found = CliRunner().invoke(cli, ["check", str(root / "study.yaml")])
    assert "line 1: this is a study, not a recipe; use compresskit sweep" in found.output


def test_a_study_that_is_not_there(tmp_path):
    with pytest.raises(CompresskitError) as error:
        read_study(tmp_path / "none.yaml")
    assert (
        str(error.value)
        == f"study file {tmp_path / 'none.yaml'} can't be read (No such file or directory); give a file"
    )
