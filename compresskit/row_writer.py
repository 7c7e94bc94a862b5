"""Write rows as they were read, with columns added, as csv, tsv or json lines. The file appears whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from compresskit.errors import DataError
from compresskit.row_files import Row, Table

ENDINGS = (".csv", ".tsv", ".jsonl", ".json")


class RowWriter:
    """A file being written beside its final place, and moved there when the `with` block ends without an error.

    A column that the input has already is not overwritten: the added one is called `predicted_label` for `label`, and
    so on. A tsv is written without quoting where the input was such a tsv, so that the text comes back byte for byte;
    otherwise with quoting.

    Args:
        path: where to write; its ending chooses the format.
        like: the table whose rows will be written.
        added: names of the columns to add.
        overwrite: whether a file of that name may be replaced.

    Raises:
        DataError: unknown ending, no such folder, a file that is there already, `predicted_` name taken too, a full
            disk, a row that the format can't hold.
    """

    def __init__(self, path: str | Path, like: Table, added: Sequence[str], overwrite: bool = False) -> None:
        self.path = Path(path)
        self.like = like
        self._ending = self.path.suffix.lower()
        if self._ending not in ENDINGS:
            raise DataError(f"{path} ends in none of {', '.join(ENDINGS)}; name the output with one of them")
        if self.path.is_dir():
            raise DataError(f"{path} is a folder; name a file to write")
        if not self.path.parent.is_dir():
            raise DataError(f"no folder {self.path.parent} to write {self.path.name} in; create it")
        if self.path.exists() and not overwrite:
            raise DataError(f"{path} is there already; name another file, or replace it with --overwrite")
        self.added = tuple(_free_name(name, like) for name in added)
        self._bare = self._ending == ".tsv" and not like.quoted
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")

    def __enter__(self) -> RowWriter:
        self._file: TextIO = self._guard_open()
        separator = "," if self._ending == ".csv" else "\t"
        self._csv = csv.writer(self._file, delimiter=separator, lineterminator="\n")
        try:
            if self._ending in (".csv", ".tsv"):
                self._put([*self.like.columns, *self.added], self.like.source)
        except DataError as error:
            self.__exit__(DataError, error, None)
            raise
        return self

    def write(self, row: Row, values: Sequence[str | int | float | None]) -> None:
        """One row of the input and its values for the added columns."""
        place = self.like.place(row)
        clash = [name for name in self.added if name in row.fields]
        if clash:
            raise DataError(f"{place}: the first row has no '{clash[0]}', so a column of that name is added; rename it")
        fields = dict(row.fields) | dict(zip(self.added, values, strict=True))
        if self._ending in (".jsonl", ".json"):
            self._print(json.dumps(fields, ensure_ascii=False, default=str) + "\n")
            return
        columns = (*self.like.columns, *self.added)
        surplus = [name for name in fields if name not in columns]
        if surplus:
            raise DataError(
                f"{place}: the first row has no '{surplus[0]}'; write json lines instead of {self._ending[1:]}"
            )
        self._put([_as_text(fields.get(name)) for name in columns], place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._partial.replace(self.path)
        except OSError as problem:
            if kind is None:
                raise self._failed(problem) from None
        finally:
            self._partial.unlink(missing_ok=True)

    def _put(self, cells: Sequence[str], place: str) -> None:
        if not self._bare:
            try:
                self._csv.writerow(cells)
            except OSError as problem:
                raise self._failed(problem) from None
            return
        if any(character in cell for cell in cells for character in "\t\n"):
            raise DataError(
                f"{place}: a tab or a line end inside a field can't stand in a tsv; write csv or json lines"
            )
        self._print("\t".join(cells) + "\n")

    def _print(self, line: str) -> None:
        try:
            self._file.write(line)
        except OSError as problem:
            raise self._failed(problem) from None

    def _guard_open(self) -> TextIO:
        try:
            # A lone surrogate, which json can hold and UTF-8 can't, goes back to the \udXXX that json writes it as.
            return self._partial.open("w", encoding="utf-8", newline="", errors="backslashreplace")
        except OSError as problem:
            raise self._failed(problem) from None

    def _failed(self, problem: OSError) -> DataError:
        return DataError(f"cannot write {self.path}: {problem.strerror}; free the place or name another file")


def _free_name(name: str, table: Table) -> str:
    for candidate in (name, f"predicted_{name}"):
        if candidate not in table.columns:
            return candidate
    raise DataError(f"{table.source} has the columns '{name}' and 'predicted_{name}' already; rename one")


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
