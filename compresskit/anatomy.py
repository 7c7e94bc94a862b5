"""Where an architecture keeps its parts. The only file with index arithmetic on weights.

A *unit* is what is removed whole: an attention head or an FFN neuron. A *slice* is the run of one tensor axis that
belongs to a unit. A *group* is all the units of one layer that compete with one another, with every tensor they touch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from compresskit.modules import FactorizedLinear

if TYPE_CHECKING:
    from transformers.configuration_utils import PreTrainedConfig

UnitTarget = Literal["heads", "neurons"]
Role = Literal["query", "key", "value", "attention-out", "ffn-in", "ffn-out"]
"""What a matrix of a layer is to its units."""
ROLES: tuple[Role, ...] = get_args(Role)
ATTENTION, FFN = ROLES[:4], ROLES[4:]


@dataclass(frozen=True)
class Slice:
    """One matrix of a layer that units run through.

    Args:
        path: inside a layer, of the `nn.Linear`, or of the two that stand for it.
        role: what the matrix is to the unit; strategies choose matrices by role.
        dim: the axis of `weight` (out, in) along which units lie. Units on axis 0 own bias entries too.
    """

    path: str
    role: Role
    dim: Literal[0, 1]


@dataclass(frozen=True)
class Particulars:
    """The sizes of a model of a family whose layers have more in them than attention and one FFN.

    Such a family's hidden states can't be cut and its embeddings can't be projected.

    Args:
        width: of the states inside a layer, which heads and neurons read and write and two norms scale.
        values: width of the states that the values are made from.
        layer_parameters, layer_macs: of what a layer has beside its attention and the FFN that neurons are cut from;
            multiply-accumulates are for one token.
        embedding_parameters, embedding_macs: of what the embeddings have beside the word table, likewise.
        dense: whether the read-out has a dense layer before its classifier.
    """

    width: int
    values: int
    layer_parameters: int
    layer_macs: int
    embedding_parameters: int
    embedding_macs: int
    dense: bool


@dataclass(frozen=True)
class Alias:
    """Checkpoints that are a family's under another `model_type`, which transformers does not know.

    Args:
        model_type: in their config.json.
        family: the `model_type` of the family.
        names: regular expressions for names of their weights, and what the family calls them, in the order in which
            they are tried; `{last}` is the position of the last layer, less the layers that have none of its kind.
        without: config attribute that says how many layers those are; none where the config lacks it.
    """

    model_type: str
    family: str
    names: tuple[tuple[str, str], ...]
    without: str | None = None

    def renames(self, config: PreTrainedConfig, layers: int) -> dict[str, str]:
        """The names for a checkpoint of so many layers with this config.

        Raises:
            ValueError: the config names a number of layers without that can't be.
        """
        without = 0 if self.without is None else getattr(config, self.without, None) or 0
        if not isinstance(without, int) or not 0 <= without < layers:
            raise ValueError(f"{self.without} must be a whole number from 0 to {layers - 1}, not {without!r}")
        return {pattern.replace("{last}", str(layers - without - 1)): name for pattern, name in self.names}

    def of_another_layer(self, names: Iterable[str]) -> str | None:
        """The first of these weights that the family would take were another layer the last."""
        patterns = [pattern.replace("{last}", r"\d+") for pattern, _ in self.names if "{last}" in pattern]
        return min((name for name in names if any(re.match(pattern, name) for pattern in patterns)), default=None)


@dataclass(frozen=True)
class Anatomy:
    """One row of `architectures.py`: everything compresskit needs to know about a family of encoders.

    Args:
        model_type: the `model_type` of the family's config.
        embeddings: path of the module that turns token ids into the first hidden states, from the classification model.
        word_embeddings: path of the `nn.Embedding` inside `embeddings`.
        layers: path of the `nn.ModuleList` of layers.
        heads, neurons: the slices of one layer, paths inside the layer.
        head_size: attribute path inside a layer that holds the size of one head.
        head_count: attribute path inside a layer that holds the number of heads, or None where nothing reads it.
        inputs: names of the tensors that the embeddings take, beside `attention_mask`.
        read_out: what turns the last hidden states (batch, tokens, hidden) into logits, applied in order: module paths
            from the classification model, or `:first` (take the first token) or `:relu`.
        stock: how the stock read-out can express `linear(tanh(first token))`: path of the dense layer to set to the
            identity and path of the linear layer, or None where its activation is not tanh.
        embeddings_project: path of a linear layer between the embeddings and the first layer, where the config asks for
            one.
        positions_after: config attribute after whose value positions are numbered, from it + 1; None where they begin
            at 0.
        embedding_size, hidden_size, head_total, neuron_total, layer_total: attribute names in the config.
        inner_size: attribute name in the config of the width of the states inside a layer, where it is one of its own.
        particulars: what computes from a config the sizes in which the family is unlike BERT, or None.
        lookahead: how many tokens to the right of a token its embedding is made from.
    """

    model_type: str
    embeddings: str
    word_embeddings: str
    layers: str
    heads: tuple[Slice, ...]
    neurons: tuple[Slice, ...]
    head_size: str
    head_count: str | None
    inputs: tuple[str, ...]
    read_out: tuple[str, ...]
    stock: tuple[str, str] | None = None
    embeddings_project: str | None = None
    positions_after: str | None = None
    embedding_size: str = "hidden_size"
    hidden_size: str = "hidden_size"
    head_total: str = "num_attention_heads"
    neuron_total: str = "intermediate_size"
    layer_total: str = "num_hidden_layers"
    inner_size: str | None = None
    particulars: Callable[[PreTrainedConfig], Particulars] | None = None
    lookahead: int = 0

    @property
    def project(self) -> str:
        """Path of the linear layer between the embeddings and the first layer, where there is or could be one."""
        return self.embeddings_project or f"{self.embeddings.rpartition('.')[0]}.embeddings_project"

    def slices(self, target: UnitTarget) -> tuple[Slice, ...]:
        """The slices of one layer that a unit of `target` owns."""
        return self.heads if target == "heads" else self.neurons

    def path(self, role: Role) -> str:
        """Where a matrix is inside a layer."""
        return next(piece.path for piece in (*self.heads, *self.neurons) if piece.role == role)


@dataclass(frozen=True)
class Member:
    """A slice found in a model: the linear layer, and how wide one unit is along `dim`.

    Args:
        role: what the matrix is to the unit: `query`, `key`, `value` or `attention-out` of heads, `ffn-in` or `ffn-out`
            of neurons.
        linear: the layer; of a matrix that is two factors, the one whose axis the units lie along.
        dim: the axis of `linear.weight` (out, in) along which units lie.
        width: entries of one unit along it: the size of a head, 1 for a neuron.
    """

    role: Role
    linear: nn.Linear
    dim: Literal[0, 1]
    width: int

    def per_unit(self, tensor: Tensor) -> Tensor:
        """View a tensor shaped like `linear.weight` as (units, entries of one unit)."""
        lying = tensor if self.dim == 0 else tensor.t()
        units = lying.shape[0] // self.width
        return lying.reshape(units, -1)


@dataclass(frozen=True)
class Group:
    """The units of one layer that compete with one another.

    Args:
        target: `heads` or `neurons`.
        layer: 0-based position of the layer in the model as it is now.
        units: how many there are now.
        members: the matrices that the units own slices of.
    """

    target: UnitTarget
    layer: int
    units: int
    members: tuple[Member, ...]

    def member(self, role: str) -> Member:
        """The member with that role."""
        return next(member for member in self.members if member.role == role)


def find(module: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path."""
    return module.get_submodule(path)


