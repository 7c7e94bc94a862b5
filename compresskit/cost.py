"""What a shape costs: parameters and FLOPs, from arithmetic on sizes alone. No weights are needed.

Counters that watch a model run disagree with one another about attention, so the formulas are our own and the tests
compare them with the counters. `CONVENTIONS` names the ways in which the literature counts FLOPs; a ratio has a meaning
only within one convention and at a stated number of tokens.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from compresskit.anatomy import ATTENTION, FFN
from compresskit.edits import FactorizeMatrix, LayerShape, Shape
from compresskit.errors import ArchitectureError
from compresskit.interfaces import Factored, Sizes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.configuration_utils import PreTrainedConfig

    from compresskit.anatomy import Anatomy, Particulars, Role

Convention: TypeAlias = Literal["macs_lin", "macs_all", "flops_lin", "flops_all", "torch110"]
"""How operations are counted, for one example.

- `macs_lin`: multiply-accumulates in the weight matrices of the embeddings and layers; heads that answer are left out.
- `macs_all`: the same and the two attention products, queries by keys and attention by values.
- `flops_lin`, `flops_all`: two FLOPs for each of those multiply-accumulates.
- `torch110`: what the profiler of PyTorch 1.10 counted, and so what COST-EFF (Shen et al. 2022) prints: two FLOPs for
  each multiply-accumulate in weight matrices, heads included, and one for each addition of embeddings, residuals and
  attention mask. Attention products are not in it. Every family is charged the additions of BERT.
"""

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


@dataclass(frozen=True)
class Dims:
    """The sizes of an original: what no edit changes, and its width and counts of layers, heads and neurons as given.

    Args:
        vocabulary, positions, types: rows of the three embedding tables; 0 types where the family has no such table.
        hidden: width of the hidden states, as given.
        embedding: width of the embedding tables; where it is not `hidden`, a linear layer joins them.
        head_size: entries of one attention head.
        classes: number of logits.
        layers, heads, neurons: of the original; heads and neurons are per layer.
        particulars: of a family whose layers have more in them, or None.
    """

    vocabulary: int
    positions: int
    types: int
    hidden: int
    embedding: int
    head_size: int
    classes: int
    layers: int
    heads: int
    neurons: int
    particulars: Particulars | None = None

    @property
    def width(self) -> int:
        """Of the states that heads and neurons read and write."""
        return self.hidden if self.particulars is None else self.particulars.width


@dataclass(frozen=True)
class Block:
    """One row of a cost table.

    Args:
        part: `word embeddings`, `other embeddings`, `attention`, `ffn`, `rest` (what else a layer has), `exits` or
            `read-out`.
        layer: 1-based number of the layer that it belongs to, or None.
        parameters: how many.
        macs: multiply-accumulates for one example at full depth: weight matrices, those of heads too, and the layers'
            attention products.
        share: of the model's parameters, between 0 and 1.
    """

    part: str
    layer: int | None
    parameters: int
    macs: int
    share: float

    @property
    def name(self) -> str:
        """`layer 3 attention`."""
        return self.part if self.layer is None else f"layer {self.layer} {self.part}"


def dims_of(anatomy: Anatomy, config: PreTrainedConfig) -> Dims:
    """The sizes that a config asks for.

    Raises:
        ArchitectureError: the config lacks a size that the anatomy names, or its heads don't divide its hidden size.
    """
    hidden, heads = _size(anatomy, config, anatomy.hidden_size), _size(anatomy, config, anatomy.head_total)
    particulars = None if anatomy.particulars is None else anatomy.particulars(config)
    width = hidden if particulars is None else particulars.width
    if heads < 1 or width % heads:
        # A bottleneck that is not used leaves the width inside a layer that of the hidden states.
        what, name = ("hidden size", anatomy.hidden_size)
        if anatomy.inner_size is not None and width == getattr(config, anatomy.inner_size) != hidden:
            what, name = ("width inside a layer", anatomy.inner_size)
        raise ArchitectureError(
            f"a {what} of {width} can't be split over {heads} heads; correct '{name}' or '{anatomy.head_total}' "
            f"in the model's config.json"
        )
    return Dims(
        vocabulary=_size(anatomy, config, "vocab_size"),
        positions=_size(anatomy, config, "max_position_embeddings"),
        types=int(getattr(config, "type_vocab_size", 0)),
        hidden=hidden,
        embedding=_size(anatomy, config, anatomy.embedding_size),
        head_size=width // heads,
        classes=_size(anatomy, config, "num_labels"),
        layers=_size(anatomy, config, anatomy.layer_total),
        heads=heads,
        neurons=_size(anatomy, config, anatomy.neuron_total),
        particulars=particulars,
    )


def longest(anatomy: Anatomy, config: PreTrainedConfig) -> int:
    """Tokens of the longest text that the model has positions for."""
    skipped = 0 if anatomy.positions_after is None else int(getattr(config, anatomy.positions_after)) + 1
    return _size(anatomy, config, "max_position_embeddings") - skipped


def original_shape(anatomy: Anatomy, config: PreTrainedConfig) -> Shape:
    """The shape that a config asks for, before any edit.

    Raises:
        ArchitectureError: as `dims_of`.
    """
    dims = dims_of(anatomy, config)
    return Shape((LayerShape(dims.heads, dims.neurons),) * dims.layers)


def narrowed(dims: Dims, shape: Shape) -> Dims:
    """The sizes with the width of the hidden states that the shape has; the embedding tables' too, where it is one."""
    if shape.hidden is None:
        return dims
    return replace(
        dims,
        hidden=shape.hidden,
        embedding=shape.hidden if dims.embedding == dims.hidden else dims.embedding,
    )


