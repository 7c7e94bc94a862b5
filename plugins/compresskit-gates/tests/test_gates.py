"""Gates open as often as they should, the constraint pulls where it should, and what is left is what was learnt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compresskit_gates import CoFi, Flop, LayerMatch
from compresskit_gates.gates import Constraint, HardConcrete
from transformers import AutoModelForSequenceClassification

from compresskit import Factored, Sizes, Trace
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import load
from compresskit.errors import CompresskitError, RecipeError
from compresskit.folding import fold
from compresskit.masking import sizes
from compresskit.model import wrap
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.strategies.predictions import Predictions
from compresskit.testing import apply_tiny, parametrize, save_tiny, tiny_model, trainings
from compresskit.testing.conformance import strategy_checks
from compresskit.views import plan_tables

RECIPES = Path(__file__).parent.parent / "compresskit_gates" / "recipes"
BERT = Sizes(heads=(12,) * 12, neurons=(3072,) * 12, head_size=64, hidden=768)
TINY = Sizes(heads=(4,) * 3, neurons=(64,) * 3, head_size=8, hidden=32)
# Which layers are matched depends on the whole batch, so its loss is no mean over examples.
MATCH = [(name, check) for name, check in strategy_checks(LayerMatch()) if name != "is_the_mean_over_examples"]


@pytest.mark.parametrize(
    **parametrize(
        CoFi(0.5), CoFi(0.95, free_steps=0), CoFi(0.9, hidden=False), Flop(0.5), Flop(0.9, logit=-4.0, warmup=0.0)
    )
)
def test_is_a_good_strategy(check):
    check()


@pytest.mark.parametrize("check", [check for _, check in MATCH], ids=[name for name, _ in MATCH])
def test_layer_match_is_a_good_strategy(check):
    check()


def number(scalar):
    """Of a tensor that may want a gradient."""
    return float(scalar.detach())


# --- one gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "likely"), [(1.0, 0.9167), (2 / 3, 0.8318)])
def test_p7_how_likely_a_gate_is_open(temperature, likely):
    torch.manual_seed(0)
    gate = HardConcrete(1_000_000, temperature, 0.0)
    with torch.no_grad():
        assert number(gate.open()[0]) == pytest.approx(likely, abs=5e-5)
        assert number((gate.sample() > 0).float().mean()) == pytest.approx(likely, abs=1e-3)


def test_p7_limits_of_the_logits():
    gate = HardConcrete(2, 2 / 3, 10.0)
    with torch.no_grad():
        gate.logits[1] = -10.0
    gate.hold()
    assert gate.logits.tolist() == pytest.approx([math.log(100), math.log(0.01)])
    assert gate.open().tolist() == pytest.approx([0.9980, 0.0471], abs=5e-5)


def test_as_many_gates_settle_open_as_are_expected_to_be_and_keep_a_soft_factor():
    gate = HardConcrete(4, 1.0, 0.0)
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([1.0, -4.0, 3.0, -3.5]))
    expected = number(gate.open().sum())
    assert round(expected) == 2
    with torch.no_grad():
        settled = gate.settled()
    # Rounded to 1 they would change the answers.
    assert settled.tolist() == pytest.approx([1 / (1 + math.exp(-0.8)), 0, 1 / (1 + math.exp(-2.4)), 0])


def test_gradients_reach_the_logits_through_what_is_drawn():
    torch.manual_seed(0)
    gate = HardConcrete(50, 2 / 3, 0.0)
    gate.sample().sum().backward()
    assert 10 < int((gate.logits.grad > 0).sum()) <= 50


# --- the constraint --------------------------------------------------------------------------------------------------


def test_at_its_target_the_constraint_is_nothing_and_pulls_with_its_linear_multiplier():
    constraint = Constraint()
    with torch.no_grad():
        constraint.linear.fill_(3.0)
        constraint.quadratic.fill_(7.0)
    sparsity = torch.tensor(0.6, requires_grad=True)
    loss = constraint(sparsity, 0.6)
    loss.backward()
    assert (number(loss), number(sparsity.grad)) == pytest.approx((0.0, 3.0), abs=1e-6)


@pytest.mark.parametrize(("sparsity", "sign"), [(0.1, -1), (0.9, 1)])
def test_the_multipliers_climb_away_from_the_target_until_the_gates_follow(sparsity, sign):
    """Below the target the linear one falls, so that descending on the loss raises the sparsity; above it rises."""
    constraint = Constraint()
    optimizer = torch.optim.AdamW([{"params": constraint.parameters(), "lr": 0.1, "maximize": True}], weight_decay=0.0)
    pulls = []
    for _ in range(3):
        now = torch.tensor(sparsity, requires_grad=True)
        optimizer.zero_grad()
        constraint(now, 0.5).backward()
        pulls.append(number(now.grad))
        optimizer.step()
    assert sign * number(constraint.linear) > 0
    assert number(constraint.quadratic) > 0
    assert pulls[0] == 0 and sign * pulls[2] > sign * pulls[1] > 0


def test_the_target_rises_to_where_it_stays():
    sizes = replace(BERT, factored=(Factored(10, 768, 768, "query"),))
    module = Flop(0.8, warmup=0.5).build(sizes)
    assert [module.aim(step, 8) for step in (0, 2, 4, 7)] == pytest.approx([0, 0.4, 0.8, 0.8])
    assert Flop(0.8, warmup=0.0).build(sizes).aim(0, 8) == 0.8


def test_flop_counts_the_weights_of_factors_by_hand():
    """Equation 8's expected size: (in + out) for each number that is open, over all matrices."""
    sizes = replace(TINY, factored=(Factored(3, 100, 32), Factored(5, 32, 64, "ffn-in")))
    module = Flop(0.5, logit=0.0).build(sizes)
    likely = 1 / (1 + math.exp(math.log(0.1 / 1.1)))
    assert number(module.sparsity()) == pytest.approx(1 - likely)
    with torch.no_grad():
        module.ranks[0].logits.fill_(-1000.0)
    whole = 3 * 132 + 5 * 96
    assert number(module.sparsity()) == pytest.approx(1 - likely * 5 * 96 / whole)