def groups(anatomy: Anatomy, network: nn.Module, target: UnitTarget) -> Iterator[Group]:
    """One group per layer of the classification model, in order."""
    for index, layer in enumerate(layers(anatomy, network)):
        width = head_size(anatomy, layer) if target == "heads" else 1
        members = tuple(
            Member(piece.role, linear(layer, piece.path, piece.dim), piece.dim, width)
            for piece in anatomy.slices(target)
        )
        units = members[0].linear.weight.shape[members[0].dim] // width
        yield Group(target, index, units, members)


def layers(anatomy: Anatomy, network: nn.Module) -> nn.ModuleList:
    """The layers of the classification model."""
    found = find(network, anatomy.layers)
    assert isinstance(found, nn.ModuleList)
    return found


def embeddings_project(anatomy: Anatomy, network: nn.Module) -> nn.Linear | None:
    """The linear layer between the embeddings and the first layer, where there is one."""
    parent, _, name = anatomy.project.rpartition(".")
    found = getattr(find(network, parent), name, None)
    assert found is None or isinstance(found, nn.Linear)
    return found


def linear(layer: nn.Module, path: str, dim: Literal[0, 1]) -> nn.Linear:
    """The linear layer at a path inside a layer; where it is two factors, the one that has this axis of the product."""
    found = find(layer, path)
    if isinstance(found, FactorizedLinear):
        found = found.expand if dim == 0 else found.reduce
    assert isinstance(found, nn.Linear)
    return found


def head_size(anatomy: Anatomy, layer: nn.Module) -> int:
    """Entries of one head; never hidden size / heads, which is wrong as soon as a head is cut."""
    path, _, name = anatomy.head_size.rpartition(".")
    return int(getattr(find(layer, path), name))


def entries(units: Sequence[int], width: int) -> Tensor:
    """Indices along an axis of the entries of `units`, in their order: unit 2 of width 3 is 6, 7, 8."""
    kept = torch.tensor(list(units), dtype=torch.long)
    return (kept[:, None] * width + torch.arange(width)[None, :]).reshape(-1)
