"""Reports of runs and of folders: what is counted, what is measured, what was saved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from compresskit.checkpoint import load, read_original, save
from compresskit.cost import parameters
from compresskit.data import DataOptions, load_corpus
from compresskit.edits import ShareLayers
from compresskit.report import Report
from compresskit.report_builder import compare, report_on
from compresskit.run import Run
from compresskit.speed import EARLY, FULL
from compresskit.surgery import perform
from compresskit.tables import summary
from compresskit.testing import save_tiny, tiny_compressed, tiny_text, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("quick_clock")


def run_of(tmp_path):
    """An original, a model of its family, and the report on both."""
    original = load(str(save_tiny(tmp_path / "original", layers=3)))
    model = tiny_compressed(exits=(1, 2, 3), layers=3)
    corpus = load_corpus(str(tiny_text(tmp_path / "data")), DataOptions(), original.labels)
    report = compare(
        original=original,
        reference=original,
        model=model,
        corpus=corpus,
        run=Run(),
        seconds=[("1 exit", 2.0)],
        name=str(tmp_path / "out"),
    )
    save(model, tiny_tokenizer(), tmp_path / "out", {"compression.json": json.dumps({"report": report.to_json()})})
    return original, model, report


def test_a_run_is_scored_timed_and_counted_on_both_sides(tmp_path):
    original, model, report = run_of(tmp_path)
    assert (report.original.name, report.model.name) == (str(tmp_path / "original"), str(tmp_path / "out"))
    assert report.original.parameters == sum(weight.numel() for weight in original.model.parameters())
    assert report.model.parameters == sum(weight.numel() for weight in model.parameters())
    assert [score.metric for score in report.original.scores] == ["accuracy", "f1"]
    assert report.original.scores[0].per_exit == {}
    assert list(report.model.scores[0].per_exit) == [1, 2, 3]
    assert report.model.leaving.policy == "entropy, threshold 0.5"
    assert sum(report.model.leaving.histogram.values()) == 32
    assert [(t.label, t.batch) for t in report.original.milliseconds] == [(FULL, 1), (FULL, 32)]
    assert [(t.label, t.batch) for t in report.model.milliseconds] == [(FULL, 1), (EARLY, 1), (FULL, 32), (EARLY, 32)]
    assert [(step.name, step.seconds) for step in report.steps] == [("1 exit", 2.0)]
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_model_that_gives_every_row_one_label_is_told_of(tmp_path):
    """Its accuracy is that of the commonest class, and looks like more."""
    original = load(str(save_tiny(tmp_path / "original", layers=3)))
    corpus = load_corpus(str(tiny_text(tmp_path / "data")), DataOptions(), original.labels)
    read_out = original.model.network.classifier
    torch.nn.init.zeros_(read_out.weight)
    read_out.bias.data = torch.tensor([0.0, 9.0])
    model = tiny_compressed(exits=(1, 2, 3), layers=3)
    report = compare(original=original, reference=original, model=model, corpus=corpus, run=Run(timing=False))
    assert report.original.always == original.labels[1]
    assert report.model.always is None
    note = summary(report).note
    assert note.endswith(f"The original answers '{original.labels[1]}' to every row.")
    assert summary(Report(report.original)).note.endswith(f"The model answers '{original.labels[1]}' to every row.")


def test_bytes_foreseen_are_the_bytes_saved_but_for_the_header(tmp_path):
    _, _, report = run_of(tmp_path)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert 0 <= size - report.model.bytes_on_disk < 10_000


def test_bytes_of_shared_layers_are_counted_once(tmp_path):
    original = load(str(save_tiny(tmp_path / "original", layers=3)))
    model = load(str(tmp_path / "original")).model
    perform(ShareLayers((0, 0, 0), "mean"), model)
    report = compare(original=original, reference=None, model=model, corpus=None, run=Run(timing=False))
    assert report.model.bytes_on_disk == 4 * report.model.parameters < report.original.bytes_on_disk


def test_without_data_nothing_is_scored(tmp_path):
    original = load(str(save_tiny(tmp_path / "original")))
    report = compare(original=original, reference=None, model=tiny_compressed(exits=(1, 2)), corpus=None, run=Run())
    assert (report.model.scores, report.model.leaving, report.original.scores) == ((), None, ())
    assert [(time.label, time.batch) for time in report.model.milliseconds] == [(FULL, 1), (FULL, 8)]
    assert len(report.original.milliseconds) == 2


def test_a_folder_shows_what_was_saved_and_is_timed_here(tmp_path):
    _, _, saved = run_of(tmp_path)
    weights = tmp_path / "out" / "model.safetensors"
    report = report_on(str(tmp_path / "out"), None, Run())
    assert (report.model.scores, report.model.leaving, report.steps) == (
        saved.model.scores, saved.model.leaving, saved.steps,
    )  # fmt: skip
    # The saved times are of real rows, the new ones of 128 random tokens.
    assert saved.original.milliseconds != ()
    assert report.original == replace(saved.original, milliseconds=())
    # The same as before the model was on disk: of the numbers, without the file's header.
    assert report.model.bytes_on_disk == 4 * sum(each.numel() for each in load_file(weights).values())
    assert [(time.label, time.batch) for time in report.model.milliseconds] == [(FULL, 1), (FULL, 8)]


def test_against_another_model_both_are_counted_and_timed(tmp_path):
    _, _, saved = run_of(tmp_path)
    report = report_on(str(tmp_path / "out"), str(tmp_path / "original"), Run())
    assert report.original.scores == saved.original.scores
    assert len(report.original.milliseconds) == len(report.model.milliseconds) == 2
    respelt = report_on(str(tmp_path / "out"), f"{tmp_path}/out/../original", Run())
    assert respelt.original.scores == saved.original.scores
    other = report_on(str(tmp_path / "out"), str(save_tiny(tmp_path / "other")), Run())
    assert other.original.scores == ()


def test_a_report_on_a_saved_model_tells_too_that_it_gives_one_label(tmp_path):
    _, _, saved = run_of(tmp_path)
    path = tmp_path / "out" / "compression.json"
    always = replace(saved, model=replace(saved.model, always="yes"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"report": always.to_json()}))
    assert report_on(str(tmp_path / "out"), None, Run(), timing=False).model.always == "yes"


def test_scores_of_another_exit_policy_are_left_out(tmp_path, told):
    model, _, saved = run_of(tmp_path)
    assert saved.model.leaving.policy == "entropy, threshold 0.5"
    folder = str(tmp_path / "out")
    assert report_on(folder, None, Run(progress=told), timing=False).model.scores == saved.model.scores
    assert told.messages == []
    model = load(folder).model
    model.set_policy(model.config.exit_policy | {"with": {"threshold": 0.1}})
    model.save_pretrained(folder)
    report = report_on(folder, None, Run(progress=told), timing=False)
    assert (report.model.scores, report.model.leaving) == ((), None)
    (message,) = told.messages
    assert message == (
        f"{folder} no longer leaves by entropy, threshold 0.5, with which it was scored, "
        "so its scores are left out; `compresskit evaluate` gives new ones"
    )


def test_without_timing_no_weights_are_read(tmp_path):
    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    report = report_on(str(folder), None, Run(), timing=False)
    original = read_original(str(folder))
    assert report.model.parameters == parameters(original.dims, original.shape)
    assert (report.model.milliseconds, report.model.bytes_on_disk, report.original) == ((), None, None)
