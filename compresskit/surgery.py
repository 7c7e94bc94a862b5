"""The only file that changes a model's shape. Strategies decide what to cut; `perform` cuts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compresskit.anatomy import Anatomy, UnitTarget, entries, find, head_size, layers, linear
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutHidden,
    CutLayers,
    CutNeurons,
    CutRank,
    Edit,
    FactorizeEmbedding,
    OrderUnits,
    ProjectEmbeddings,
    Shape,
    ShareLayers,
)
from compresskit.errors import SurgeryError
from compresskit.interfaces import ExitHead
from compresskit.masking import norms
from compresskit.model import CompressedForSequenceClassification as Model
from compresskit.modules import FactorizedEmbedding, NoHeads


def perform(edit: Edit, model: Model, factors: tuple[Tensor, Tensor] | None = None) -> None:
    """Do to the model what the edit says, and note the new shape in the model and its config.

    Args:
        edit: what to do.
        model: changed in place.
        factors: (V, R) and (R, H) of the word embedding for a `FactorizeEmbedding` or a `ProjectEmbeddings`; random
            numbers, to be loaded over, where None.

    Raises:
        SurgeryError: the edit does not fit the model or would leave nothing of it.
    """
    if isinstance(edit, FactorizeEmbedding):
        _factorize_embedding(model, edit, factors)
    elif isinstance(edit, ProjectEmbeddings):
        _project_embeddings(model, edit, factors)
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
    if shape.rank is not None:
        perform(FactorizeEmbedding(shape.rank), model)
    if shape.embedding is not None:
        perform(ProjectEmbeddings(shape.embedding), model)
    if shape.hidden is not None:
        perform(CutHidden(tuple(range(shape.hidden))), model)
    if shape.owners:
        perform(ShareLayers(shape.owners, "first"), model)
    if shape.exits and shape.head:
        perform(AddExits(shape.exits, shape.head, shape.read_out), model)


def _cut_units(model: Model, target: UnitTarget, index: int, keep: Sequence[int]) -> None:
    layer, now = _units(model, target, index)
    if keep:
        _check_kept(f"{target} of layer {index + 1}", keep, now)
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
    layer, now = _units(model, edit.target, edit.layer)
    if sorted(edit.order) != list(range(now)):
        raise SurgeryError(
            f"{list(edit.order)} does not put the {now} {edit.target} of layer {edit.layer + 1} in order; "
            f"name each from 0 to {now - 1} once"
        )
    _choose_units(model.anatomy, layer, edit.target, edit.order)


def _units(model: Model, target: UnitTarget, index: int) -> tuple[nn.Module, int]:
    """A layer, and how many units of a kind it has.

    Raises:
        SurgeryError: there is no such layer, or it shares its weights.
    """
    if not 0 <= index < model.depth:
        raise SurgeryError(
            f"there is no layer {index + 1} to cut {target} from; give the number of one of the {model.depth} layers"
        )
    if model.shape.owners:
        raise SurgeryError(
            f"layers share their weights, so {target} of layer {index + 1} can't be cut alone; cut before sharing"
        )
    return layers(model.anatomy, model.network)[index], getattr(model.shape.layers[index], target)


def _choose_units(anatomy: Anatomy, layer: nn.Module, target: UnitTarget, chosen: Sequence[int]) -> int:
    """Take these units alone, in this order; returns the width of one."""
    width = head_size(anatomy, layer) if target == "heads" else 1
    for piece in anatomy.slices(target):
        _cut_linear(linear(layer, piece.path), piece.dim, entries(chosen, width))
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


def _cut_linear(module: nn.Linear, dim: int, kept: Tensor) -> None:
    """Keep these entries of an axis. Outputs (axis 0) take their bias with them; inputs leave the bias whole."""
    kept = kept.to(module.weight.device)
    with torch.no_grad():
        module.weight = nn.Parameter(module.weight.index_select(dim, kept))
        if dim == 0 and module.bias is not None:
            module.bias = nn.Parameter(module.bias.index_select(0, kept))
    module.out_features, module.in_features = module.weight.shape


def _cut_layers(model: Model, edit: CutLayers) -> None:
    _check_kept("layers", edit.keep, model.depth)
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
        _cut_linear(model.embeddings_project, 0, kept)
    for layer in model.body:
        for piece in (*model.anatomy.heads, *model.anatomy.neurons):
            _cut_linear(linear(layer, piece.path), 1 - piece.dim, kept)
        for norm in norms(layer):
            _cut_norm(norm, kept)
    if model.shape.read_out:
        first = (
            part
            for path in model.anatomy.read_out
            if not path.startswith(":")
            for part in find(model.network, path).modules()
        )
        _cut_linear(next(part for part in first if isinstance(part, nn.Linear)), 1, kept)


def check_hidden(model: Model, keep: Sequence[int]) -> None:
    """Whether these dimensions of the hidden states can be what stays.

    Raises:
        SurgeryError: something is in the way, or nothing would be left.
    """
    if model.shape.exits:
        raise SurgeryError("the exits are made for hidden states of this width; cut them before the exits are put in")
    if model.shape.owners:
        raise SurgeryError("layers share their weights, which would be cut twice; cut the hidden states before sharing")
    _check_kept("dimensions of the hidden states", keep, model.hidden_size)


def _cut_tables(embeddings: nn.Module, kept: Tensor) -> None:
    thin = {part.table for part in embeddings.modules() if isinstance(part, FactorizedEmbedding)}
    for part in embeddings.modules():
        if isinstance(part, nn.Embedding) and part not in thin:
            part.weight = nn.Parameter(part.weight.detach()[:, kept.to(part.weight.device)])
            part.embedding_dim = len(kept)
        elif isinstance(part, FactorizedEmbedding):
            _cut_linear(part.expand, 0, kept)
        elif isinstance(part, nn.LayerNorm):
            _cut_norm(part, kept)


def _cut_norm(norm: nn.LayerNorm, kept: Tensor) -> None:
    kept = kept.to(norm.weight.device)
    norm.weight, norm.bias = (nn.Parameter(weight.detach()[kept]) for weight in (norm.weight, norm.bias))
    norm.normalized_shape = (len(kept),)


def _cut_rank(model: Model, keep: Sequence[int]) -> None:
    module = find(model.network, model.anatomy.word_embeddings)
    if not isinstance(module, FactorizedEmbedding):
        raise SurgeryError("the word embedding is one table and has no rank to cut; factorize it first")
    _check_kept("rank of the word embedding", keep, module.expand.in_features)
    kept = torch.tensor(keep, device=module.table.weight.device)
    module.table.weight = nn.Parameter(module.table.weight.detach()[:, kept])
    module.table.embedding_dim = len(keep)
    _cut_linear(module.expand, 1, kept)


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
                f"layers {owner + 1} and {layer + 1} have different numbers of heads or neurons and can't share "
                "weights; share before pruning, or keep equal numbers"
            )


def _factorize_embedding(model: Model, edit: FactorizeEmbedding, factors: tuple[Tensor, Tensor] | None) -> None:
    parent, _, name = model.anatomy.word_embeddings.rpartition(".")
    owner = find(model.network, parent)
    old = getattr(owner, name)
    table = old.table if isinstance(old, FactorizedEmbedding) else old
    words, size = table.weight.shape[0], word_embedding_size(model)
    if model.shape.embedding is not None:
        raise SurgeryError("the embeddings are projected from a small space already; leave this step out")
    _check_rank(edit.rank, size)
    new = FactorizedEmbedding(words, edit.rank, size, table.padding_idx)
    new = new.to(device=table.weight.device, dtype=table.weight.dtype)
    if factors is not None:
        with torch.no_grad():
            new.table.weight.copy_(factors[0])
            new.expand.weight.copy_(factors[1].t())
    setattr(owner, name, new)


def _project_embeddings(model: Model, edit: ProjectEmbeddings, factors: tuple[Tensor, Tensor] | None) -> None:
    """All tables and their norm in a small space, then a linear layer with bias (Lan et al. 2020, section 3.1).

    The function changes, because the norm works in the small space now. It begins close by: the word table is its left
    factor, the other tables are the nearest that the right factor can turn back, and the norm begins anew. The linear
    layer is the right factor with the old norm's gain and bias, scaled so that words come out as long as they did.
    """
    place, words = find(model.network, model.anatomy.embeddings), find(model.network, model.anatomy.word_embeddings)
    parts = list(place.named_modules())
    norms = [(path, part) for path, part in parts if isinstance(part, nn.LayerNorm)]
    if isinstance(words, FactorizedEmbedding) or len(norms) != 1:
        reason = "have no layer norm of their own" if len(norms) != 1 else "are two factors already"
        raise SurgeryError(f"the embeddings {reason} and can't be projected; leave this step out")
    ((norm_path, norm),) = norms
    assert isinstance(words, nn.Embedding)
    _check_rank(edit.rank, words.embedding_dim)
    old = model.embeddings_project
    project = nn.Linear(edit.rank, model.hidden_size)
    if factors is not None:
        _begin_projection(project, words, norm, old, factors)
    for path, table in parts:
        if isinstance(table, nn.Embedding):
            new = nn.Embedding(table.num_embeddings, edit.rank, table.padding_idx)
            if factors is not None:
                with torch.no_grad():
                    back = torch.linalg.pinv(factors[1].double()).to(table.weight.dtype)
                    new.weight.copy_(factors[0] if table is words else table.weight @ back)
            _put(place, path, new.to(table.weight))
    _put(place, norm_path, nn.LayerNorm(edit.rank, eps=norm.eps).to(norm.weight))
    _put(model.network, model.anatomy.project, project.to(words.weight))


def _begin_projection(
    project: nn.Linear, words: nn.Embedding, norm: nn.LayerNorm, old: nn.Linear | None, factors: tuple[Tensor, Tensor]
) -> None:
    left, right = factors
    with torch.no_grad():
        # A norm divides by the size of the numbers that it meets: now of those in the small table, before in the large.
        scale = (left.square().mean() / words.weight.square().mean()).sqrt()
        weight, bias = scale * norm.weight[:, None] * right.t(), norm.bias
        if old is not None:
            weight, bias = old.weight @ weight, old(bias)
        project.weight.copy_(weight)
        project.bias.copy_(bias)


def _put(root: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(find(root, parent), name, new)


def _check_rank(rank: int, size: int) -> None:
    if not 1 <= rank <= size:
        raise SurgeryError(f"rank {rank} is not between 1 and the embedding's size {size}; ask for a rank in between")


def word_embedding(model: Model) -> Tensor:
    """The (V, H) word embedding, multiplied out where it is in factors already."""
    module = find(model.network, model.anatomy.word_embeddings)
    if isinstance(module, FactorizedEmbedding):
        return module.product().detach()
    assert isinstance(module, nn.Embedding)
    return module.weight.detach()


def word_embedding_size(model: Model) -> int:
    """Dimensions of one word's vector, whatever the rank."""
    module = find(model.network, model.anatomy.word_embeddings)
    if isinstance(module, FactorizedEmbedding):
        return module.expand.out_features
    assert isinstance(module, nn.Embedding)
    return module.embedding_dim


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


def _check_kept(what: str, keep: Sequence[int], now: int) -> None:
    if not keep:
        raise SurgeryError(f"nothing would be left of the {what}; keep at least one of {now}")
    if list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= now:
        raise SurgeryError(
            f"cannot keep {list(keep)} of the {now} {what}; give different numbers from 0 to {now - 1}, rising"
        )


HOW: Mapping[type[Edit], Callable[[Model, Any], None]] = {
    CutHeads: lambda model, edit: _cut_units(model, "heads", edit.layer, edit.keep),
    CutNeurons: lambda model, edit: _cut_units(model, "neurons", edit.layer, edit.keep),
    OrderUnits: _order_units,
    CutLayers: _cut_layers,
    ShareLayers: _share_layers,
    CutHidden: lambda model, edit: _cut_hidden(model, edit.keep),
    CutRank: lambda model, edit: _cut_rank(model, edit.keep),
    AddExits: _add_exits,
}
"""Who performs an edit that needs nothing but the model."""
