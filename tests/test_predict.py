"""Files labelled in chunks against texts answered one at a time."""

from __future__ import annotations

import csv
import json

import pytest

from compresskit import predict as predicting
from compresskit.checkpoint import Checkpoint
from compresskit.errors import DataError
from compresskit.predict import Prediction, predict, predict_texts
from compresskit.run import Run
from compresskit.testing import tiny_compressed, tiny_tokenizer
from compresskit.testing.text import sentences

TEXTS = [*sentences(11, seed=3), ""]


@pytest.fixture(scope="module")
def model():
    return tiny_compressed(exits=(1, 2, 3), layers=3)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def ready(model, tokenizer, record=None):
    return Checkpoint(None, model, tokenizer, record)


def one_by_one(model, tokenizer, texts):
    return [predict_texts(model, tokenizer, [text], Run())[0] for text in texts]


def written(path, delimiter):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_texts_are_answered_in_their_order(model, tokenizer):
    together = predict_texts(model, tokenizer, TEXTS, Run())
    for answer, alone in zip(together, one_by_one(model, tokenizer, TEXTS), strict=True):
        assert (answer.label, answer.exit) == (alone.label, alone.exit)
        assert answer.probability == pytest.approx(alone.probability, abs=2e-6)
    assert len({answer.exit for answer in together}) > 1
    assert {answer.label for answer in together} == {"LABEL_0", "LABEL_1"}
    assert all(0.5 <= answer.probability <= 1 for answer in together)


def test_no_texts_have_no_answers(model, tokenizer):
    assert predict_texts(model, tokenizer, [], Run()) == []


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_file_gets_three_columns(model, tokenizer, tmp_path, ending, delimiter):
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    rows = [delimiter.join((str(number), text)) for number, text in enumerate(TEXTS)]
    source.write_text("\n".join([f"id{delimiter}text", *rows]) + "\n", encoding="utf-8")
    assert predict(ready(model, tokenizer), source, target, Run()) == len(TEXTS)
    found = written(target, delimiter)
    assert list(found[0]) == ["id", "text", "label", "probability", "exit"]
    assert [(row["id"], row["text"]) for row in found] == [(str(n), text) for n, text in enumerate(TEXTS)]
    answers = predict_texts(model, tokenizer, TEXTS, Run())
    assert [(row["label"], int(row["exit"])) for row in found] == [(each.label, each.exit) for each in answers]
    assert [float(row["probability"]) for row in found] == pytest.approx([each.probability for each in answers])


def test_json_lines_keep_their_types_and_a_column_of_the_same_name(model, tokenizer, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n', encoding="utf-8")
    predict(ready(model, tokenizer), source, target, Run())
    found = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    for row, answer in zip(found, predict_texts(model, tokenizer, ["good", "bad"], Run()), strict=True):
        assert row["predicted_label"] == answer.label
        assert (row["probability"], row["exit"]) == (pytest.approx(answer.probability), answer.exit)
    assert [row["label"] for row in found] == [1, 0]


def test_pairs_and_named_columns(model, tokenizer, tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("here,there,other\ngood film,bad act,x\nlong walk,new book,y\n", encoding="utf-8")
    predict(ready(model, tokenizer), source, target, Run(), text_columns=["here", "there"])
    pairs = [("good film", "bad act"), ("long walk", "new book")]
    expected = [answer.label for answer in predict_texts(model, tokenizer, pairs, Run())]
    assert [row["label"] for row in written(target, ",")] == expected


def test_chunks_bound_what_is_in_memory_and_change_nothing(model, tokenizer, tmp_path, monkeypatch):
    source = tmp_path / "in.csv"
    source.write_text("text\n" + "\n".join(f'"{text}"' for text in TEXTS) + "\n", encoding="utf-8")
    predict(ready(model, tokenizer), source, tmp_path / "whole.csv", Run())
    sizes = []

    def noted(model, tokenizer, texts, run):
        sizes.append(len(texts))
        return predict_texts(model, tokenizer, texts, run)

    monkeypatch.setattr(predicting, "CHUNK", 5)
    monkeypatch.setattr(predicting, "predict_texts", noted)
    assert predict(ready(model, tokenizer), source, tmp_path / "chunks.csv", Run()) == 12
    assert sizes == [5, 5, 2]
    whole, chunks = (written(tmp_path / name, ",") for name in ("whole.csv", "chunks.csv"))
    assert [(row["label"], row["exit"]) for row in whole] == [(row["label"], row["exit"]) for row in chunks]


def test_a_number_is_the_label_and_has_no_probability(tokenizer, tmp_path):
    model = tiny_compressed(labels=1, exits=(1, 2))
    answers = predict_texts(model, tokenizer, ["good", "bad"], Run())
    assert [type(answer.label) for answer in answers] == [float, float]
    assert [(answer.probability, answer.exit) for answer in answers] == [(None, 2), (None, 2)]
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\ngood\nbad\n", encoding="utf-8")
    predict(ready(model, tokenizer), source, target, Run())
    found = written(target, ",")
    assert [float(row["label"]) for row in found] == pytest.approx([answer.label for answer in answers])
    assert [row["probability"] for row in found] == ["", ""]
    predict(ready(model, tokenizer), source, tmp_path / "out.jsonl", Run())
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["probability"] for line in lines] == [None, None]


def test_a_mistake_in_the_last_row_is_found_before_any_work(model, tokenizer, tmp_path, monkeypatch):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good"}\n{"text": 3}\n', encoding="utf-8")
    target.write_text("as it was", encoding="utf-8")
    monkeypatch.setattr(predicting, "predict_texts", lambda *_: pytest.fail("worked"))
    with pytest.raises(DataError) as caught:
        predict(ready(model, tokenizer), source, target, Run(), overwrite=True)
    assert str(caught.value).startswith(f"{source}, line 2: the column 'text' holds 3, which is not text")
    assert target.read_text(encoding="utf-8") == "as it was"


def test_the_model_stays_in_its_mode(tokenizer):
    model = tiny_compressed(exits=(1, 2)).train()
    assert isinstance(predict_texts(model, tokenizer, ["good"], Run())[0], Prediction)
    assert model.training
