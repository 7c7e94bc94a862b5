"""A mask is a cut: what is masked answers as what is folded and cut, for factors of 0, of 1 and of all between."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch.nn.functional import layer_norm
from transformers import AutoModelForSequenceClassification

from compresskit.catalogue import load_catalogue
from compresskit.cost import count, dims_of, parameters
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutHidden,
    CutLayers,
    CutNeurons,
    CutRank,
    FactorizeEmbedding,
    FactorizeMatrix,
    ProjectEmbeddings,
    Shape,
    ShareLayers,
    edit_from_json,
    edit_to_json,
)
from compresskit.errors import CheckpointError, SurgeryError
from compresskit.export import stock
from compresskit.factoring import matrix, word_embedding
from compresskit.folding import fold
from compresskit.interfaces import Masks
from compresskit.masking import masked, sizes
from compresskit.model import wrap
from compresskit.strategies.svd import Svd
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.surgery import perform
from compresskit.testing import tiny_batch, tiny_model

FAMILIES = load_catalogue([]).names("architecture")
PLAIN = [name for name in FAMILIES if load_catalogue([]).anatomy(name).particulars is None]
"""Those whose layers have attention and one FFN in them, as wide as the hidden states."""
RANK = 10
MATRICES = [
    *((0, role, 14) for role in ("query", "key", "value", "attention-out")),
    *((2, role, 20) for role in ("ffn-in", "ffn-out")),
    (2, "value", 9),
    (2, "attention-out", 12),
]
"""Those of one attention, of one FFN, and two of another attention."""


def wrapped(family="bert", matrices=True, **sizes):
    model = wrap(tiny_model(family, layers=3, **sizes), load_catalogue().anatomy(family))
    perform(FactorizeEmbedding(RANK), model, Svd().factor(word_embedding(model), RANK, None))
    for layer, role, rank in MATRICES if matrices else ():
        edit = FactorizeMatrix(layer, role, rank)
        perform(edit, model, Svd().factor(matrix(model, edit), rank, None))
    return model


def answer(model, masks=None):
    with torch.no_grad():
        return model.eval().trace(tiny_batch(model), masks=masks).last


def some(*shape, seed, hard=False):
    """Factors of which about a third are 0, and the others between 0 and 1, or 1."""
    draw = torch.Generator().manual_seed(seed)
    soft = torch.rand(shape, generator=draw)
    kept = torch.rand(shape, generator=draw) > 1 / 3
    return kept.float() if hard else kept * (0.2 + 0.8 * soft)


def everything(model, hard=False):
    """A factor on everything that can have one."""
    there = sizes(model)
    return Masks(
        attention=torch.tensor([0.7, 0.0, 1.0]).ceil() if hard else torch.tensor([0.7, 0.0, 1.0]),
        ffn=torch.tensor([1.0, 0.6, 0.0]).ceil() if hard else torch.tensor([1.0, 0.6, 0.0]),
        heads=tuple(some(heads, seed=index, hard=hard) for index, heads in enumerate(there.heads)),
        neurons=tuple(some(neurons, seed=9 + index, hard=hard) for index, neurons in enumerate(there.neurons)),
        hidden=some(there.hidden, seed=20, hard=hard) if model.anatomy.model_type in PLAIN else None,
        ranks=tuple(some(split.rank, seed=21 + index, hard=hard) for index, split in enumerate(there.factored)),
    )


EACH = [field.name for field in fields(Masks) if field.name != "layers"]


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in FAMILIES for name in EACH if name != "hidden" or family in PLAIN]
)
def test_p1_p11_what_is_masked_answers_as_what_is_folded(family, hard, name):
    model = wrapped(family)
    masks = Masks(**{name: getattr(everything(model, hard), name)})
    before, asked = answer(model), answer(model, masks)
    fold(model, masks)
    torch.testing.assert_close(answer(model), asked, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, asked, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_p11_all_at_once_and_saved_and_loaded(family, tmp_path):
    model = wrapped(family)
    masks = everything(model)
    asked = answer(model, masks)
    edits = fold(model, masks)
    torch.testing.assert_close(answer(model), asked, atol=1e-5, rtol=1e-4)
    dims = dims_of(model.anatomy, tiny_model(family, layers=3).config)
    assert count(model) == parameters(dims, model.shape)
    assert [layer.heads for layer in model.shape.layers][1] == 0
    assert [layer.neurons for layer in model.shape.layers][2] == 0
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(answer(loaded), answer(model))
    assert loaded.shape == model.shape
    fresh = wrapped(family)
    for edit in edits:
        assert edit_from_json(edit_to_json(edit)) == edit
        perform(edit, fresh)
    assert fresh.shape == model.shape


def test_factors_of_one_change_no_bit():
    model = wrapped()
    there, before = sizes(model), answer(model)
    ones = Masks(
        attention=torch.ones(3),
        ffn=torch.ones(3),
        heads=tuple(map(torch.ones, there.heads)),
        neurons=tuple(map(torch.ones, there.neurons)),
        hidden=torch.ones(there.hidden),
        ranks=tuple(torch.ones(split.rank) for split in there.factored),
    )
    assert torch.equal(answer(model, ones), before)
    assert fold(model, ones) == ()
    assert torch.equal(answer(model), before)


def test_the_norm_is_taken_over_what_is_left():
    """A norm over all dimensions, masked afterwards, is what a cut model can't compute."""
    model = wrapped()
    kept = some(32, seed=20, hard=True)
    norm = model.body[0].output.LayerNorm
    seen = []
    hook = norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        state = model.trace(tiny_batch(model), hidden=True, masks=Masks(hidden=kept)).hidden[1]
    hook.remove()
    left = kept.bool()
    ours = layer_norm(seen[0][..., left], (int(kept.sum()),), norm.weight[left], norm.bias[left], norm.eps)
    torch.testing.assert_close(state[..., left], ours, atol=1e-5, rtol=1e-5)
    assert not state[..., ~left].any()
    assert not torch.allclose(norm(seen[0])[..., left], ours, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_that_is_passed_over_is_a_layer_that_is_cut(family):
    model = wrapped(family)
    masks = Masks(layers=(True, False, True))
    with torch.no_grad():
        trace = model.trace(tiny_batch(model), hidden=True, attention=True, masks=masks)
    edits = fold(model, masks)
    assert edits == (CutLayers((0, 2)),)
    assert torch.equal(answer(model), trace.last)
    assert (len(trace.hidden), len(trace.attention), trace.alive, trace.ran) == (3, 2, (1, 2), masks.layers)


def test_the_exit_of_a_layer_that_is_passed_over_says_nothing_and_the_last_always_does():
    model = wrapped()
    perform(AddExits((1, 2, 3), ClsTanh(), False), model)
    with torch.no_grad():
        trace = model.trace(tiny_batch(model), masks=Masks(layers=(True, False, False)))
    assert list(trace.logits) == [1, 3]


def test_alive_are_the_layers_that_add_something():
    model = wrapped()
    with torch.no_grad():
        assert model.trace(tiny_batch(model), masks=everything(model)).alive == (1, 2, 3)
        gone = Masks(attention=torch.tensor([1.0, 0.0, 0.0]), ffn=torch.tensor([0.0, 1.0, 0.0]))
        assert model.trace(tiny_batch(model), masks=gone).alive == (1, 2)
        empty = Masks(attention=torch.tensor([0.0, 1.0, 1.0]), neurons=(torch.zeros(64), *[torch.ones(64)] * 2))
        assert model.trace(tiny_batch(model), masks=empty).alive == (2, 3)
    fold(model, gone)
    assert model.trace(tiny_batch(model)).alive == (1, 2)


def test_gradients_reach_the_factors():
    model = wrapped()
    factors = torch.full((4,), 0.5, requires_grad=True)
    masks = Masks(heads=(factors, torch.ones(4), torch.ones(4)))
    model.trace(tiny_batch(model), masks=masks).last.sum().backward()
    assert (factors.grad != 0).all()


def test_factors_go_to_where_the_model_is():
    """Maskers make them wherever they like; `meta` stands for a GPU."""
    model = wrapped().to("meta")
    masks = everything(wrapped())
    out = model.body[0].attention.output.dense
    with masked(model, masks):
        assert out(torch.empty(2, 5, 32, device="meta")).device.type == "meta"
        assert model.body[0].output.LayerNorm(torch.empty(2, 5, 32, device="meta")).device.type == "meta"


def test_layers_that_share_weights_are_not_scaled_twice():
    model = wrapped(matrices=False)
    perform(ShareLayers((0, 0, 0), "mean"), model)
    before = answer(model)
    with pytest.raises(SurgeryError) as caught:
        fold(model, Masks(ffn=torch.tensor([0.5, 0.5, 0.5])))
    assert str(caught.value) == "layers share their weights, which would be scaled twice; mask before sharing"
    assert torch.equal(answer(model), before)


def test_something_is_left_of_some_layer():
    model = wrapped()
    with pytest.raises(SurgeryError) as caught:
        fold(model, Masks(attention=torch.zeros(3), ffn=torch.zeros(3)))
    assert str(caught.value) == (
        "nothing would be left of any layer's attention or FFN; ask for less sparsity, or for gates that learn "
        "more slowly"
    )


def test_recorded_attention_has_a_place_for_layers_without_heads():
    model = wrapped()
    perform(CutHeads(1, ()), model)
    with torch.no_grad():
        recorded = model.trace(tiny_batch(model), attention=True).attention
    assert [layer.query.shape[1] for layer in recorded] == [4, 0, 4]
    assert recorded[1].query.shape == (6, 0, 9, 8)


def test_no_hook_is_left_behind():
    model = wrapped()
    masks = everything(model)
    answer(model, masks)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_stock_export_has_zeros_for_an_attention_and_an_ffn_that_are_gone():
    model = wrapped()
    fold(model, Masks(attention=torch.tensor([1.0, 0.0, 1.0]), ffn=torch.tensor([0.0, 1.0, 1.0])))
    with torch.no_grad():
        said = stock(model)(**tiny_batch(model)).logits
    torch.testing.assert_close(said, answer(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("how", ["masked", "folded"])
def test_hidden_states_that_can_not_be_cut_are_not_masked(how):
    model = wrap(tiny_model("mobilebert"), load_catalogue().anatomy("mobilebert"))
    masks = Masks(hidden=torch.ones(model.hidden_size))
    use = (lambda: model.trace(tiny_batch(model), masks=masks)) if how == "masked" else (lambda: fold(model, masks))
    with pytest.raises(SurgeryError) as error:
        use()
    assert str(error.value) == (
        "the hidden states of mobilebert models run through more than heads and neurons and can't be masked; "
        "leave hidden out of the masks"
    )


def test_the_stock_export_refuses_narrower_hidden_states():
    model = wrapped()
    perform(CutHidden(tuple(range(20))), model)
    message = (
        "the model: its hidden states are 20 wide where bert has 32, which its norms can't express; compress it again "
        "without a mask that cuts them to export it"
    )
    with pytest.raises(CheckpointError) as caught:
        stock(model)
    assert str(caught.value) == message


def test_hidden_states_are_not_cut_under_exits():
    model = wrapped()
    perform(AddExits((3,), ClsTanh(), False), model)
    shape, before = model.shape, answer(model)
    with pytest.raises(SurgeryError) as caught:
        fold(model, Masks(hidden=some(32, seed=1), heads=(torch.full((4,), 0.5),) * 3))
    assert str(caught.value) == (
        "the exits are made for hidden states of this width; cut them before the exits are put in"
    )
    assert model.shape == shape
    assert torch.equal(answer(model), before)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (CutHidden(()), "nothing would be left of the dimensions of the hidden states; keep at least one of 32"),
        (
            CutHidden((0, 32)),
            (
                "cannot keep [0, 32] of the 32 dimensions of the hidden states; "
                "give different numbers from 0 to 31, rising"
            ),
        ),
        (CutRank(()), "nothing would be left of the rank of the word embedding; keep at least one of 10"),
    ],
    ids=["all-hidden", "too-many", "all-rank"],
)
def test_a_cut_that_does_not_fit_is_refused(edit, message):
    model = wrapped()
    with pytest.raises(SurgeryError) as caught:
        perform(edit, model)
    assert str(caught.value) == message


def test_layers_that_share_weights_keep_the_width_of_their_hidden_states():
    model = wrapped(matrices=False)
    perform(ShareLayers((0, 0, 0), "mean"), model)
    with pytest.raises(SurgeryError) as caught:
        perform(CutHidden((0,)), model)
    message = "layers share their weights, which would be cut twice; cut the hidden states before sharing"
    assert str(caught.value) == message


@pytest.mark.parametrize("family", PLAIN)
def test_narrow_hidden_states_and_projected_embeddings_and_shared_layers_are_saved_and_loaded(family, tmp_path):
    model = wrap(tiny_model(family, layers=3), load_catalogue().anatomy(family))
    with torch.no_grad():
        asked = model.trace(tiny_batch(model), masks=Masks(hidden=some(32, seed=3))).last
    fold(model, Masks(hidden=some(32, seed=3)))
    torch.testing.assert_close(answer(model), asked, atol=1e-5, rtol=1e-4)
    perform(ProjectEmbeddings(6), model, Svd().factor(word_embedding(model), 6, None))
    perform(ShareLayers((0, 0, 0), "mean"), model)
    dims = dims_of(model.anatomy, tiny_model(family, layers=3).config)
    assert count(model) == parameters(dims, model.shape)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(answer(loaded), answer(model))


def test_a_table_has_no_rank_to_cut():
    model = wrap(tiny_model(), load_catalogue().anatomy("bert"))
    with pytest.raises(SurgeryError) as caught:
        perform(CutRank((0,)), model)
    assert str(caught.value) == "the word embedding is one table and has no rank to cut; factorize it first"


def test_a_shape_written_before_hidden_states_could_be_cut_is_read():
    written = wrapped().shape.to_json()
    assert "hidden" not in written
    assert Shape.from_json(written).hidden is None


def test_units_may_all_go():
    model = wrapped()
    perform(CutHeads(0, ()), model)
    perform(CutNeurons(0, ()), model)
    state = torch.randn(2, 5, 32)
    layer = model.body[0]
    with torch.no_grad():
        inner = layer.attention.output.LayerNorm(state + layer.attention.output.dense.bias)
        expected = layer.output.LayerNorm(inner + layer.output.dense.bias)
        torch.testing.assert_close(layer(state, None), expected)
