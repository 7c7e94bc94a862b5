"""Cutting is masking, factoring at full rank is nothing, and what is left costs what the arithmetic says."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig

from compresskit.anatomy import embeddings_project, entries, find, head_size, layers, linear
from compresskit.catalogue import load_catalogue
from compresskit.config import CompressedConfig
from compresskit.cost import count, dims_of, parameters
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutHidden,
    CutLayers,
    CutNeurons,
    FactorizeEmbedding,
    ProjectEmbeddings,
    Shape,
    ShareLayers,
    edit_from_json,
    edit_to_json,
)
from compresskit.errors import SurgeryError
from compresskit.factoring import word_embedding
from compresskit.model import CompressedForSequenceClassification, wrap
from compresskit.modules import FactorizedEmbedding
from compresskit.strategies.svd import Svd
from compresskit.strategies.tanh_heads import ClsTanh, MeanTanh
from compresskit.surgery import perform, reshape
from compresskit.testing import tiny_batch, tiny_model

FAMILIES = load_catalogue([]).names("architecture")
PLAIN = [name for name in FAMILIES if load_catalogue([]).anatomy(name).particulars is None]
"""Those whose layers have attention and one FFN in them, as wide as the hidden states."""
EXITS = AddExits((1, 2), ClsTanh(), False)
EXITS_RULE = (
    "must be different layers in rising order, from 1 up, the last of them the model's last, 2; correct the list"
)


OWNERS_RULE = "must name for each of the 2 layers itself, or an earlier layer that owns its weights; correct the list"


def wrapped(family="bert", **sizes):
    return wrap(tiny_model(family, **sizes), load_catalogue().anatomy(family))


def factors(model, rank):
    return Svd().factor(word_embedding(model), rank, None)


def answers(model):
    with torch.no_grad():
        return torch.stack(list(model.trace(tiny_batch(model)).logits.values()))


def cost(model):
    return parameters(dims_of(model.anatomy, model.network.config), model.shape)


# --- heads and neurons -----------------------------------------------------------------------------------------------


class Masks:
    """Zeroes what the removed heads and neurons of a whole model put into attention-out and ffn-out."""

    def __init__(self, model):
        self.model = model
        self.kept = {}
        for index, layer in enumerate(layers(model.anatomy, model.network)):
            for target, role in (("heads", "attention-out"), ("neurons", "ffn-out")):
                piece = next(piece for piece in model.anatomy.slices(target) if piece.role == role)
                out = linear(layer, piece.path, piece.dim)
                width = head_size(model.anatomy, layer) if target == "heads" else 1
                self.kept[target, index] = list(range(out.in_features // width))
                out.register_forward_pre_hook(
                    lambda _, args, at=(target, index), width=width: (args[0] * self.mask(at, width, args[0]),)
                )

    def mask(self, at, width, like):
        mask = torch.zeros(like.shape[-1])
        mask[entries(self.kept[at], width)] = 1
        return mask

    def cut(self, target, index, keep):
        """`keep` is numbered as the cut model is now; the mask is numbered as the whole model."""
        self.kept[target, index] = [self.kept[target, index][unit] for unit in keep]


@pytest.mark.parametrize("family", FAMILIES)
def test_p1_cutting_is_masking_after_every_pruning_of_a_schedule(family):
    cut, whole = wrapped(family, hidden=48, heads=6, neurons=60), wrapped(family, hidden=48, heads=6, neurons=60)
    torch.manual_seed(3)
    perform(EXITS, cut)
    torch.manual_seed(3)
    perform(EXITS, whole)
    masks = Masks(whole)
    draw = random.Random(0)
    for heads, neurons in ((5, 49), (4, 38), (3, 27), (2, 16), (1, 5)):
        for index in range(2):
            for target, kind, keep in (("heads", CutHeads, heads), ("neurons", CutNeurons, neurons)):
                now = getattr(cut.shape.layers[index], target)
                units = tuple(sorted(draw.sample(range(now), keep)))
                perform(kind(index, units), cut)
                masks.cut(target, index, units)
        assert [(layer.heads, layer.neurons) for layer in cut.shape.layers] == [(heads, neurons)] * 2
        torch.testing.assert_close(answers(cut), answers(whole), rtol=0, atol=1e-5)
        assert count(cut) == cost(cut)
    untouched = wrapped(family, hidden=48, heads=6, neurons=60)
    torch.manual_seed(3)
    perform(EXITS, untouched)
    assert (answers(cut) - answers(untouched)).abs().max() > 1e-3


def test_layers_may_keep_different_numbers():
    model = wrapped(layers=3)
    perform(CutHeads(0, (1, 3)), model)
    perform(CutNeurons(2, (0, 5, 63)), model)
    assert [(layer.heads, layer.neurons) for layer in model.shape.layers] == [(2, 64), (4, 64), (4, 3)]
    assert count(model) == cost(model)
    assert answers(model).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_p5_the_size_and_scale_of_a_head_stay(family):
    model = wrapped(family, hidden=48, heads=6)
    perform(CutHeads(0, (2, 5)), model)
    first, second = layers(model.anatomy, model.network)
    size = dims_of(model.anatomy, model.network.config).head_size
    assert size == (8 if family in PLAIN else 6)
    assert head_size(model.anatomy, first) == head_size(model.anatomy, second) == size
    owner_path, _, name = model.anatomy.head_count.rpartition(".")
    owner = find(first, owner_path)
    assert getattr(owner, name) == 2
    assert getattr(owner, "all_head_size", 2 * size) == 2 * size
    assert owner.scaling == size**-0.5
    heads = [linear(first, piece.path, piece.dim).weight.shape[piece.dim] for piece in model.anatomy.heads]
    assert heads == [2 * size] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_p5_the_shape_round_trips_through_the_config(family, tmp_path):
    model = wrapped(family, layers=3)
    for edit in (
        CutHeads(0, (1, 3)),
        CutNeurons(2, (0, 5, 63)),
        FactorizeEmbedding(5),
        AddExits((1, 3), MeanTanh(), False),
    ):
        perform(edit, model)
    model.config.save_pretrained(tmp_path)
    config = CompressedConfig.from_pretrained(tmp_path)
    assert Shape.from_json(config.shape) == model.shape
    again = CompressedForSequenceClassification(config)
    assert again.shape == model.shape
    assert {name: weight.shape for name, weight in again.state_dict().items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }
    assert [type(exit_).__name__ for exit_ in again.exits.values()] == ["MeanTanhHead"] * 2


def test_a_cut_keeps_the_slices_of_the_units_and_their_biases():
    model = wrapped()
    layer = layers(model.anatomy, model.network)[1]
    before = {name: weight.clone() for name, weight in layer.state_dict().items()}
    perform(CutHeads(1, (0, 2)), model)
    perform(CutNeurons(1, (7, 8, 60)), model)
    after = layer.state_dict()
    rows = [*range(8), *range(16, 24)]
    for name in ("query", "key", "value"):
        assert torch.equal(after[f"attention.self.{name}.weight"], before[f"attention.self.{name}.weight"][rows])
        assert torch.equal(after[f"attention.self.{name}.bias"], before[f"attention.self.{name}.bias"][rows])
    assert torch.equal(after["attention.output.dense.weight"], before["attention.output.dense.weight"][:, rows])
    assert torch.equal(after["attention.output.dense.bias"], before["attention.output.dense.bias"])
    assert torch.equal(after["intermediate.dense.weight"], before["intermediate.dense.weight"][[7, 8, 60]])
    assert torch.equal(after["intermediate.dense.bias"], before["intermediate.dense.bias"][[7, 8, 60]])
    assert torch.equal(after["output.dense.weight"], before["output.dense.weight"][:, [7, 8, 60]])
    assert torch.equal(after["output.dense.bias"], before["output.dense.bias"])


def test_what_is_left_can_be_trained_and_keeps_its_precision():
    model = wrapped().to(torch.bfloat16)
    for edit in (CutHeads(0, (1,)), CutNeurons(0, (1,)), EXITS):
        perform(edit, model)
    perform(FactorizeEmbedding(4), model, factors(model, 4))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert all(weight.requires_grad and weight.is_contiguous() for weight in model.parameters())
    assert not any(part.training for part in model.modules())


# --- the word embedding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_f3_full_rank_keeps_the_logits(family):
    model = wrapped(family)
    before = answers(model)
    size = find(model.network, model.anatomy.word_embeddings).embedding_dim
    perform(FactorizeEmbedding(size), model, factors(model, size))
    assert isinstance(find(model.network, model.anatomy.word_embeddings), FactorizedEmbedding)
    torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-5)
    assert count(model) == cost(model)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_f2_iterated_truncation_is_direct_truncation(family):
    iterated, direct = wrapped(family), wrapped(family)
    for rank in (15, 11, 8, 5):
        perform(FactorizeEmbedding(rank), iterated, factors(iterated, rank))
    perform(FactorizeEmbedding(5), direct, factors(direct, 5))
    torch.testing.assert_close(word_embedding(iterated), word_embedding(direct), rtol=0, atol=1e-5)
    torch.testing.assert_close(answers(iterated), answers(direct), rtol=0, atol=1e-4)
    one, other = (find(model.network, model.anatomy.word_embeddings) for model in (iterated, direct))
    torch.testing.assert_close(one.table.weight, other.table.weight, rtol=0, atol=1e-4)
    assert one.table.padding_idx == tiny_model(family).get_input_embeddings().padding_idx
    assert one.expand.bias is None
    assert iterated.shape.rank == 5
    assert (word_embedding(direct) - word_embedding(wrapped(family))).abs().max() > 0.1


# --- all embeddings --------------------------------------------------------------------------------------------------


def project(model, rank, given=None):
    perform(ProjectEmbeddings(rank), model, given or factors(model, rank))
    return model


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_tables_that_are_their_own_factor_keep_the_answers(family, scale):
    """The old norm's gain and bias live on in the linear layer, which makes up for the size of the factors."""
    model = wrapped(family)
    before, table = answers(model), word_embedding(model)
    project(model, table.shape[1], (scale * table, torch.eye(table.shape[1]) / scale))
    torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-4)
    norm = next(
        part for part in find(model.network, model.anatomy.embeddings).modules() if isinstance(part, nn.LayerNorm)
    )
    assert bool((norm.weight == 1).all()) and not norm.bias.any()
    assert count(model) == cost(model)


