from __future__ import annotations

import hashlib
import json

import pytest

from compresskit.data import DataOptions, Rows, Task, input_texts, load_corpus
from compresskit.errors import DataError
from compresskit.row_files import open_table

CSV = "sentence,label\ngood,1\nbad,0\nfine,1\n"
DEV = "sentence,label\nworse,0\nbest,1\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Relative paths keep the expected messages readable."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(here, **files):
    """`train_csv="..."` writes set/train.csv."""
    (here / "set").mkdir(exist_ok=True)
    for name, content in files.items():
        path = here / "set" / name.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return "set"


def refused(*arguments, **keywords):
    with pytest.raises(DataError) as caught:
        load_corpus(*arguments, **keywords)
    return str(caught.value)


# --- where the rows are


@pytest.mark.parametrize("stem", ["dev", "validation"])
def test_a_folder(here, stem):
    put(here, train_csv=CSV, notes_md="")
    (here / "set" / f"{stem}.tsv").write_text(DEV.replace(",", "\t"))
    corpus = load_corpus("set", DataOptions())
    assert corpus.train == Rows((("good",), ("bad",), ("fine",)), (1, 0, 1), "set/train.csv")
    assert corpus.eval == Rows((("worse",), ("best",)), (0, 1), f"set/{stem}.tsv")
    assert corpus.task == Task("classification", ("0", "1"), "accuracy")


def test_to_evaluate_a_folder_needs_no_training_rows(here):
    corpus = load_corpus(put(here, dev_csv=DEV), DataOptions(), need_train=False)
    assert corpus.train is None
    assert corpus.eval.labels == (0, 1)


def test_a_file_to_learn_from_and_one_to_evaluate_on(here):
    put(here, a_csv=CSV, b_csv=DEV)
    corpus = load_corpus("set/a.csv", DataOptions(eval_data="set/b.csv"))
    assert (corpus.train.source, corpus.eval.source) == ("set/a.csv", "set/b.csv")


def test_a_file_to_evaluate_on(here):
    put(here, a_csv=CSV, b_csv=DEV)
    assert load_corpus("set/a.csv", DataOptions(), need_train=False).eval.source == "set/a.csv"
    both = load_corpus("set/a.csv", DataOptions(eval_data="set/b.csv"), need_train=False)
    assert both.eval.source == "set/b.csv"


def test_a_corpus_tells_what_was_read(here):
    put(here, train_csv=CSV, dev_csv="sentence,label\na,1\n")
    assert str(load_corpus("set", DataOptions())) == (
        f"text: sentence; label: label (0, 1); to learn from: {CSV.count(chr(10)) - 1} rows of set/train.csv; "
        "to evaluate on: 1 of set/dev.csv"
    )
    alone = load_corpus("set", DataOptions(task="regression"), need_train=False)
    assert str(alone) == "text: sentence; label: label (a number); to evaluate on: 1 row of set/dev.csv"
    sick = "sentence_A,sentence_B,relatedness_score,entailment_judgment\na,b,4.5,NEUTRAL\nc,d,3.5,ENTAILMENT\n"
    (here / "set" / "dev.csv").write_text(sick, encoding="utf-8")
    assert str(load_corpus("set/dev.csv", DataOptions(), need_train=False)) == (
        "text: sentence_A, sentence_B; label: entailment_judgment (ENTAILMENT, NEUTRAL); "
        "to evaluate on: 2 rows of set/dev.csv"
    )


