"""From a recipe, a model and text to a finished folder; and what happens to the folder when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from compresskit import apply as applying
from compresskit import report_builder
from compresskit.apply import REPORT, apply, describe
from compresskit.checkpoint import RECORD, load, read_original
from compresskit.data import DataOptions
from compresskit.edits import edit_from_json
from compresskit.errors import CheckpointError, CompresskitError
from compresskit.journal import RUN
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.report import Report
from compresskit.run import Run
from compresskit.speed import Times
from compresskit.testing import save_tiny, tiny_text

RECIPE = """
recipe: 1
name: trial
steps:
# A comment that the resolved recipe does not have.
- finetune: {epochs: 1, learning_rate: 1e-3, batch_size: 16}
- {exit: all, by: entropy, with: {threshold: 0.3}, start: original}
- distill: teacher
  by: {predictions: 0.5, labels: 0.5}
  epochs: 1
  batch_size: 16
  learning_rate: 1e-3
  save_as: coach
- repeat: 2
  steps:
  - {prune: heads, by: taylor, keep: 1/2, teacher: coach, loss: {predictions: 0.9, labels: 0.1}, portion: 0.5}
  - {prune: neurons, by: magnitude, keep: 1/4, teacher: coach, loss: {predictions: 0.9, labels: 0.1}, portion: 0.5}
  - {factorize: word-embeddings, by: svd, rank: 1/2}
  - {distill: coach, by: [hidden-states, predictions], epochs: 1, batch_size: 16, learning_rate: 1e-3}
"""
STEPS = ["finetune", "exit", "distill", "prune", "factorize", "distill", "prune", "factorize", "distill"]

pytestmark = pytest.mark.usefixtures("light_collections")


class Interruption(BaseException):
    """As a kill, but the test lives on."""


@pytest.fixture(scope="module", autouse=True)
def _no_clock():
    """Milliseconds differ from run to run and take seconds to measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_builder, "time_rows", lambda *args, **how: Times((), ()))
        patch.setattr(report_builder, "time_shape", lambda *args, **how: Times((), ()))
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("apply")
    save_tiny(root / "model", trained=False)
    save_tiny(root / "trained")
    tiny_text(root / "data", 32, eval_rows=16)
    (root / "recipe.yaml").write_text(RECIPE)
    return root


@pytest.fixture(scope="module")
def carry(places):
    """Applies a recipe, the trial one unless told otherwise."""

    def carry(out, *overrides, recipe=None, model="model", data="data", run=None, reuse=None):
        return apply(
            read_recipe(recipe or places / "recipe.yaml", overrides),
            str(places / model) if model in ("model", "trained") else str(model),
            str(places / data) if data == "data" else data,
            DataOptions(),
            out,
            run or Run(),
            reuse,
        )

    return carry


@pytest.fixture(scope="module")
def finished(places, carry):
    """An undisturbed run: its folder and its report."""
    return SimpleNamespace(out=places / "out", report=carry(places / "out"))


class Diary(TrainerCallback):
    """A tracker that writes a file, where TensorBoard's callback would."""

    def on_train_begin(self, args, state, control, **kwargs):
        folder = Path(os.environ["TENSORBOARD_LOGGING_DIR"])
        folder.mkdir(parents=True)
        (folder / "diary").write_text("begun")


def test_what_trackers_write_stays_with_a_folder_for_each_training(carry, tmp_path, monkeypatch, finished):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "diary", Diary)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    carry(tmp_path / "out", run=Run(trackers=("diary",)))
    kept = sorted(str(path.relative_to(tmp_path / "out" / "logs")) for path in tmp_path.glob("out/logs/*/*"))
    assert kept == ["01-finetune/diary", "03-distill/diary", "06-distill/diary", "09-distill/diary"]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    assert same(tmp_path / "out", finished.out)


