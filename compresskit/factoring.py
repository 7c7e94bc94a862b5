"""Surgery on factors: a matrix or a table becomes two thin ones, and their rank is cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compresskit.anatomy import find
from compresskit.cuts import check_kept, cut_linear, own_layer, put
from compresskit.edits import CutMatrixRank, CutRank, FactorizeEmbedding, FactorizeMatrix, ProjectEmbeddings
from compresskit.errors import SurgeryError
from compresskit.model import CompressedForSequenceClassification as Model
from compresskit.modules import FactorizedEmbedding, FactorizedLinear


def factorize_embedding(model: Model, edit: FactorizeEmbedding, factors: tuple[Tensor, Tensor] | None) -> None:
    """Two factors in place of the word embedding."""
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


def project_embeddings(model: Model, edit: ProjectEmbeddings, factors: tuple[Tensor, Tensor] | None) -> None:
    """All tables and their norm in a small space, then a linear layer with bias (Lan et al. 2020, section 3.1).

    The function changes, because the norm works in the small space now. It begins close by: the word table is its left
    factor, the other tables are the nearest that the right factor can turn back, and the norm begins anew. The linear
    layer is the right factor with the old norm's gain and bias, scaled so that words come out as long as they did.
    """
    place, words = find(model.network, model.anatomy.embeddings), find(model.network, model.anatomy.word_embeddings)
    parts = list(place.named_modules())
    norms = [(path, part) for path, part in parts if isinstance(part, nn.LayerNorm)]
    if model.anatomy.particulars is not None:
        raise SurgeryError(
            f"the embeddings of {model.anatomy.model_type} models can't be projected; factorize the word table alone"
        )
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
            put(place, path, new.to(table.weight))
    put(place, norm_path, nn.LayerNorm(edit.rank, eps=norm.eps).to(norm.weight))
    put(model.network, model.anatomy.project, project.to(words.weight))


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


def factorize_matrix(model: Model, edit: FactorizeMatrix, factors: tuple[Tensor, Tensor] | None) -> None:
    """Two factors in place of a layer's matrix; its bias stays with the one that has its outputs."""
    old = _matrix(model, edit)
    whole = old.merged() if isinstance(old, FactorizedLinear) else old
    if edit.rank < 1:
        raise SurgeryError(
            f"rank {edit.rank} leaves nothing of {edit.role} of layer {edit.layer + 1}; ask for 1 or more"
        )
    new = FactorizedLinear(whole.in_features, edit.rank, whole.out_features, whole.bias is not None)
    new = new.to(whole.weight)
    with torch.no_grad():
        if whole.bias is not None:
            new.expand.bias.copy_(whole.bias)
        if factors is not None:
            new.expand.weight.copy_(factors[0])
            new.reduce.weight.copy_(factors[1])
    put(model.body[edit.layer], model.anatomy.path(edit.role), new)


def cut_rank(model: Model, edit: CutRank) -> None:
    """Keep some of the numbers between the factors of the word embedding."""
    module = find(model.network, model.anatomy.word_embeddings)
    if not isinstance(module, FactorizedEmbedding):
        raise SurgeryError("the word embedding is one table and has no rank to cut; factorize it first")
    check_kept("rank of the word embedding", edit.keep, module.expand.in_features)
    kept = torch.tensor(edit.keep, device=module.table.weight.device)
    module.table.weight = nn.Parameter(module.table.weight.detach()[:, kept])
    module.table.embedding_dim = len(edit.keep)
    cut_linear(module.expand, 1, kept)


def cut_matrix_rank(model: Model, edit: CutMatrixRank) -> None:
    """Keep some of the numbers between the factors of a layer's matrix."""
    module, what = _matrix(model, edit), f"{edit.role} of layer {edit.layer + 1}"
    if not isinstance(module, FactorizedLinear):
        raise SurgeryError(f"{what} is one matrix and has no rank to cut; factorize it first")
    check_kept(f"rank of {what}", edit.keep, module.expand.in_features)
    kept = torch.tensor(edit.keep)
    cut_linear(module.reduce, 0, kept)
    cut_linear(module.expand, 1, kept)


def _matrix(model: Model, edit: FactorizeMatrix | CutMatrixRank) -> nn.Linear | FactorizedLinear:
    """The module that an edit names.

    Raises:
        SurgeryError: there is no such layer, or it shares its weights.
    """
    found = find(own_layer(model, edit.layer, edit.role), model.anatomy.path(edit.role))
    assert isinstance(found, (nn.Linear, FactorizedLinear))
    return found


def matrix(model: Model, edit: FactorizeMatrix) -> Tensor:
    """The (outputs, inputs) matrix that an edit names, multiplied out where it is in factors already."""
    module = _matrix(model, edit)
    return (module.product() if isinstance(module, FactorizedLinear) else module.weight).detach()


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


def _check_rank(rank: int, size: int) -> None:
    if not 1 <= rank <= size:
        raise SurgeryError(f"rank {rank} is not between 1 and the embedding's size {size}; ask for a rank in between")
