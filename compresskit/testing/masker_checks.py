"""What every Masker must do, for a model of three layers of which one has lost some units already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from compresskit.interfaces import Factored, Masker, MaskModule, Masks, Sizes
from compresskit.testing.requirements import require

SIZES = Sizes(
    heads=(4, 4, 2),
    neurons=(16, 16, 8),
    head_size=8,
    hidden=32,
    factored=(Factored(12, 40, 32),),
)
STEPS = 40


def checks() -> Iterator[tuple[str, Callable[[Masker], None]]]:
    """Every check with its name."""
    for check in (masks_what_there_is, lists_its_parameters, foresees_no_more_than_there_is, draws_as_dropout_does):
        yield check.__name__, check


def masks_what_there_is(masker: Masker) -> None:
    """Factors between 0 and 1, one for each unit, in every pass of the first, a middle and the last step."""
    module = masker.build(SIZES)
    require(module.passes >= 1, type(masker), f"makes {module.passes} passes; at least one is needed")
    for number in range(module.passes):
        for step in (0, STEPS // 2, STEPS - 1):
            _fits(masker, module.masks(number, step, STEPS))
            penalty = module.penalty(step, STEPS)
            sound = penalty is None or (penalty.ndim == 0 and bool(torch.isfinite(penalty)))
            require(sound, type(masker), "has a penalty that is no finite scalar")
    module.eval()
    final = module.final()
    if final is not None:
        _fits(masker, final)
        left = [*final.ranks, *(() if final.hidden is None else (final.hidden,))]
        require(all(bool(one.any()) for one in left), type(masker), "leaves nothing of the model")


def lists_its_parameters(masker: Masker) -> None:
    """The optimizer moves what is in `groups`; a parameter that is in none would stand still."""
    module = masker.build(SIZES)
    listed = [parameter for group in module.groups() for parameter in group["params"]]
    same = {id(parameter) for parameter in listed} == {id(parameter) for parameter in module.parameters()}
    require(same and len(listed) == len(set(map(id, listed))), type(masker), "has groups that are not its parameters")
    require(all("lr" in group for group in module.groups()), type(masker), "has a group without a learning rate")


def foresees_no_more_than_there_is(masker: Masker) -> None:
    """What will be left, for a plan."""
    then = masker.foresee(SIZES)
    pairs = [*zip(then.heads, SIZES.heads, strict=True), *zip(then.neurons, SIZES.neurons, strict=True)]
    pairs += [(then.hidden, SIZES.hidden)]
    pairs += [(less.rank, more.rank) for less, more in zip(then.factored, SIZES.factored, strict=True)]
    require(all(0 <= less <= more for less, more in pairs), type(masker), f"foresees {then} of {SIZES}")


def draws_as_dropout_does(masker: Masker) -> None:
    """From torch's global generator: the same state gives the same masks, so that a stopped training can go on."""
    made = [_drawn(masker.build(SIZES)) for _ in range(2)]
    require(all(map(torch.equal, *made)), type(masker), "draws from somewhere else than torch's global generator")


def _drawn(module: MaskModule) -> list[Tensor]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(3)
        seen = [module.masks(number, step, STEPS) for step in (0, STEPS - 1) for number in range(module.passes)]
    return [torch.tensor(masks.layers) for masks in seen] + [
        factors for masks in seen for _, factors, _ in _factors(masks)
    ]


def _fits(masker: Masker, masks: Masks) -> None:
    require(not masks.layers or any(masks.layers), type(masker), "leaves no layer")
    depth = len(SIZES.heads)
    for name in ("layers", "heads", "neurons"):
        given: Sequence[object] = getattr(masks, name)
        require(len(given) in (0, depth), type(masker), f"masks {name} of {len(given)} layers; there are {depth}")
    there = len(SIZES.factored)
    require(len(masks.ranks) in (0, there), type(masker), f"masks {len(masks.ranks)} ranks; there are {there}")
    for name, factors, count in _factors(masks):
        require(factors.shape == (count,), type(masker), f"has {tuple(factors.shape)} factors for {count} of {name}")
        inside = bool((factors >= 0).all() and (factors <= 1).all())
        require(inside, type(masker), f"has factors of {name} that are not from 0 to 1")


def _factors(masks: Masks) -> Iterator[tuple[str, Tensor, int]]:
    depth = len(SIZES.heads)
    counts = {"attention": depth, "ffn": depth, "hidden": SIZES.hidden}
    for name in (field.name for field in fields(Masks)):
        value = getattr(masks, name)
        if name in counts and value is not None:
            yield name, value, counts[name]
        elif name in ("heads", "neurons"):
            yield from ((name, own, count) for own, count in zip(value, getattr(SIZES, name), strict=False))
        elif name == "ranks":
            yield from ((name, own, split.rank) for own, split in zip(value, SIZES.factored, strict=False))