def test_flop_leaves_something_of_every_matrix():
    module = Flop(0.9).build(replace(TINY, factored=(Factored(3, 100, 32), Factored(4, 32, 64, "ffn-in"))))
    with torch.no_grad():
        module.ranks[0].logits.copy_(torch.tensor([-4.6, -4.5, -4.6]))
        module.ranks[1].logits.copy_(torch.tensor([4.0, -4.0, 4.0, -4.0]))
    first, second = module.final().ranks
    assert first.tolist() == [0.0, 1.0, 0.0]
    assert second.tolist() == pytest.approx([0.9608, 0, 0.9608, 0], abs=1e-4)


@pytest.mark.parametrize(
    "masker",
    [
        CoFi(0.7, free_steps=0, learning_rate=0.05, warmup=0.3),
        Flop(0.95, learning_rate=0.05),
        # CoFi's limits, which FLOP does not have, would keep gates open more often than so.
        Flop(0.9, temperature=2.0, learning_rate=0.05),
    ],
    ids=["cofi", "flop", "flop-warm"],
)
def test_gates_alone_go_to_the_target(masker):
    torch.manual_seed(0)
    module = masker.build(replace(TINY, factored=(Factored(30, 100, 32), Factored(20, 32, 64, "ffn-in"))))
    optimizer = torch.optim.AdamW(module.groups(), weight_decay=0.0)
    for step in range(1000):
        module.masks(step, step, 1000)  # as in a training, for it may bring logits back
        optimizer.zero_grad()
        module.penalty(step, 1000).backward()
        optimizer.step()
    assert number(module.sparsity()) == pytest.approx(masker.sparsity, abs=0.01)


# --- CoFi ------------------------------------------------------------------------------------------------------------


def opened(module, probability):
    """All gates open with the same probability."""
    with torch.no_grad():
        for gate in module.gates():
            logit = math.log(probability / (1 - probability)) + gate.temperature * math.log(0.1 / 1.1)
            gate.logits.fill_(logit)
    return module


def test_with_everything_open_nothing_is_sparse():
    """In the released code 0.054 % is, for want of biases on one side of the ratio."""
    module = CoFi(0.5).build(BERT)
    with torch.no_grad():
        for gate in module.gates():
            gate.logits.fill_(100.0)
    assert number(module.sparsity()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("hidden", "power"), [(True, 3), (False, 2)])
def test_a_weight_is_there_where_its_dimension_its_unit_and_its_half_of_the_layer_are(hidden, power):
    module = opened(CoFi(0.5, hidden=hidden).build(BERT), 0.9)
    assert number(module.sparsity()) == pytest.approx(1 - 0.9**power, abs=1e-6)


