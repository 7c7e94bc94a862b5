"""What is found wrong before anything is written, and what makes two runs, or two steps, the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from compresskit.cost import count, parameters
from compresskit.data import DataOptions
from compresskit.errors import CheckpointError, CompresskitError, DataError, RecipeError
from compresskit.job import prepare
from compresskit.recipe import read_recipe
from compresskit.run import Run
from compresskit.strategies import magnitude
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.testing import save_tiny, tiny_text

RECIPE = """
recipe: 1
name: trial
seed: 5
steps:
- finetune: {epochs: 1}
- {exit: all, by: entropy, with: {threshold: 0.3}}
- {distill: teacher, by: predictions, epochs: 1, batch_size: 16}
- {prune: heads, by: magnitude, keep: 1/2}
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    save_tiny(root / "model", trained=False)
    save_tiny(root / "trained")
    tiny_text(root / "data", 32, eval_rows=8)
    (root / "recipe.yaml").write_text(RECIPE)
    return root


@pytest.fixture
def job(places, tmp_path):
    """Prepares a run; `recipe` is text, and the other keywords replace what it works on."""

    def job(*overrides, recipe=RECIPE, model="model", data="data", run=None, options=None, processes=1):
        (tmp_path / "recipe.yaml").write_text(recipe)
        return prepare(
            read_recipe(tmp_path / "recipe.yaml", overrides),
            str(places / model) if model in ("model", "trained") else model,
            str(places / data) if data == "data" else data,
            options or DataOptions(),
            run or Run(),
            processes,
        )

    return job


def equal_steps(one, other):
    return sum(a == b for a, b in zip(one.digests(), other.digests(), strict=False))


# --- what makes steps the same


def test_the_same_run_has_the_same_digests_wherever_its_model_and_data_lie(job, places, tmp_path):
    one = job().digests()
    assert len(set(one)) == 4
    shutil.copytree(places / "model", tmp_path / "moved")
    shutil.copytree(places / "data", tmp_path / "text")
    assert job(model=str(tmp_path / "moved"), data=str(tmp_path / "text")).digests() == one


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        ({}, 4),
        ({"seed": 6}, 0),
        ({"steps.0.finetune.epochs": 2}, 0),
        ({"steps.1.with.threshold": 0.2}, 1),
        ({"steps.2.learning_rate": 1e-4}, 2),
        ({"steps.2.by": "{predictions: {with: {temperature: 2}}}"}, 2),
        ({"steps.2.by": "{predictions: {after: 0.5}, labels: 1}"}, 2),
        ({"steps.2.save_as": "assistant"}, 2),
        ({"steps.3.keep": 1}, 3),
        ({"steps.3.with": "{norm: 2}"}, 3),
        ({"name": "other", "about": "another story"}, 4),
    ],
)
def test_a_change_of_the_recipe_changes_the_steps_from_there_on(job, change, equal):
    changed = job(*(f"{key}={value}" for key, value in change.items()))
    assert equal_steps(job(), changed) == equal


def test_comments_and_lines_do_not_count(job):
    assert equal_steps(job(), job(recipe=RECIPE.replace("steps:", "# a story\n\nsteps:"))) == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sets": "seed=6"}, "seed"),
        ({"sets": "steps.3.keep=1"}, "recipe"),
        ({"run": Run(bf16=True)}, "precision"),
        ({"run": Run(max_tokens=64)}, "--max-tokens"),
        ({"options": DataOptions(max_train_rows=20)}, "training data"),
    ],
)
def test_a_run_tells_what_makes_it_another(job, change, named):
    one, other = job().digest(), job(*([change.pop("sets")] if "sets" in change else ()), **change).digest()
    assert [name for name in one if one[name] != other[name]] == [named]


@pytest.mark.parametrize(
    ("run", "equal"),
    [
        (Run(max_tokens=64), 0),
        (Run(bf16=True), 0),
        (Run(cache_bytes=0, checkpoint_steps=7, trackers=("fake",)), 4),
    ],
)
def test_what_can_change_the_result_counts(job, run, equal, monkeypatch):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "fake", TrainerCallback)
    assert equal_steps(job(), job(run=run)) == equal