def test_named_evaluation_rows_replace_the_folders(here):
    put(here, train_csv=CSV, dev_csv=DEV, other_csv=CSV)
    assert load_corpus("set", DataOptions(eval_data="set/other.csv")).eval.source == "set/other.csv"


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_corpus(here, ending):
    import pyarrow as pa
    from pyarrow import parquet

    put(here, train_csv=CSV, dev_csv=DEV)
    expected = load_corpus("set", DataOptions())
    for stem, text in (("train", CSV), ("dev", DEV)):
        (here / "set" / f"{stem}.csv").unlink()
        rows = [line.split(",") for line in text.split()[1:]]
        path = here / "set" / f"{stem}.{ending}"
        if ending == "jsonl":
            path.write_text("".join(json.dumps({"sentence": a, "label": int(b)}) + "\n" for a, b in rows))
        elif ending == "parquet":
            parquet.write_table(
                pa.table({"sentence": [a for a, _ in rows], "label": [float(b) for _, b in rows]}), path
            )
        else:
            path.write_text(text.replace(",", "," if ending == "csv" else "\t"))
    corpus = load_corpus("set", DataOptions())
    assert (corpus.train.texts, corpus.train.labels) == (expected.train.texts, expected.train.labels)
    assert corpus.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("files", "data", "expected"),
    [
        (
            {"a_csv": CSV},
            "none",
            "there is no none; check the path, or give a Hub dataset with its owner, as in nyu-mll/glue:sst2",
        ),
        ({"a_csv": CSV}, "set/none.csv", "there is no set/none.csv; check the path"),
        ({"a_csv": CSV}, "../none", "there is no ../none; check the path"),
        (
            {"a_csv": CSV},
            "./none",
            "there is no ./none; check the path, or give a Hub dataset with its owner, as in nyu-mll/glue:sst2",
        ),
        (
            {"a_txt": CSV},
            "set/a.txt",
            "set/a.txt ends in none of .csv, .tsv, .jsonl, .json, .parquet; convert it to one of them",
        ),
        (
            {"a_csv": CSV},
            "set/a.csv",
            "set/a.csv is one file, and rows to evaluate on are needed too; name them with --eval-data",
        ),
        (
            {"dev_tsv": DEV, "train_txt": CSV},
            "set",
            (
                "set has no train.* ending in .csv, .tsv, .jsonl, .json, .parquet (found: dev.tsv, train.txt); "
                "add the file"
            ),
        ),
        (
            {"train_csv": CSV},
            "set",
            (
                "set has no dev.* or validation.* ending in .csv, .tsv, .jsonl, .json, .parquet (found: train.csv); "
                "add the file"
            ),
        ),
        (
            {},
            "set",
            "set has no train.* ending in .csv, .tsv, .jsonl, .json, .parquet (found: nothing); add the file",
        ),
        (
            {"train_csv": CSV, "train_tsv": CSV, "dev_csv": DEV},
            "set",
            "set has train.csv and train.tsv for one split; keep one of them",
        ),
        (
            {"train_csv": CSV, "dev_csv": DEV, "validation_csv": DEV},
            "set",
            "set has dev.csv and validation.csv for one split; keep one of them",
        ),
    ],
)
def test_messages_about_files(here, files, data, expected):
    put(here, **files)
    assert refused(data, DataOptions()) == expected


# --- what is in them


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"train_csv": "sentence,label\n"}, "set/train.csv has a header and no rows; add rows"),
        ({"dev_csv": ""}, "set/dev.csv is empty; give it a header and rows"),
        (
            {"dev_csv": "sentence,lable\na,1\n"},
            "set/dev.csv has no column 'label' (columns: sentence, lable); did you mean 'lable'?",
        ),
        (
            {"train_csv": "sentence,label\na,1\nb,1\n"},
            "set/train.csv: every row has the label '1'; add rows with another one to learn from",
        ),
        (
            {"train_csv": "sentence,label\na,1\n ,0\n"},
            "set/train.csv, line 3: no text in the column 'sentence'; fill it in, or leave the row out",
        ),
        (
            {"train_csv": "sentence,label\na,1\nb,\n"},
            "set/train.csv, line 3: no label in the column 'label'; fill it in, or leave the row out",
        ),
        (
            {"dev_csv": "sentence,label\na,1\nb,2\n"},
            (
                "set/dev.csv, line 3: the label '2' is unknown to the training rows (0, 1); "
                "write it as one of them, or leave the row out"
            ),
        ),
        (
            {"train_csv": b"sentence,label\na,1\n\xff,0\n"},
            "set/train.csv, line 3: not UTF-8 at byte 19 of the file (0xff); save the file as UTF-8",
        ),
    ],
)
def test_messages_about_rows(here, files, expected):
    put(here, **({"train_csv": CSV, "dev_csv": DEV} | files))
    assert refused("set", DataOptions()) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('{"text": null, "label": 1}', "no text in the column 'text'; fill it in, or leave the row out"),
        ('{"label": 1}', "no text in the column 'text'; fill it in, or leave the row out"),
        ('{"text": 12, "label": 1}', "the column 'text' holds 12, which is not text; write it as text"),
        (
            '{"text": ["a"], "label": 1}',
            "the column 'text' holds [\"a\"], which is not text; write it as text",
        ),
        (
            json.dumps({"text": {"a": "b" * 50}, "label": 1}),
            'the column \'text\' holds {"a": "' + "b" * 30 + "..., which is not text; write it as text",
        ),
        ('{"text": "\\ud83d", "label": 1}', "the column 'text' holds half a character (\\ud8xx); mend the text"),
        ('{"text": "b", "label": null}', "no label in the column 'label'; fill it in, or leave the row out"),
        ('{"text": "b", "label": NaN}', "no label in the column 'label'; fill it in, or leave the row out"),
        ('{"text": "b", "label": [1]}', "no label in the column 'label'; fill it in, or leave the row out"),
    ],
)
def test_rows_that_are_not_text(here, row, expected):
    put(here, dev_jsonl='{"text": "a", "label": 0}\n' + row + "\n")
    assert refused("set", DataOptions(), need_train=False) == f"set/dev.jsonl, line 2: {expected}"


