"""Matrices of layers as two factors: what they answer, what they cost, what is cut from them, how they are planned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad
from transformers import AutoModelForSequenceClassification

from compresskit.anatomy import ATTENTION, FFN, ROLES, find, groups
from compresskit.catalogue import load_catalogue
from compresskit.cost import by_block, count, dims_of, flops, parameters
from compresskit.edits import (
    CutHeads,
    CutHidden,
    CutMatrixRank,
    CutNeurons,
    FactorizeMatrix,
    LayerShape,
    ProjectEmbeddings,
    Shape,
    ShareLayers,
    edit_from_json,
    edit_to_json,
)
from compresskit.errors import RecipeError, SurgeryError
from compresskit.export import stock
from compresskit.factoring import matrix
from compresskit.folding import fold
from compresskit.interfaces import Masks
from compresskit.masking import sizes
from compresskit.model import wrap
from compresskit.modules import FactorizedLinear
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.strategies.magnitude import Magnitude
from compresskit.strategies.svd import Svd
from compresskit.surgery import perform, reshape
from compresskit.testing import apply_tiny, save_tiny, tiny_batch, tiny_model

FAMILIES = load_catalogue([]).names("architecture")
PLAIN = [name for name in FAMILIES if load_catalogue([]).anatomy(name).particulars is None]
"""Those whose layers have attention and one FFN in them, as wide as the hidden states."""
HIDDEN, NEURONS, LAYERS = 32, 64, 3


def wrapped(family="bert", seed=0):
    return wrap(tiny_model(family, layers=LAYERS, seed=seed), load_catalogue().anatomy(family))


def factor(model, *splits):
    for layer, role, rank in splits:
        edit = FactorizeMatrix(layer, role, rank)
        perform(edit, model, Svd().factor(matrix(model, edit), rank, None))
    return model


def every(rank):
    """All matrices of all layers."""
    return [(layer, role, rank) for layer in range(LAYERS) for role in ROLES]


def answer(model, **options):
    with torch.no_grad():
        return model.eval().trace(tiny_batch(model), **options).last


def dims(model):
    return dims_of(model.anatomy, model.network.config)


def product(model, layer, role):
    return matrix(model, FactorizeMatrix(layer, role, 1))


# --- what they answer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_f3_full_rank_keeps_the_logits(family):
    """Where a new layer begins with weights of its own, as in FLOP's released code, everything learnt is lost."""
    model = wrapped(family)
    before = answer(model)
    factor(model, *every(dims(model).width))
    module = find(model.body[1], model.anatomy.path("ffn-in"))
    assert isinstance(module, FactorizedLinear)
    torch.testing.assert_close(answer(model), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_answer_as_their_product(family):
    model, whole = factor(wrapped(family), *every(11)), wrapped(family)
    for layer, role, _ in every(11):
        best = torch.linalg.svd(find(whole.body[layer], whole.anatomy.path(role)).weight.detach())
        nearest = best.U[:, :11] * best.S[:11] @ best.Vh[:11]
        torch.testing.assert_close(product(model, layer, role), nearest, rtol=0, atol=1e-5)
        with torch.no_grad():
            find(whole.body[layer], whole.anatomy.path(role)).weight.copy_(nearest)
    torch.testing.assert_close(answer(model), answer(whole), rtol=0, atol=1e-4)
    assert (answer(whole) - answer(wrapped(family))).abs().max() > 0.01
    heard = [made.trace(tiny_batch(made), hidden=True, attention=True) for made in (model, whole)]
    for mine, theirs in zip(heard[0].attention, heard[1].attention, strict=True):
        torch.testing.assert_close(mine.value, theirs.value, rtol=0, atol=1e-4)


def test_f2_iterated_truncation_is_direct_truncation():
    iterated, direct = factor(wrapped(), (0, "query", 20), (0, "query", 9)), factor(wrapped(), (0, "query", 9))
    torch.testing.assert_close(product(iterated, 0, "query"), product(direct, 0, "query"), rtol=0, atol=1e-5)


def test_the_bias_stays_with_the_outputs():
    model = wrapped()
    bias = find(model.body[0], model.anatomy.path("key")).bias.detach().clone()
    factor(model, (0, "key", 5))
    module = find(model.body[0], model.anatomy.path("key"))
    assert torch.equal(module.expand.bias, bias)
    assert module.reduce.bias is None


# --- what they cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_a_real_model(family):
    model = factor(wrapped(family), *((0, role, 7) for role in ATTENTION), (1, "ffn-out", 23), (2, "value", 3))
    assert count(model) == parameters(dims(model), model.shape)


def test_costs_of_one_matrix_by_hand():
    model = wrapped()
    before, whole = dims(model), model.shape
    split = whole.after(FactorizeMatrix(1, "ffn-in", 10))
    less = HIDDEN * NEURONS - 10 * (HIDDEN + NEURONS)
    assert parameters(before, whole) - parameters(before, split) == less
    assert flops(before, whole, 50)["macs_lin"] - flops(before, split, 50)["macs_lin"] == 50 * less
    assert flops(before, whole, 50)["torch110"] - flops(before, split, 50)["torch110"] == 2 * 50 * less
    names = [block.name for block in by_block(before, split)]
    changed = [
        name
        for name, a, b in zip(names, by_block(before, whole), by_block(before, split), strict=True)
        if a.parameters != b.parameters
    ]
    assert changed == ["layer 2 ffn"]


@pytest.mark.parametrize(("roles", "even"), [(ATTENTION, HIDDEN // 2), (FFN, 64 * 32 // 96)])
def test_factors_pay_below_the_break_even_rank(roles, even):
    """in * out / (in + out): half of a square matrix, two thirds of one twice as long as wide."""
    model = wrapped()
    whole = parameters(dims(model), model.shape)
    shapes = [model.shape.after(FactorizeMatrix(0, roles[0], rank)) for rank in (even, even + 1)]
    assert parameters(dims(model), shapes[0]) <= whole < parameters(dims(model), shapes[1])


def test_what_strategies_are_told():
    model = factor(wrapped(), (2, "ffn-out", 9), (0, "query", 5))
    perform(CutHeads(0, (1,)), model)
    assert [tuple(split) for split in sizes(model).factored] == [(5, 32, 8, "query"), (9, 64, 32, "ffn-out")]


# --- what is cut -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_p1_units_of_factored_matrices_are_cut_as_they_are_masked(family):
    model = factor(wrapped(family), *every(12))
    heads = tuple(torch.tensor([1.0, 0, 1, 1]) for _ in range(LAYERS))
    neurons = tuple((torch.arange(NEURONS) % 3 > 0).float() for _ in range(LAYERS))
    asked = answer(model, masks=Masks(heads=heads, neurons=neurons))
    for layer in range(LAYERS):
        perform(CutHeads(layer, (0, 2, 3)), model)
        perform(CutNeurons(layer, tuple(neurons[0].nonzero().flatten().tolist())), model)
    torch.testing.assert_close(answer(model), asked, rtol=0, atol=1e-5)
    assert count(model) == parameters(dims(model), model.shape)
    assert {layer.ranks for layer in model.shape.layers} == {(12,) * 6}


def test_a_unit_owns_the_slice_of_the_factor_that_has_its_axis():
    model = factor(wrapped(), *every(12))
    heads, neurons = next(groups(model.anatomy, model.network, "heads")), None
    neurons = next(groups(model.anatomy, model.network, "neurons"))
    ends = [member.linear.weight.shape[member.dim] for group in (heads, neurons) for member in group.members]
    assert ends == [HIDDEN] * 4 + [NEURONS] * 2
    query = find(model.body[0], model.anatomy.path("query"))
    out = find(model.body[0], model.anatomy.path("ffn-out"))
    assert heads.member("query").linear is query.expand
    assert neurons.member("ffn-out").linear is out.reduce
    expected = out.reduce.weight.abs().sum(0) + neurons.member("ffn-in").linear.weight.abs().sum(1)
    torch.testing.assert_close(Magnitude().score(neurons, None), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_without_units_has_no_factors(family, tmp_path):
    model = factor(wrapped(family), *every(12))
    perform(CutHeads(0, ()), model)
    perform(CutNeurons(1, ()), model)
    assert model.shape.layers[0].ranks == (None,) * 4 + (12, 12)
    assert model.shape.layers[1].ranks == (12,) * 4 + (None, None)
    assert count(model) == parameters(dims(model), model.shape)
    model.save_pretrained(tmp_path)
    assert torch.equal(answer(AutoModelForSequenceClassification.from_pretrained(tmp_path)), answer(model))


@pytest.mark.parametrize("family", PLAIN)
def test_hidden_states_are_cut_from_the_other_factor(family):
    model = factor(wrapped(family), *every(12))
    kept = tuple(range(0, HIDDEN, 2))
    asked = answer(model, masks=Masks(hidden=torch.ones(HIDDEN).index_fill(0, torch.arange(1, HIDDEN, 2), 0.0)))
    perform(CutHidden(kept), model)
    torch.testing.assert_close(answer(model), asked, rtol=0, atol=1e-5)
    assert count(model) == parameters(dims(model), model.shape)


def test_ranks_that_are_gated_are_folded_and_cut():
    model = factor(wrapped(), (0, "query", 6), (2, "ffn-in", 4))
    masks = Masks(ranks=(torch.tensor([1.0, 0, 0.5, 0, 1, 1]), torch.tensor([0.25, 1, 1, 1])))
    asked = answer(model, masks=masks)
    assert fold(model, masks) == (CutMatrixRank(0, "query", (0, 2, 4, 5)),)
    torch.testing.assert_close(answer(model), asked, rtol=0, atol=1e-5)
    assert model.shape.layers[0].rank("query") == 4
    assert model.shape.layers[2].rank("ffn-in") == 4


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_factors_is_saved_loaded_replayed_and_exported(family, tmp_path):
    model = factor(wrapped(family), *((0, role, 7) for role in ROLES), (2, "value", 3))
    perform(CutHeads(0, (1, 2)), model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(answer(loaded), answer(model))
    assert loaded.shape == model.shape == Shape.from_json(model.shape.to_json())
    again = wrapped(family, seed=5)
    reshape(again, model.shape)
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(answer(again), answer(model))
    plain = stock(model)
    assert not any(isinstance(part, FactorizedLinear) for part in plain.modules())
    # MobileBERT of transformers sees no padding after the last token of the longest text.
    batch = {name: pad(part, (0, model.anatomy.lookahead)) for name, part in tiny_batch(model).items()}
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits, answer(model), rtol=0, atol=1e-5)


def test_a_shape_of_whole_matrices_reads_as_it_did_before_there_were_factors():
    shape = wrapped().shape
    assert "ranks" not in shape.to_json()
    assert shape.layers[0] == LayerShape(4, 64)


def test_factored_layers_of_equal_ranks_share_their_weights(tmp_path):
    model = factor(wrapped(), *every(12))
    perform(ShareLayers((0, 0, 0), "first"), model)
    assert count(model) == parameters(dims(model), model.shape)
    model.save_pretrained(tmp_path)
    assert torch.equal(answer(AutoModelForSequenceClassification.from_pretrained(tmp_path)), answer(model))


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (FactorizeMatrix(3, "key", 2), "there is no layer 4 to change key of; give the number of one of the 3 layers"),
        (FactorizeMatrix(0, "key", 0), "rank 0 leaves nothing of key of layer 1; ask for 1 or more"),
        (CutMatrixRank(0, "key", (0,)), "key of layer 1 is one matrix and has no rank to cut; factorize it first"),
        (
            CutMatrixRank(1, "value", ()),
            "nothing would be left of the rank of value of layer 2; keep at least one of 4",
        ),
        (
            CutMatrixRank(1, "value", (0, 4)),
            "cannot keep [0, 4] of the 4 rank of value of layer 2; give different numbers from 0 to 3, rising",
        ),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_changes_nothing(edit, message):
    model = factor(wrapped(), (1, "value", 4))
    before = model.shape
    with pytest.raises(SurgeryError) as caught:
        perform(edit, model)
    assert str(caught.value) == message
    assert model.shape == before
    assert edit_from_json(edit_to_json(edit)) == edit


@pytest.mark.parametrize(
    ("first", "edit"),
    [(None, FactorizeMatrix(1, "query", 4)), ((1, "query", 4), CutMatrixRank(1, "query", (0,)))],
    ids=["factorize", "cut"],
)
def test_shared_matrices_stay_as_they_are(first, edit):
    model = wrapped()
    if first:
        factor(model, *((layer, *first[1:]) for layer in range(LAYERS)))
    perform(ShareLayers((0, 0, 0), "mean"), model)
    with pytest.raises(SurgeryError) as caught:
        perform(edit, model)
    message = "layers share their weights, so query of layer 2 can't change alone; change them before sharing"
    assert str(caught.value) == message


def test_shared_ranks_are_not_scaled_twice():
    model = factor(wrapped(), *every(12))
    perform(ShareLayers((0, 0, 0), "first"), model)
    with pytest.raises(SurgeryError) as caught:
        fold(model, Masks(ranks=tuple(torch.ones(12) * 0.5 for _ in every(12))))
    assert str(caught.value) == "layers share their weights, which would be scaled twice; mask before sharing"


# --- as planned ------------------------------------------------------------------------------------------------------


@pytest.fixture
def original(tmp_path):
    from compresskit.checkpoint import load

    return load(str(save_tiny(tmp_path / "model", layers=LAYERS))).original


@pytest.fixture
def plan_of(tmp_path, original):
    def plan_of(*steps, model=original):
        path = tmp_path / "r.yaml"
        path.write_text("recipe: 1\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
        return make_plan(read_recipe(path), model)

    return plan_of


def test_ranks_are_parts_of_the_shorter_side(plan_of):
    planned = plan_of(
        "{factorize: attention, by: svd, rank: 1/2}",
        "{prune: heads, by: magnitude, keep: 2}",
        "{factorize: ffn, by: svd, rank: 3/4}",
    )
    assert planned.shape.layers == (LayerShape(2, 64, (16, 16, 16, 16, 24, 24)),) * LAYERS
    later = plan_of("{prune: heads, by: magnitude, keep: 2}", "{factorize: attention, by: svd, rank: 1/2}")
    assert later.shape.layers == (LayerShape(2, 64, (8, 8, 8, 8, None, None)),) * LAYERS


def test_ranks_are_reached_step_by_step_and_never_above_what_pruning_leaves(plan_of):
    planned = plan_of(
        "repeat: 2\n    steps: [{prune: heads, by: magnitude, keep: 1}, {factorize: attention, by: svd, rank: 1/4}]"
    )
    assert [step.shape.layers[0] for step in planned.steps] == [
        LayerShape(2, 64),
        LayerShape(2, 64, (16, 16, 16, 16, None, None)),
        LayerShape(1, 64, (16, 16, 16, 16, None, None)),
        LayerShape(1, 64, (8, 8, 8, 8, None, None)),
    ]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            ("{factorize: attention, by: svd, rank: 33}",),
            "line 3: steps[0] factorize: rank 33 is more than the 32 dimensions of query of layer 1; rank at most 32",
        ),
        (
            ("{factorize: ffn, by: svd, rank: 1/100}",),
            (
                "line 3: steps[0] factorize: rank 1/100 of 32 dimensions of ffn-in of layer 1 leaves none; "
                "rank at least 1/32"
            ),
        ),
        (
            ("{factorize: ffn, by: svd, rank: 8}", "{factorize: ffn, by: svd, rank: 9}"),
            ("line 4: steps[1] factorize: rank 9 is more than the 8 of ffn-in of layer 1 by now; rank at most 8"),
        ),
        (
            ("{share: layers}", "{factorize: ffn, by: svd, rank: 8}"),
            (
                "line 4: steps[1] factorize: layers share their weights by now, so one layer's ffn can't be split; "
                "factorize before sharing"
            ),
        ),
    ],
    ids=["too-much", "too-little", "again", "shared"],
)
def test_what_does_not_fit_the_model_is_refused(plan_of, steps, message):
    with pytest.raises(RecipeError) as caught:
        plan_of(*steps)
    assert str(caught.value).splitlines()[1].strip() == message


def test_layers_that_shared_their_weights_when_they_came_are_not_factorized(plan_of, original):
    shared = replace(original, shape=original.shape.after(ShareLayers((0, 0, 0), "mean")))
    with pytest.raises(RecipeError) as caught:
        plan_of("{factorize: attention, by: svd, rank: 8}", model=shared)
    assert str(caught.value).splitlines()[1].strip() == (
        f"line 3: steps[0] factorize: {original.name} has layers that share weights; factorize attention before "
        "sharing, or leave it out"
    )


def test_layers_are_factorized_whatever_the_embeddings_are(plan_of, original):
    projected = replace(original, shape=original.shape.after(ProjectEmbeddings(8)))
    assert plan_of("{factorize: ffn, by: svd, rank: 8}", model=projected).shape.layers[0].rank("ffn-in") == 8


def test_a_recipe_factorizes_trains_and_reports(tmp_path):
    recipe = tmp_path / "r.yaml"
    steps = [
        "finetune: {epochs: 0.2}",
        "{factorize: attention, by: svd, rank: 1/4}",
        "{factorize: ffn, by: svd, rank: 1/4}",
        "{prune: heads, by: taylor, keep: 1/2}",
        "finetune: {when: always, epochs: 0.2}",
    ]
    recipe.write_text("recipe: 1\nname: thin\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    report = apply_tiny(recipe, tmp_path, layers=LAYERS)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.shape.layers == (LayerShape(2, 64, (8,) * 6),) * LAYERS
    assert report.model.parameters == sum(weight.numel() for weight in model.parameters())
    assert "| ranks |" in (tmp_path / "out" / "README.md").read_text()