@pytest.mark.parametrize(
    "name", ["torch.__version__", "compresskit.job.transformers_version", "compresskit.job.__version__"]
)
def test_versions_count(job, monkeypatch, name):
    one = job()
    before, steps = one.digest(), one.digests()
    monkeypatch.setattr(name, "0.0.1")
    other = job()
    assert not set(steps) & set(other.digests())
    assert [part for part, found in before.items() if found != other.digest()[part]] == ["version"]


def test_the_device_counts(job):
    one, other = job(), job()
    other = replace(other, run=replace(other.run, device="cuda"))
    assert equal_steps(one, other) == 0


def test_a_strategy_whose_file_changed_counts_from_its_step_on(job, monkeypatch, tmp_path):
    """Its author edits it and runs the recipe again, without a new version."""
    edited = tmp_path / "magnitude.py"
    edited.write_text(Path(magnitude.__file__).read_text() + "# one more thought\n")
    one = job()
    before, steps = one.digest(), one.digests()
    monkeypatch.setattr(magnitude, "__file__", str(edited))
    other = job()
    assert [same == now for same, now in zip(steps, other.digests(), strict=True)] == [True, True, True, False]
    assert [part for part, found in before.items() if found != other.digest()[part]] == ["strategies"]


def test_trackers_that_are_not_there_are_refused(job, monkeypatch):
    class Missing(TrainerCallback):
        def __init__(self):
            raise RuntimeError("Missing requires something to be installed.")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "missing", Missing)
    with pytest.raises(CompresskitError) as error:
        job(run=Run(trackers=("missing",)))
    assert str(error.value) == "--report-to missing: it is not installed here; pip install missing"
    with pytest.raises(CompresskitError) as error:
        job(run=Run(trackers=("tensorbord",)))
    assert str(error.value) == (
        "--report-to tensorbord: there is no such tracker (did you mean 'tensorboard'?); known: "
        f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
    )


def test_weights_labels_and_rows_count(job, places, tmp_path):
    one = job()
    for number, folder in enumerate(
        (
            save_tiny(tmp_path / "seed", trained=False, seed=1),
            save_tiny(tmp_path / "config", trained=False, hidden_dropout_prob=0.2),
        )
    ):
        assert equal_steps(one, job(model=str(folder))) == 0, number
    assert equal_steps(one, job(options=DataOptions(max_train_rows=20))) == 0
    for split, same in (("dev", len(one.plan.steps)), ("train", 0)):
        text = shutil.copytree(places / "data", tmp_path / split)
        (text / f"{split}.tsv").write_text((text / f"{split}.tsv").read_text().replace("film", "play"))
        other = job(data=str(text))
        # Rows to evaluate on change no step, but another run it is.
        assert equal_steps(one, other) == same
        named = "evaluation data" if split == "dev" else "training data"
        assert [name for name, digest in one.digest().items() if other.digest()[name] != digest] == [named]


def test_the_version_of_a_strategy_counts_from_where_it_is_used(job, monkeypatch):
    from compresskit.catalogue import Catalogue

    before = job().digests()
    origin = Catalogue.origin
    monkeypatch.setattr(
        Catalogue, "origin", lambda self, what: "2.0" if what.__name__ == "Predictions" else origin(self, what)
    )
    assert [one == other for one, other in zip(before, job().digests(), strict=True)] == [True, True, False, False]


def test_the_weights_of_a_teacher_in_a_folder_count(job, tmp_path):
    folder = save_tiny(tmp_path / "teacher", seed=1)
    recipe = RECIPE.replace("distill: teacher", f"distill: {folder}")
    one = job(recipe=recipe, model="trained")
    assert list(one.teachers) == [str(folder)]
    shutil.rmtree(folder)
    save_tiny(folder, seed=2)
    assert equal_steps(one, job(recipe=recipe, model="trained")) == 2


def test_a_new_head_is_the_same_at_each_load_and_follows_the_seed(job):
    torch.manual_seed(99)
    one, other = job(), job("seed=6")
    head = [each.fresh().model.network.classifier.weight for each in (one, one, other)]
    assert torch.equal(head[0], head[1])
    assert not torch.equal(head[0], head[2])


# --- what is refused, word for word


