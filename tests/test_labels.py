from __future__ import annotations

import math

import pytest

from compresskit.errors import DataError
from compresskit.labels import Labels, Task, is_numbered, label_text, make_task, to_ids, to_numbers


def labels(*texts, column="label", dataset="", classes=(), source="train.csv"):
    places = [f"line {row}" for row in range(2, len(texts) + 2)]
    return Labels(source, column, texts, places, classes, dataset)


def refused(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        ("1", "1"),
        (" 1.0 ", "1"),
        (1.0, "1"),
        ("+2", "2"),
        ("-1", "-1"),
        (-0.0, "0"),
        ("4.750", "4.750"),
        (4.75, "4.75"),
        ("12345678901234567891", "12345678901234567891"),
        ("yes ", "yes"),
        (True, "true"),
        ("nan", "nan"),
        ("1e999", "1e999"),
        ("", None),
        (" ", None),
        (None, None),
        (math.nan, None),
        ([1], None),
        ({"a": 1}, None),
    ],
)
def test_a_label_is_one_string_however_it_is_written(value, text):
    assert label_text(value) == text


@pytest.mark.parametrize(
    ("texts", "kind", "names"),
    [
        (("0", "1", "1"), "classification", ("0", "1")),
        (("10", "9", "-1"), "classification", ("-1", "9", "10")),
        (("b", "a", "10", "9"), "classification", ("10", "9", "a", "b")),
        (("1", "2", "4.5"), "regression", ()),
        (("5.000", "4.750"), "regression", ()),
    ],
)
def test_auto_is_regression_only_where_there_is_a_fraction(texts, kind, names):
    task = make_task(labels(*texts), labels("0"), "auto", None)
    assert (task.kind, task.labels, task.num_labels) == (kind, names, len(names) or 1)


def test_the_user_may_say_which():
    assert make_task(labels("1", "2"), labels("1"), "regression", None) == Task("regression", (), "pearson")
    assert make_task(labels("1.5", "2"), labels("2"), "classification", None).labels == ("1.5", "2")


def test_without_training_rows_the_others_decide():
    assert make_task(None, labels("b", "a"), "auto", None).labels == ("a", "b")
    assert make_task(None, labels("a"), "auto", None).labels == ("a",)


@pytest.mark.parametrize(
    ("split", "metric"),
    [
        (labels("0", "1"), "accuracy"),
        (labels("0", "1", column="Quality"), "f1"),
        (labels("0", "1", column="is_duplicate"), "f1"),
        (labels("0", "1", dataset="mrpc"), "f1"),
        (labels("0", "1", dataset="qqp"), "f1"),
        (labels("0", "1", "2", column="quality"), "accuracy"),
        (labels("0", "1", dataset="cola"), "matthews"),
        (labels("0", "1.5"), "pearson"),
    ],
)
def test_headline_metric(split, metric):
    assert make_task(split, split, "auto", None).metric == metric


def test_declared_classes_keep_their_order_and_their_absentees():
    split = labels("neutral", "entailment", classes=("entailment", "neutral", "contradiction"))
    task = make_task(split, split, "auto", None)
    assert task.labels == ("entailment", "neutral", "contradiction")
    assert to_ids(split, task, "train") == (1, 0)


@pytest.mark.parametrize(
    ("head", "texts", "ids"),
    [
        (("no", "yes"), ("yes", "no"), (1, 0)),
        (("NEGATIVE", "POSITIVE"), ("positive", "Negative"), (1, 0)),
        (("LABEL_0", "LABEL_1"), ("1", "0"), (1, 0)),
        (("0", "1"), ("LABEL_1", "0"), (1, 0)),
        (("b", "a"), ("a", "b"), (1, 0)),
        (("Polish", "polish"), ("polish", "Polish"), (1, 0)),
    ],
)
def test_the_heads_names_and_order_win(head, texts, ids):
    split = labels(*texts)
    task = make_task(split, split, "auto", head)
    assert task.labels == head
    assert to_ids(split, task, "head") == ids


def test_a_label_unknown_to_the_head():
    split = labels("yes", "maybe", source="dev.csv")
    task = make_task(None, split, "auto", ("no", "yes"))
    assert refused(to_ids, split, task, "head") == (
        "dev.csv, line 3: the label 'maybe' is unknown to the model's head (no, yes); "
        "write it as one of them, or leave the row out"
    )


def test_numbers_mean_nothing_to_a_head_with_names():
    split = labels("1", "0")
    task = make_task(None, split, "auto", ("entailment", "not_entailment"))
    assert refused(to_ids, split, task, "head") == (
        "train.csv, line 2: the label '1' is unknown to the model's head (entailment, not_entailment); "
        "write it as one of them, or leave the row out"
    )


def test_two_names_that_differ_in_case_only_are_not_guessed_at():
    split = labels("POLISH", "polish")
    task = make_task(None, split, "auto", ("Polish", "polish"))
    assert refused(to_ids, split, task, "head").startswith("train.csv, line 2: the label 'POLISH' is unknown")


def test_a_label_unknown_to_the_training_rows_and_a_long_list():
    task = make_task(labels(*(str(number) for number in range(12))), labels("1"), "auto", None)
    assert refused(to_ids, labels("A", source="dev.csv"), task, "train") == (
        "dev.csv, line 2: the label 'A' is unknown to the training rows (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more); "
        "write it as one of them, or leave the row out"
    )


def test_letter_case_matters_without_a_head():
    split = labels("Yes", "yes")
    assert to_ids(split, make_task(split, split, "auto", None), "train") == (0, 1)


def test_regression_takes_numbers_only():
    assert to_numbers(labels("1", "4.750", "-2e-1")) == (1.0, 4.75, -0.2)
    assert refused(to_numbers, labels("4.5", "good")) == (
        "train.csv, line 3: the label 'good' is not a number, which regression needs; "
        "mend it, or choose --task classification"
    )
    assert "'nan' is not a number" in refused(to_numbers, labels("nan"))


@pytest.mark.parametrize("texts", [("a", "a"), ("1.5", "1.5")])
def test_one_class_only_teaches_nothing(texts):
    assert refused(make_task, labels(*texts), labels("b"), "auto", None) == (
        f"train.csv: every row has the label '{texts[0]}'; add rows with another one to learn from"
    )


def test_hidden_labels():
    expected = "dev.csv: every label is -1, the mark of hidden labels; use rows that have labels"
    assert refused(make_task, None, labels("-1", "-1", source="dev.csv"), "auto", None) == expected
    assert refused(make_task, labels("0", "1"), labels("-1", source="dev.csv"), "auto", None) == expected
    assert make_task(labels("-1", "1"), labels("1"), "auto", None).labels == ("-1", "1")


def test_a_head_of_the_other_kind():
    assert make_task(labels("1", "2"), labels("1"), "auto", ("LABEL_0",)).kind == "regression"
    assert refused(make_task, None, labels("1.5"), "auto", ("no", "yes")) == (
        "train.csv: the column 'label' asks for a number and the model's head names classes (no, yes); "
        "choose another --label-column or another model"
    )
    assert refused(make_task, None, labels("a", "b"), "classification", ("LABEL_0",)) == (
        "train.csv: the column 'label' asks for a class and the model's head gives one number; "
        "choose --task regression or another model"
    )


def test_which_heads_have_numbers_for_names():
    assert is_numbered(("LABEL_0", "LABEL_1"))
    assert is_numbered(("0", "1"))
    assert not is_numbered(("LABEL_1", "LABEL_0"))
    assert not is_numbered(("no", "yes"))
    assert not is_numbered(None)
