"""Makes a masked model one that needs no mask: factors go into the weights, and what is 0 is cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compresskit.anatomy import UnitTarget, find, head_size, layers
from compresskit.edits import CutHeads, CutHidden, CutLayers, CutNeurons, CutRank, Edit
from compresskit.errors import SurgeryError
from compresskit.interfaces import Masks
from compresskit.masking import FACTORS, alive, factors_of, norms, on, reader, stream_start
from compresskit.model import CompressedForSequenceClassification as Model
from compresskit.modules import FactorizedEmbedding
from compresskit.surgery import check_hidden, perform


def fold(model: Model, masks: Masks) -> tuple[Edit, ...]:
    """Put factors into the weights that they act on and cut what is 0, so that the model answers as it did masked.

    Returns:
        The cuts, which are done.

    Raises:
        SurgeryError: nothing would be left of the hidden states, or exits are made for those that would be cut.
    """
    edits: list[Edit] = []
    masks = on(masks, model.device)
    _check_fold(model, masks)
    with torch.no_grad():
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
        if masks.rank is not None:
            embedding = find(model.network, model.anatomy.word_embeddings)
            assert isinstance(embedding, FactorizedEmbedding)
            embedding.expand.weight.mul_(masks.rank)
    ways = ((CutHidden, masks.hidden), (CutRank, masks.rank))
    edits += [cut(_left(factors)) for cut, factors in ways if factors is not None and not bool(factors.all())]
    if masks.layers and not all(masks.layers):
        edits.append(CutLayers(tuple(index for index, runs in enumerate(masks.layers) if runs)))
    for edit in edits:
        perform(edit, model)
    return tuple(edits)


def _check_fold(model: Model, masks: Masks) -> None:
    if masks.hidden is not None and not bool(masks.hidden.all()):
        check_hidden(model, _left(masks.hidden))
    in_layers = [getattr(masks, name) for name in FACTORS if name != "rank"]
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
    out = reader(model.anatomy, layer, target)
    width = head_size(model.anatomy, layer) if target == "heads" else 1
    factors = out.weight.new_ones(out.in_features // width) if units is None else units
    if whole is not None:
        factors = factors * whole[index]
        if out.bias is not None:
            out.bias.mul_(whole[index])
    out.weight.mul_(factors.repeat_interleave(width))
    kept = _left(factors)
    return kept if len(kept) < len(factors) else None


def _left(factors: Tensor) -> tuple[int, ...]:
    return tuple(factors.nonzero().flatten().tolist())


def _scale_outputs(module: nn.Module, factors: Tensor) -> None:
    for parameter in (module.weight, module.bias):
        assert isinstance(parameter, nn.Parameter)
        parameter.mul_(factors if parameter.ndim == 1 else factors[:, None])