def test_where_the_user_says_that_trackers_write_they_write(carry, tmp_path, monkeypatch):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "diary", Diary)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    (tmp_path / "recipe.yaml").write_text("recipe: 1\nsteps:\n- finetune: {epochs: 1, batch_size: 16}\n")
    carry(tmp_path / "out", recipe=tmp_path / "recipe.yaml", run=Run(trackers=("diary",)))
    assert (tmp_path / "mine" / "diary").is_file()
    assert not (tmp_path / "out" / "logs").exists()


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(carry, tmp_path):
    with pytest.raises(CompresskitError, match="--report-to nonsense: there is no such tracker"):
        carry(tmp_path / "out", run=Run(trackers=("nonsense",)))
    assert not (tmp_path / "out").exists()


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def worked(monkeypatch):
    """The numbers of the steps that are carried out."""
    numbers = []
    carry_out = applying.carry_out
    monkeypatch.setattr(
        applying, "carry_out", lambda planned, number, shop: numbers.append(number) or carry_out(planned, number, shop)
    )
    return numbers


# --- a run from beginning to end


def test_a_finished_folder_has_model_papers_and_steps_and_nothing_else(finished):
    papers = {"README.md", RECORD, "recipe.yaml", REPORT, RUN}
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in finished.out.iterdir()} == papers | model | {"steps"}
    folders = [f"{number:02d}-{name}" for number, name in enumerate(STEPS, start=1)]
    assert sorted(path.name for path in (finished.out / "steps").iterdir()) == folders
    kept = [name for name in folders if (finished.out / "steps" / name / "model.safetensors").is_file()]
    # Those inside the repeat have gone, but for the last.
    assert kept == ["01-finetune", "02-exit", "03-distill", "09-distill"]
    assert same(finished.out, finished.out / "steps" / "09-distill")
    assert [path.name for path in finished.out.parent.iterdir() if path.name.startswith(".")] == []


def test_the_record_tells_what_was_done(finished, places):
    record = json.loads((finished.out / RECORD).read_text())
    assert record["seed"] == 42
    assert record["base_model"] == str(places / "model")
    assert {"compresskit", "torch", "transformers"} <= set(record["versions"])
    assert set(record["origins"]) == {
        "entropy",
        "predictions",
        "labels",
        "taylor",
        "magnitude",
        "svd",
        "hidden-states",
        "cls-tanh",
    }
    assert Report.from_json(record["report"]) == finished.report
    assert record["run"] == {"max_tokens": 128, "precision": "fp32", "device": "cpu"}
    assert record["data"] == {"data": str(places / "data"), **asdict(DataOptions())}
    # Steps of the run, and copies that transformers saves, know it too.
    for folder in (finished.out, finished.out / "steps" / "03-distill"):
        config = json.loads((folder / "config.json").read_text())
        assert config["data"] == {"text_columns": ["sentence"], "label_column": "label", "max_tokens": 128}
        assert config["untrained"] == []
    shape = load(str(places / "model")).original.shape
    for edit in record["edits"]:
        step = edit.pop("step")
        assert 2 <= step <= 8
        shape = shape.after(edit_from_json(edit))
    loaded = load(str(finished.out))
    assert loaded.model.shape == shape
    assert [(layer.heads, layer.neurons) for layer in shape.layers] == [(2, 16)] * 2
    assert (shape.rank, shape.exits) == (16, (1, 2))
    assert loaded.model.policy.threshold == 0.3
    assert loaded.labels == ("0", "1")
    card = (finished.out / "README.md").read_text()
    assert "# model, compressed by trial" in card
    assert "\ntags:\n- compresskit\n- early-exit\n---\n" in card


def test_the_report_tells_scores_and_the_seconds_of_training_and_of_measuring(finished):
    report = finished.report
    assert [step.name for step in report.steps] == [
        "01 finetune",
        "03 distill teacher",
        "04 prune heads and neurons (round 1)",
        "06 distill coach (round 1)",
        "07 prune heads and neurons (round 2)",
        "09 distill coach (round 2)",
    ]
    assert all(step.seconds > 0 for step in report.steps)
    assert {score.metric for score in report.model.scores} == {"accuracy", "f1"}
    assert set(report.model.scores[0].per_exit) == {1, 2}
    assert report.model.parameters < report.original.parameters