def sizes_of(dims: Dims, shape: Shape) -> Sizes:
    """What strategies are told about a model of that shape."""
    narrow = narrowed(dims, shape)
    factored = [
        Factored(split.rank, *matrix_sizes(narrow, shape.layers[split.layer])[split.role], split.role)
        if isinstance(split, FactorizeMatrix)
        else Factored(split.rank, narrow.vocabulary, narrow.embedding)
        for split in shape.factored
    ]
    return Sizes(
        tuple(layer.heads for layer in shape.layers),
        tuple(layer.neurons for layer in shape.layers),
        dims.head_size,
        narrow.hidden,
        tuple(factored),
        bool(shape.exits),
        None if dims.particulars is None else (dims.particulars.width, dims.particulars.values),
    )


def matrix_sizes(dims: Dims, layer: LayerShape) -> dict[Role, tuple[int, int]]:
    """Inputs and outputs of each matrix of a layer, whether it is whole or two factors."""
    inner, width = layer.heads * dims.head_size, dims.width
    return {
        "query": (width, inner),
        "key": (width, inner),
        "value": (width if dims.particulars is None else dims.particulars.values, inner),
        "attention-out": (inner, width),
        "ffn-in": (width, layer.neurons),
        "ffn-out": (layer.neurons, width),
    }


def parameters(dims: Dims, shape: Shape) -> int:
    """How many parameters a model of that shape has."""
    return sum(block.parameters for block in by_block(dims, shape))


def by_block(dims: Dims, shape: Shape, tokens: int = 128) -> tuple[Block, ...]:
    """Where the parameters and the work are, from the embeddings to the read-out, in the order in which they run."""
    full, dims = dims, narrowed(dims, shape)
    exits, special = len(_own_heads(shape)), dims.particulars
    rows: list[tuple[str, int | None, int, int]] = [
        ("word embeddings", None, _word_parameters(dims, shape), _factor_macs(dims, shape, tokens)),
        ("other embeddings", None, _table_parameters(full, shape), _project_macs(full, shape, tokens)),
    ]
    for number, layer in enumerate(shape.layers, start=1):
        products = _product_macs(dims, layer, tokens)
        # What layers share counts once, at the first of them; every one of them computes.
        owned = not shape.owners or shape.owners[number - 1] == number - 1
        attention, ffn = (_attention_parameters(dims, layer), _ffn_parameters(dims, layer)) if owned else (0, 0)
        rows.append(("attention", number, attention, _attention_macs(dims, layer, tokens) + products))
        rows.append(("ffn", number, ffn, _ffn_macs(dims, layer, tokens)))
        if special is not None:
            rows.append(("rest", number, special.layer_parameters if owned else 0, _rest_macs(dims, tokens)))
    if exits:
        rows.append(("exits", None, _exit_parameters(dims, shape), exits * _head_macs(dims, shape, tokens)))
    if shape.read_out:
        rows.append(("read-out", None, _read_out_parameters(full, shape), _read_out_macs(full, shape)))
    total = sum(row[2] for row in rows)
    return tuple(Block(*row, share=row[2] / total) for row in rows)


