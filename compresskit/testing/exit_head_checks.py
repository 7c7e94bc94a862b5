"""What every ExitHead must do, on hidden states of four texts of different lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compresskit.interfaces import ExitHead
from compresskit.testing.requirements import like, require, same

LENGTHS = (6, 4, 2, 5)
"""Tokens of the four texts."""

TOKENS, SIZE = 6, 16
NEAR = 1e-5


def checks() -> Iterator[tuple[str, Callable[[ExitHead], None]]]:
    """Every check with its name."""
    for check in (answers_every_text, ignores_padding, counts_its_work, has_its_pooler_inside):
        yield check.__name__, check


def answers_every_text(head: ExitHead) -> None:
    """Finite (batch, classes) logits for one, two and three classes, and (batch,) signals where there are any."""
    for classes in (1, 2, 3):
        logits, signal = _ask(head, _built(head, classes), _hidden(), _mask())
        sound = tuple(logits.shape) == (len(LENGTHS), classes) and bool(torch.isfinite(logits).all())
        require(sound, type(head), f"answers {tuple(logits.shape)} for {len(LENGTHS)} texts and {classes} classes")
        if signal is not None:
            fits = tuple(signal.shape) == (len(LENGTHS),)
            require(fits, type(head), f"has a signal of shape {tuple(signal.shape)}; one number for each text")


def ignores_padding(head: ExitHead) -> None:
    """Whatever is in it and however long it is, and whatever texts are beside."""
    parts = _built(head, 2)
    hidden, mask = _hidden(), _mask()
    logits, _ = _ask(head, parts, hidden, mask)
    other, _ = _ask(head, parts, torch.where(mask.bool()[:, :, None], hidden, 99.0), mask)
    require(_near(logits, other), type(head), "answers otherwise when something else is in the padding")
    for row, length in enumerate(LENGTHS):
        alone, _ = _ask(head, parts, hidden[row : row + 1, :length], mask[row : row + 1, :length])
        require(_near(alone[0], logits[row]), type(head), "answers otherwise for a text alone and without padding")


def counts_its_work(head: ExitHead) -> None:
    """`macs` is what torch counts in products with weight matrices."""
    for classes, tokens in ((2, 6), (3, 4)):
        parts = _built(head, classes)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _ask(head, parts, _hidden()[:1, :tokens], torch.ones(1, tokens))
        weights = {
            operation: flops
            for operation, flops in counter.get_flop_counts()["Global"].items()
            if _is_weights(operation)
        }
        counted = sum(weights.values()) // 2
        said = head.macs(SIZE, classes, tokens)
        require(said == counted, type(head), f"says {said} multiply-accumulates, but torch counts {counted}")


def has_its_pooler_inside(head: ExitHead) -> None:
    """What begins as a copy of the original's pooler is a square layer of the module, or of what is shared."""
    for module in _built(head, 2):
        pooler = head.pooler_of(module)
        if pooler is not None:
            inside = any(part is pooler for part in module.modules())
            square = (pooler.in_features, pooler.out_features) == (SIZE, SIZE)
            require(inside and square, type(head), "names a pooler that is no square layer of its module")


def _built(head: ExitHead, classes: int) -> list[nn.Module]:
    """The module of an exit, and that of all exits where there is one, in eval mode."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        made = [head.build(SIZE, classes, 0.1), head.build_shared(SIZE, classes, 0.1)]
    return [module.eval() for module in made if module is not None]


def _ask(head: ExitHead, parts: list[nn.Module], hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    said: Any = parts[0](hidden, mask, *parts[1:])
    pair = isinstance(said, tuple)
    require(pair == head.signals, type(head), f"has signals = {head.signals}, but its module says otherwise")
    return said if pair else (said, None)


def _hidden() -> Tensor:
    return like((len(LENGTHS), TOKENS, SIZE), seed=1)


def _mask() -> Tensor:
    return (torch.arange(TOKENS)[None] < torch.tensor(LENGTHS)[:, None]).long()


def _near(one: Tensor, other: Tensor) -> bool:
    return same(one, other) or bool((one - other).abs().max() <= NEAR)


def _is_weights(operation: Any) -> bool:
    """Products of activations alone, as attention has them, are batched."""
    return "bmm" not in str(operation) and "attention" not in str(operation)
