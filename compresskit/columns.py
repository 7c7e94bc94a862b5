"""Which columns hold the text and the label: as the user says, or by the names that GLUE, SICK and most data sets use.

Text: a pair of `PAIRS` that is there; else the one name of `SINGLES` that is there; else the one column that isn't the
label. Label: the first line of `LABELS` that has a name there. Two answers are an error that asks, never a guess.
Letter case in the file does not matter here; names given by the user are taken to the letter. Before all that, a model
that was compressed with columns of some names takes columns of the same names where a file has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from compresskit.errors import DataError
from compresskit.row_files import Table

PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("question", "passage"),
    ("premise", "hypothesis"),
    ("#1 string", "#2 string"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
SINGLES = ("sentence", "text", "review", "content", "comment", "tweet", "document", "question")
LABELS = (
    ("label", "labels", "gold_label"),
    ("entailment_judgment", "quality", "is_duplicate", "class", "category", "target", "sentiment", "stars", "rating"),
    ("score", "relatedness_score", "similarity"),
)
NUMBERS = {1: "one column", 2: "two columns"}
F1_LABELS = ("quality", "is_duplicate")
"""Label columns of MRPC and QQP, which are judged by F1."""


@dataclass(frozen=True)
class Columns:
    """The names, as the file spells them, of the one or two text columns and of the label column."""

    texts: tuple[str, ...]
    label: str


def find_columns(
    table: Table, texts: Sequence[str] | None, label: str | None, before: Columns | None = None
) -> Columns:
    """Both kinds of column.

    Args:
        texts, label: as the user says, or None.
        before: what the model at hand was compressed with.

    Raises:
        DataError: a named column isn't there, none can be found or several can, the label is a text column too, or
            there are two texts where there was one before, or one where there were two.
    """
    if label is None and before is not None and before.label in table.columns and before.label not in (texts or ()):
        label = before.label
    found_label = (
        _named(table, label, "name another with --label-column")
        if label is not None
        else _find_label(table, texts or ())
    )
    found_texts = find_texts(table, texts, found_label, before)
    if found_label in found_texts:
        raise DataError(f"{table.source}: the column '{found_label}' can't be both text and label; name another")
    return Columns(found_texts, found_label)


def find_texts(
    table: Table, texts: Sequence[str] | None, label: str | None = None, before: Columns | None = None
) -> tuple[str, ...]:
    """The text columns alone, for rows that need no label. Raises DataError as `find_columns`."""
    if texts is None and before is not None and {*before.texts} <= {*table.columns} - {label}:
        return before.texts
    found = _find_texts(table, texts, label)
    if before is not None and len(found) != len(before.texts):
        raise DataError(
            f"{table.source}: the text would be {','.join(found)}, and the model was compressed with "
            f"{_spoken(before.texts)}; name {NUMBERS[len(before.texts)]} with --text-columns"
        )
    return found


def _find_texts(table: Table, texts: Sequence[str] | None, label: str | None) -> tuple[str, ...]:
    if texts is not None:
        # A name may have commas in it, and blanks may stand around those that part two names.
        whole = ",".join(texts)
        texts = (whole,) if whole in table.columns else [name.strip() for name in texts]
        if not 1 <= len(texts) <= 2 or len(set(texts)) < len(texts):
            raise DataError(f"--text-columns {','.join(texts)}: give one column, or two different ones")
        return tuple(_named(table, name, "name another with --text-columns") for name in texts)
    spelling = {name.lower(): name for name in table.columns if name != label}
    pairs = [pair for pair in PAIRS if all(name in spelling for name in pair)]
    singles = [(name,) for name in SINGLES if name in spelling]
    others = [(name.lower(),) for name in spelling.values()]
    for found in (pairs, singles, others if len(others) == 1 else []):
        if len(found) == 1:
            return tuple(spelling[name] for name in found[0])
        if found:
            choices = " or ".join(",".join(spelling[name] for name in names) for names in found)
            raise DataError(f"{table.source}: the text could be {choices}; say which with --text-columns")
    raise DataError(f"{table.source}: no column is known to hold text ({_listed(table)}); name it with --text-columns")


def check_columns(table: Table, columns: Columns) -> None:
    """Raises DataError where a table lacks one of the columns that another table was found to have."""
    for name in (*columns.texts, columns.label):
        _named(table, name, "rename it as in the training rows")


def _find_label(table: Table, texts: Sequence[str]) -> str:
    spelling = {name.lower(): name for name in table.columns if name not in texts}
    for tier in LABELS:
        found = [spelling[name] for name in tier if name in spelling]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{table.source}: the label could be {' or '.join(found)}; say which with --label-column")
    raise DataError(
        f"{table.source}: no column is known to hold labels ({_listed(table)}); name it with --label-column; "
        "rows without labels are for compresskit predict"
    )


def _named(table: Table, name: str, advice: str) -> str:
    if name in table.columns:
        return name
    lowered = {column.lower(): column for column in table.columns}
    near = get_close_matches(name.lower(), lowered, n=1)
    hint = f"did you mean '{lowered[near[0]]}'?" if near else advice
    raise DataError(f"{table.source} has no column '{name}' ({_listed(table)}); {hint}")


def _spoken(texts: Sequence[str]) -> str:
    return f"pairs of texts ({','.join(texts)})" if len(texts) == 2 else f"single texts ({texts[0]})"


def _listed(table: Table) -> str:
    return "columns: " + ", ".join(table.columns)