def test_a_whole_character_beyond_the_first_plane_is_text(here):
    put(here, dev_jsonl='{"text": "\\ud83d\\ude00 \U0001f600", "label": 0}\n')
    assert load_corpus("set", DataOptions(), need_train=False).eval.texts == (("\U0001f600 \U0001f600",),)


def test_regression(here):
    put(here, train_csv="text1,text2,score\na,b,4.5\nc,d,1\n", dev_csv="text1,text2,score\ne,f,2\n")
    corpus = load_corpus("set", DataOptions())
    assert corpus.task == Task("regression", (), "pearson")
    assert (corpus.train.labels, corpus.eval.labels) == ((4.5, 1.0), (2.0,))
    put(here, dev_csv="text1,text2,score\ne,f,n/a\n")
    assert refused("set", DataOptions()) == (
        "set/dev.csv, line 2: the label 'n/a' is not a number, which regression needs; "
        "mend it, or choose --task classification"
    )


def test_names_of_the_models_head(here):
    put(here, dev_csv="sentence,label\na,Good\nb,BAD\n")
    corpus = load_corpus("set", DataOptions(), ("good", "so-so", "bad"), need_train=False)
    assert corpus.task.labels == ("good", "so-so", "bad")
    assert corpus.eval.labels == (0, 2)
    assert refused("set", DataOptions(), ("good", "poor"), need_train=False) == (
        "set/dev.csv, line 3: the label 'BAD' is unknown to the model's head (good, poor); "
        "write it as one of them, or leave the row out"
    )


def test_rows_are_drawn_by_seed_without_repeats_and_in_order(here):
    rows = "".join(f"s{number:03},{number % 2}\n" for number in range(100))
    put(here, train_csv="sentence,label\n" + rows, dev_csv="sentence,label\n" + rows)
    everything = load_corpus("set", DataOptions(max_train_rows=100, max_eval_rows=1000))
    some = load_corpus("set", DataOptions(max_train_rows=20, max_eval_rows=30))
    again = load_corpus("set", DataOptions(max_train_rows=20, max_eval_rows=30))
    other = load_corpus("set", DataOptions(max_train_rows=20, max_eval_rows=30, seed=43))
    assert (len(everything.train), len(everything.eval)) == (100, 100)
    assert (len(some.train), len(some.eval)) == (20, 30)
    assert some == again
    assert some.train.texts != other.train.texts
    assert list(some.train.texts) == sorted(set(some.train.texts))
    assert all(int(text[1:]) % 2 == label for (text,), label in zip(some.train.texts, some.train.labels, strict=True))


def test_drawn_rows_must_still_teach_something(here):
    put(here, train_csv=CSV, dev_csv=DEV)
    assert refused("set", DataOptions(max_train_rows=1)) == (
        "set/train.csv: the 1 rows drawn have one label only; raise --max-train-rows"
    )
    assert refused("set", DataOptions(max_eval_rows=0)) == "--max-eval-rows 0 leaves no rows; give 1 or more"


