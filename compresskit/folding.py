"""Makes a masked model one that needs no mask: factors go into the weights, and what is 0 is cut."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from compresskit.anatomy import UnitTarget, head_size, layers, linear
from compresskit.edits import (
    CutHeads,
    CutHidden,
    CutLayers,
    CutMatrixRank,
    CutNeurons,
    CutRank,
    Edit,
    FactorizeMatrix,
)
from compresskit.errors import SurgeryError
from compresskit.interfaces import Masks
from compresskit.masking import FACTORS, alive, check_maskable, factored, factors_of, norms, on, reader, stream_start
from compresskit.model import CompressedForSequenceClassification as Model
from compresskit.surgery import check_hidden, perform


def fold(model: Model, masks: Masks) -> tuple[Edit, ...]:
    """Put factors into the weights that they act on and cut what is 0, so that the model answers as it did masked.

    Returns:
        The cuts, which are done.

    Raises:
        SurgeryError: nothing would be left of the hidden states, exits are made for those that would be cut, or they
            are a family's that can't be.
    """
    edits: list[Edit] = []
    masks = on(masks, model.device)
    _check_fold(model, masks)
    with torch.no_grad():
        edits += _fold_ranks(model, masks)  # before units go, with the last of which factors go too
        for index in range(model.depth):
            heads = _fold_units(model, "heads", index, factors_of(masks.heads, index), masks.attention)
            neurons = _fold_units(model, "neurons", index, factors_of(masks.neurons, index), masks.ffn)
            edits += [CutHeads(index, heads)] if heads is not None else []
            edits += [CutNeurons(index, neurons)] if neurons is not None else []
        if masks.hidden is not None:
            for module in stream_start(model):
                _scale_outputs(module, masks.hidden)
            for layer in model.body:
                for norm in norms(layer):
                    _scale_outputs(norm, masks.hidden)
    if masks.hidden is not None and not bool(masks.hidden.all()):
        edits.append(CutHidden(_left(masks.hidden)))
    if masks.layers and not all(masks.layers):
        edits.append(CutLayers(tuple(index for index, runs in enumerate(masks.layers) if runs)))
    for edit in edits:
        perform(edit, model)
    return tuple(edits)


def _check_fold(model: Model, masks: Masks) -> None:
    check_maskable(model, masks)
    if masks.hidden is not None and not bool(masks.hidden.all()):
        check_hidden(model, _left(masks.hidden))
    in_layers = [getattr(masks, name) for name in FACTORS if name != "ranks"]
    in_layers += [masks.ranks] if any(isinstance(split, FactorizeMatrix) for split in model.shape.factored) else []
    if model.shape.owners and any(factors is not None and len(factors) for factors in in_layers):
        raise SurgeryError("layers share their weights, which would be scaled twice; mask before sharing")
    if not alive(model, masks):
        raise SurgeryError(
            "nothing would be left of any layer's attention or FFN; ask for less sparsity, or for gates that learn "
            "more slowly"
        )


def _fold_units(
    model: Model, target: UnitTarget, index: int, units: Tensor | None, whole: Tensor | None
) -> tuple[int, ...] | None:
    """The units that stay, or None where all do."""
    layer = layers(model.anatomy, model.network)[index]
    path = reader(model.anatomy, target)
    reads, writes = linear(layer, path, 1), linear(layer, path, 0)
    width = head_size(model.anatomy, layer) if target == "heads" else 1
    factors = reads.weight.new_ones(reads.in_features // width) if units is None else units
    if whole is not None:
        factors = factors * whole[index]
        if writes.bias is not None:
            writes.bias.mul_(whole[index])
    reads.weight.mul_(factors.repeat_interleave(width))
    kept = _left(factors)
    return kept if len(kept) < len(factors) else None


def _fold_ranks(model: Model, masks: Masks) -> Iterator[Edit]:
    for split, module, factors in zip(model.shape.factored, factored(model), masks.ranks, strict=False):
        module.expand.weight.mul_(factors)
        kept = _left(factors)
        if len(kept) < split.rank:
            if isinstance(split, FactorizeMatrix):
                yield CutMatrixRank(split.layer, split.role, kept)
            else:
                yield CutRank(kept)


def _left(factors: Tensor) -> tuple[int, ...]:
    return tuple(factors.nonzero().flatten().tolist())


def _scale_outputs(module: nn.Module, factors: Tensor) -> None:
    for parameter in (module.weight, module.bias):
        assert isinstance(parameter, nn.Parameter)
        parameter.mul_(factors if parameter.ndim == 1 else factors[:, None])