def refused(kind, job, *args, **how):
    with pytest.raises(kind) as caught:
        job(*args, **how)
    return str(caught.value)


def test_a_recipe_that_trains_needs_data(job):
    assert refused(DataError, job, data=None) == (
        "recipe trial trains or scores on data; name labelled text with --data"
    )


def test_exits_cannot_be_put_in_twice(job, tmp_path):
    from compresskit.checkpoint import load, save
    from compresskit.edits import AddExits
    from compresskit.surgery import perform

    checkpoint = load(str(save_tiny(tmp_path / "plain")))
    perform(AddExits((1, 2), ClsTanh(), False), checkpoint.model)
    save(checkpoint.model, checkpoint.tokenizer, tmp_path / "out", {})
    said = refused(RecipeError, job, model=str(tmp_path / "out"))
    assert said.endswith(f"exit: {tmp_path}/out has exits already; leave this step out, or give --model its original")


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "message"),
    [
        (16, 3, 1, "gradient_accumulation 3; make it a multiple of 3"),
        (16, 4, 3, "gradient_accumulation 4 and 3 processes; make it a multiple of 12"),
        (9, 1, 2, "gradient_accumulation 1 and 2 processes; make it a multiple of 2"),
    ],
)
def test_a_batch_must_be_shared_equally(job, batch, accumulation, processes, message):
    settings = (f"steps.2.batch_size={batch}", f"steps.2.gradient_accumulation={accumulation}")
    rest = ("steps.0.finetune.batch_size=24",)
    assert refused(RecipeError, job, *settings, *rest, processes=processes) == (
        f"steps[2] distill: batch_size {batch} can't be shared equally by {message}"
    )
    job("steps.2.batch_size=24", "steps.2.gradient_accumulation=4", *rest, processes=3)


@pytest.mark.parametrize(
    ("train", "old", "new", "step"),
    [
        ("exits", "finetune: {epochs: 1}", "finetune: {epochs: 1, train: exits}", "steps[0] finetune"),
        ("exits", "exit: all, by", "exit: [2], pooler: keep, by", "steps[2] distill"),
        ("shallow-exits", "finetune: {epochs: 1}", "finetune: {epochs: 1, train: shallow-exits}", "steps[0] finetune"),
        ("shallow-exits", "exit: all, by", "exit: [2], by", "steps[2] distill"),
        ("shallow-exits", "exit: all, by", "exit: [2], pooler: keep, by", "steps[2] distill"),
    ],
)
def test_training_exits_alone_needs_exits(job, train, old, new, step):
    recipe = RECIPE.replace(old, new).replace("epochs: 1, batch_size", f"epochs: 1, train: {train}, batch_size")
    assert refused(RecipeError, job, recipe=recipe) == (
        f"{step}: 'train: {train}' has no exit head to train; "
        f"put an exit step{' with exits below the last layer' if train == 'shallow-exits' else ''} before it"
    )


def test_training_shallow_exits_needs_their_losses(job):
    recipe = RECIPE.replace("epochs: 1, batch_size", "epochs: 1, train: shallow-exits, exits: last, batch_size")
    assert refused(RecipeError, job, recipe=recipe) == (
        "steps[2] distill: 'train: shallow-exits' moves nothing that the loss of 'exits: last' depends on; "
        "leave 'exits: last' out"
    )
    job(recipe=recipe.replace(", exits: last", ""))
    job(recipe=recipe.replace(", exits: last", "").replace("exit: all, by", "exit: all, pooler: keep, by"))


@pytest.mark.parametrize("by", ["hidden-states", "{hidden-states: 1, predictions: {weight: 1, after: 0.5}}"])
def test_training_exits_alone_needs_a_loss_of_their_answers_from_the_start(job, by):
    recipe = RECIPE.replace("epochs: 1, batch_size", "epochs: 1, train: exits, batch_size")
    assert "by: predictions" in recipe
    assert refused(RecipeError, job, recipe=recipe.replace("by: predictions", f"by: {by}")) == (
        "steps[2] distill: no loss that is on from the start moves what 'train: exits' lets move; "
        "add a loss of the exits' answers, such as predictions"
    )