def test_the_fingerprint_is_of_texts_labels_and_task(here):
    put(here, train_csv=CSV, dev_csv=DEV)
    corpus = load_corpus("set", DataOptions())
    spelt_out = (
        '["classification", ["0", "1"], "accuracy"]' + '[["good"], 1][["bad"], 0][["fine"], 1]',
        '["classification", ["0", "1"], "accuracy"]' + '[["worse"], 0][["best"], 1]',
    )
    assert (corpus.fingerprint, corpus.eval_fingerprint) == tuple(
        hashlib.sha256(text.encode()).hexdigest() for text in spelt_out
    )
    prints = {corpus.fingerprint}
    for train in (CSV.replace("fine", "Fine"), CSV.replace("good,1", "good,0"), CSV.replace("1", "yes")):
        put(here, train_csv=train, dev_csv=DEV.replace("1", "yes") if "yes" in train else DEV)
        prints.add(load_corpus("set", DataOptions()).fingerprint)
    assert len(prints) == 4


# --- text without labels


def test_texts_to_predict_need_no_labels_and_may_be_empty(here):
    put(here, in_csv="id,text\n1,a\n2,\n")
    rows = list(input_texts(open_table("set/in.csv"), ("text",)))
    assert [(dict(row.fields), texts) for row, texts in rows] == [
        ({"id": "1", "text": "a"}, ("a",)),
        ({"id": "2", "text": ""}, ("",)),
    ]
    assert [texts for _, texts in input_texts(open_table("set/in.csv"), ("text", "id"))] == [("a", "1"), ("", "2")]


def test_texts_to_predict_must_be_text(here):
    put(here, in_jsonl='{"text": "a"}\n{"text": null}\n')
    rows = input_texts(open_table("set/in.jsonl"), ("text",))
    assert next(rows)[1] == ("a",)
    with pytest.raises(DataError) as caught:
        next(rows)
    assert str(caught.value) == "set/in.jsonl, line 2: no text in the column 'text'; fill it in, or leave the row out"


# --- the Hub


@pytest.fixture
def hub(monkeypatch):
    """Answers `load_dataset` from what the test puts in, under (name, config)."""
    import datasets

    sets = {}

    def load_dataset(name, config):
        if (name, config) not in sets:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub.\nSee the docs.")
        return sets[name, config]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return sets


def hub_splits(names, **splits):
    import datasets

    label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    features = datasets.Features({"sentence": datasets.Value("string"), "label": label, "idx": datasets.Value("int32")})
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {
                    "sentence": [f"{name} {row}" for row in range(len(labels))],
                    "label": labels,
                    "idx": [0] * len(labels),
                },
                features=features,
            )
            for name, labels in splits.items()
        }
    )


def test_a_hub_dataset(here, hub):
    hub["nyu-mll/glue", "sst2"] = hub_splits(
        ["negative", "positive"], train=[1, 0, 1], validation=[0, 1], test=[-1, -1]
    )
    corpus = load_corpus("nyu-mll/glue:sst2", DataOptions())
    assert corpus.train == Rows((("train 0",), ("train 1",), ("train 2",)), (1, 0, 1), "nyu-mll/glue:sst2, split train")
    assert corpus.eval.source == "nyu-mll/glue:sst2, split validation"
    assert corpus.task == Task("classification", ("negative", "positive"), "accuracy")


@pytest.mark.parametrize(("config", "metric"), [("mrpc", "f1"), ("cola", "matthews"), ("rte", "accuracy")])
def test_a_hub_datasets_name_tells_its_metric(hub, config, metric):
    hub["nyu-mll/glue", config] = hub_splits(["no", "yes"], train=[0, 1], validation=[1])
    assert load_corpus(f"nyu-mll/glue:{config}", DataOptions()).task.metric == metric


def test_declared_classes_keep_their_order_and_rows_without_a_label_are_left_out(hub):
    hub["some/nli", None] = hub_splits(["no", "maybe", "aye"], train=[1, 2, -1], validation_matched=[-1, 0])
    corpus = load_corpus("some/nli", DataOptions())
    assert corpus.task.labels == ("no", "maybe", "aye")
    assert (corpus.train.labels, corpus.eval.labels, corpus.eval.texts) == ((1, 2), (0,), (("validation_matched 1",),))