@pytest.mark.parametrize("family", PLAIN)
def test_full_rank_factors_give_the_word_table_again(family):
    model = wrapped(family)
    table = word_embedding(model).clone()
    left, right = factors(model, table.shape[1])
    project(model, table.shape[1], (left, right))
    torch.testing.assert_close(word_embedding(model) @ right, table, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", PLAIN)
def test_all_tables_move_into_the_small_space_and_what_they_can_keep_there_they_keep(family):
    model, whole = wrapped(family), wrapped(family)
    left, right = factors(model, 5)
    project(model, 5, (left, right))
    small, large = (find(each.network, each.anatomy.embeddings) for each in (model, whole))
    tables = [path for path, part in large.named_modules() if isinstance(part, nn.Embedding)]
    assert len(tables) >= 2
    for path in tables:
        one, other = small.get_submodule(path), large.get_submodule(path)
        assert one.weight.shape == (other.num_embeddings, 5)
        assert one.padding_idx == other.padding_idx
        # The nearest point of a plane: what is missing stands at right angles to it.
        missing = other.weight - one.weight @ right
        torch.testing.assert_close(missing @ right.t(), torch.zeros(len(missing), 5), rtol=0, atol=1e-4)
    assert torch.equal(word_embedding(model), left)
    assert embeddings_project(model.anatomy, model.network).weight.shape == (32, 5)
    assert not any(part.training for part in model.modules())
    assert count(model) == cost(model) < cost(whole)
    assert answers(model).isfinite().all()


def test_a6_albert_base_has_as_many_parameters_as_it_is_said_to_have():
    with torch.device("meta"):
        network = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=30_000))
    model = wrap(network, load_catalogue().anatomy("bert"))
    perform(ProjectEmbeddings(128), model)
    perform(ShareLayers((0,) * 12, "mean"), model)
    assert count(model) - count(model.network.classifier) == 11_683_584


