from __future__ import annotations

import pytest

from compresskit.columns import Columns, check_columns, find_columns, find_texts
from compresskit.errors import DataError
from compresskit.row_files import Table


def table(*columns):
    return Table("dev.tsv", columns, lambda: iter(()))


@pytest.mark.parametrize(
    ("columns", "texts", "label"),
    [
        (("sentence", "label"), ("sentence",), "label"),
        (("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), ("#1 String", "#2 String"), "Quality"),
        (("index", "sentence1", "sentence2", "label"), ("sentence1", "sentence2"), "label"),
        (("index", "question", "sentence", "label"), ("question", "sentence"), "label"),
        (("source", "label", "mark", "sentence"), ("sentence",), "label"),
        (
            (
                "index",
                "genre",
                "filename",
                "year",
                "old_index",
                "source1",
                "source2",
                "sentence1",
                "sentence2",
                "score",
            ),
            ("sentence1", "sentence2"),
            "score",
        ),
        (
            ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment"),
            ("sentence_A", "sentence_B"),
            "entailment_judgment",
        ),
        (("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), ("question1", "question2"), "is_duplicate"),
        (("premise", "hypothesis", "gold_label", "score"), ("premise", "hypothesis"), "gold_label"),
        (("Text", "Stars", "score"), ("Text",), "Stars"),
        (("label", "utterance"), ("utterance",), "label"),
    ],
)
def test_known_names_need_no_flags(columns, texts, label):
    assert find_columns(table(*columns), None, None) == Columns(texts, label)


def test_flags_win():
    sick = table("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment")
    assert find_columns(sick, None, "relatedness_score").label == "relatedness_score"
    assert find_columns(sick, ("sentence_B",), None).texts == ("sentence_B",)
    assert find_columns(table("label", "sentence", "mood"), ("label",), "mood") == Columns(("label",), "mood")


def test_what_a_model_was_compressed_with_comes_before_usual_names():
    odd = Columns(("premise", "text"), "kind")
    columns = ("premise", "hypothesis", "text", "kind", "label")
    assert find_columns(table(*columns), None, None) == Columns(("premise", "hypothesis"), "label")
    assert find_columns(table(*columns), None, None, odd) == odd
    assert find_columns(table(*columns), ("text", "kind"), None, odd) == Columns(("text", "kind"), "label")
    assert find_columns(table(*columns), None, "text", odd) == Columns(("premise", "hypothesis"), "text")
    assert find_texts(table("text", "premise"), None, before=odd) == ("premise", "text")


def test_names_that_a_file_lacks_give_way_to_usual_ones():
    odd = Columns(("here", "there"), "kind")
    assert find_columns(table("premise", "hypothesis", "kind"), None, None, odd) == Columns(
        ("premise", "hypothesis"), "kind"
    )
    assert find_columns(table("here", "there", "label"), None, None, odd) == Columns(("here", "there"), "label")


@pytest.mark.parametrize(
    ("columns", "texts", "before", "expected"),
    [
        (
            ("sentence", "label"), None, ("a", "b"),
            ("dev.tsv: the text would be sentence, and the model was compressed with pairs of texts (a,b); "
            "name two columns with --text-columns"),
        ),
        (
            ("a", "b", "label"), ("a",), ("a", "b"),
            ("dev.tsv: the text would be a, and the model was compressed with pairs of texts (a,b); "
            "name two columns with --text-columns"),
        ),
        (
            ("text_a", "text_b", "label"), None, ("text",),
            ("dev.tsv: the text would be text_a,text_b, and the model was compressed with single texts (text); "
            "name one column with --text-columns"),
        ),
    ],
)  # fmt: skip
def test_a_model_of_pairs_takes_pairs_and_of_single_texts_single_ones(columns, texts, before, expected):
    with pytest.raises(DataError) as caught:
        find_columns(table(*columns), texts, None, Columns(before, "label"))
    assert str(caught.value) == expected


def test_a_name_may_have_a_comma():
    assert find_texts(table("said, exactly", "label"), ("said", " exactly")) == ("said, exactly",)
    assert find_texts(table("a,b", "a", "b"), ("a", "b")) == ("a,b",)


def test_texts_alone_need_no_label():
    assert find_texts(table("id", "text"), None) == ("text",)
    assert find_texts(table("anything"), None) == ("anything",)


@pytest.mark.parametrize(
    ("columns", "texts", "label", "expected"),
    [
        (
            ("sentence", "lable"),
            None,
            "label",
            "dev.tsv has no column 'label' (columns: sentence, lable); did you mean 'lable'?",
        ),
        (
            ("Sentence", "label"),
            ("sentence",),
            None,
            "dev.tsv has no column 'sentence' (columns: Sentence, label); did you mean 'Sentence'?",
        ),
        (
            ("a", "label"),
            ("xyz",),
            None,
            "dev.tsv has no column 'xyz' (columns: a, label); name another with --text-columns",
        ),
        (
            ("a", "b", "label"),
            None,
            None,
            "dev.tsv: no column is known to hold text (columns: a, b, label); name it with --text-columns",
        ),
        (
            ("text", "mood"),
            None,
            None,
            (
                "dev.tsv: no column is known to hold labels (columns: text, mood); name it with --label-column; "
                "rows without labels are for compresskit predict"
            ),
        ),
        (
            ("text", "review", "label"),
            None,
            None,
            "dev.tsv: the text could be text or review; say which with --text-columns",
        ),
        (
            ("premise", "hypothesis", "text1", "text2", "label"),
            None,
            None,
            "dev.tsv: the text could be premise,hypothesis or text1,text2; say which with --text-columns",
        ),
        (
            ("text", "stars", "sentiment"),
            None,
            None,
            "dev.tsv: the label could be sentiment or stars; say which with --label-column",
        ),
        (
            ("text", "label"),
            ("text",),
            "text",
            "dev.tsv: the column 'text' can't be both text and label; name another",
        ),
        (
            ("a", "b", "c", "label"),
            ("a", "b", "c"),
            None,
            "--text-columns a,b,c: give one column, or two different ones",
        ),
        (("a", "label"), ("a", "a"), None, "--text-columns a,a: give one column, or two different ones"),
    ],
)
def test_messages_list_the_columns_and_the_nearest(columns, texts, label, expected):
    with pytest.raises(DataError) as caught:
        find_columns(table(*columns), texts, label)
    assert str(caught.value) == expected


def test_the_second_file_must_have_the_columns_of_the_first():
    check_columns(table("b", "text", "label"), Columns(("text",), "label"))
    with pytest.raises(DataError) as caught:
        check_columns(table("text", "labels"), Columns(("text",), "label"))
    assert str(caught.value) == "dev.tsv has no column 'label' (columns: text, labels); did you mean 'labels'?"