def test_hub_classes_meet_a_head_by_name_or_by_number(hub):
    hub["some/set", None] = hub_splits(["negative", "positive"], train=[0, 1], validation=[1, 0, -1])
    by_name = load_corpus("some/set", DataOptions(), ("POSITIVE", "NEGATIVE"), need_train=False)
    assert by_name.eval.labels == (0, 1)
    by_number = load_corpus("some/set", DataOptions(), ("LABEL_0", "LABEL_1"), need_train=False)
    assert (by_number.eval.labels, by_number.task.labels) == ((1, 0), ("LABEL_0", "LABEL_1"))


def test_hub_regression_and_local_evaluation_rows(here, hub):
    hub["some/scores", None] = hub_splits(None, train=[0.5, 2.0], test=[1.0])
    corpus = load_corpus("some/scores", DataOptions())
    assert (corpus.task.kind, corpus.train.labels, corpus.eval.labels) == ("regression", (0.5, 2.0), (1.0,))
    put(here, dev_csv="sentence,label\na,3\n")
    local = load_corpus("some/scores", DataOptions(eval_data="set/dev.csv"))
    assert (local.eval.labels, local.eval.source) == ((3.0,), "set/dev.csv")


def test_messages_about_the_hub(here, hub):
    assert refused("no/where:now", DataOptions()) == (
        "no/where:now is no file or folder, and the Hub did not give it (Dataset 'no/where' doesn't exist on the Hub); "
        "check the name"
    )
    hub["some/set", None] = hub_splits(["a", "b"], train=[0, 1])
    assert refused("some/set", DataOptions()) == (
        "some/set has no split validation or validation_matched or dev or test (found: train); "
        "write its rows to files and use those"
    )
    hub["some/set", None] = hub_splits(["a", "b"], train=[0, 1], test=[-1, -1])
    assert refused("some/set", DataOptions()) == "some/set, split test has no labelled rows; use rows with labels"
    hub["some/set", None] = hub_splits(["a", "b"], train=[0, None], validation=[1])
    assert refused("some/set", DataOptions()) == (
        "some/set, split train, row 2: no label in the column 'label'; fill it in, or leave the row out"
    )


# --- real text


@pytest.mark.parametrize(
    ("folder", "options", "rows", "arity", "labels", "metric"),
    [
        ("glue/SST-2", {}, (67_349, 872), 1, ("0", "1"), "accuracy"),
        ("glue/MRPC", {}, (3_667, 408), 2, ("0", "1"), "f1"),
        ("glue/RTE", {}, (2_490, 277), 2, ("entailment", "not_entailment"), "accuracy"),
        ("glue/CoLA", {}, (8_551, 1_043), 1, ("0", "1"), "matthews"),
        ("glue/STS-B", {}, (5_749, 1_500), 2, (), "pearson"),
        ("glue/QNLI-dev-split", {}, (4_463, 1_000), 2, ("entailment", "not_entailment"), "accuracy"),
        ("SICK", {}, (4_500, 2_000), 2, ("CONTRADICTION", "ENTAILMENT", "NEUTRAL"), "accuracy"),
        ("SICK", {"label_column": "relatedness_score"}, (4_500, 2_000), 2, (), "pearson"),
    ],
)
def test_real_files_need_no_flags(shared_data, folder, options, rows, arity, labels, metric):
    corpus = load_corpus(str(shared_data / folder), DataOptions(**options))
    assert (len(corpus.train), len(corpus.eval)) == rows
    assert {len(texts) for texts in corpus.train.texts + corpus.eval.texts} == {arity}
    assert (corpus.task.labels, corpus.task.metric) == (labels, metric)


def test_mrpcs_quotes_are_text(shared_data):
    corpus = load_corpus(str(shared_data / "glue" / "MRPC"), DataOptions())
    lines = (shared_data / "glue" / "MRPC" / "dev.tsv").read_text(encoding="utf-8-sig").splitlines()[1:]
    assert list(corpus.eval.texts) == [tuple(line.split("\t")[3:]) for line in lines]
    assert sum(text.count('"') for texts in corpus.eval.texts for text in texts) > 0