def test_heads_and_neurons_count_by_their_weights():
    module = CoFi(0.5, hidden=False).build(BERT)
    with torch.no_grad():
        for gate in module.gates():
            gate.logits.fill_(100.0)
        module.ffn.logits.fill_(-100.0)
    heads, neurons = 12 * 4 * 768 * 768, 12 * 2 * 768 * 3072
    assert number(module.sparsity()) == pytest.approx(neurons / (heads + neurons))


def test_heads_and_neurons_count_by_the_width_of_what_they_read():
    """MobileBERT: queries, keys and the FFN read 128, values 512, and all write 128."""
    sizes = Sizes(heads=(4,) * 24, neurons=(512,) * 24, head_size=32, hidden=512, inner=(128, 512))
    assert (sizes.head_weights, sizes.neuron_weights) == ((3 * 128 + 512) * 32, 2 * 128)
    assert (BERT.head_weights, BERT.neuron_weights) == (4 * 768 * 64, 2 * 768)
    module = CoFi(0.5, hidden=False).build(sizes)
    with torch.no_grad():
        for gate in module.gates():
            gate.logits.fill_(100.0)
        module.attention.logits.fill_(-100.0)
    heads, neurons = 3 * 128 * 128 + 512 * 128, 2 * 128 * 512
    assert number(module.sparsity()) == pytest.approx(heads / (heads + neurons))


def test_gates_begin_open_and_those_of_neurons_less_so():
    module = CoFi(0.5).build(BERT)
    module.masks(0, 200, 400)
    assert number(module.heads.open()[0]) == pytest.approx(0.9980, abs=5e-5)
    assert number(module.neurons.open()[0]) == pytest.approx(0.8318, abs=5e-5)


def test_in_its_free_steps_nothing_is_gated_and_nothing_pulls():
    module = CoFi(0.5, free_steps=3, warmup=0.0).build(BERT)
    with torch.no_grad():
        module.constraint.linear.fill_(1.0)
    for step in range(3):
        masks = module.masks(0, step, 10)
        assert (masks.heads, masks.hidden, masks.attention) == ((), None, None)
        assert number(module.penalty(step, 10)) == 0
    assert len(module.masks(0, 3, 10).heads) == 12
    assert number(module.penalty(3, 10)) == pytest.approx(number(module.sparsity()) - 0.5)


