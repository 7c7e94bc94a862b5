"""The only way in which a model's shape changes. Strategies decide what to cut; `perform` cuts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compresskit import factoring
from compresskit.anatomy import Anatomy, UnitTarget, entries, find, head_size, layers, linear
from compresskit.cuts import check_kept, cut_linear, cut_norm, own_layer, put
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutHidden,
    CutLayers,
    CutMatrixRank,
    CutNeurons,
    CutRank,
    Edit,
    FactorizeEmbedding,
    FactorizeMatrix,
    OrderUnits,
    ProjectEmbeddings,
    Shape,
    ShareLayers,
)
from compresskit.errors import SurgeryError
from compresskit.interfaces import ExitHead
from compresskit.masking import norms
from compresskit.model import CompressedForSequenceClassification as Model
from compresskit.modules import FactorizedEmbedding, FactorizedLinear, NoHeads


def perform(edit: Edit, model: Model, factors: tuple[Tensor, Tensor] | None = None) -> None:
    """Do to the model what the edit says, and note the new shape in the model and its config.

    Args:
        edit: what to do.
        model: changed in place.
        factors: for an edit that factorizes: (V, R) and (R, H) of the word embedding, (outputs, R) and (R, inputs) of a
            layer's matrix; random numbers, to be loaded over, where None.

    Raises:
        SurgeryError: the edit does not fit the model or would leave nothing of it.
    """
    if isinstance(edit, (FactorizeEmbedding, FactorizeMatrix, ProjectEmbeddings)):
        SPLIT[type(edit)](model, edit, factors)
    else:
        HOW[type(edit)](model, edit)
    model.train(model.training)  # new parts begin in train mode, whatever the model is in
    model.shape = model.shape.after(edit)
    if isinstance(edit, ShareLayers):
        # Parameters become one, modules stay apart, as hooks listen to each. In `from_pretrained` it is put off: there
        # transformers ties when the weights are loaded, and tells by what is not tied yet which of them are missing.
        model.tie_weights()
    model.sync_config()


def reshape(model: Model, shape: Shape) -> None:
    """Give an untouched model this shape. What its weights are does not matter: they are loaded next."""
    if len(shape.layers) < len(model.shape.layers):
        perform(CutLayers(tuple(range(len(shape.layers)))), model)
    for index, (now, then) in enumerate(zip(model.shape.layers, shape.layers, strict=True)):
        if then.heads != now.heads:
            perform(CutHeads(index, tuple(range(then.heads))), model)
        if then.neurons != now.neurons:
            perform(CutNeurons(index, tuple(range(then.neurons))), model)
    for split in shape.factored:
        perform(split, model)
    if shape.embedding is not None:
        perform(ProjectEmbeddings(shape.embedding), model)
    if shape.hidden is not None:
        perform(CutHidden(tuple(range(shape.hidden))), model)
    if shape.owners:
        perform(ShareLayers(shape.owners, "first"), model)
    if shape.exits and shape.head:
        perform(AddExits(shape.exits, shape.head, shape.read_out), model)


def _cut_units(model: Model, target: UnitTarget, index: int, keep: Sequence[int]) -> None:
    layer, now = own_layer(model, index, target), getattr(model.shape.layers[index], target)
    if keep:
        check_kept(f"{target} of layer {index + 1}", keep, now)
    for path in () if keep else [piece.path for piece in model.anatomy.slices(target)]:
        if isinstance(split := find(layer, path), FactorizedLinear):
            put(layer, path, split.merged())  # of nothing there are no factors
    width = _choose_units(model.anatomy, layer, target, keep)
    if target == "heads" and model.anatomy.head_count is not None:
        path, _, name = model.anatomy.head_count.rpartition(".")
        owner = find(layer, path)
        setattr(owner, name, len(keep))
        if hasattr(owner, "all_head_size"):
            setattr(owner, "all_head_size", len(keep) * width)  # noqa: B010 - mypy takes the attribute for a Module
    if target == "heads" and not keep:
        _remove_attention(model.anatomy, layer)


def _order_units(model: Model, edit: OrderUnits) -> None:
    layer, now = own_layer(model, edit.layer, edit.target), getattr(model.shape.layers[edit.layer], edit.target)
    if sorted(edit.order) != list(range(now)):
        raise SurgeryError(
            f"{list(edit.order)} does not put the {now} {edit.target} of layer {edit.layer + 1} in order; "
            f"name each from 0 to {now - 1} once"
        )
    _choose_units(model.anatomy, layer, edit.target, edit.order)


def _choose_units(anatomy: Anatomy, layer: nn.Module, target: UnitTarget, chosen: Sequence[int]) -> int:
    """Take these units alone, in this order; returns the width of one."""
    width = head_size(anatomy, layer) if target == "heads" else 1
    for piece in anatomy.slices(target):
        cut_linear(linear(layer, piece.path, piece.dim), piece.dim, entries(chosen, width))
    return width


def _remove_attention(anatomy: Anatomy, layer: nn.Module) -> None:
    """Transformers' own attention can't split nothing into heads."""
    path, _, name = anatomy.head_size.rpartition(".")
    parent, _, place = path.rpartition(".")
    old, out = find(layer, path), next(piece.path for piece in anatomy.heads if piece.dim == 1)
    new = NoHeads(old, out.removeprefix(f"{path}.") if out.startswith(f"{path}.") else None)
    for kept in {name, (anatomy.head_count or "").rpartition(".")[2]} - {""}:
        setattr(new, kept, getattr(old, kept))
    setattr(find(layer, parent), place, new)


def _cut_layers(model: Model, edit: CutLayers) -> None:
    check_kept("layers", edit.keep, model.depth)
    last = model.depth
    parent, _, name = model.anatomy.layers.rpartition(".")
    body = layers(model.anatomy, model.network)
    setattr(find(model.network, parent), name, nn.ModuleList(body[old] for old in edit.keep))
    heads = {new: str(old + 1) for new, old in enumerate(edit.keep, start=1) if str(old + 1) in model.exits}
    # Some head must answer at the new last layer: the original read-out where it is kept, else the old last head.
    if model.shape.read_out:
        heads.pop(len(edit.keep), None)
    elif str(last) in model.exits:
        heads.setdefault(len(edit.keep), str(last))
    model.exits = nn.ModuleDict({str(new): model.exits[old] for new, old in heads.items()})


def _cut_hidden(model: Model, keep: Sequence[int]) -> None:
    """Every matrix, table and norm that writes hidden states or reads them, from the embeddings to the read-out."""
    check_hidden(model, keep)
    kept = torch.tensor(keep)
    if model.embeddings_project is None:
        _cut_tables(find(model.network, model.anatomy.embeddings), kept)
    else:
        cut_linear(model.embeddings_project, 0, kept)
    for layer in model.body:
        for piece in (*model.anatomy.heads, *model.anatomy.neurons):
            across: Literal[0, 1] = 0 if piece.dim == 1 else 1
            cut_linear(linear(layer, piece.path, across), across, kept)
        for norm in norms(layer):
            cut_norm(norm, kept)
    if model.shape.read_out:
        first = (
            part
            for path in model.anatomy.read_out
            if not path.startswith(":")
            for part in find(model.network, path).modules()
        )
        cut_linear(next(part for part in first if isinstance(part, nn.Linear)), 1, kept)


def check_hidden(model: Model, keep: Sequence[int]) -> None:
    """Whether these dimensions of the hidden states can be what stays.

    Raises:
        SurgeryError: something is in the way, or nothing would be left.
    """
    if model.shape.exits:
        raise SurgeryError("the exits are made for hidden states of this width; cut them before the exits are put in")
    if model.shape.owners:
        raise SurgeryError("layers share their weights, which would be cut twice; cut the hidden states before sharing")
    if model.anatomy.particulars is not None:
        raise SurgeryError(
            f"the hidden states of {model.anatomy.model_type} models run through more than heads and neurons and can't "
            "be cut; leave them whole"
        )
    check_kept("dimensions of the hidden states", keep, model.hidden_size)


def _cut_tables(embeddings: nn.Module, kept: Tensor) -> None:
    thin = {part.table for part in embeddings.modules() if isinstance(part, FactorizedEmbedding)}
    for part in embeddings.modules():
        if isinstance(part, nn.Embedding) and part not in thin:
            part.weight = nn.Parameter(part.weight.detach()[:, kept.to(part.weight.device)])
            part.embedding_dim = len(kept)
        elif isinstance(part, FactorizedEmbedding):
            cut_linear(part.expand, 0, kept)
        elif isinstance(part, nn.LayerNorm):
            cut_norm(part, kept)


def _share_layers(model: Model, edit: ShareLayers) -> None:
    """Give each owner the weights to begin with."""
    _check_owners(model, edit.owners)
    body = layers(model.anatomy, model.network)
    for owner in sorted(set(edit.owners)) if edit.start == "mean" else ():
        sharing = [body[layer] for layer, own in enumerate(edit.owners) if own == owner]
        for path, weight in body[owner].named_parameters():
            # In double precision the mean of equal weights is the weight itself, to the last bit.
            mean = torch.stack([layer.get_parameter(path).detach().double() for layer in sharing]).mean(0)
            with torch.no_grad():
                weight.copy_(mean)


def _check_owners(model: Model, owners: Sequence[int]) -> None:
    if model.shape.owners:
        raise SurgeryError("the layers share weights already; share those of the original instead")
    owned = all(0 <= owner <= layer and owners[owner] == owner for layer, owner in enumerate(owners))
    if len(owners) != model.depth or not owned:
        raise SurgeryError(
            f"owners {list(owners)} must name for each of the {model.depth} layers itself, or an earlier layer that "
            "owns its weights; correct the list"
        )
    for layer, owner in enumerate(owners):
        if model.shape.layers[layer] != model.shape.layers[owner]:
            raise SurgeryError(
                f"layers {owner + 1} and {layer + 1} have different sizes and can't share weights; "
                "share before pruning, or keep equal numbers"
            )


def _add_exits(model: Model, edit: AddExits) -> None:
    rising = list(edit.layers) == sorted(set(edit.layers))
    if not edit.layers or not rising or edit.layers[0] < 1 or edit.layers[-1] != model.depth:
        raise SurgeryError(
            f"exits {list(edit.layers)} must be different layers in rising order, from 1 up, "
            f"the last of them the model's last, {model.depth}; correct the list"
        )
    if edit.read_out and not model.shape.read_out:
        raise SurgeryError(
            "the original's read-out was removed from this model and can't answer at the last layer; "
            "put an exit head there too"
        )
    size = model.hidden_size
    inner = model.network.config
    dropout = getattr(inner, "hidden_dropout_prob", getattr(inner, "dropout", 0.1))
    sizes = size, model.config.num_labels, dropout
    own = edit.layers[:-1] if edit.read_out else edit.layers
    model.exits = nn.ModuleDict({str(number): _begin(edit.head.build(*sizes), edit.head, model) for number in own})
    shared = edit.head.build_shared(*sizes)
    model.exits_share = None if shared is None else _begin(shared, edit.head, model)
    if not edit.read_out:
        for part in model.anatomy.read_out:
            if not part.startswith(":"):
                parent, _, name = part.rpartition(".")
                setattr(find(model.network, parent), name, None)


def _begin(module: nn.Module, head: ExitHead, model: Model) -> nn.Module:
    """Draw a new head's weights as the original's config says, or copy its pooler."""
    spread = getattr(model.network.config, "initializer_range", 0.02)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=spread)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    ours, theirs = head.pooler_of(module), _pooler(model)
    if ours is not None and theirs is not None:
        ours.load_state_dict(theirs.state_dict())
    like = next(model.network.parameters())
    return module.to(device=like.device, dtype=like.dtype)


def _pooler(model: Model) -> nn.Linear | None:
    """The dense layer of the original's read-out that is as wide as the hidden states, where it is still there."""
    width = model.hidden_size
    for part in model.anatomy.read_out if model.shape.read_out else ():
        for module in () if part.startswith(":") else find(model.network, part).modules():
            if isinstance(module, nn.Linear) and (module.in_features, module.out_features) == (width, width):
                return module
    return None


HOW: Mapping[type[Edit], Callable[[Model, Any], None]] = {
    CutHeads: lambda model, edit: _cut_units(model, "heads", edit.layer, edit.keep),
    CutNeurons: lambda model, edit: _cut_units(model, "neurons", edit.layer, edit.keep),
    OrderUnits: _order_units,
    CutLayers: _cut_layers,
    ShareLayers: _share_layers,
    CutHidden: lambda model, edit: _cut_hidden(model, edit.keep),
    CutRank: factoring.cut_rank,
    CutMatrixRank: factoring.cut_matrix_rank,
    AddExits: _add_exits,
}
"""Who performs an edit that needs nothing but the model."""

SPLIT: Mapping[type[Edit], Callable[[Model, Any, tuple[Tensor, Tensor] | None], None]] = {
    FactorizeEmbedding: factoring.factorize_embedding,
    FactorizeMatrix: factoring.factorize_matrix,
    ProjectEmbeddings: factoring.project_embeddings,
}
"""Who performs an edit that needs factors too."""