def flops(dims: Dims, shape: Shape, tokens: int = 128, exit: int | None = None) -> dict[Convention, float]:
    """The cost of one example of `tokens` tokens, under every convention.

    Args:
        dims: sizes of the original.
        shape: of the model.
        tokens: padding included, because padding is computed too.
        exit: 1-based layer at which the example leaves; the heads asked on the way are paid for. None for full depth.

    Raises:
        ValueError: no example can leave at `exit`.
    """
    full, dims = dims, narrowed(dims, shape)
    depth = len(shape.layers)
    last = depth if exit is None else exit
    if last != depth and last not in shape.exits:
        raise ValueError(f"no example leaves at layer {last}; exits: {[*shape.exits] or depth}")
    reached = shape.layers[:last]
    weights = _factor_macs(dims, shape, tokens) + _project_macs(full, shape, tokens)
    weights += sum(_attention_macs(dims, layer, tokens) + _ffn_macs(dims, layer, tokens) for layer in reached)
    weights += len(reached) * _rest_macs(dims, tokens)
    products = sum(_product_macs(dims, layer, tokens) for layer in reached)
    heads = sum(_head_macs(dims, shape, tokens) for number in _own_heads(shape) if number <= last)
    if shape.read_out and last == depth:
        heads += _read_out_macs(full, shape)
    # Tables are added in their own width, but by a family that first makes its hidden states out of the words.
    additions = 2 * tokens * (_embedding(dims, shape) if dims.particulars is None else dims.hidden)
    additions += sum(2 * tokens * dims.hidden + layer.heads * tokens**2 for layer in reached)
    return {
        "macs_lin": weights,
        "macs_all": weights + products,
        "flops_lin": 2 * weights,
        "flops_all": 2 * (weights + products),
        "torch110": 2 * (weights + heads) + additions,
    }


def expected_flops(
    dims: Dims, shape: Shape, histogram: Mapping[int, int | float], tokens: int = 128
) -> dict[Convention, float]:
    """The mean cost of an example, given how many (or what part) of the examples left at each layer.

    Raises:
        ValueError: the histogram is empty, or names a layer at which no example can leave.
    """
    examples = sum(histogram.values())
    if not examples:
        raise ValueError("an empty exit histogram has no mean cost")
    costs = [(count / examples, flops(dims, shape, tokens, number)) for number, count in histogram.items()]
    return {convention: sum(part * cost[convention] for part, cost in costs) for convention in CONVENTIONS}