def test_the_original_is_scored_as_it_was_fine_tuned(finished, carry, places, tmp_path, monkeypatch):
    """Under whatever name it was saved, and not with a head that nobody trained."""
    seen = []
    compare = applying.compare
    monkeypatch.setattr(applying, "compare", lambda **how: seen.append(how["reference"].model) or compare(**how))
    renamed = (places / "recipe.yaml").read_text().replace("distill: teacher", "distill: mine")
    (tmp_path / "r.yaml").write_text(renamed)
    carry(tmp_path / "out", "steps.0.finetune.save_as=mine", recipe=tmp_path / "r.yaml")
    tuned = weights(finished.out / "steps" / "01-finetune")
    assert all(torch.equal(weight, tuned[name]) for name, weight in seen[0].state_dict().items())


def test_the_resolved_recipe_repeats_the_run(finished, carry, tmp_path):
    carry(tmp_path / "again", recipe=finished.out / "recipe.yaml")
    assert same(tmp_path / "again", finished.out)
    run = (tmp_path / "again" / RUN).read_bytes()
    assert run == (finished.out / RUN).read_bytes()
    assert (tmp_path / "again" / "recipe.yaml").read_bytes() == (finished.out / "recipe.yaml").read_bytes()


def test_another_seed_gives_another_model(finished, carry, tmp_path):
    carry(tmp_path / "other", "seed=43")
    assert not same(tmp_path / "other", finished.out)


def test_a_recipe_that_looks_at_no_data_needs_none(carry, places, tmp_path):
    report = carry(tmp_path / "out", recipe="shape-8x", model="trained", data=None)
    assert report.model.scores == ()
    assert report.model.shape.exits == (1, 2)
    assert not (tmp_path / "out" / "steps" / "training-01").exists()


def test_exits_that_learnt_nothing_are_no_trained_model(carry, places, tmp_path):
    carry(tmp_path / "shape", recipe="shape-8x", model="trained", data=None)
    shape = load(str(tmp_path / "shape"))
    assert (shape.head_trained, shape.model.untrained) == (False, (1, 2))
    (tmp_path / "tune.yaml").write_text("recipe: 1\nsteps:\n  - finetune: {epochs: 1, learning_rate: 1e-3}\n")
    carry(tmp_path / "tuned", "steps.0.finetune.batch_size=16", recipe=tmp_path / "tune.yaml", model=tmp_path / "shape")
    tuned = load(str(tmp_path / "tuned"))
    assert (tuned.head_trained, tuned.model.untrained) == (True, ())
    assert (tuned.model.shape, tuned.labels) == (shape.model.shape, ("0", "1"))
    assert not same(tmp_path / "tuned", tmp_path / "shape")
    taught = f"recipe: 1\nsteps:\n  - {{distill: {tmp_path}/shape, by: predictions, epochs: 1}}\n"
    (tmp_path / "taught.yaml").write_text(taught)
    with pytest.raises(CheckpointError) as caught:
        carry(tmp_path / "taught", recipe=tmp_path / "taught.yaml", model="trained")
    assert str(caught.value) == (
        f"teacher {tmp_path}/shape has no trained head; fine-tune it first, or use another teacher"
    )


def test_a_trained_head_is_its_own_teacher(carry, places, tmp_path, worked, told):
    carry(tmp_path / "out", model="trained", run=Run(progress=told))
    record = json.loads((tmp_path / "out" / "steps" / "02-exit" / "step.json").read_text())
    assert record["saved"] == {"teacher": "original"}
    tuned, given = weights(tmp_path / "out" / "steps" / "01-finetune"), weights(places / "trained")
    assert all(torch.equal(tuned[f"network.{name}"], weight) for name, weight in given.items())
    assert worked == list(range(1, 10))
    assert told.messages[:3] == [
        (
            "text: sentence; label: label (LABEL_0, LABEL_1); "
            f"to learn from: 32 rows of {places}/data/train.tsv; to evaluate on: 16 of {places}/data/dev.tsv"
        ),
        "step 1 of 9: finetune",
        "skipped: the head is trained already",
    ]