# --- exits and the read-out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("read_out", [True, False])
def test_the_read_out_stays_or_goes(family, read_out):
    model = wrapped(family, layers=3)
    pieces = [part for part in model.anatomy.read_out if not part.startswith(":")]
    perform(AddExits((2, 3), ClsTanh(), read_out), model)
    assert list(model.exits) == (["2"] if read_out else ["2", "3"])
    assert [find(model.network, piece.rpartition(".")[0])._modules[piece.rpartition(".")[2]] is None
            for piece in pieces] == [not read_out] * len(pieces)  # fmt: skip
    assert count(model) == cost(model)


def test_exits_are_small_random_heads_without_bias():
    model = wrapped(hidden=512, labels=4, initializer_range=0.02)
    perform(EXITS, model)
    for head in model.exits.values():
        assert head.classifier.weight.shape == (4, 512)
        assert 0.018 < head.classifier.weight.std() < 0.022
        assert not head.classifier.bias.any()
    assert [head.dropout.p for head in model.exits.values()] == [model.network.config.hidden_dropout_prob] * 2


# --- layers ----------------------------------------------------------------------------------------------------------


def test_cut_layers_leave_the_others_in_order():
    model, whole = wrapped(layers=4), wrapped(layers=4)
    perform(CutLayers((0, 2, 3)), model)
    state = whole.embed(tiny_batch(whole))
    mask = tiny_batch(whole)["attention_mask"]
    with torch.no_grad():
        for index in (0, 2, 3):
            state = layers(whole.anatomy, whole.network)[index](state, whole.attention(state, mask))
        assert torch.equal(answers(model)[0], whole.answer(4, state, mask)[0])
    assert model.depth == 3
    assert count(model) == cost(model)


