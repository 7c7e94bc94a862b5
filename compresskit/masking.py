"""Runs a model with parts of it masked: units, whole attentions and FFNs, layers, dimensions of the hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compresskit.anatomy import Anatomy, UnitTarget, find, head_size
from compresskit.cost import dims_of, sizes_of
from compresskit.edits import FactorizeMatrix
from compresskit.errors import SurgeryError
from compresskit.interfaces import Masks, Sizes
from compresskit.modules import FactorizedEmbedding, FactorizedLinear

if TYPE_CHECKING:
    from compresskit.model import CompressedForSequenceClassification as Model


def sizes(model: Model) -> Sizes:
    """What a Masker is told about the model."""
    return sizes_of(dims_of(model.anatomy, model.network.config), model.shape)


FACTORS = ("attention", "ffn", "heads", "neurons", "hidden", "ranks")
"""Fields of `Masks` that hold tensors."""


@contextmanager
def masked(model: Model, masks: Masks | None) -> Iterator[None]:
    """While it lasts, the model uses of itself what the masks say, but for `layers`, which the passes skip.

    Raises:
        SurgeryError: hidden states are masked of a family whose hidden states can't be cut.
    """
    check_maskable(model, masks)
    narrower = masks is not None and masks.hidden is not None and not bool(masks.hidden.all())
    hooks = [] if masks is None else list(_hooks(model, on(masks, model.device), narrower))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_maskable(model: Model, masks: Masks | None) -> None:
    """Refuse factors that would not act on all that they stand for.

    Raises:
        SurgeryError: hidden states are masked of a family whose hidden states can't be cut.
    """
    if masks is not None and masks.hidden is not None and model.anatomy.particulars is not None:
        raise SurgeryError(
            f"the hidden states of {model.anatomy.model_type} models run through more than heads and neurons and can't "
            "be masked; leave hidden out of the masks"
        )


def on(masks: Masks, device: torch.device) -> Masks:
    """The masks with their factors on a device, wherever the masker made them."""
    moved: dict[str, Any] = {
        name: tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)
        for name in FACTORS
        if (value := getattr(masks, name)) is not None
    }
    return replace(masks, **moved)


def runs(masks: Masks | None, index: int) -> bool:
    """Whether the layer at this 0-based position runs."""
    return masks is None or not masks.layers or masks.layers[index]


def alive(model: Model, masks: Masks | None) -> tuple[int, ...]:
    """Positions, among the layers that run, counted from 1, of those that add something to the hidden states."""
    shapes, masks = model.shape.layers, masks or Masks()
    attention = _open([layer.heads > 0 for layer in shapes], masks.attention, masks.heads)
    ffn = _open([layer.neurons > 0 for layer in shapes], masks.ffn, masks.neurons)
    running = [index for index in range(model.depth) if runs(masks, index)]
    return tuple(place for place, index in enumerate(running, start=1) if attention[index] or ffn[index])


def _open(there: Sequence[bool], whole: Tensor | None, units: Sequence[Tensor]) -> list[bool]:
    """For each layer, whether the attention or the FFN is there and something of it is not masked out."""
    some = torch.tensor(there)
    for factors in (whole, torch.stack([own.ne(0).any() for own in units]) if units else None):
        if factors is not None:
            some = some & factors.detach().ne(0).cpu()
    return some.tolist()


def factors_of(each: Sequence[Tensor], index: int) -> Tensor | None:
    """A layer's own factors, where there are any."""
    return each[index] if each else None


def reader(anatomy: Anatomy, target: UnitTarget) -> str:
    """Path inside a layer of the matrix that reads what the units put out: attention-out or ffn-out."""
    return next(piece.path for piece in anatomy.slices(target) if piece.dim == 1)


def factored(model: Model) -> list[FactorizedEmbedding | FactorizedLinear]:
    """The modules of what is two factors, in the order of `Shape.factored`."""
    found = []
    for split in model.shape.factored:
        root, path = model.network, model.anatomy.word_embeddings
        if isinstance(split, FactorizeMatrix):
            root, path = model.body[split.layer], model.anatomy.path(split.role)
        module = find(root, path)
        assert isinstance(module, (FactorizedEmbedding, FactorizedLinear))
        found.append(module)
    return found


def norms(module: nn.Module) -> list[nn.LayerNorm]:
    """Every layer norm in it, in order."""
    return [part for part in module.modules() if isinstance(part, nn.LayerNorm)]


def stream_start(model: Model) -> list[nn.Module]:
    """What the first hidden states come out of: the embeddings' norm, or the linear layer after it."""
    project = model.embeddings_project
    return [project] if project is not None else list(norms(find(model.network, model.anatomy.embeddings)))


def _hooks(model: Model, masks: Masks, narrower: bool) -> Iterator[RemovableHandle]:
    for index, layer in enumerate(model.body):
        yield from _unit_hooks(model.anatomy, layer, "heads", factors_of(masks.heads, index), masks.attention, index)
        yield from _unit_hooks(model.anatomy, layer, "neurons", factors_of(masks.neurons, index), masks.ffn, index)
    if masks.hidden is not None:
        for module in (*stream_start(model), *(norm for layer in model.body for norm in norms(layer))):
            hook = _narrow_norm if narrower and isinstance(module, nn.LayerNorm) else _scaled_output
            yield module.register_forward_hook(hook(masks.hidden))
    for module, factors in zip(factored(model), masks.ranks, strict=False):
        yield module.expand.register_forward_pre_hook(_scaled_input(factors))


def _unit_hooks(
    anatomy: Anatomy, layer: nn.Module, target: UnitTarget, units: Tensor | None, whole: Tensor | None, index: int
) -> Iterator[RemovableHandle]:
    out = find(layer, reader(anatomy, target))
    if units is not None:
        width = head_size(anatomy, layer) if target == "heads" else 1
        yield out.register_forward_pre_hook(_scaled_input(units.repeat_interleave(width)))
    if whole is not None:
        yield out.register_forward_hook(_scaled_output(whole[index]))


def _scaled_input(factors: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs[0] * factors.to(inputs[0].dtype), *inputs[1:]

    return hook


def _scaled_output(factors: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * factors.to(output.dtype)

    return hook


def _narrow_norm(factors: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    """The norm over the dimensions that are left, then the factors, as if the others had never been there."""
    left = (factors.detach() != 0).float()

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        assert isinstance(module, nn.LayerNorm)
        hidden = inputs[0].float()
        mean = (hidden * left).sum(-1, keepdim=True) / left.sum()
        away = (hidden - mean) * left
        spread = torch.rsqrt(away.square().sum(-1, keepdim=True) / left.sum() + module.eps)
        masked_norm: Tensor = (away * spread * module.weight + module.bias) * factors
        return masked_norm.to(output.dtype)

    return hook
