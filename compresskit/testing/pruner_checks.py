"""What every Pruner must do, on the groups of tiny models of every architecture in the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Generator, Tensor

from compresskit.anatomy import Group, UnitTarget, groups
from compresskit.batches import collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.data import Rows
from compresskit.edits import CutHeads, CutNeurons
from compresskit.interfaces import Distiller, Pruner
from compresskit.model import CompressedForSequenceClassification, wrap
from compresskit.run import Run
from compresskit.scoring import ScoreContext, Scoring
from compresskit.surgery import perform
from compresskit.testing.models import tiny_model, tiny_tokenizer
from compresskit.testing.requirements import other_luck, require, same
from compresskit.testing.text import sentences
from compresskit.verbs import Loss

TARGETS: tuple[UnitTarget, ...] = ("heads", "neurons")


def checks() -> Iterator[tuple[str, Callable[[Pruner], None]]]:
    """One of each for each architecture."""
    for family in load_catalogue().names("architecture"):
        for check in (scores_every_unit, decides_by_the_generator_alone, changes_nothing):
            yield f"{check.__name__}[{family}]", partial(check, family)


def scores_every_unit(family: str, pruner: Pruner) -> None:
    """One finite number per unit, in whole layers and in layers that were cut."""
    model = _model(family)
    for group, scores in zip(_groups(model), _scores(pruner, model), strict=True):
        where = f"for {group.units} {group.target} of a {family}"
        shape = tuple(scores.shape)
        require(shape == (group.units,), type(pruner), f"returns scores of shape {shape} {where}; one per unit")
        require(bool(torch.isfinite(scores).all()), type(pruner), f"returns NaN or infinity {where}")


def decides_by_the_generator_alone(family: str, pruner: Pruner) -> None:
    """The same weights, data and seed of `context.generator` give the same scores, whatever torch's own state is."""
    found = []
    for luck in (1, 2):
        with other_luck(luck):
            found.append(_scores(pruner, _model(family)))
    require(
        all(same(one, other) for one, other in zip(*found, strict=True)),
        type(pruner),
        f"scores a {family} otherwise the second time; draw from context.generator and keep no state",
    )


def changes_nothing(family: str, pruner: Pruner) -> None:
    """Weights are the core's to cut."""
    model = _model(family)
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    _scores(pruner, model)
    for name, weight in model.state_dict().items():
        require(
            same(weight, before[name]), type(pruner), f"changes the weight {name} of a {family}; return scores only"
        )


def _model(family: str) -> CompressedForSequenceClassification:
    """Two layers, the second without its second head and with 40 of 64 neurons."""
    model = wrap(tiny_model(family), load_catalogue().anatomy(family))
    perform(CutHeads(1, (0, 2, 3)), model)
    perform(CutNeurons(1, tuple(range(40))), model)
    return model


def _groups(model: CompressedForSequenceClassification) -> list[Group]:
    return [group for target in TARGETS for group in groups(model.anatomy, model.network, target)]


def _scores(pruner: Pruner, model: CompressedForSequenceClassification) -> list[Tensor]:
    generator = Generator().manual_seed(0)
    context = ScoreContext(generator, _measure(model, generator) if pruner.needs_data else None)
    return [pruner.score(group, context) for group in _groups(model)]


def _measure(model: CompressedForSequenceClassification, generator: Generator) -> Scoring:
    """Two small batches of texts of several lengths, drawn by the generator, with labels to learn."""
    family = model.anatomy.model_type
    rows = Rows(tuple((text,) for text in sentences(8)), (0, 1) * 4, "tiny text")
    encoded = encode(rows, tiny_tokenizer(family), 16, token_types=True)
    losses = {"labels": Loss(cast(Distiller, load_catalogue().strategy("distiller", "labels")()))}
    return Scoring(model, encoded, collate(0), losses, None, 1.0, 4, (model.depth,), False, Run(), generator)
