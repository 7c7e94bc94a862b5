"""How a batch goes through the layers: to the end and recorded, or only as far as each example needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compresskit.anatomy import find, head_size
from compresskit.errors import PluginError
from compresskit.interfaces import ExitPolicy, ExitTrail, Masks, Projections, Trace
from compresskit.masking import runs
from compresskit.modules import scale_gradient

if TYPE_CHECKING:
    from compresskit.model import CompressedForSequenceClassification as Model


def run_through(
    model: Model,
    batch: Mapping[str, Tensor],
    exits: tuple[int, ...] | None,
    gradient_equilibrium: bool,
    masks: Masks | None = None,
) -> Trace:
    """Logits of the exits asked for, but for those of layers that are passed over, and every hidden state."""
    exits = model.exit_layers if exits is None else exits
    exits = tuple(number for number in exits if number == model.depth or runs(masks, number - 1))
    mask = batch["attention_mask"]
    state = model.embed(batch)
    attention = model.attention(state, mask)
    states = [state]
    logits: dict[int, Tensor] = {}
    signals: dict[int, Tensor] = {}
    for number, layer in enumerate(model.body, start=1):
        here = runs(masks, number - 1)
        if here:
            state = layer(state, attention)
        above = sum(1 for exit_ in exits if exit_ >= number)
        if gradient_equilibrium and above:
            state = scale_gradient(state, 1 / above)
        if here:
            states.append(state)
        if number in exits:
            logits[number], signal = model.answer(number, state, mask)
            signals |= {} if signal is None else {number: signal}
        if gradient_equilibrium and number < max(exits):
            # The layer below sees only the exits above it, so this one's share is taken out again.
            state = scale_gradient(state, above - (number in exits))
    return Trace(logits, tuple(states), mask, signals)


def leave_early(model: Model, batch: Mapping[str, Tensor], policy: ExitPolicy) -> tuple[Tensor, Tensor]:
    """Logits (batch, classes) and exits (batch,), each example answered where it left."""
    mask = batch["attention_mask"]
    alive = torch.arange(len(mask), device=mask.device)
    left = torch.full_like(alive, model.depth)
    answers: list[tuple[Tensor, Tensor]] = []
    history: list[Tensor] = []
    signals: list[Tensor] = []
    met: list[int] = []
    state = model.embed(batch)
    attention = model.attention(state, mask)
    for number, layer in enumerate(model.body, start=1):
        state = layer(state, attention)
        if number == model.depth:
            answers.append((alive, model.answer(number, state, mask)[0]))
            break
        if number not in model.shape.exits:
            continue
        said, signal = model.answer(number, state, mask)
        history.append(said)
        signals += [] if signal is None else [signal]
        met.append(number)
        leave = leavers(policy, ExitTrail(tuple(history), tuple(met), model.depth, tuple(signals)))
        if not bool(leave.any()):
            continue
        answers.append((alive[leave], history[-1][leave]))
        left[alive[leave]] = number
        stay = ~leave
        if not bool(stay.any()):
            break
        alive, mask, state = alive[stay], mask[stay], state[stay]
        history = [logits[stay] for logits in history]
        signals = [signal[stay] for signal in signals]
        # Padding that only leavers needed goes with them.
        longest = int(mask.any(0).nonzero().max()) + 1
        mask, state = mask[:, :longest], state[:, :longest]
        attention = model.attention(state, mask)
    logits = torch.cat([logits for _, logits in answers])
    order = torch.cat([rows for rows, _ in answers])
    return torch.empty_like(logits).index_copy(0, order, logits), left


def leavers(policy: ExitPolicy, trail: ExitTrail) -> Tensor:
    """What the policy answers, (alive,) bool.

    Raises:
        PluginError: it answers anything else, which would pick the wrong rows without a word.
    """
    leave = policy.leave(trail)
    alive = len(trail.logits[-1])
    if leave.dtype != torch.bool or leave.shape != (alive,):
        raise PluginError(
            f"exit policy '{policy.name}' must return {alive} truth values, not {leave.dtype} of shape "
            f"{tuple(leave.shape)}; correct its leave method"
        )
    return leave


@contextmanager
def overheard(model: Model, wanted: bool) -> Iterator[list[dict[str, Tensor]]]:
    """What the query, key and value matrices of each layer put out while it lasts; nothing where not wanted."""
    heard: list[dict[str, Tensor]] = [{} for _ in range(model.depth)] if wanted else []
    hooks = [
        find(layer, piece.path).register_forward_hook(partial(_note, notes, piece.role))
        for layer, notes in zip(model.body, heard, strict=False)
        for piece in model.anatomy.heads
        if piece.role in Projections._fields
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def split(model: Model, layer: nn.Module, notes: dict[str, Tensor], mask: Tensor) -> Projections:
    """(batch, tokens, heads * size) each to (batch, heads, tokens, size); without heads nothing was heard."""
    size = head_size(model.anatomy, layer)
    if not notes:
        nothing = torch.empty(len(mask), 0, mask.shape[1], size, device=mask.device)
        return Projections(nothing, nothing, nothing)
    parts = {role: whole.reshape(*whole.shape[:-1], -1, size).transpose(1, 2) for role, whole in notes.items()}
    return Projections(**parts)


def _note(notes: dict[str, Tensor], role: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    """A forward hook that keeps what a matrix puts out."""
    notes[role] = output