@pytest.mark.parametrize(
    ("exits", "read_out", "keep", "left"),
    [
        ((1, 2, 3, 4), False, (0, 2, 3), {"1": "1", "2": "3", "3": "4"}),
        ((2, 4), False, (0, 1, 2), {"2": "2", "3": "4"}),
        ((2, 4), False, (0, 1), {"2": "2"}),
        ((2, 4), False, (0,), {"1": "4"}),
        ((1, 2, 3, 4), True, (0, 2, 3), {"1": "1", "2": "3"}),
        ((2, 4), True, (0, 1), {}),
    ],
)
def test_exits_stay_with_their_layers_and_the_last_layer_answers(exits, read_out, keep, left):
    model = wrapped(layers=4)
    perform(AddExits(exits, ClsTanh(), read_out), model)
    old = dict(model.exits.items())
    perform(CutLayers(keep), model)
    assert {new: next(name for name, head in old.items() if head is now) for new, now in model.exits.items()} == left
    assert model.shape.exits == tuple(sorted({*map(int, left), len(keep)}))
    assert count(model) == cost(model)
    assert len(answers(model)) == len(model.shape.exits)


# --- shared layers ---------------------------------------------------------------------------------------------------

LAYERS = 6


def equal_layers(family):
    model = wrapped(family, layers=LAYERS)
    body = layers(model.anatomy, model.network)
    for layer in body[1:]:
        layer.load_state_dict(body[0].state_dict())
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", ["mean", "first"])
def test_sharing_layers_that_are_equal_changes_no_bit(family, start):
    """A mean in single precision would: the sum of six equal numbers is rounded."""
    model = equal_layers(family)
    before = answers(model)
    perform(ShareLayers((0,) * LAYERS, start), model)
    assert torch.equal(answers(model), before)
    assert count(model) == cost(model) < cost(equal_layers(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", ["mean", "first"])
def test_shared_weights_begin_as_the_mean_of_their_run_or_as_its_first(family, start):
    model, whole = wrapped(family, layers=4), wrapped(family, layers=4)
    perform(ShareLayers((0, 0, 0, 3), start), model)
    body, given = layers(model.anatomy, model.network), layers(whole.anatomy, whole.network)
    for path, weight in body[0].named_parameters():
        run = torch.stack([given[index].get_parameter(path) for index in range(3)])
        torch.testing.assert_close(weight, run.mean(0) if start == "mean" else run[0])
        assert all(layer.get_parameter(path) is weight for layer in body[1:3])
        assert torch.equal(body[3].get_parameter(path), given[3].get_parameter(path))
    assert count(model) == cost(model)


def test_the_gradient_of_a_shared_layer_is_the_sum_of_its_layers_gradients():
    shared, apart = wrapped(layers=3), wrapped(layers=3)
    perform(ShareLayers((0, 0, 0), "mean"), shared)
    apart.load_state_dict(shared.state_dict())
    for model in (shared, apart):
        model.trace(tiny_batch(model)).last.square().sum().backward()
    one, three = (layers(model.anatomy, model.network) for model in (shared, apart))
    for path, weight in one[0].named_parameters():
        gradients = torch.stack([layer.get_parameter(path).grad for layer in three])
        torch.testing.assert_close(weight.grad, gradients.sum(0), rtol=1e-4, atol=1e-5)
    assert (one[0].output.dense.weight.grad - three[0].output.dense.weight.grad).abs().max() > 1e-3


def test_copies_in_other_precisions_share_too():
    model = wrapped(layers=3)
    perform(ShareLayers((0, 0, 0), "mean"), model)
    for other in (copy.deepcopy(model), copy.deepcopy(model).to(torch.bfloat16)):
        assert count(other) == cost(model)
        assert other.shared_weights == model.shared_weights


def test_each_layer_that_shares_is_heard_by_itself():
    shared, apart = wrapped(layers=3), wrapped(layers=3)
    perform(ShareLayers((0, 0, 0), "mean"), shared)
    apart.load_state_dict(shared.state_dict())
    ours, theirs = (model.trace(tiny_batch(model), attention=True).attention for model in (shared, apart))
    assert all(torch.equal(one.query, other.query) for one, other in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0].query, ours[1].query)


def test_a_run_shrinks_and_the_owner_of_its_weights_may_go():
    model = wrapped(layers=4)
    perform(ShareLayers((0, 0, 0, 0), "mean"), model)
    perform(AddExits((2, 4), ClsTanh(), False), model)
    kept = [layers(model.anatomy, model.network)[index] for index in (1, 3)]
    perform(CutLayers((1, 3)), model)
    assert list(layers(model.anatomy, model.network)) == kept
    assert kept[0].output.dense.weight is kept[1].output.dense.weight
    assert (model.shape.owners, model.shape.exits) == ((0, 0), (1, 2))
    assert count(model) == cost(model)


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_replayed_on_a_fresh_original_give_the_same_weights(family):
    done = [
        CutLayers((0, 2)),
        CutHeads(0, (1, 3)),
        CutHeads(0, (1,)),
        CutNeurons(1, (0, 5, 63)),
        CutNeurons(1, (1, 2)),
        CutHeads(1, (3,)),
        CutNeurons(0, (1, 2)),
        ShareLayers((0, 0), "mean"),
    ]
    model, replayed = wrapped(family, layers=3), wrapped(family, layers=3)
    for edit in done:
        perform(edit, model)
    for record in [edit_to_json(edit) for edit in done]:
        perform(edit_from_json(record), replayed)
    assert replayed.shape == model.shape
    theirs = replayed.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in model.state_dict().items())
    assert torch.equal(answers(model), answers(replayed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("read_out", [True, False])
def test_reshape_gives_every_weight_its_place(family, read_out):
    model = wrapped(family, layers=3)
    for edit in (
        AddExits((1, 2, 3), MeanTanh(), read_out),
        CutLayers((0, 2)),
        CutHeads(1, (1, 3)),
        CutNeurons(0, (0, 5, 63)),
        FactorizeEmbedding(7),
    ):
        perform(edit, model)
    again = wrapped(family, layers=3, seed=5)
    reshape(again, model.shape)
    assert again.shape == model.shape
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(answers(again), answers(model))


@pytest.mark.parametrize("family", PLAIN)
def test_reshape_shares_and_projects_too(family):
    model = wrapped(family, layers=4)
    perform(ShareLayers((0, 0, 2, 2), "mean"), model)
    perform(CutLayers((1, 2, 3)), model)
    project(model, 7)
    again = wrapped(family, layers=4, seed=5)
    reshape(again, model.shape)
    assert again.shape == model.shape
    assert count(again) == count(model)
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(answers(again), answers(model))


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (CutLayers(()), "nothing would be left of the layers; keep at least one of 2"),
        (
            CutHeads(1, (0, 4)),
            "cannot keep [0, 4] of the 4 heads of layer 2; give different numbers from 0 to 3, rising",
        ),
        (
            CutNeurons(0, (-1, 2)),
            "cannot keep [-1, 2] of the 64 neurons of layer 1; give different numbers from 0 to 63, rising",
        ),
        (CutLayers((1, 0)), "cannot keep [1, 0] of the 2 layers; give different numbers from 0 to 1, rising"),
        (CutLayers((0, 0)), "cannot keep [0, 0] of the 2 layers; give different numbers from 0 to 1, rising"),
        (CutLayers((0, 2)), "cannot keep [0, 2] of the 2 layers; give different numbers from 0 to 1, rising"),
        (CutHeads(2, (0,)), "there is no layer 3 to change heads of; give the number of one of the 2 layers"),
        (CutNeurons(-1, (0,)), "there is no layer 0 to change neurons of; give the number of one of the 2 layers"),
        (FactorizeEmbedding(0), "rank 0 is not between 1 and the embedding's size 32; ask for a rank in between"),
        (FactorizeEmbedding(33), "rank 33 is not between 1 and the embedding's size 32; ask for a rank in between"),
        (ProjectEmbeddings(33), "rank 33 is not between 1 and the embedding's size 32; ask for a rank in between"),
        (ShareLayers((0,), "mean"), f"owners [0] {OWNERS_RULE}"),
        (ShareLayers((1, 1), "mean"), f"owners [1, 1] {OWNERS_RULE}"),
        (ShareLayers((0, -1), "mean"), f"owners [0, -1] {OWNERS_RULE}"),
        (AddExits((), ClsTanh(), False), f"exits [] {EXITS_RULE}"),
        (AddExits((1,), ClsTanh(), False), f"exits [1] {EXITS_RULE}"),
        (AddExits((1, 3), ClsTanh(), False), f"exits [1, 3] {EXITS_RULE}"),
        (AddExits((0, 2), ClsTanh(), False), f"exits [0, 2] {EXITS_RULE}"),
        (AddExits((2, 1), ClsTanh(), True), f"exits [2, 1] {EXITS_RULE}"),
        (AddExits((2, 2), ClsTanh(), True), f"exits [2, 2] {EXITS_RULE}"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_changes_nothing(edit, message):
    model = wrapped()
    before, shape = answers(model), model.shape
    with pytest.raises(SurgeryError) as error:
        perform(edit, model)
    assert str(error.value) == message
    assert torch.equal(answers(model), before)
    assert model.shape == shape


@pytest.mark.parametrize(
    ("before", "edit", "message"),
    [
        (
            ShareLayers((0, 0), "mean"),
            CutHeads(1, (0,)),
            "layers share their weights, so heads of layer 2 can't change alone; change them before sharing",
        ),
        (
            ShareLayers((0, 0), "mean"),
            ShareLayers((0, 1), "mean"),
            "the layers share weights already; share those of the original instead",
        ),
        (
            CutNeurons(1, (0, 1)),
            ShareLayers((0, 0), "mean"),
            (
                "layers 1 and 2 have different sizes and can't share weights; share before "
                "pruning, or keep equal numbers"
            ),
        ),
        (
            ProjectEmbeddings(5),
            FactorizeEmbedding(4),
            "the embeddings are projected from a small space already; leave this step out",
        ),
        (
            FactorizeEmbedding(5),
            ProjectEmbeddings(4),
            "the embeddings are two factors already and can't be projected; leave this step out",
        ),
    ],
)
def test_an_edit_that_does_not_fit_an_earlier_one_is_refused(before, edit, message):
    model = wrapped()
    perform(before, model)
    shape = model.shape
    with pytest.raises(SurgeryError) as error:
        perform(edit, model)
    assert str(error.value) == message
    assert model.shape == shape


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            ProjectEmbeddings(4),
            "the embeddings of mobilebert models can't be projected; factorize the word table alone",
        ),
        (
            CutHidden((0, 1)),
            (
                "the hidden states of mobilebert models run through more than heads and neurons and can't be cut; "
                "leave them whole"
            ),
        ),
    ],
)
def test_what_runs_through_more_than_heads_and_neurons_stays_as_wide_as_it_is(edit, message):
    model = wrapped("mobilebert")
    before = answers(model)
    with pytest.raises(SurgeryError) as error:
        perform(edit, model)
    assert str(error.value) == message
    assert torch.equal(answers(model), before)


def test_embeddings_without_a_norm_are_not_projected():
    model = wrapped()
    model.network.bert.embeddings.LayerNorm = nn.Identity()
    with pytest.raises(SurgeryError) as error:
        perform(ProjectEmbeddings(4), model)
    assert str(error.value) == (
        "the embeddings have no layer norm of their own and can't be projected; leave this step out"
    )


def test_a_read_out_that_is_gone_cannot_answer_at_the_last_layer():
    model = wrapped()
    perform(EXITS, model)
    with pytest.raises(SurgeryError) as error:
        perform(replace(EXITS, read_out=True), model)
    assert str(error.value) == (
        "the original's read-out was removed from this model and can't answer at the last layer; "
        "put an exit head there too"
    )
    assert all(isinstance(head, nn.Module) for head in model.exits.values())
    assert len(model.exits) == 2