def test_a_teacher_in_a_folder_is_looked_at_first(job, tmp_path):
    def teach(folder):
        return refused(CheckpointError, job, recipe=RECIPE.replace("distill: teacher", f"distill: {folder}"))

    (tmp_path / "empty").mkdir()
    assert teach(tmp_path / "empty") == (
        f"model folder {tmp_path / 'empty'} has no config.json; give the folder that save_pretrained wrote"
    )
    folder = save_tiny(tmp_path / "headless", trained=False)
    assert teach(folder) == f"teacher {folder} has no trained head; fine-tune it first, or use another teacher"
    folder = save_tiny(tmp_path / "named", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    assert teach(folder) == (
        f"teacher {folder} knows the labels no, yes, the student 0, 1; "
        "give both the same names in config.json (id2label) or use another teacher"
    )


def test_a_teacher_must_read_the_same_tokens(job, places, tmp_path):
    folder = save_tiny(tmp_path / "foreign")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"dull"', '"gnarly"'))
    recipe = RECIPE.replace("distill: teacher", f"distill: {folder}")
    assert refused(CheckpointError, job, recipe=recipe, model="trained") == (
        f"teacher {folder} has another vocabulary than {places}/trained; use a teacher with the same tokenizer"
    )


def test_names_saved_by_a_step_are_no_folders(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    assert job().teachers == {}


def test_a_teacher_must_have_room_for_the_texts(job, tmp_path):
    folder = save_tiny(tmp_path / "short", max_position_embeddings=40)
    recipe = RECIPE.replace("distill: teacher", f"distill: {folder}")
    assert refused(CompresskitError, job, recipe=recipe, run=Run(max_tokens=41)) == (
        f"--max-tokens 41 is more than {folder} can read; give at most 40"
    )
    assert list(job(recipe=recipe, run=Run(max_tokens=40)).teachers) == [str(folder)]


def test_a_teacher_of_another_width_teaches_no_hidden_states(job, places, tmp_path):
    folder = save_tiny(tmp_path / "wide", hidden=64)
    recipe = RECIPE.replace("distill: teacher", f"distill: {folder}")
    assert list(job(recipe=recipe).teachers) == [str(folder)]
    for losses in ("hidden-states", "[predictions, hidden-states]"):
        assert refused(CheckpointError, job, f"steps.2.by={losses}", recipe=recipe) == (
            f"steps[2] distill: hidden-states can't learn from {folder}: its hidden states have 64 numbers "
            "and not 32; distil by predictions alone, or from a teacher of the same hidden size"
        )


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_the_head_that_the_data_need_is_counted(job, tmp_path, labels):
    ready = job(data=str(tiny_text(tmp_path / "text", 32, eval_rows=8, labels=labels)))
    model, original = ready.original.model, ready.original.original
    assert model.config.num_labels == original.dims.classes == labels
    assert parameters(original.dims, original.shape) == count(model.network)


def test_a_recipe_that_learns_nothing_needs_no_rows_to_learn_from(job, places):
    shape = read_recipe("shape-8x").to_yaml()
    assert job(recipe=shape, model="trained", data=str(places / "data" / "dev.tsv")).corpus.train is None


def test_rows_keep_token_types_whatever_the_student_reads(job, places, tmp_path):
    folder = save_tiny(tmp_path / "distilled", "distilbert", trained=False)
    rows, collator = job(model=str(folder)).rows()
    assert sorted(collator([rows[0], rows[1]])) == ["attention_mask", "index", "input_ids", "labels", "token_type_ids"]
    with pytest.raises(DataError) as caught:
        job(run=Run(max_tokens=2)).rows()
    assert str(caught.value).startswith("--max-tokens 2 leaves no room for text beside 2 special tokens")
    recipe = "recipe: 1\nsteps:\n- {prune: heads, by: magnitude, keep: 1}\n"
    assert job(recipe=recipe, data=None).rows() == (None, None)


def test_a_job_is_what_it_was_made_of(job, places):
    made = job()
    assert made.original.original.name == str(places / "model")
    assert [planned.name for planned in made.plan.steps] == ["finetune", "exit", "distill", "prune"]
    assert made.corpus.task.labels == ("0", "1")
    assert replace(made, corpus=None).rows() == (None, None)
