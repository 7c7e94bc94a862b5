from __future__ import annotations

import csv
import io
import random

import pytest

from compresskit.errors import DataError
from compresskit.row_files import open_table


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Relative paths keep the expected messages readable."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(here, name, content):
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def fields(name):
    return [dict(row.fields) for row in open_table(name)]


def message(name):
    with pytest.raises(DataError) as caught:
        list(open_table(name))
    return str(caught.value)


# --- reading


def test_a_csv_is_quoted_and_rows_know_the_line_they_start_on(here):
    name = put(here, "a.csv", 'text,label\n"one, two\nand ""three""",1\n\nfour "4",0\n')
    assert [(row.number, dict(row.fields)) for row in open_table(name)] == [
        (2, {"text": 'one, two\nand "three"', "label": "1"}),
        (5, {"text": 'four "4"', "label": "0"}),
    ]


def test_glue_tsv_keeps_quotes_drops_the_mark_and_takes_crlf(here):
    name = put(here, "a.tsv", '\ufeffQuality\t#1 String\r\n1\t" Hi , he said .\r\n0\t"All" of it "\r\n')
    assert open_table(name).columns == ("Quality", "#1 String")
    assert fields(name) == [
        {"Quality": "1", "#1 String": '" Hi , he said .'},
        {"Quality": "0", "#1 String": '"All" of it "'},
    ]


def test_lines_end_at_line_feeds_only(here):
    name = put(here, "a.tsv", "text\tlabel\na\u2028b\x85c\x0bd\t1\n")
    assert fields(name) == [{"text": "a\u2028b\x85c\x0bd", "label": "1"}]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        pytest.param("text\tn\nno quotes\t1\n", False, id="none"),
        pytest.param('text\tn\n"open to the end\t1\n', False, id="opens and never closes"),
        pytest.param('text\tn\n"open\t1\nclosed" here\t2\n', False, id="closes inside a field"),
        pytest.param('text\tn\nsay "so"\t1\n"a ""b"""\t2\n', False, id="quote inside a bare field"),
        pytest.param('text\tn\n"Yes" and "no"\t1\n', False, id="text after a closed quote"),
        pytest.param('text\tn\n"Stop!"\t1\n', False, id="enclosed without need"),
        pytest.param('text\tn\n"say ""so"""\t1\n', True, id="doubled"),
        pytest.param('text\tn\n"a\tb"\t1\n', True, id="tab inside"),
        pytest.param('text\tn\n"a\nb"\t1\n', True, id="line end inside"),
        pytest.param('n\ttext\n1\t"a\n\nb"\n2\t"c\nd"\n', True, id="empty line inside"),
        pytest.param('a\tb\n"1\n2"\t"3\n4"\n', True, id="closes and opens on one line"),
        pytest.param('"text"\t"n"\n"Stop!"\t"1"\n', True, id="quoted header"),
        pytest.param('"text"\t"n"\r\n"Stop!"\t"1"\r\n', True, id="quoted header, crlf"),
    ],
)
def test_a_tsv_is_quoted_where_every_quote_obeys_and_one_was_needed(here, text, quoted):
    assert open_table(put(here, "a.tsv", text)).quoted is quoted


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_whatever_a_csv_writer_wrote_is_read_back(here, quoting, ending):
    chance = random.Random(0)
    for _ in range(200):
        rows = [["".join(chance.choices('ab"\t\n,', k=chance.randrange(1, 6))) for _ in range(2)] for _ in range(3)]
        text = io.StringIO(newline="")
        separator = "," if ending == ".csv" else "\t"
        csv.writer(text, delimiter=separator, quoting=quoting, lineterminator="\n").writerows([["x", "y"], *rows])
        name = put(here, f"a{ending}", text.getvalue())
        assert [list(row.fields.values()) for row in open_table(name)] == rows, text.getvalue()


def test_colas_missing_header_is_supplied(here):
    table = open_table(put(here, "a.tsv", "gj04\t1\t\tIt went.\ngj04\t0\t*\tWent it.\n"))
    assert table.dataset == "cola"
    assert [(row.number, row.fields["label"], row.fields["sentence"]) for row in table] == [
        (1, "1", "It went."),
        (2, "0", "Went it."),
    ]


