"""What every Pruner must do, on the groups of tiny models of every architecture in the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Generator, Tensor, nn

from compresskit.anatomy import Group, UnitTarget, groups
from compresskit.catalogue import load_catalogue
from compresskit.edits import CutHeads, CutNeurons
from compresskit.interfaces import Pruner
from compresskit.model import CompressedForSequenceClassification, wrap
from compresskit.scoring import ScoreContext, Sums
from compresskit.surgery import perform
from compresskit.testing.models import tiny_model
from compresskit.testing.requirements import other_luck, require, same

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
    measure = partial(_gradients, model) if pruner.needs_data else None
    context = ScoreContext(Generator().manual_seed(0), measure)
    return [pruner.score(group, context) for group in _groups(model)]


def _gradients(model: CompressedForSequenceClassification) -> tuple[Sums, Sums]:
    """Signed and absolute sums of the gradients of two small batches, by the id of the weight."""
    weights = [cast(nn.Parameter, member.linear.weight) for group in _groups(model) for member in group.members]
    draw = Generator().manual_seed(3)
    each = []
    for _ in range(2):
        ids = torch.randint(5, model.network.config.vocab_size, (4, 7), generator=draw)
        batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
        labels = torch.randint(2, (4,), generator=draw)
        each.append(torch.autograd.grad(nn.functional.cross_entropy(model.trace(batch).last, labels), weights))
    signed = {id(weight): torch.stack(parts).sum(0) for weight, *parts in zip(weights, *each, strict=True)}
    absolute = {id(weight): torch.stack(parts).abs().sum(0) for weight, *parts in zip(weights, *each, strict=True)}
    return signed, absolute