@pytest.mark.parametrize("hidden", [True, False])
def test_p11_what_was_masked_in_the_end_is_what_is_left(hidden):
    torch.manual_seed(1)
    model = wrap(tiny_model(layers=3), load_catalogue().anatomy("bert"))
    module = CoFi(0.5, hidden=hidden).build(sizes(model))
    with torch.no_grad():
        for gate in module.gates():
            gate.logits.normal_(0.5, 2.0)
        masks = module.final()
    assert any(0 < number(factor) < 1 for factor in masks.neurons[0])
    ids = torch.randint(5, 50, (4, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        asked = model.trace(batch, masks=masks).last
        assert fold(model, masks)
        torch.testing.assert_close(model.trace(batch).last, asked, atol=1e-5, rtol=1e-4)


def test_the_likeliest_dimension_stays_where_all_would_go():
    module = CoFi(0.5, temperature=0.01).build(TINY)
    with torch.no_grad():
        module.hidden.logits.fill_(-4.6)
        module.hidden.logits[5] = -4.5
        assert number(module.hidden.open().sum()) < 0.5
        final = module.final()
    assert final.hidden.nonzero().flatten().tolist() == [5]


def test_the_likeliest_neuron_stays_where_every_unit_would_go():
    module = CoFi(0.5, temperature=0.01, hidden=False).build(TINY)
    with torch.no_grad():
        for gate in module.gates():
            gate.logits.fill_(-4.6)
        module.ffn.logits[1] = -4.5
        module.neurons.logits[64 + 7] = -4.5
        final = module.final()
    assert final.ffn.nonzero().flatten().tolist() == [1]
    assert [neurons.nonzero().flatten().tolist() for neurons in final.neurons] == [[], [7], []]
    assert not final.attention.any()


def test_the_likeliest_head_stays_where_no_ffn_has_neurons_any_more():
    """And a layer that has none of a kind can keep none."""
    some = replace(TINY, neurons=(0, 8, 8))
    none = replace(TINY, neurons=(0, 0, 0))
    for left, kept in ((some, "ffn"), (none, "attention")):
        module = CoFi(0.5, temperature=0.01, hidden=False).build(left)
        with torch.no_grad():
            for gate in module.gates():
                gate.logits.fill_(-4.6)
            module.ffn.logits[0] = -4.5
            final = module.final()
        assert {"ffn": int(final.ffn.sum()), "attention": int(final.attention.sum())} == {
            "ffn": int(kept == "ffn"), "attention": int(kept == "attention")
        }  # fmt: skip
        units = final.neurons if kept == "ffn" else final.heads
        assert sum(int(part.sum()) for part in units) == 1


# --- the layer match -------------------------------------------------------------------------------------------------


def trace(*values, alive=None):
    """Hidden states of one number each, the embedding's first."""
    states = tuple(torch.full((1, 1, 1), float(value)) for value in values)
    alive = tuple(range(1, len(values))) if alive is None else alive
    return Trace({len(values) - 1: torch.zeros(1, 2)}, states, torch.ones(1, 1), projected=states, alive=alive)


def match(student, teacher, *layers):
    return number(LayerMatch(layers).loss(student, teacher, {}))


def test_each_taught_layer_goes_to_the_nearest_below_the_match_before():
    teacher, student = trace(0, 10, 20, 30, 40), trace(0, 41, 21, 32, 45)
    # From the top: 40 is nearest to layer 1, below which there is nothing.
    assert match(student, teacher, 2, 4) == (41 - 40) ** 2
    # 30 is nearest to layer 3, and below it 20 to layer 2.
    assert match(student, teacher, 2, 3) == (32 - 30) ** 2 + (21 - 20) ** 2


def test_only_layers_that_add_something_learn():
    """The released code drops candidates by their rank, not by their number; here the nearest, layer 2, is dead."""
    teacher = trace(0, 10, 20)
    assert match(trace(0, 13, 20, alive=(1,)), teacher, 2) == (20 - 13) ** 2
    assert match(trace(0, 13, 20, 26, alive=(1, 3)), teacher, 2) == (26 - 20) ** 2
    assert match(trace(0, 13, 20, alive=()), teacher, 2) == 0


def test_layers_are_matched_and_learn_through_the_projection():
    """Before it layer 1 is there already; after it layer 2 is nearest, (19 - 20)^2 = 1."""
    student = replace(trace(0, 20, 7), projected=trace(0, 14, 19).hidden)
    assert match(student, replace(trace(0, 10, 20), projected=()), 2) == (19 - 20) ** 2


def test_a_layers_distance_is_the_mean_over_texts_of_each_texts_own_tokens():
    """A text of one token, (16 + 4) / 2 = 10, and one of three, of 2, 4 and 0, so 2: (10 + 2) / 2.

    Over tokens alike it would be (10 + 2 + 4 + 0) / 4 = 4.
    """
    texts = torch.tensor([[[4.0, 2.0], [9.0, 9.0], [9.0, 9.0]], [[0.0, 2.0], [2.0, 2.0], [0.0, 0.0]]])
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    student = replace(trace(0, 0), mask=mask, projected=(texts, texts))
    teacher = replace(trace(0, 0), mask=mask, hidden=(torch.zeros(2, 3, 2),) * 2)
    assert match(student, teacher, 1) == (10 + 2) / 2


@pytest.mark.parametrize(
    ("depth", "expected"), [(12, (3, 6, 9, 12)), (6, (2, 3, 5, 6)), (4, (1, 2, 3, 4)), (2, (1, 2)), (1, (1,))]
)
def test_four_layers_are_taught_unless_it_says_otherwise(depth, expected):
    teacher = trace(*range(depth + 1))
    # A student of one layer, as far off as tells which layer it was compared with.
    each = [match(trace(0, 100), teacher, layer) for layer in expected]
    assert match(trace(0, 100), teacher) == each[-1]
    full = trace(*(2 * value for value in range(depth + 1)))
    assert match(full, teacher) == match(full, teacher, *expected)


def test_a_layer_that_the_teacher_does_not_have():
    with pytest.raises(CompresskitError) as caught:
        match(trace(0, 1), trace(0, 1), 2)
    assert str(caught.value) == "layer-match: layer 2 is not one of the teacher's 1; correct 'layers'"


def test_layers_rise():
    with pytest.raises(ValueError, match="needs layers in rising order"):
        LayerMatch((3, 3))


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_the_methods_trainings_in_numbers():
    """Of CoFi's 0.1 and 0.9 the first is times the square of the temperature, which `predictions` leaves out."""
    losses = {"predictions": (0.1 * 2**2, Predictions(2.0)), "layer-match": (0.9, LayerMatch())}
    taught = {"teacher": "teacher", "epochs": 20, "by": losses}
    gates = CoFi(0.95, warmup=0.1, hidden=True, free_steps=100, temperature=2 / 3, logit=10.0, neuron_logit=0.0)
    assert trainings(RECIPES / "cofi.yaml") == [
        {"epochs": 3}, {**taught, "train": "layers", "mask": gates}, {**taught, "batch_size": 64}
    ]  # fmt: skip
    gates = Flop(0.8, warmup=0.3, temperature=1.0, logit=0.0, learning_rate=0.01)
    again = {"when": "always"}
    assert trainings(RECIPES / "flop.yaml") == [
        {"epochs": 3}, {**again, "epochs": 5, "mask": gates}, {**again, "epochs": 3}
    ]  # fmt: skip


def test_cofi_runs_and_its_model_has_lost_neurons_and_loads(tmp_path):
    overrides = (
        "steps.0.finetune.epochs=0.2",
        "steps.1.mask={cofi: {sparsity: 0.6, free_steps: 1, learning_rate: 0.5}}",
        "steps.1.epochs=1",
        "steps.2.epochs=0.2",
        "steps.2.batch_size=16",
    )
    report = apply_tiny(RECIPES / "cofi.yaml", tmp_path, *overrides, layers=3)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sum(layer.neurons for layer in model.shape.layers) < 3 * 64
    assert report.model.parameters == sum(weight.numel() for weight in model.parameters())
    assert torch.isfinite(model(torch.randint(5, 50, (2, 7))).logits).all()
    assert model.mask is None


def test_flop_runs_and_its_model_has_lost_rank_and_loads(tmp_path):
    overrides = (
        "steps.0.finetune.epochs=0.2",
        "steps.4.finetune.mask={flop: {sparsity: 0.5, warmup: 0, learning_rate: 0.5}}",
        "steps.4.finetune.epochs=12",
        "steps.5.finetune.epochs=0.2",
    )
    report = apply_tiny(RECIPES / "flop.yaml", tmp_path, *overrides)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    ranks = [model.shape.rank, *(rank for layer in model.shape.layers for rank in layer.ranks)]
    begun = [31, *([16] * 4 + [26] * 2) * 2]
    assert all(1 <= rank <= full for rank, full in zip(ranks, begun, strict=True))
    assert sum(ranks) < 0.8 * sum(begun)
    assert report.model.parameters == sum(weight.numel() for weight in model.parameters())


EXITS = "{exit: all, by: entropy, with: {threshold: 0.3}}"


@pytest.fixture
def original(tmp_path):
    return load(str(save_tiny(tmp_path / "model", layers=3))).original


def plan(tmp_path, original, *steps):
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: 1\nname: some\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    return make_plan(read_recipe(path), original)


def test_mobilebert_keeps_the_width_of_its_hidden_states(tmp_path):
    original = load(str(save_tiny(tmp_path / "model", "mobilebert", layers=3))).original
    with pytest.raises(CompresskitError) as caught:
        plan(tmp_path, original, "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.75}}}")
    assert str(caught.value).splitlines()[1].strip() == (
        "line 4: steps[0] finetune: mask cofi would cut hidden states, which it can't in mobilebert models; "
        "set the mask's option 'hidden' to false"
    )
    whole = "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.75, hidden: false}}}"
    assert [(layer.heads, layer.neurons) for layer in plan(tmp_path, original, whole).shape.layers] == [(1, 16)] * 3


def test_a_plan_foresees_about_what_is_left(tmp_path, original):
    planned = plan(tmp_path, original, "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.75}}}")
    assert [(layer.heads, layer.neurons) for layer in planned.shape.layers] == [(1, 16)] * 3
    steps, *_ = plan_tables(planned)
    assert steps.note.endswith(" What a mask leaves is foreseen; it learns what to cut.")
    factored = "{factorize: word-embeddings, by: svd, rank: 20}"
    planned = plan(tmp_path, original, factored, "finetune: {when: always, epochs: 1, mask: {flop: {sparsity: 0.75}}}")
    assert planned.shape.rank == 5
    factored = "{factorize: ffn, by: svd, rank: 1/2}"
    planned = plan(tmp_path, original, factored, "finetune: {when: always, epochs: 1, mask: {flop: {sparsity: 0.75}}}")
    assert [layer.ranks for layer in planned.shape.layers] == [(None,) * 4 + (4, 4)] * 3


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            (EXITS, "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.5}}}"),
            (
                "line 5: steps[1] finetune: mask cofi cuts hidden states, which the exits that are there read; "
                "put the exit step after it, or set its option 'hidden' to false"
            ),
        ),
        (
            ("finetune: {when: always, epochs: 1, mask: {flop: {sparsity: 0.5}}}",),
            (
                "line 4: steps[0] finetune: mask flop gates the ranks of factored matrices, and none is; "
                "put a factorize step before it"
            ),
        ),
        (
            (
                "{factorize: ffn, by: svd, rank: 1/2}",
                "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.5}}}",
            ),
            (
                "line 5: steps[1] finetune: mask cofi counts the weights of whole matrices; "
                "factorize attention and FFN after it"
            ),
        ),
        (
            (
                "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.5}}}",
                "{factorize: ffn, by: svd, rank: 1/2}",
            ),
            (
                "line 5: steps[1] factorize: how large a mask before it leaves the ffn is not known; "
                "factorize before it, or leave one of the two out"
            ),
        ),
        (
            ("finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.9, temperature: 2, hidden: false}}}",),
            (
                "line 4: steps[0] finetune: mask cofi reaches a sparsity of 0.7002 at most with temperature 2, "
                "not 0.9; lower either"
            ),
        ),
        (
            (
                "{factorize: ffn, by: svd, rank: 1/2}",
                "{share: layers}",
                "finetune: {when: always, epochs: 1, mask: {flop: {sparsity: 0.5}}}",
            ),
            (
                "line 6: steps[2] finetune: mask flop would cut layers that share their weights; "
                "leave the mask or the sharing out"
            ),
        ),
    ],
    ids=["exits", "whole", "cofi-after", "cofi-before", "too-sparse", "shared"],
)
def test_what_cannot_be_gated_is_said_before_anything_is_done(tmp_path, original, steps, message):
    with pytest.raises(RecipeError) as caught:
        plan(tmp_path, original, *steps)
    assert message in str(caught.value)