def test_json_lines_keep_their_types(here):
    name = put(here, "a.jsonl", '{"text": "a", "label": 1, "more": [null]}\n\n{"text": "b", "label": true}\n')
    assert [(row.number, dict(row.fields)) for row in open_table(name)] == [
        (1, {"text": "a", "label": 1, "more": [None]}),
        (3, {"text": "b", "label": True}),
    ]


def test_parquet_counts_rows(here):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a", None], "label": [1, 0]}), "a.parquet")
    table = open_table("a.parquet")
    rows = list(table)
    assert table.columns == ("text", "label")
    assert [dict(row.fields) for row in rows] == [{"text": "a", "label": 1}, {"text": None, "label": 0}]
    assert table.place(rows[1]) == "a.parquet, row 2"


def test_a_stream_holds_no_more_than_its_row(here):
    name = put(here, "a.csv", "text\n" + "good\n" * 3 + "one,two\n")
    rows = iter(open_table(name))
    assert [next(rows).number for _ in range(3)] == [2, 3, 4]
    with pytest.raises(DataError):
        next(rows)


# --- mistakes


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "text\na\n", "a.txt ends in none of .csv, .tsv, .jsonl, .json, .parquet; convert it to one of them"),
        ("a.csv", "", "a.csv is empty; give it a header and rows"),
        ("a.csv", "\n\n", "a.csv is empty; give it a header and rows"),
        ("a.tsv", "text\tlabel\n", "a.tsv has a header and no rows; add rows"),
        ("a.jsonl", "\n", "a.jsonl is empty; give it one json object per line"),
        ("a.tsv", "a\ta\n1\t2\n", "a.tsv, line 1: two columns are named 'a'; rename one"),
        (
            "a.tsv",
            "a\tb\n1\t2\n1\t2\t3\n",
            "a.tsv, line 3: 3 fields where the first line has 2; look for a missing tab, or one inside a text",
        ),
        (
            "a.csv",
            "a,b\n1,2\n1\n",
            "a.csv, line 3: 1 field where the first line has 2; look for a missing comma, or one inside a text",
        ),
        (
            "a.csv",
            'a,b\n1,2\n1,"2\n3,4\n',
            (
                "a.csv, line 3: a quote opens a field here and nothing closes it; "
                "close it, or write it twice and the field in quotes"
            ),
        ),
        (
            "a.csv",
            'a,b\n1,2\n1,"2"3\n',
            "a.csv, line 3: ',' expected after '\"'; write a quote inside a quoted field twice",
        ),
        (
            "a.csv",
            "a\n" + "x" * 131_073,
            "a.csv, line 2: a field has over 131,072 characters; close its quote, or use json lines for long texts",
        ),
        (
            "a.csv",
            "a,b\r1,2\r",
            "a.csv, line 1: a carriage return ends no line here; save the file with \\n or \\r\\n at the line ends",
        ),
        (
            "a.csv",
            b"a,b\n1,2\n1,\xe9t\xe9\n",
            "a.csv, line 3: not UTF-8 at byte 10 of the file (0xe9); save the file as UTF-8",
        ),
        (
            "a.tsv",
            "a\tb\n".encode("utf-16"),
            "a.tsv, line 1: not UTF-8 at byte 0 of the file (0xff); save the file as UTF-8",
        ),
        (
            "a.jsonl",
            '{"a": 1}\n{"a": }\n',
            "a.jsonl, line 2: not valid json (Expecting value at column 7); write one json object per line",
        ),
        ("a.json", '[\n{"a": 1}\n]\n', "a.json, line 1: not a json object; write one json object per line"),
        ("a.json", '[{"a": 1}]\n', "a.json, line 1: not a json object; write one json object per line"),
    ],
)
def test_messages_name_the_place(here, name, content, expected):
    assert message(put(here, name, content)) == expected


def test_a_missing_file_and_a_folder(here):
    assert message("none.csv") == "there is no none.csv; check the path"
    (here / "a.csv").mkdir()
    assert message("a.csv") == "a.csv is a folder; name one file"


def test_a_broken_parquet(here):
    said = message(put(here, "a.parquet", "PAR1 and no more"))
    assert said.startswith("cannot read a.parquet as parquet (")
    assert said.endswith("); write it again")
    assert "\n" not in said


def test_an_empty_parquet(here):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), "a.parquet")
    assert message("a.parquet") == "a.parquet has no rows; add rows"