def test_bf16_and_fp32_can_follow_each_other_in_one_process(finished, carry, tmp_path):
    carry(tmp_path / "rounded", run=Run(bf16=True))
    carry(tmp_path / "exact")
    assert same(tmp_path / "exact", finished.out)
    assert not same(tmp_path / "rounded", finished.out)


def test_milliseconds_are_measured_only_where_they_are_wanted(carry, tmp_path):
    report = carry(tmp_path / "out", recipe="shape-8x", model="trained", data=None, run=Run(timing=False))
    assert (report.model.milliseconds, report.original.milliseconds) == ((), ())
    scored = carry(tmp_path / "scored", recipe="shape-8x", model="trained", run=Run(timing=False))
    assert (scored.model.milliseconds, scored.original.milliseconds) == ((), ())
    assert scored.original.scores != ()


@pytest.mark.cuda
def test_a_gpu_trains_scores_cuts_and_answers(carry, tmp_path):
    report = carry(tmp_path / "out", run=Run(device="cuda"))
    assert report.model.parameters < report.original.parameters
    model = load(str(tmp_path / "out")).model
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 8, 3, 0, 0]])
    here = model(ids, (ids > 0).long())
    there = model.to("cuda")(ids.to("cuda"), (ids > 0).long().to("cuda"))
    assert there.exits.tolist() == here.exits.tolist()
    torch.testing.assert_close(there.logits.cpu(), here.logits, rtol=1e-4, atol=1e-4)


def test_progress_is_told(carry, tmp_path, told):
    carry(tmp_path / "out", recipe="shape-8x", model="trained", data=None, run=Run(progress=told))
    assert told.messages == [
        "step 1 of 3: exit",
        "step 2 of 3: prune heads and neurons",
        "step 3 of 3: factorize word-embeddings",
    ]
    (tmp_path / "out" / RECORD).unlink()
    told.messages.clear()
    carry(tmp_path / "out", recipe="shape-8x", model="trained", data=None, run=Run(progress=told))
    assert told.messages == [f"going on after step 3 of 3, which is in {tmp_path}/out"]
    told.messages.clear()
    carry(tmp_path / "out", recipe="shape-8x", model="trained", data=None, run=Run(progress=told))
    assert told.messages == [f"{tmp_path}/out is finished already; nothing was done, and this is its report"]


def test_steps_are_described_in_words(places):
    plan = make_plan(read_recipe(places / "recipe.yaml"), load(str(places / "model")).original)
    assert [describe(planned) for planned in plan.steps] == [
        "finetune",
        "exit",
        "distill teacher",
        "prune heads and neurons (round 1)",
        "factorize word-embeddings (round 1)",
        "distill coach (round 1)",
        "prune heads and neurons (round 2)",
        "factorize word-embeddings (round 2)",
        "distill coach (round 2)",
    ]


# --- the same folder again


def test_a_finished_run_does_no_work_and_gives_the_same_report(finished, carry, monkeypatch):
    def work(*args, **how):
        raise AssertionError("work")

    for name in ("carry_out", "compare", "save", "Workshop"):
        monkeypatch.setattr(applying, name, work)
    before = files(finished.out)
    assert carry(finished.out) == finished.report
    assert files(finished.out) == before


