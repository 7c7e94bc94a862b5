"""Labelled text: finds the files or the Hub dataset, checks every row, makes a Corpus. Only this file imports datasets.

- `row_files.py`: the file formats.
- `columns.py`: which column is what.
- `labels.py`: what the labels mean.
- `batches.py`: from a Corpus to tokens and batches.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from compresskit.columns import Columns, check_columns, find_columns
from compresskit.errors import DataError
from compresskit.labels import Labels, Task, TaskKind, is_numbered, label_text, make_task, some, to_ids, to_numbers
from compresskit.row_files import ENDINGS, Row, Table, open_table

__all__ = ["Corpus", "DataOptions", "Rows", "Task", "TaskKind", "input_texts", "load_corpus"]

TRAIN_STEMS = ("train",)
EVAL_STEMS = ("dev", "validation")
EVAL_SPLITS = ("validation", "validation_matched", "dev", "test")


@dataclass(frozen=True)
class DataOptions:
    """How to read the data; the defaults find out.

    Args:
        text_columns: one or two columns of text.
        label_column: the column of labels.
        task: what the labels are.
        eval_data: a file with the rows to evaluate on, in place of the folder's or dataset's own.
        max_train_rows, max_eval_rows: draw that many rows, without replacement and keeping their order.
        seed: which training rows are drawn.
        eval_seed: which rows to evaluate on are drawn; the same whatever the seed, so that scores compare.
    """

    text_columns: tuple[str, ...] | None = None
    label_column: str | None = None
    task: Literal["auto", "classification", "regression"] = "auto"
    eval_data: str | None = None
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    seed: int = 42
    eval_seed: int = 42


@dataclass(frozen=True)
class Rows:
    """Text and labels of one split.

    Args:
        texts: one or two strings per row, the same for all rows.
        labels: class ids, or numbers for regression.
        source: the file, or the dataset and split.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...] | tuple[float, ...]
    source: str

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Corpus:
    """Rows to learn from, rows to evaluate on, and what they ask.

    Args:
        train: None where nothing is to be learnt.
        columns: where text and labels were found.
        fingerprint: sha256 of task and training rows, whatever the file's name or format.
        eval_fingerprint: sha256 of the rows to evaluate on.
    """

    train: Rows | None
    eval: Rows
    task: Task
    columns: Columns
    fingerprint: str
    eval_fingerprint: str

    def __str__(self) -> str:
        """`text: sentence; label: label (0, 1); to learn from: 60 rows of train.tsv; to evaluate on: 8 of dev.tsv`."""
        labels = some(self.task.labels) or "a number"
        learn = f"to learn from: {len(self.train):,} rows of {self.train.source}; " if self.train is not None else ""
        rows = "" if learn else " row" if len(self.eval) == 1 else " rows"
        return (
            f"text: {', '.join(self.columns.texts)}; label: {self.columns.label} ({labels}); "
            f"{learn}to evaluate on: {len(self.eval):,}{rows} of {self.eval.source}"
        )


def load_corpus(
    data: str,
    options: DataOptions,
    model_labels: Sequence[str] | None = None,
    need_train: bool = True,
    before: Columns | None = None,
) -> Corpus:
    """Read and check everything.

    Args:
        data: a folder with `train.*` and `dev.*` or `validation.*`, a file, or a Hub id `owner/name[:config]`. A file
            holds the training rows, or the evaluation rows where no others are needed.
        model_labels: names of a trained head's outputs in order, or None where the head is still to be trained.
        need_train: False to read evaluation rows alone.
        before: the columns that the model was compressed with.

    Raises:
        DataError: with the file, the line and what to do.
    """
    train_table, eval_table = _tables(data, options.eval_data, need_train)
    columns = find_columns(train_table or eval_table, options.text_columns, options.label_column, before)
    numbered = is_numbered(model_labels)
    train = _read(train_table, columns, numbered) if train_table is not None else None
    evaluation = _read(eval_table, columns, numbered)
    task = make_task(train[1] if train else None, evaluation[1], options.task, model_labels)
    matching: Literal["head", "train"] = "train" if model_labels is None else "head"
    train_rows = None
    if train is not None:
        train_rows = _draw(_rows(*train, task, matching), options.max_train_rows, options.seed, "--max-train-rows")
        if len(set(train_rows.labels)) == 1:
            raise DataError(
                f"{train_rows.source}: the {len(train_rows)} rows drawn have one label only; raise --max-train-rows"
            )
    eval_rows = _draw(_rows(*evaluation, task, matching), options.max_eval_rows, options.eval_seed, "--max-eval-rows")
    asked = [task.kind, task.labels, task.metric]
    return Corpus(train_rows, eval_rows, task, columns, _fingerprint(train_rows, asked), _fingerprint(eval_rows, asked))


def input_texts(table: Table, columns: Sequence[str]) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """Each row of a table with its text, lazily and without labels; here a text may be empty.

    Raises:
        DataError: at a row whose text is missing or not text.
    """
    for row in table:
        yield row, _texts(table, row, columns, empty=True)


# --- where the rows are


