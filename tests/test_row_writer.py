from __future__ import annotations

import csv
import io
import json

import pytest

from compresskit.errors import DataError
from compresskit.row_files import open_table
from compresskit.row_writer import RowWriter


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Relative paths keep the expected messages readable."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(here, name, content):
    (here / name).write_text(content, encoding="utf-8", newline="")
    return name


def fields(name):
    return [dict(row.fields) for row in open_table(name)]


def copy(source, target, values=("yes", 0.75, 3), overwrite=False):
    table = open_table(source)
    with RowWriter(target, table, ("label", "probability", "exit"), overwrite) as writer:
        for row in table:
            writer.write(row, values)


GLUE = 'index\tsentence\n0\t" Hi , he said .\n1\tplain\n'


def test_a_bare_tsv_comes_back_byte_for_byte_with_columns_added(here):
    copy(put(here, "in.tsv", GLUE), "out.tsv")
    assert (here / "out.tsv").read_bytes().decode() == (
        'index\tsentence\tlabel\tprobability\texit\n0\t" Hi , he said .\tyes\t0.75\t3\n1\tplain\tyes\t0.75\t3\n'
    )


@pytest.mark.parametrize("source", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("target", [".csv", ".tsv", ".jsonl"])
def test_every_format_holds_every_text(here, source, target):
    rows = [{"id": "7", "text": 'a "b",\tc\nd é'}, {"id": "8", "text": '"'}]
    if source == ".jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["id", "text"], delimiter="," if source == ".csv" else "\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    copy(put(here, f"in{source}", content), f"out{target}")
    typed = {"probability": 0.75, "exit": 3} if target == ".jsonl" else {"probability": "0.75", "exit": "3"}
    assert fields(f"out{target}") == [row | {"label": "yes"} | typed for row in rows]


def test_json_values_in_a_csv(here):
    copy(put(here, "in.jsonl", '{"a": null, "b": true, "c": {"d": [1]}, "e": 2}\n'), "out.csv")
    assert fields("out.csv")[0] == {
        "a": "", "b": "true", "c": '{"d": [1]}', "e": "2", "label": "yes", "probability": "0.75", "exit": "3"
    }  # fmt: skip


def test_half_a_character_stays_an_escape(here):
    copy(put(here, "in.jsonl", '{"a": "\\ud800 é"}\n'), "out.jsonl")
    assert fields("out.jsonl")[0]["a"] == "\ud800 é"
    assert "é" in (here / "out.jsonl").read_text(encoding="utf-8")


def test_a_column_of_the_input_is_never_overwritten(here):
    copy(put(here, "in.csv", "text,label\na,1\n"), "out.csv")
    assert fields("out.csv") == [
        {"text": "a", "label": "1", "predicted_label": "yes", "probability": "0.75", "exit": "3"}
    ]


def test_the_input_is_replaced_only_where_that_is_asked_for(here):
    put(here, "in.csv", "text\na\n")
    with pytest.raises(DataError) as caught:
        copy("in.csv", "in.csv")
    assert str(caught.value) == "in.csv is there already; name another file, or replace it with --overwrite"
    assert (here / "in.csv").read_text() == "text\na\n"
    copy("in.csv", "in.csv", overwrite=True)
    assert fields("in.csv") == [{"text": "a", "label": "yes", "probability": "0.75", "exit": "3"}]


def test_nothing_half_written_is_left(here):
    def interrupted(table):
        with RowWriter("out.csv", table, ("label",)) as writer:
            writer.write(next(iter(table)), ("yes",))
            assert [path.name for path in here.iterdir() if path.suffix == ".partial"]
            raise KeyboardInterrupt

    table = open_table(put(here, "in.csv", "text\na\n"))
    with pytest.raises(KeyboardInterrupt):
        interrupted(table)
    assert [path.name for path in here.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("content", "target", "expected"),
    [
        (
            "text\na\n",
            "out.parquet",
            "out.parquet ends in none of .csv, .tsv, .jsonl, .json; name the output with one of them",
        ),
        ("text\na\n", "no/out.csv", "no folder no to write out.csv in; create it"),
        ("text\na\n", "folder.csv", "folder.csv is a folder; name a file to write"),
        (
            "label,predicted_label\na,b\n",
            "out.csv",
            "in.csv has the columns 'label' and 'predicted_label' already; rename one",
        ),
    ],
)
def test_outputs_that_cannot_be(here, content, target, expected):
    (here / "folder.csv").mkdir()
    put(here, "in.csv", content)
    with pytest.raises(DataError) as caught:
        copy("in.csv", target)
    assert str(caught.value) == expected
    assert sorted(path.name for path in here.iterdir()) == ["folder.csv", "in.csv"]


@pytest.mark.parametrize(
    ("target", "second", "expected"),
    [
        (
            "out.csv",
            '{"text": "a", "b": 1}',
            "in.jsonl, line 2: the first row has no 'b'; write json lines instead of csv",
        ),
        (
            "out.jsonl",
            '{"text": "a", "label": 1}',
            "in.jsonl, line 2: the first row has no 'label', so a column of that name is added; rename it",
        ),
    ],
)
def test_json_rows_that_are_unlike_the_first(here, target, second, expected):
    put(here, "in.jsonl", '{"text": "a"}\n' + second + "\n")
    with pytest.raises(DataError) as caught:
        copy("in.jsonl", target)
    assert str(caught.value) == expected
    assert [path.name for path in here.iterdir()] == ["in.jsonl"]


def test_a_tab_in_a_label_does_not_fit_a_bare_tsv(here):
    with pytest.raises(DataError) as caught:
        copy(put(here, "in.tsv", GLUE), "out.tsv", ("a\tb", 0.5, 1))
    assert str(caught.value) == (
        "in.tsv, line 2: a tab or a line end inside a field can't stand in a tsv; write csv or json lines"
    )


def test_a_full_disk_leaves_the_old_file(here):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    def written_to_full_disk(table):
        with RowWriter("out.csv", table, ("label",), overwrite=True) as writer:
            writer._file.close()
            writer._file = Full()
            writer._csv = csv.writer(writer._file)
            writer.write(next(iter(table)), ("yes",))

    put(here, "out.csv", "old\n")
    table = open_table(put(here, "in.csv", "text\na\n"))
    with pytest.raises(DataError) as caught:
        written_to_full_disk(table)
    assert str(caught.value) == "cannot write out.csv: No space left on device; free the place or name another file"
    assert (here / "out.csv").read_text() == "old\n"
    assert sorted(path.name for path in here.iterdir()) == ["in.csv", "out.csv"]