def test_a_finished_run_whose_model_is_gone_is_finished_again(finished, carry, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(finished.out, out)
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").unlink()
    carry(out)
    assert (out / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("change", "differing"), [("seed=7", "seed"), ("steps.2.epochs=2", "recipe")])
def test_another_run_is_refused(finished, carry, change, differing):
    before = files(finished.out)
    with pytest.raises(CompresskitError) as caught:
        carry(finished.out, change)
    assert str(caught.value) == (
        f"--out {finished.out} holds another run (what differs: {differing}); "
        f"give a new folder, with --reuse {finished.out} to take over the steps that are the same"
    )
    assert files(finished.out) == before


def test_a_folder_with_other_things_is_refused(carry, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CompresskitError) as caught:
        carry(tmp_path)
    assert str(caught.value) == (
        f"--out {tmp_path} is not empty and was not written by compresskit apply (thesis.tex is in it); "
        "give a new or empty folder"
    )
    assert list(files(tmp_path)) == ["thesis.tex"]


def test_reuse_takes_over_the_equal_prefix(finished, carry, tmp_path, worked):
    report = carry(tmp_path / "with", "steps.3.steps.3.epochs=2", reuse=finished.out)
    # The first step that differs is the sixth, and those before it in the repeat have lost their weights.
    assert worked == [4, 5, 6, 7, 8, 9]
    worked.clear()
    carry(tmp_path / "without", "steps.3.steps.3.epochs=2")
    assert worked == list(range(1, 10))
    assert same(tmp_path / "with", tmp_path / "without")
    assert not same(tmp_path / "with", finished.out)
    assert [step.seconds for step in report.steps[:2]] == [step.seconds for step in finished.report.steps[:2]]


def test_reuse_of_the_same_run_only_measures(finished, carry, tmp_path, worked):
    carry(tmp_path / "copy", reuse=finished.out)
    assert worked == []
    assert same(tmp_path / "copy", finished.out)


def test_it_is_told_where_nothing_is_taken_over(finished, carry, tmp_path, told):
    shape = {"recipe": "shape-8x", "model": "trained", "data": None, "run": Run(progress=told)}
    carry(tmp_path / "out", reuse=finished.out, **shape)
    assert told.messages[0] == f"{finished.out} has no finished first step that is the same, so nothing is taken over"
    told.messages.clear()
    carry(tmp_path / "again", reuse=tmp_path / "out", **shape)
    assert told.messages == [f"going on after step 3 of 3, which is in {tmp_path}/again"]


@pytest.mark.parametrize("stopped", [1, 3, 5, 8, 10])
def test_a_run_stopped_between_steps_ends_as_one_that_was_not(finished, carry, tmp_path, worked, monkeypatch, stopped):
    def stop(*args, **how):
        raise Interruption

    with monkeypatch.context() as patch, pytest.raises(Interruption):
        if stopped <= 9:
            work = applying.carry_out
            patch.setattr(applying, "carry_out", lambda p, n, shop: stop() if n == stopped else work(p, n, shop))
        else:
            patch.setattr(applying, "compare", stop)
        carry(tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    worked.clear()
    torch.manual_seed(99)
    report = carry(tmp_path / "out")
    assert worked == list(range(stopped, 10))
    assert same(tmp_path / "out", finished.out)
    assert sorted(files(tmp_path / "out")) == sorted(files(finished.out))
    assert report.model.scores == finished.report.model.scores


# --- what is wrong is found before anything is written


def set_data(text):
    def change(places, tmp_path):
        folder = tiny_text(tmp_path / "text", 32, eval_rows=16)
        (folder / "train.tsv").write_text(text)
        return {"data": str(folder)}

    return change


def set_model(damage):
    def change(places, tmp_path):
        damage(save_tiny(tmp_path / "bad"))
        return {"model": tmp_path / "bad"}

    return change


@pytest.mark.parametrize(
    ("change", "start"),
    [
        (lambda places, tmp: {"model": "./nowhere"}, "model folder ./nowhere does not exist"),
        (set_model(lambda folder: (folder / "config.json").unlink()), "model folder {}/bad has no config.json"),
        (set_model(lambda folder: (folder / "config.json").write_text("{")), "{}/bad/config.json is not a JSON object"),
        (
            set_model(lambda folder: (folder / "config.json").write_text('{"model_type": "t5"}')),
            "no anatomy for model_type 't5'",
        ),
        (
            set_model(lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin")),
            "model folder {}/bad has its weights only as a pickle",
        ),
        (
            set_model(lambda folder: (folder / "model.safetensors").write_bytes(b"")),
            "{}/bad: model.safetensors is damaged",
        ),
        (lambda places, tmp: {"data": str(tmp / "nothing")}, "there is no {}/nothing; check the path"),
        (lambda places, tmp: {"data": None}, "recipe trial trains or scores on data"),
        (set_data(""), "{}/text/train.tsv"),
        (set_data("sentence\tlabel\nfine\t1\ngreat\t1\n"), "{}/text/train.tsv"),
        (lambda places, tmp: {"run": Run(max_tokens=2)}, "--max-tokens 2 leaves no room for text"),
        (lambda places, tmp: {"overrides": ["steps.3.steps.0.keep=9"]}, "{recipe}: 1 mistake"),
        (lambda places, tmp: {"overrides": ["steps.1.exit=[1]"]}, "{recipe}: 1 mistake"),
        (
            lambda places, tmp: {"overrides": ["steps.0.finetune.gradient_accumulation=3"]},
            "steps[0] finetune: batch_size 16",
        ),
        (lambda places, tmp: {"overrides": ["steps.2.distill=./none"]}, "{recipe}: 1 mistake"),
        (lambda places, tmp: {"reuse": tmp / "none"}, "--reuse {}/none was not written by compresskit apply"),
    ],
)
def test_bad_input_writes_nothing(carry, places, tmp_path, monkeypatch, change, start):
    monkeypatch.chdir(tmp_path)
    how = change(places, tmp_path)
    before = files(tmp_path)
    with pytest.raises(CompresskitError) as caught:
        carry(tmp_path / "deep" / "out", *how.pop("overrides", ()), **how)
    message = str(caught.value)
    assert message.startswith(start.replace("{}", str(tmp_path)).replace("{recipe}", str(places / "recipe.yaml")))
    assert files(tmp_path) == before


def test_weights_that_are_nan_write_nothing(carry, tmp_path):
    from safetensors.torch import save_file

    folder = save_tiny(tmp_path / "bad")
    found = load_file(folder / "model.safetensors")
    found["bert.encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        carry(tmp_path / "out", model=folder)
    assert str(caught.value) == (
        f"{folder}: weight bert.encoder.layer.0.output.dense.bias holds NaN or infinity; "
        "its training went wrong, use an earlier checkpoint"
    )
    assert not (tmp_path / "out").exists()


def test_what_was_too_much_for_the_text_can_be_put_right_in_the_same_folder(carry, tmp_path):
    with pytest.raises(CompresskitError):
        carry(tmp_path / "out", run=Run(max_tokens=2))
    carry(tmp_path / "out", "steps.0.finetune.epochs=0.5", run=Run(max_tokens=16))


# --- a full disk


def no_space(*args, **how):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_at_the_end_keeps_every_step(finished, carry, tmp_path, worked, monkeypatch):
    write = applying.save

    def full(*args, **how):
        with monkeypatch.context() as patch:
            patch.setattr(type(args[1]), "save_pretrained", no_space)
            write(*args, **how)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(applying, "save", full)
        carry(tmp_path / "out")
    assert str(caught.value) == (
        f"could not save to {tmp_path}/out: No space left on device; what was there before is untouched, "
        "make room and run the command again"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [RUN, "steps"]
    worked.clear()
    carry(tmp_path / "out")
    assert worked == []
    assert same(tmp_path / "out", finished.out)


def test_a_full_disk_in_a_step_keeps_those_before_it(finished, carry, tmp_path, worked, monkeypatch):
    from compresskit.model import CompressedForSequenceClassification

    write = CompressedForSequenceClassification.save_pretrained

    def full(self, folder, **how):
        return (no_space if ".03-distill" in str(folder) else write)(self, folder, **how)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(CompressedForSequenceClassification, "save_pretrained", full)
        carry(tmp_path / "out")
    assert str(caught.value) == (
        f"could not save to {tmp_path}/out/steps/03-distill: No space left on device; "
        "what was there before is untouched, make room and run the command again"
    )
    left = sorted(path.name for path in (tmp_path / "out" / "steps").iterdir())
    assert left == ["01-finetune", "02-exit", "training-03"]
    worked.clear()
    carry(tmp_path / "out")
    assert worked == list(range(3, 10))
    assert same(tmp_path / "out", finished.out)


def test_sharing_and_factorizing_say_of_what(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("recipe: 1\nsteps:\n- {share: layers}\n- {factorize: embeddings, by: svd, rank: 8}\n")
    plan = make_plan(read_recipe(path), read_original(str(save_tiny(tmp_path / "model"))))
    assert [describe(step) for step in plan.steps] == ["share layers", "factorize embeddings"]