def _tables(data: str, eval_data: str | None, need_train: bool) -> tuple[Table | None, Table]:
    path = Path(data)
    eval_table = open_table(eval_data) if eval_data is not None else None
    if path.is_dir():
        train = open_table(_split_file(path, TRAIN_STEMS)) if need_train else None
        return train, eval_table or open_table(_split_file(path, EVAL_STEMS))
    hub = re.fullmatch(r"(?P<name>\w[\w.-]*/[\w.-]+)(:(?P<config>[\w.-]+))?", data)
    if hub is None and not path.exists() and not path.suffix and len(path.parts) == 1:
        raise DataError(
            f"there is no {data}; check the path, or give a Hub dataset with its owner, as in nyu-mll/glue:sst2"
        )
    if path.exists() or hub is None or path.suffix.lower() in ENDINGS:
        table = open_table(path)
        if not need_train:
            return None, eval_table or table
        if eval_table is None:
            raise DataError(f"{data} is one file, and rows to evaluate on are needed too; name them with --eval-data")
        return table, eval_table
    splits = _hub_splits(hub["name"], hub["config"])
    train = _hub_table(data, splits, ("train",)) if need_train else None
    return train, eval_table or _hub_table(data, splits, EVAL_SPLITS)


def _split_file(folder: Path, stems: Sequence[str]) -> Path:
    names = sorted(path.name for path in folder.iterdir())
    found = [name for name in names if Path(name).stem.lower() in stems and Path(name).suffix.lower() in ENDINGS]
    if len(found) > 1:
        raise DataError(f"{folder} has {' and '.join(found)} for one split; keep one of them")
    if not found:
        looked = " or ".join(f"{stem}.*" for stem in stems)
        there = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing"
        raise DataError(f"{folder} has no {looked} ending in {', '.join(ENDINGS)} (found: {there}); add the file")
    return folder / found[0]


def _hub_splits(name: str, config: str | None) -> Mapping[str, Any]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        splits: Mapping[str, Any] = load_dataset(name, config)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        asked = name if config is None else f"{name}:{config}"
        raise DataError(
            f"{asked} is no file or folder, and the Hub did not give it ({reason}); check the name"
        ) from error
    return splits


def _hub_table(data: str, splits: Mapping[str, Any], wanted: Sequence[str]) -> Table:
    name = next((name for name in wanted if name in splits), None)
    if name is None:
        found = ", ".join(splits) or "nothing"
        raise DataError(
            f"{data} has no split {' or '.join(wanted)} (found: {found}); write its rows to files and use those"
        )
    split = splits[name]
    classes = {column: tuple(feature.names) for column, feature in split.features.items() if hasattr(feature, "names")}
    dataset = data.replace(":", "/").rpartition("/")[2].lower()
    rows = partial(_hub_rows, split)
    return Table(f"{data}, split {name}", tuple(split.column_names), rows, "row", dataset=dataset, classes=classes)


def _hub_rows(split: Any) -> Iterator[Row]:
    for number, fields in enumerate(split, start=1):
        yield Row(number, fields)


# --- what is in them


def _read(table: Table, columns: Columns, numbered: bool) -> tuple[tuple[tuple[str, ...], ...], Labels]:
    check_columns(table, columns)
    classes = table.classes.get(columns.label, ())
    named = bool(classes) and not numbered
    texts, labels, places = [], [], []
    for row in table:
        value = row.fields.get(columns.label)
        if classes and value == -1:
            continue
        label = label_text(classes[value] if named and isinstance(value, int) and value < len(classes) else value)
        if label is None:
            raise DataError(
                f"{table.place(row)}: no label in the column '{columns.label}'; fill it in, or leave the row out"
            )
        texts.append(_texts(table, row, columns.texts, empty=False))
        labels.append(label)
        places.append(f"{table.unit} {row.number}")
    if not texts:
        raise DataError(f"{table.source} has no labelled rows; use rows with labels")
    known = classes if named else ()
    return tuple(texts), Labels(table.source, columns.label, labels, places, known, table.dataset)


def _texts(table: Table, row: Row, columns: Sequence[str], empty: bool) -> tuple[str, ...]:
    found = []
    for name in columns:
        text = row.fields.get(name)
        if text is None or (isinstance(text, str) and not empty and not text.strip()):
            raise DataError(f"{table.place(row)}: no text in the column '{name}'; fill it in, or leave the row out")
        if not isinstance(text, str):
            raise DataError(
                f"{table.place(row)}: the column '{name}' holds {_shown(text)}, which is not text; write it as text"
            )
        # Json can spell half of a surrogate pair, which is no character and which no tokenizer takes.
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(f"{table.place(row)}: the column '{name}' holds half a character (\\ud8xx); mend the text")
        found.append(text)
    return tuple(found)


def _rows(texts: tuple[tuple[str, ...], ...], labels: Labels, task: Task, matching: Literal["head", "train"]) -> Rows:
    values = to_numbers(labels) if task.kind == "regression" else to_ids(labels, task, matching)
    return Rows(texts, values, labels.source)


def _draw(rows: Rows, most: int | None, seed: int, flag: str) -> Rows:
    if most is None or most >= len(rows):
        return rows
    if most < 1:
        raise DataError(f"{flag} {most} leaves no rows; give 1 or more")
    drawn = sorted(random.Random(seed).sample(range(len(rows)), most))  # noqa: S311 - no secret hangs on it
    labels = tuple(rows.labels[row] for row in drawn)
    return Rows(tuple(rows.texts[row] for row in drawn), labels, rows.source)


def _fingerprint(rows: Rows | None, asked: Sequence[object]) -> str:
    digest = hashlib.sha256(json.dumps(asked).encode())
    for texts, label in zip(rows.texts, rows.labels, strict=True) if rows is not None else ():
        digest.update(json.dumps([texts, label]).encode())
    return digest.hexdigest()


def _shown(value: object) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 40 else shown[:37] + "..."
