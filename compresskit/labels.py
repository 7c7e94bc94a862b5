"""What labels mean: classes with names, or numbers to predict; and which metric speaks for the task.

`--task auto` is regression where a label is a fraction (4.75) or the model's head gives one number, else
classification. Whole numbers, however written (1, "1", 1.0), are the class `1`. A trained head's names and order win; a
label belongs to the class of the same name, whatever the letter case, and the number 1 to `LABEL_1`. Otherwise the
order that a Hub data set declares; else the classes of the training rows are sorted, as numbers where all are whole
numbers.

-1 is a class like any other where other labels stand beside it, for many people code sentiment as -1 and 1. Where
nothing else is there it marks hidden labels, as in GLUE's test files, and is refused. (In Hub data whose classes are
declared, -1 can only mean that a row has no label, and `data.py` leaves the row out.)

The headline metric is Pearson's r for regression, F1 for MRPC and QQP (told by the dataset's name or their label
columns, `Quality` and `is_duplicate`), Matthews' correlation for CoLA, and accuracy for everything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from compresskit.columns import F1_LABELS
from compresskit.errors import DataError

TaskKind: TypeAlias = Literal["classification", "regression"]
Metric: TypeAlias = Literal["accuracy", "f1", "matthews", "pearson"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_NUMBERED = re.compile(r"label_(\d+)")


@dataclass(frozen=True)
class Task:
    """What is to be predicted.

    Args:
        kind: one of several classes, or a number.
        labels: names of the classes in the order of their ids; empty for regression.
        metric: the one that stands for the result; higher is better.
    """

    kind: TaskKind
    labels: tuple[str, ...]
    metric: Metric

    @property
    def num_labels(self) -> int:
        """Outputs of the head: one per class, or one number."""
        return len(self.labels) or 1


@dataclass(frozen=True)
class Labels:
    """The labels of one split as they were written, in the form of `label_text`.

    Args:
        source: the file or split.
        column: the label column.
        texts: one per row.
        places: one per row, for messages: `line 7`.
        classes: every class that the data set declares, in order; empty where nothing declares them.
        dataset: lower-case name where it is known, else empty.
    """

    source: str
    column: str
    texts: Sequence[str]
    places: Sequence[str]
    classes: tuple[str, ...] = ()
    dataset: str = ""

    def place(self, row: int) -> str:
        """`dev.tsv, line 7`."""
        return f"{self.source}, {self.places[row]}"


def label_text(value: object) -> str | None:
    """A label as one string: whole numbers without decimals, True as `true`; None for what is missing or no label."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        return None
    if not isinstance(value, str | int | float):
        return None
    text = str(value).strip()
    number = _number(text)
    if number is None or not number.is_integer():
        return text or None
    # A float holds 15 digits and an identity code may have more.
    return str(int(text) if _WHOLE.fullmatch(text) else int(number))


def make_task(
    train: Labels | None, evaluation: Labels, wanted: Literal["auto", TaskKind], head: Sequence[str] | None
) -> Task:
    """Decide kind, classes and metric from the training rows, or from the evaluation rows where there are no others.

    Args:
        head: the names of a trained head's outputs, or None where the head is to be trained.

    Raises:
        DataError: hidden labels only, one class only to learn from, a kind that the model's head can't answer.
    """
    for split in (train, evaluation):
        if split is not None and set(split.texts) == {"-1"}:
            raise DataError(f"{split.source}: every label is -1, the mark of hidden labels; use rows that have labels")
    known = evaluation if train is None else train
    if train is not None and len(set(train.texts)) == 1:
        raise DataError(
            f"{train.source}: every row has the label '{train.texts[0]}'; add rows with another one to learn from"
        )
    kind = wanted if wanted != "auto" else _kind(known, head)
    _check_head(known, kind, head)
    if kind == "regression":
        return Task(kind, (), "pearson")
    names = tuple(head) if head is not None else known.classes or _sorted(set(known.texts))
    return Task(kind, names, _metric(known, names))


def to_ids(labels: Labels, task: Task, matching: Literal["head", "train"]) -> tuple[int, ...]:
    """Class ids by name; to a head's names also by another letter case or by number.

    Raises:
        DataError: a label that is not among the task's, with its row.
    """
    exact = {name: index for index, name in enumerate(task.labels)}
    names = [plain(name) for name in task.labels] if matching == "head" else []
    alike = {name: index for index, name in enumerate(names) if names.count(name) == 1}
    found = []
    for row, text in enumerate(labels.texts):
        index = exact.get(text, alike.get(plain(text)))
        if index is None:
            whose = "the model's head" if matching == "head" else "the training rows"
            raise DataError(
                f"{labels.place(row)}: the label '{text}' is unknown to {whose} ({some(task.labels)}); "
                "write it as one of them, or leave the row out"
            )
        found.append(index)
    return tuple(found)


def to_numbers(labels: Labels) -> tuple[float, ...]:
    """Labels as numbers. Raises DataError for one that isn't, with its row."""
    numbers = []
    for row, text in enumerate(labels.texts):
        number = _number(text)
        if number is None:
            raise DataError(
                f"{labels.place(row)}: the label '{text}' is not a number, which regression needs; "
                "mend it, or choose --task classification"
            )
        numbers.append(number)
    return tuple(numbers)


def is_numbered(head: Sequence[str] | None) -> bool:
    """Whether a head's outputs have numbers for names (`LABEL_0` or `0`), so that only class numbers can match them."""
    return head is not None and all(plain(name) == str(index) for index, name in enumerate(head))


def _kind(labels: Labels, head: Sequence[str] | None) -> TaskKind:
    if head is not None and len(head) == 1:
        return "regression"
    numbers = (_number(text) for text in set(labels.texts))
    fractions = any(number is not None and not number.is_integer() for number in numbers)
    return "regression" if fractions else "classification"


def _check_head(labels: Labels, kind: TaskKind, head: Sequence[str] | None) -> None:
    if head is None or (len(head) == 1) == (kind == "regression"):
        return
    if kind == "regression":
        raise DataError(
            f"{labels.source}: the column '{labels.column}' asks for a number and the model's head names classes "
            f"({some(head)}); choose another --label-column or another model"
        )
    raise DataError(
        f"{labels.source}: the column '{labels.column}' asks for a class and the model's head gives one number; "
        "choose --task regression or another model"
    )


def _metric(labels: Labels, names: Sequence[str]) -> Metric:
    if labels.dataset == "cola":
        return "matthews"
    alike = labels.dataset in ("mrpc", "qqp") or labels.column.lower() in F1_LABELS
    return "f1" if alike and len(names) == 2 else "accuracy"


def _sorted(names: set[str]) -> tuple[str, ...]:
    whole = all(_number(name) is not None and _WHOLE.fullmatch(name) for name in names)
    return tuple(sorted(names, key=int)) if whole else tuple(sorted(names))


def _number(text: str) -> float | None:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def plain(name: str) -> str:
    """A label's name whatever the letter case; `LABEL_3` is `3`."""
    numbered = _NUMBERED.fullmatch(name.casefold())
    return numbered.group(1) if numbered else name.casefold()


def some(names: Sequence[str]) -> str:
    """The names, or the first ten of many."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
