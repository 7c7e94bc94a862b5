"""Commands about models, from apply to export."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
from transformers import AutoModelForSequenceClassification

import compresskit.apply
from compresskit.checkpoint import read_original
from compresskit.cost import flops
from compresskit.data import DataOptions
from compresskit.errors import CompresskitError
from compresskit.report import Report
from compresskit.runtime import latency
from compresskit.testing import save_tiny
from tests.cli.conftest import as_if_trained


def test_apply_prints_the_report_that_it_saves(command, original, tmp_path):
    shown = command("apply", "shape-8x", "--model", original, "--out", tmp_path / "out", "--json", "--quiet")
    assert shown.stderr == ""
    saved = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert json.loads(shown.stdout) == saved
    assert saved["model"]["shape"]["heads"] == [1, 1, 1]


def test_apply_hands_every_option_on(command, compressed, monkeypatch):
    seen = {}
    report = json.loads((compressed / "report.json").read_text(encoding="utf-8"))

    def noted(recipe, model, data, options, out, run, reuse):
        seen.update(recipe=recipe, model=model, data=data, options=options, out=out, run=run, reuse=reuse)
        return Report.from_json(report)

    monkeypatch.setattr(compresskit.apply, "apply", noted)
    shown = command(
        "apply", "shape-8x", "--model_name_or_path", "m", "--train_file", "t.csv", "--validation_file", "e.csv",
        "--output_dir", "o", "--max_seq_length", 64, "--text_column_names", "a, b", "--label_column_name", "y",
        "--task", "regression", "--max_train_samples", 5, "--max-eval-rows", 6, "--seed", 7, "--device", "cpu",
        "--precision", "bf16", "--cache-gigabytes", "0.5", "--reuse", "r", "--report_to", "tensorboard,wandb",
        "--set", "steps.1.keep=2", "--no-timing",
    )  # fmt: skip
    assert "parameters" in shown.stdout
    assert (seen["model"], seen["data"], str(seen["out"]), str(seen["reuse"])) == ("m", "t.csv", "o", "r")
    assert seen["options"] == DataOptions(("a", " b"), "y", "regression", "e.csv", 5, 6, seed=7)
    assert (seen["recipe"].seed, seen["recipe"].steps[1].keep) == (7, 2)
    run = seen["run"]
    assert (run.device, run.bf16, run.max_tokens, run.cache_bytes) == ("cpu", True, 64, 2**29)
    assert run.timing is False
    assert run.trackers == ("tensorboard", "wandb")


def test_the_seed_of_the_recipe_draws_the_rows(command, monkeypatch):
    def noted(recipe, model, data, options, *others):
        raise CompresskitError(f"{recipe.seed} and {options.seed}")

    monkeypatch.setattr(compresskit.apply, "apply", noted)
    failed = command("apply", "shape-8x", "--model", "m", "--out", "o", "--set", "seed=5", code=1)
    assert failed.stderr == "Error: 5 and 5\n"


def test_only_the_first_process_talks(command, original, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    real = compresskit.apply.apply

    def alone(*given):
        # Here there is one process, and it has to do the first one's work.
        monkeypatch.delenv("RANK")
        report = real(*given)
        monkeypatch.setenv("RANK", "1")
        return report

    monkeypatch.setattr(compresskit.apply, "apply", alone)
    shown = command("apply", "shape-8x", "--model", original, "--out", tmp_path / "out")
    assert (shown.stdout, shown.stderr) == ("", "")


def test_report_in_three_forms(command, compressed, original):
    shown = command("report", compressed, "--against", original).stdout
    assert "1 of 6" in shown
    assert "ms, batch 1, full depth" in shown
    data = json.loads(command("report", compressed, "--no-timing", "--json").stdout)
    assert Report.from_json(data).model.milliseconds == ()
    assert data["model"]["shape"]["exits"] == [1, 2, 3]
    assert command("report", compressed, "--no-timing", "--markdown").stdout.startswith("### ")


def test_evaluate_scores_every_exit_and_threshold(command, compressed, data):
    shown = command("evaluate", compressed, "--data", data, "--no-timing", "--json")
    found = json.loads(shown.stdout)
    assert {"metric", "value", "per_exit", "sweep"} <= found.keys()
    assert [row["exit"] for row in found["per_exit"]] == [1, 2, 3]
    assert len(found["sweep"]) == 11
    assert "evaluating" in shown.stderr
    table = command("evaluate", compressed, "--data", data / "dev.tsv", "--thresholds", "0.6,0.1", "--quiet")
    assert "as saved: 0.3" in table.stdout
    assert "leaving early" in table.stdout
    assert table.stderr == ""


def test_evaluate_draws_rows(command, compressed, data):
    found = json.loads(
        command("evaluate", compressed, "--data", data, "--max-eval-rows", 8, "--no-timing", "--json").stdout
    )
    assert found["rows"] == 8


def test_predict_labels_a_file(command, compressed, data, tmp_path):
    target = tmp_path / "out.tsv"
    shown = command("predict", compressed, "--input", data / "dev.tsv", "--output", target)
    assert shown.stdout == ""
    assert shown.stderr.endswith(f"32 rows written to {target}\n")
    lines = target.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "sentence\tlabel\tpredicted_label\tprobability\texit"
    assert len(lines) == 33


def test_predict_answers_texts(command, compressed):
    texts = ("--text", "a good film", "--text=so dull")
    found = json.loads(command("predict", compressed, *texts, "--json").stdout)
    assert [row["text"] for row in found] == ["a good film", "so dull"]
    assert found[0].keys() == {"text", "label", "probability", "exit"}
    shown = command("predict", compressed, *texts).stdout
    assert "so dull" in shown
    assert found[1]["label"] in shown


@pytest.fixture(scope="module")
def of_pairs(command, original, tmp_path_factory):
    """What shape-8x makes of the original with pairs in columns of unusual names, and those rows."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "dev.csv").write_text("here,there,kind\ngood film,bad act,0\nlong walk,new book,1\n", encoding="utf-8")
    named = ("--text-columns", "here,there", "--label-column", "kind", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compresskit.speed.milliseconds", partial(latency.milliseconds, repeats=2, min_seconds=0))
        command("apply", "shape-8x", "--model", original, "--data", folder / "dev.csv", "--out", folder / "out", *named)
    as_if_trained(folder / "out")
    return folder


def test_columns_are_named_once(command, of_pairs):
    shown = command("evaluate", of_pairs / "out", "--data", of_pairs / "dev.csv", "--no-timing", "--json")
    assert json.loads(shown.stdout)["rows"] == 2
    assert f"label: kind (LABEL_0, LABEL_1); to evaluate on: 2 rows of {of_pairs}/dev.csv\n" in shown.stderr
    said = command("predict", of_pairs / "out", "--input", of_pairs / "dev.csv", "--output", of_pairs / "o.csv").stderr
    assert "text: here, there\n" in said
    header = (of_pairs / "o.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "here,there,kind,label,probability,exit"


def test_a_pair_is_answered_as_in_a_file(command, of_pairs):
    out = of_pairs / "out"
    command("predict", out, "--input", of_pairs / "dev.csv", "--output", of_pairs / "o.jsonl", "--quiet")
    rows = [json.loads(line) for line in (of_pairs / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    words = [word for row in rows for word in ("--text", row["here"], "--text-pair", row["there"])]
    found = json.loads(command("predict", out, *words, "--json").stdout)
    assert [(row["text"], row["text_pair"]) for row in found] == [(row["here"], row["there"]) for row in rows]
    assert [(row["label"], row["exit"]) for row in found] == [(row["label"], row["exit"]) for row in rows]
    assert "bad act" in command("predict", out, *words).stdout


def test_a_model_of_pairs_is_not_asked_about_single_texts(command, of_pairs, original, data, tmp_path):
    out = of_pairs / "out"
    assert command("predict", out, "--text", "good", code=1).stderr.endswith(
        f"Error: {out} was compressed with pairs of texts (here, there); give the second with --text-pair\n"
    )
    single = tmp_path / "single"
    command("apply", "shape-8x", "--model", original, "--data", data, "--out", single, "--quiet")
    as_if_trained(single)
    assert command("predict", single, "--text", "a", "--text-pair", "b", code=1).stderr.endswith(
        f"Error: {single} was compressed with single texts; leave --text-pair out\n"
    )


def test_exits_that_nobody_trained_are_warned_of(command, compressed, original, tmp_path):
    partly = as_if_trained(shutil.copytree(compressed, tmp_path / "partly"), untrained=(1, 2))
    warning = f"warning: {partly} has exits that nobody trained, after layers 1, 2; their answers mean nothing\n"
    for quiet in ((), ("--quiet",)):
        assert warning in command("predict", partly, "--text", "good", *quiet).stderr
    assert "warning" not in command("predict", original, "--text", "good").stderr


def test_a_shape_that_learnt_nothing_cannot_answer(command, original, data, tmp_path):
    out = tmp_path / "shape"
    report = command("apply", "shape-8x", "--model", original, "--data", data, "--out", out, "--json", "--quiet").stdout
    side = json.loads(report)["model"]
    assert (side["scores"], side["leaving"]) == ([], None)
    assert {time["label"] for time in side["milliseconds"]} == {"full depth"}
    assert command("predict", out, "--text", "good", code=1).stderr == (
        f"Error: {out} has no trained head to answer with; train it first, by a recipe that finetunes\n"
    )


def test_export_writes_beside_the_model(command, compressed, tmp_path):
    shown = command("export", compressed, "--format", "stock", "--output_dir", tmp_path / "stock")
    assert "no speed gain" in shown.stdout
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert f"{compressed}-stock: " in command("export", f"{compressed}/").stdout


def test_a_model_without_a_trained_head_cannot_answer(command, data, tmp_path):
    folder = save_tiny(tmp_path / "m", trained=False)
    for arguments in (["evaluate", folder, "--data", data], ["predict", folder, "--text", "good"]):
        assert command(*arguments, code=1).stderr == (
            f"Error: {folder} has no trained head to answer with; train it first, by a recipe that finetunes\n"
        )
    assert command("export", folder, code=1).stderr == (
        f"Error: {folder} has no trained head to export; train it first, by a recipe that finetunes\n"
    )
    assert not (tmp_path / "m-stock").exists()


def test_more_tokens_than_the_model_reads_are_refused(command, compressed, data):
    failed = command("predict", compressed, "--text", "good", "--max-tokens", 129, code=1)
    assert failed.stderr == f"Error: --max-tokens 129 is more than {compressed} can read; give at most 128\n"


def test_texts_are_cut_as_when_the_model_was_compressed(command, original, data, tmp_path):
    short = tmp_path / "short"
    command("apply", "shape-8x", "--model", original, "--data", data, "--out", short, "--max-tokens", 6, "--quiet")
    as_if_trained(short)
    mean = json.loads(command("evaluate", short, "--data", data, "--no-timing", "--json").stdout)["mean_tokens"]
    longer = command("evaluate", short, "--data", data, "--no-timing", "--json", "--max-tokens", 128).stdout
    assert mean <= 6 < json.loads(longer)["mean_tokens"]


def test_report_counts_an_example_of_any_length(command, compressed, original):
    said = command("report", compressed, "--against", original, "--no-timing", "--tokens", 64, "--json")
    found = Report.from_json(json.loads(said.stdout))
    model, given = read_original(str(compressed)), read_original(str(original))
    assert found.tokens == 64
    assert found.model.flops == flops(model.dims, model.shape, 64)
    assert found.original.flops == flops(given.dims, given.shape, 64)
    saved = Report.from_json(json.loads(command("report", compressed, "--no-timing", "--tokens", 64, "--json").stdout))
    assert saved.original.flops == found.original.flops


def test_answers_are_written_to_a_new_file_alone(command, compressed, data, tmp_path):
    """Both mistakes are found before a row is answered."""
    told = ("evaluate", compressed, "--data", data, "--no-timing", "--answers")
    written = command(*told, tmp_path / "answers.json")
    assert f"32 answers written to {tmp_path / 'answers.json'}" in written.stderr
    found = json.loads((tmp_path / "answers.json").read_text())
    lists = ("labels", "tokens", "answers", "leaving_early", "exits")
    assert {key: len(found[key]) for key in lists} == dict.fromkeys(lists, 32)
    assert {len(said) for said in found["per_exit"].values()} == {32}
    for place, why in (
        (tmp_path / "answers.json", "is there already"),
        (tmp_path / "no" / "a", "is in a folder that is not there"),
    ):
        failed = command(*told, place, code=1)
        assert failed.stderr == f"Error: --answers {place} {why}; name a new file in a folder that is there\n"
        assert failed.stdout == ""


def test_thresholds_need_an_exit_policy_that_has_one(command, original, data):
    failed = command("evaluate", original, "--data", data, "--thresholds", "0.1", code=1)
    assert failed.stderr == f"Error: {original} does not leave early by a threshold; leave --thresholds out\n"


def test_an_endless_threshold_is_refused(command, compressed, data):
    failed = command("evaluate", compressed, "--data", data, "--no-timing", "--thresholds", "0.1,inf", code=1)
    assert failed.stderr.endswith("\nError: entropy's 'threshold' must be a finite number, not inf\n")
