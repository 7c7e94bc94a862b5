"""Means that padding has no part in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from compresskit import CompresskitError, Distiller, Sizes, Trace

Layer = TypeVar("Layer")


def over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """(batch, tokens) to a scalar: the mean over an example's tokens, then over examples."""
    mask = mask.float()
    return ((values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def over_pairs(values: Tensor, mask: Tensor) -> Tensor:
    """(batch, heads, tokens, tokens) to a scalar: over heads and pairs of an example's tokens, then over examples."""
    mask = mask.float()
    pairs = mask[:, None, :, None] * mask[:, None, None, :]
    count = pairs.sum(dim=(1, 2, 3)) * values.shape[1]
    return ((values * pairs).sum(dim=(1, 2, 3)) / count.clamp(min=1)).mean()


def matched(student: Sequence[Layer], teacher: Sequence[Layer], name: str) -> list[tuple[Layer, Layer]]:
    """Each of the student's M layers with the teacher's from which it learns: layer i with i * N / M, counted from 1.

    Raises:
        CompresskitError: they do not go into them evenly.
    """
    try:
        check_layers(len(student), len(teacher))
    except ValueError as error:
        raise CompresskitError(f"{name}: {error}") from error
    step = len(teacher) // len(student)
    return list(zip(student, teacher[step - 1 :: step], strict=True))


def same_heads(student: Trace, teacher: Trace, name: str) -> None:
    """Raise CompresskitError where the two differ in the number of heads of a layer that is compared."""
    ours, theirs = ([layer.query.shape[1] for layer in trace.attention] for trace in (student, teacher))
    try:
        check_heads(ours, theirs)
    except ValueError as error:
        raise CompresskitError(f"{name}: {error}") from error


def check_layers(ours: int, theirs: int) -> None:
    """Raise ValueError where the teacher's layers do not go into the student's evenly."""
    if theirs % ours:
        raise ValueError(
            f"the teacher's {theirs} layers can't be shared out evenly among the student's {ours}; "
            "keep a number of layers that divides the teacher's"
        )


def check_heads(ours: Sequence[int], theirs: Sequence[int]) -> None:
    """Raise ValueError where student and teacher have layers with different numbers of heads."""
    if set(ours) != set(theirs) or len(set(ours)) > 1:
        raise ValueError(
            f"the student's layers have {sorted(set(ours))} heads and the teacher's {sorted(set(theirs))}, "
            "and heads are compared one by one; keep all heads, or learn from relations"
        )


class LayerByLayer(Distiller):
    """Compares each of the student's layers with one of the teacher's."""

    def check(self, student: Sizes, teacher: Sizes) -> None:
        """Layers that go into the teacher's, beside what any distiller asks.

        Raises:
            ValueError: they don't.
        """
        super().check(student, teacher)
        check_layers(len(student.heads), len(teacher.heads))


class HeadByHead(LayerByLayer):
    """Compares their heads one by one, too."""

    def check(self, student: Sizes, teacher: Sizes) -> None:
        """As many heads, beside that.

        Raises:
            ValueError: there are more or fewer.
        """
        check_heads(student.heads, teacher.heads)
        super().check(student, teacher)