COFI = "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.5}}}"
FIRST = "finetune: {epochs: 1}"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            (COFI, "{prune: heads, by: magnitude, keep: 1/2}"),
            "how many heads mask cofi leaves is not known before; prune before it, or leave one of the two out",
        ),
        (
            (COFI, "{share: layers}"),
            "mask cofi leaves layers of different sizes, which can't share weights; leave one of the two out",
        ),
        (
            ("{share: layers}", COFI),
            "mask cofi would cut layers that share their weights; leave the mask or the sharing out",
        ),
        (
            (FIRST, COFI, "{distill: teacher, by: hidden-states, epochs: 1}"),
            (
                "hidden-states can't compare hidden states with those of teacher, as a mask before this step may cut "
                "some; leave that loss out, or set the mask's option 'hidden' to false"
            ),
        ),
        (
            (COFI, "{exit: all, by: entropy, with: {threshold: 0.3}, start: original}"),
            "'start: original' would undo what a mask before it cut; move this step before it",
        ),
        (
            (FIRST, "{repeat: 2, steps: [" + f"{{{COFI}}}" + "]}"),
            "a repeat would have mask cofi cut again in each round; move it out",
        ),
    ],
    ids=["prune", "share", "shared", "hidden", "start", "repeat"],
)
def test_what_gates_that_cut_get_in_the_way_of_is_said_before_anything_is_done(tmp_path, original, steps, message):
    with pytest.raises(RecipeError) as caught:
        plan(tmp_path, original, *steps)
    assert str(caught.value).endswith(message)


def test_after_gates_that_leave_hidden_states_alone_they_can_be_compared(tmp_path, original):
    narrow = "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.5, hidden: false}}}"
    assert plan(tmp_path, original, FIRST, narrow, "{distill: teacher, by: hidden-states, epochs: 1}")


def test_fewer_steps_than_gates_need_are_refused(tmp_path):
    with pytest.raises(RecipeError) as caught:
        apply_tiny(RECIPES / "cofi.yaml", tmp_path, "steps.1.epochs=1")
    assert str(caught.value).startswith("steps[1] distill: mask cofi needs at least 101 optimizer steps and has ")
    assert str(caught.value).endswith(" here; give the step more epochs or smaller batches, or see the mask's options")
    assert not (tmp_path / "out").exists()


def test_exits_may_be_there_where_hidden_states_have_no_gates(tmp_path, original):
    planned = plan(
        tmp_path, original, EXITS, "finetune: {when: always, epochs: 1, mask: {cofi: {sparsity: 0.5, hidden: false}}}"
    )
    assert planned.shape.exits == (1, 2, 3)
