"""Whether the losses of a step can hold a student against its teacher, from their sizes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from compresskit.cost import Dims, sizes_of
from compresskit.edits import Shape
from compresskit.interfaces import Distiller, Sizes
from compresskit.verbs import Distill, Scored, Verb


def mismatches(verb: Verb, dims: Dims, student: Shape, theirs: Dims, teacher: Shape | None) -> Iterator[str]:
    """Why a step's losses can't hold a student against its teacher, given their originals' sizes and their shapes."""
    if teacher is None or not isinstance(verb, (Distill, Scored)):
        return
    whole, other = sizes_of(dims, student), sizes_of(theirs, teacher)
    # A mask may leave layers out, and the losses have to bear every number of them.
    layers = len(whole.heads)
    depths = verb.mask.layers_run(layers) if isinstance(verb, Distill) and verb.mask else (layers,)
    asked = (loss.distiller for losses in verb.losses for loss in getattr(verb, losses).values())
    for distiller in asked:
        sizes = [replace(whole, heads=whole.heads[:depth], neurons=whole.neurons[:depth]) for depth in depths]
        problems = (_mismatch(distiller, ours, other) for ours in sizes if distiller.needs_teacher)
        problem = next(filter(None, problems), None)
        if problem is not None:
            yield f"{distiller.name} can't learn from {verb.teacher}: {problem}"


def compared(verb: Verb) -> Iterator[tuple[Distiller, str]]:
    """Each distiller of a step with the models that it holds the student against: its teacher, its banks."""
    for losses in verb.losses:
        for loss in getattr(verb, losses).values():
            if loss.distiller.needs_teacher and isinstance(verb, (Distill, Scored)) and verb.teacher:
                yield loss.distiller, verb.teacher
            yield from ((loss.distiller, bank) for bank in loss.banks)


def _mismatch(distiller: Distiller, student: Sizes, teacher: Sizes) -> str | None:
    try:
        distiller.check(student, teacher)
    except ValueError as error:
        return str(error)
    return None
