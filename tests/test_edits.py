"""Edits and shapes as data: what each edit does to a shape, and the way through JSON and back."""

from __future__ import annotations

import json

import pytest

from compresskit.edits import (
    EDITS,
    AddExits,
    CutHeads,
    CutHidden,
    CutLayers,
    CutMatrixRank,
    CutNeurons,
    CutRank,
    FactorizeEmbedding,
    FactorizeMatrix,
    LayerShape,
    OrderUnits,
    ProjectEmbeddings,
    Shape,
    ShareLayers,
    edit_from_json,
    edit_to_json,
)
from compresskit.errors import CheckpointError
from compresskit.strategies.tanh_heads import ClsTanh, MeanTanh

PLAIN = Shape((LayerShape(4, 64), LayerShape(4, 64), LayerShape(4, 64), LayerShape(4, 64)))
EXITED = PLAIN.after(AddExits((2, 3, 4), MeanTanh(), False))
SHARED = PLAIN.after(ShareLayers((0, 0, 2, 2), "mean"))
KNOWN = (
    "(known: add-exits, cut-heads, cut-hidden, cut-layers, cut-matrix-rank, cut-neurons, cut-rank, "
    "factorize-embedding, factorize-matrix, order-units, project-embeddings, share-layers); "
    "update compresskit to read it"
)

RECORDS = [
    (CutHeads(3, (0, 2, 5)), {"edit": "cut-heads", "layer": 3, "keep": [0, 2, 5]}),
    (CutNeurons(0, (7,)), {"edit": "cut-neurons", "layer": 0, "keep": [7]}),
    (CutHeads(1, ()), {"edit": "cut-heads", "layer": 1, "keep": []}),
    (
        OrderUnits("heads", 1, (2, 0, 1)),
        {"edit": "order-units", "target": "heads", "layer": 1, "order": [2, 0, 1]},
    ),
    (CutLayers((0, 2)), {"edit": "cut-layers", "keep": [0, 2]}),
    (CutHidden((0, 2, 3)), {"edit": "cut-hidden", "keep": [0, 2, 3]}),
    (CutRank((1,)), {"edit": "cut-rank", "keep": [1]}),
    (
        CutMatrixRank(2, "ffn-in", (0, 3)),
        {"edit": "cut-matrix-rank", "layer": 2, "role": "ffn-in", "keep": [0, 3]},
    ),
    (FactorizeMatrix(1, "query", 5), {"edit": "factorize-matrix", "layer": 1, "role": "query", "rank": 5}),
    (ShareLayers((0, 0, 2), "first"), {"edit": "share-layers", "owners": [0, 0, 2], "start": "first"}),
    (FactorizeEmbedding(128), {"edit": "factorize-embedding", "rank": 128}),
    (ProjectEmbeddings(128), {"edit": "project-embeddings", "rank": 128}),
    (
        AddExits((1, 4), ClsTanh(), True),
        {"edit": "add-exits", "layers": [1, 4], "head": "cls-tanh", "read_out": True},
    ),
]


@pytest.mark.parametrize(("edit", "record"), RECORDS)
def test_json_round_trip(edit, record):
    assert edit_to_json(edit) == record
    assert edit_from_json(json.loads(json.dumps(record))) == edit
    assert edit_from_json(record | {"step": 4}) == edit
    assert hash(edit_from_json(record)) == hash(edit)


def test_every_kind_of_edit_has_a_round_trip_above():
    assert {type(edit) for edit, _ in RECORDS} == set(EDITS.values())
    assert all(EDITS[kind].kind == kind for kind in EDITS)


@pytest.mark.parametrize(
    "shape",
    [
        PLAIN,
        EXITED,
        EXITED.after(FactorizeEmbedding(9)).after(CutHeads(1, (0,))),
        SHARED,
        EXITED.after(ProjectEmbeddings(9)),
        PLAIN.after(CutHidden((0, 3))),
    ],
)
def test_shape_round_trip(shape):
    assert Shape.from_json(json.loads(json.dumps(shape.to_json()))) == shape


def test_a_shape_without_shared_layers_reads_as_it_did_before_there_were_any():
    old = {"heads": [2], "neurons": [5], "rank": None, "exits": [], "head": None, "read_out": True}
    assert Shape.from_json(old) == Shape((LayerShape(2, 5),))
    assert Shape.from_json(old).to_json() == old


def test_a_shape_whose_lists_differ_in_length_is_no_shape():
    data = PLAIN.to_json()
    data["heads"].append(4)
    with pytest.raises(ValueError):
        Shape.from_json(data)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"edit": "cut-hands", "layer": 1}, f"unknown edit 'cut-hands' {KNOWN}"),
        ({"layer": 1}, f"unknown edit 'None' {KNOWN}"),
        (
            {"edit": "cut-heads", "layer": 1},
            "edit 'cut-heads' has no 'keep'; its file is damaged, copy the folder again",
        ),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(record, message):
    with pytest.raises(CheckpointError) as error:
        edit_from_json(record)
    assert str(error.value) == message


def test_cuts_change_one_layer():
    cut = PLAIN.after(CutHeads(1, (0, 2))).after(CutNeurons(3, (1, 2, 3)))
    assert cut.layers == (LayerShape(4, 64), LayerShape(2, 64), LayerShape(4, 64), LayerShape(4, 3))
    assert PLAIN.layers[1] == LayerShape(4, 64)


def test_factorizing_again_replaces_the_rank():
    assert PLAIN.after(FactorizeEmbedding(20)).after(FactorizeEmbedding(10)).rank == 10


def test_exits_take_the_read_outs_place_or_leave_it():
    assert (EXITED.exits, EXITED.head, EXITED.read_out) == ((2, 3, 4), MeanTanh(), False)
    assert PLAIN.after(AddExits((4,), ClsTanh(), True)).read_out


@pytest.mark.parametrize(
    ("shape", "keep", "exits"),
    [
        (PLAIN, (0, 3), ()),
        (EXITED, (0, 1, 2), (2, 3)),
        (EXITED, (1, 3), (1, 2)),
        (EXITED, (0,), (1,)),
    ],
)
def test_cutting_layers_renumbers_the_exits_and_the_last_layer_answers(shape, keep, exits):
    cut = shape.after(CutLayers(keep))
    assert cut.exits == exits
    assert cut.layers == tuple(shape.layers[old] for old in keep)


@pytest.mark.parametrize(
    ("owners", "keep", "left"),
    [
        ((0, 0, 0, 0), (0, 3), (0, 0)),
        ((0, 0, 0, 0), (1, 2, 3), (0, 0, 0)),
        ((0, 0, 2, 2), (1, 2, 3), (0, 1, 1)),
        ((0, 0, 2, 2), (1, 3), ()),
        ((0, 0, 0, 0), (2,), ()),
    ],
)
def test_of_layers_that_share_the_first_that_stays_owns_the_weights(owners, keep, left):
    assert PLAIN.after(ShareLayers(owners, "mean")).after(CutLayers(keep)).owners == left


def test_layers_that_all_own_their_weights_share_nothing():
    assert PLAIN.after(ShareLayers((0, 1, 2, 3), "mean")) == PLAIN
