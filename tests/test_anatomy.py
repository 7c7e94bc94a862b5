"""The rows of the architecture table point at what they say, and units own the entries that they should."""

from __future__ import annotations

import pytest
import torch

from compresskit.anatomy import Anatomy, entries, find, groups, head_size, layers, linear
from compresskit.architectures import BERT, compresskit_architectures
from compresskit.catalogue import load_catalogue
from compresskit.cost import dims_of
from compresskit.edits import CutHeads, CutNeurons
from compresskit.errors import ArchitectureError
from compresskit.model import wrap
from compresskit.surgery import perform
from compresskit.testing import tiny_model

ROWS = {row.model_type: row for row in compresskit_architectures() if isinstance(row, Anatomy)}
SIZES = {"layers": 3, "hidden": 24, "heads": 3, "neurons": 40}
HEAD = dict.fromkeys(ROWS, 8) | {"mobilebert": 6}
"""Size of a head of each family: an even part of the width inside a layer."""


def test_the_families_that_come_with_compresskit():
    assert set(ROWS) == {"bert", "roberta", "xlm-roberta", "electra", "distilbert", "mobilebert"}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_path_of_a_row_leads_to_what_it_says(row):
    network = tiny_model(row.model_type, **SIZES)
    assert find(network, row.word_embeddings) is network.get_input_embeddings()
    assert row.word_embeddings.startswith(f"{row.embeddings}.")
    assert len(layers(row, network)) == 3
    for layer in layers(row, network):
        size = HEAD[row.model_type]
        assert head_size(row, layer) == size
        path, _, name = row.head_count.rpartition(".")
        assert getattr(find(layer, path), name) == 3
        for piece in (*row.heads, *row.neurons):
            weight = linear(layer, piece.path, piece.dim).weight
            full = 3 * size if piece in row.heads else 40
            other = 24 if piece.role == "value" else 3 * size
            assert (weight.shape[piece.dim], weight.shape[1 - piece.dim]) == (full, other)
            assert piece.dim == (1 if piece.role.endswith("-out") else 0)
    assert row.read_out[-1] == "classifier"
    for part in (*row.read_out, row.embeddings_project):
        if part is not None and not part.startswith(":"):
            find(network, part)  # raises where there is nothing
    if row.stock is not None:
        dense, classifier = (linear(network, path, 0) for path in row.stock)
        assert (dense.weight.shape, classifier.weight.shape) == ((24, 24), (2, 24))


WHOLE = [
    *(f"bottleneck.{which}.dense" for which in ("input", "attention")),
    *(f"ffn.{number}.{half}.dense" for number in range(3) for half in ("intermediate", "output")),
    "output.bottleneck.dense",
]
"""What no unit of MobileBERT runs through."""


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_rows_name_every_linear_layer_of_the_encoder_once(row):
    network = tiny_model(row.model_type, **SIZES)
    named = [piece.path for piece in (*row.heads, *row.neurons)]
    for layer in layers(row, network):
        found = [path for path, part in layer.named_modules() if isinstance(part, torch.nn.Linear)]
        whole = WHOLE if row.model_type == "mobilebert" else []
        assert sorted([*named, *whole]) == sorted(found)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_rows_name_the_sizes_in_the_config(row):
    dims = dims_of(row, tiny_model(row.model_type, **SIZES).config)
    assert (dims.layers, dims.hidden, dims.heads, dims.neurons) == (3, 24, 3, 40)
    assert (dims.head_size, dims.width) == (HEAD[row.model_type], 3 * HEAD[row.model_type])
    assert dims.embedding == (12 if row.model_type in ("electra", "mobilebert") else 24)


def test_an_unknown_family_is_refused(monkeypatch):
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "")
    with pytest.raises(ArchitectureError) as error:
        load_catalogue().anatomy("gpt2")
    assert str(error.value) == (
        "no anatomy for model_type 'gpt2' (known: bert, distilbert, elasticbert, electra, mobilebert, roberta, "
        "xlm-roberta); add one with the hook compresskit_architectures, as docs/how-to shows"
    )


@pytest.mark.parametrize(
    ("units", "width", "expected"),
    [((2,), 3, [6, 7, 8]), ((0, 2), 2, [0, 1, 4, 5]), ((3, 1), 1, [3, 1]), ((), 4, [])],
)
def test_entries_of_units(units, width, expected):
    assert entries(units, width).tolist() == expected


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_groups_hold_the_units_of_one_layer_with_their_matrices(row):
    network = tiny_model(row.model_type, **SIZES)
    heads, neurons = (list(groups(row, network, target)) for target in ("heads", "neurons"))
    assert [(group.target, group.layer, group.units) for group in heads] == [("heads", n, 3) for n in range(3)]
    assert [(group.target, group.layer, group.units) for group in neurons] == [("neurons", n, 40) for n in range(3)]
    assert [member.role for member in heads[0].members] == ["query", "key", "value", "attention-out"]
    assert [member.role for member in neurons[0].members] == ["ffn-in", "ffn-out"]
    for group in heads:
        layer = layers(row, network)[group.layer]
        for piece, member in zip(row.heads, group.members, strict=True):
            assert member.linear is linear(layer, piece.path, piece.dim)
            assert group.member(piece.role) is member
            assert member.width == HEAD[row.model_type]


def test_a_units_entries_are_its_rows_or_columns():
    head, neuron = (next(iter(groups(BERT, tiny_model(**SIZES), target))) for target in ("heads", "neurons"))
    query, out = head.member("query"), head.member("attention-out")
    assert query.per_unit(query.linear.weight).shape == (3, 8 * 24)
    for unit in range(3):
        part = slice(8 * unit, 8 * unit + 8)
        assert torch.equal(query.per_unit(query.linear.weight)[unit], query.linear.weight[part].reshape(-1))
        assert torch.equal(out.per_unit(out.linear.weight)[unit], out.linear.weight[:, part].t().reshape(-1))
    into, back = neuron.member("ffn-in"), neuron.member("ffn-out")
    assert torch.equal(into.per_unit(into.linear.weight), into.linear.weight)
    assert torch.equal(back.per_unit(back.linear.weight), back.linear.weight.t())


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_groups_shrink_with_the_model_and_heads_keep_their_size(row):
    model = wrap(tiny_model(row.model_type, **SIZES), row)
    perform(CutHeads(1, (0, 2)), model)
    perform(CutNeurons(2, (3, 4, 39)), model)
    heads, neurons = (list(groups(row, model.network, target)) for target in ("heads", "neurons"))
    assert [group.units for group in heads] == [3, 2, 3]
    assert [group.units for group in neurons] == [40, 40, 3]
    size = HEAD[row.model_type]
    assert {member.width for member in heads[1].members} == {size}
    assert heads[1].members[3].per_unit(heads[1].members[3].linear.weight).shape == (2, size * 3 * size)
