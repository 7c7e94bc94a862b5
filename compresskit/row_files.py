"""Files of rows: csv, tsv, json lines and parquet, read one row at a time, with the place of each row for messages.

A csv is quoted as RFC 4180 says. A tsv comes in two dialects with one file ending: in GLUE's files a quote is a
character like any other (IANA's text/tab-separated-values), spreadsheets and pandas quote tsv as they quote csv.
The whole file tells which one it is, so a tsv is read twice. Line endings may be CRLF, a byte-order mark
is dropped, blank lines are skipped.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from compresskit.errors import DataError

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
COLA_COLUMNS = ("source", "label", "mark", "sentence")


class Row(NamedTuple):
    """One row: its 1-based line or row number, and its fields by column (strings, except from json and parquet)."""

    number: int
    fields: Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """Rows that can be read again and again, from a file or from a dataset.

    Args:
        source: what error messages call it: the path, or the dataset and split.
        columns: in order. Of json lines, the keys of the first object.
        rows: starts reading from the first row.
        unit: what `Row.number` counts.
        quoted: whether quotes enclose fields that hold separators. False for GLUE's kind of tsv.
        dataset: lower-case name of the dataset where it is known (`cola`, `mrpc`), which tells its usual metric.
        classes: for columns coded as class numbers (Hub datasets), the names of the classes in order; -1 there means no
            label.
    """

    source: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    unit: Literal["line", "row"] = "line"
    quoted: bool = True
    dataset: str = ""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    def place(self, row: Row) -> str:
        """`dev.tsv, line 7`."""
        return f"{self.source}, {self.unit} {row.number}"


def open_table(path: str | Path) -> Table:
    """Look at a file's first rows and make it ready to be read; the ending tells the format.

    Raises:
        DataError: no such file, an unknown ending, not UTF-8, no header or no first row, a column named twice. Reading
            the rows raises it too: invalid UTF-8 or json, a row with the wrong number of fields, a quote that never
            closes.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} is a folder; name one file" if path.is_dir() else f"there is no {path}; check the path"
        )
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path} ends in none of {', '.join(ENDINGS)}; convert it to one of them")
    if ending == ".parquet":
        return _parquet_table(path)
    if ending in (".jsonl", ".json"):
        return _json_table(path)
    return _text_table(path, "," if ending == ".csv" else "\t")


def lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, split at \n only and with it, without the byte-order mark.

    Raises:
        DataError: the file can't be opened, or a line isn't UTF-8 (says the line, and the byte counted from 0 in the
            file).
    """
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: not UTF-8 at byte {offset + error.start} of the file "
                        f"(0x{line[error.start]:02x}); save the file as UTF-8"
                    ) from None
                offset += len(line)
                yield text.removeprefix("\ufeff") if number == 1 else text
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the file") from None


# --- csv and tsv


def _text_table(path: Path, separator: str) -> Table:
    quoted = separator == "," or _is_quoted(lines(path))
    records = _records(path, separator, quoted)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path} is empty; give it a header and rows")
    # CoLA is the one GLUE task without a header: source, 0 or 1, the authors' * or nothing, sentence.
    cola = len(first[1]) == 4 and first[1][1] in ("0", "1") and first[1][2] in ("", "*")
    columns = COLA_COLUMNS if cola else tuple(name.strip() for name in first[1])
    for name in columns:
        if columns.count(name) > 1:
            raise DataError(f"{path}, line {first[0]}: two columns are named '{name}'; rename one")
    if not cola and next(records, None) is None:
        raise DataError(f"{path} has a header and no rows; add rows")
    rows = partial(_text_rows, path, separator, quoted, columns, skip=0 if cola else 1)
    return Table(str(path), columns, rows, quoted=quoted, dataset="cola" if cola else "")


def _text_rows(path: Path, separator: str, quoted: bool, columns: Sequence[str], skip: int) -> Iterator[Row]:
    for position, (number, fields) in enumerate(_records(path, separator, quoted)):
        if len(fields) != len(columns):
            kind = "tab" if separator == "\t" else "comma"
            noun = "field" if len(fields) == 1 else "fields"
            raise DataError(
                f"{path}, line {number}: {len(fields)} {noun} where the first line has {len(columns)}; "
                f"look for a missing {kind}, or one inside a text"
            )
        if position >= skip:
            yield Row(number, dict(zip(columns, fields, strict=True)))


def _records(path: Path, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The line each record starts on, and its fields."""
    if not quoted:
        for number, line in enumerate(lines(path), start=1):
            text = line.removesuffix("\n").removesuffix("\r")
            if text:
                yield number, text.split(separator)
        return
    reader = csv.reader(lines(path), delimiter=separator, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {number}: {_csv_mistake(str(error))}") from None
        if fields:
            yield number, fields


def _csv_mistake(reason: str) -> str:
    if reason.startswith("unexpected end"):
        return "a quote opens a field here and nothing closes it; close it, or write it twice and the field in quotes"
    if reason.startswith("field larger"):
        return (
            f"a field has over {csv.field_size_limit():,} characters; close its quote, or use json lines for long texts"
        )
    if reason.startswith("new-line"):
        return "a carriage return ends no line here; save the file with \\n or \\r\\n at the line ends"
    return f"{reason}; write a quote inside a quoted field twice"


_INSIDE = r'[^"]*(?:""[^"]*)*'
_FIELD = rf'(?:"{_INSIDE}"|[^"\t\r\n]*)'
_WHOLE = re.compile(rf"{_FIELD}(?:\t{_FIELD})*\r?\n?")
_OPENS = re.compile(rf'(?:{_FIELD}\t)*"{_INSIDE}')
_STAYS = re.compile(_INSIDE)
_CLOSES = re.compile(rf'{_INSIDE}"(?:\t{_FIELD})*\r?\n?')
_REOPENS = re.compile(rf'{_INSIDE}"\t(?:{_FIELD}\t)*"{_INSIDE}')
_NEEDED = re.compile(rf'(?:^|\t)"{_INSIDE}(?:""|\t){_INSIDE}"(?=\t|\r?\n?$)')


def _is_quoted(text: Iterator[str]) -> bool:
    """Whether a tsv is quoted as a csv is: every quote obeys RFC 4180, and one shows that a csv writer put it there.

    RFC 4180 (2.5 to 2.7): a quote opens at the start of a field, closes at its end, and is written twice in between. A
    writer shows itself by a quoted name in the header or by a quoted field that had to be: one with a quote, a tab or a
    line end inside.
    """
    opened = proof = False
    for number, line in enumerate(text):
        if '"' not in line:
            continue
        if opened:
            still = bool(_STAYS.fullmatch(line) or _REOPENS.fullmatch(line))
            if not still and not _CLOSES.fullmatch(line):
                return False
            opened = still
        elif _OPENS.fullmatch(line):
            opened = proof = True
        elif not _WHOLE.fullmatch(line):
            return False
        else:
            proof = proof or number == 0 or bool(_NEEDED.search(line))
    return proof and not opened


# --- json lines and parquet


def _json_table(path: Path) -> Table:
    rows = partial(_json_rows, path)
    first = next(rows(), None)
    if first is None:
        raise DataError(f"{path} is empty; give it one json object per line")
    return Table(str(path), tuple(first.fields), rows)


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        # Said before the parser says it, because a file that is one long array is the usual mistake.
        if not line.lstrip().startswith("{"):
            raise DataError(f"{path}, line {number}: not a json object; write one json object per line")
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not valid json ({error.msg} at column {error.colno}); "
                "write one json object per line"
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not readable json ({error}); mend the line") from None
        yield Row(number, fields)


def _parquet_table(path: Path) -> Table:
    rows = partial(_parquet_rows, path)
    first = next(rows(), None)
    if first is None:
        raise DataError(f"{path} has no rows; add rows")
    return Table(str(path), tuple(first.fields), rows, unit="row")


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(number, fields)
    except (ArrowException, OSError) as error:
        raise DataError(f"cannot read {path} as parquet ({str(error).splitlines()[0]}); write it again") from None