def count(model: nn.Module) -> int:
    """How many parameters a real model has; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def ptflops_macs(model: PreTrainedModel, tokens: int) -> int:
    """What ptflops counts for one example, to check the formulas against.

    It adds one operation per bias entry and position to the weight matrices, and sees attention products only where
    attention is `eager`.

    Raises:
        RuntimeError: ptflops could not run the model.
    """
    import torch
    from ptflops import get_model_complexity_info

    # ptflops leaves hooks behind on the model that it counts, so it gets a copy.
    watched = copy.deepcopy(model)
    device = next(watched.parameters()).device

    def inputs(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.ones(1, *shape, dtype=torch.long, device=device)}

    with torch.no_grad():
        macs, _ = get_model_complexity_info(
            watched,
            (tokens,),
            as_strings=False,
            print_per_layer_stat=False,
            input_constructor=inputs,
            backend="aten",
            ost=io.StringIO(),
        )
    if macs is None:
        raise RuntimeError(f"ptflops could not run {type(model).__name__} on {tokens} tokens")
    return cast("int", macs)


def _size(anatomy: Anatomy, config: PreTrainedConfig, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int):
        raise ArchitectureError(f"the config of this {anatomy.model_type} model has no '{name}'; add it to config.json")
    return value


def _own_heads(shape: Shape) -> tuple[int, ...]:
    """Layers that have an exit head; where the read-out stays, it answers at the last layer instead."""
    return tuple(number for number in shape.exits if not (shape.read_out and number == len(shape.layers)))


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _embedding(dims: Dims, shape: Shape) -> int:
    """Width of the embedding tables and their norm; of a family with particulars, of the word table alone."""
    return dims.embedding if shape.embedding is None else shape.embedding


def _word_parameters(dims: Dims, shape: Shape) -> int:
    if shape.rank is None:
        return dims.vocabulary * _embedding(dims, shape)
    return (dims.vocabulary + dims.embedding) * shape.rank


def _factor_macs(dims: Dims, shape: Shape, tokens: int) -> int:
    """The second factor is a matrix product; a table look-up costs nothing."""
    return tokens * (shape.rank or 0) * dims.embedding


def _projects(full: Dims, shape: Shape) -> bool:
    """Whether a linear layer leads from the embeddings to the first layer."""
    return shape.embedding is not None or full.embedding != full.hidden


def _table_parameters(full: Dims, shape: Shape) -> int:
    """Of the other tables, their norm, and the linear layer after them."""
    if full.particulars is not None:
        return full.particulars.embedding_parameters
    dims = narrowed(full, shape)
    width = _embedding(dims, shape)
    project = _linear(width, dims.hidden) if _projects(full, shape) else 0
    return (dims.positions + dims.types) * width + 2 * width + project


def _project_macs(full: Dims, shape: Shape, tokens: int) -> int:
    if full.particulars is not None:
        return tokens * full.particulars.embedding_macs
    dims = narrowed(full, shape)
    return tokens * _embedding(dims, shape) * dims.hidden if _projects(full, shape) else 0


def _attention_parameters(dims: Dims, layer: LayerShape) -> int:
    biases = 3 * layer.heads * dims.head_size + dims.width
    return _weights(dims, layer, ATTENTION) + biases + 2 * dims.width


def _attention_macs(dims: Dims, layer: LayerShape, tokens: int) -> int:
    return tokens * _weights(dims, layer, ATTENTION)


def _weights(dims: Dims, layer: LayerShape, roles: Sequence[Role]) -> int:
    """Entries of matrices of a layer, of both factors where there are two; each is one MAC a token."""
    sizes = matrix_sizes(dims, layer)
    ranks = ((*sizes[role], layer.rank(role)) for role in roles)
    return sum(i * o if rank is None else rank * (i + o) for i, o, rank in ranks)


def _product_macs(dims: Dims, layer: LayerShape, tokens: int) -> int:
    return 2 * tokens**2 * layer.heads * dims.head_size


def _ffn_parameters(dims: Dims, layer: LayerShape) -> int:
    biases = layer.neurons + dims.width
    return _weights(dims, layer, FFN) + biases + 2 * dims.width


def _ffn_macs(dims: Dims, layer: LayerShape, tokens: int) -> int:
    return tokens * _weights(dims, layer, FFN)


def _rest_macs(dims: Dims, tokens: int) -> int:
    """Of what a layer has beside attention and the FFN that neurons are cut from."""
    return 0 if dims.particulars is None else tokens * dims.particulars.layer_macs


def _exit_parameters(dims: Dims, shape: Shape) -> int:
    """Counted, because a head's author says in `build` what it is made of."""
    import torch

    assert shape.head is not None
    with torch.device("meta"):
        each = shape.head.build(dims.hidden, dims.classes, 0.0)
        shared = shape.head.build_shared(dims.hidden, dims.classes, 0.0)
    return len(_own_heads(shape)) * count(each) + (0 if shared is None else count(shared))


def _head_macs(dims: Dims, shape: Shape, tokens: int) -> int:
    assert shape.head is not None
    return shape.head.macs(dims.hidden, dims.classes, tokens)


def _read_out_parameters(full: Dims, shape: Shape) -> int:
    """A dense layer as wide as the original's hidden states, where the family has it, then the classifier."""
    dense = _linear(shape.hidden or full.hidden, full.hidden) if _dense(full) else 0
    return dense + _linear(full.hidden, full.classes)


def _read_out_macs(full: Dims, shape: Shape) -> int:
    """The same, on one token."""
    dense = (shape.hidden or full.hidden) * full.hidden if _dense(full) else 0
    return dense + full.hidden * full.classes


def _dense(full: Dims) -> bool:
    return full.particulars is None or full.particulars.dense
