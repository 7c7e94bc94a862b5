"""Gradients against sums by hand, and the selections that follow from them."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
import torch

from compresskit.anatomy import groups, layers
from compresskit.batches import collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.data import Rows
from compresskit.edits import AddExits
from compresskit.errors import PluginError
from compresskit.interfaces import Pruner
from compresskit.model import wrap
from compresskit.run import Run
from compresskit.scoring import ScoreContext, Scoring, still
from compresskit.steps import best, best_of_all
from compresskit.strategies.hidden_states import HiddenStates
from compresskit.strategies.labels import Labels
from compresskit.strategies.predictions import Predictions
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.strategies.taylor import Taylor
from compresskit.surgery import perform
from compresskit.teachers import Teacher
from compresskit.testing import WORDS, tiny_model, tiny_tokenizer
from compresskit.verbs import Loss

BY_LABELS = {"labels": Loss(Labels())}
AS_COST_EFF = {
    "predictions": Loss(Predictions(), 0.9),
    "labels": Loss(Labels(), 0.1),
    "hidden-states": Loss(HiddenStates("positions")),
}


def wrapped(family="bert", number=4, seed=0):
    model = wrap(tiny_model(family, layers=number, seed=seed), load_catalogue().anatomy(family))
    torch.manual_seed(seed)
    perform(AddExits(tuple(range(1, number + 1)), ClsTanh(), False), model)
    with torch.no_grad():
        for head in model.exits.values():
            head.classifier.weight.normal_(std=0.4)
    return model


def rows_of(count=20):
    draw = random.Random(0)
    texts = tuple((" ".join(draw.choices(WORDS, k=draw.randint(1, 9))),) for _ in range(count))
    return encode(Rows(texts, tuple(draw.randint(0, 1) for _ in texts), "here"), tiny_tokenizer(), 16, True)


ROWS = rows_of()


def scoring(model, losses=BY_LABELS, teacher=None, equilibrium=False, **how):
    exits, portion, size = how.get("exits", model.exit_layers), how.get("portion", 1.0), how.get("batch_size", 6)
    generator = how.get("generator") or seeded()
    return Scoring(model, ROWS, collate(0), losses, teacher, portion, size, exits, equilibrium, Run(), generator)


def seeded():
    return torch.Generator().manual_seed(3)


def teacher_of(model):
    return Teacher(model, [0, 1], Run())


def scores(model, target, pruner=None, **options):
    """Of each layer's units."""
    context = ScoreContext(seeded(), scoring(model, **options))
    return [(pruner or Taylor()).score(group, context) for group in groups(model.anatomy, model.network, target)]


# --- which rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("portion", "batch_size", "sizes"),
    [(1.0, 6, [6] * 3), (0.3, 6, [6]), (0.3, 4, [4]), (1.0, 32, [20]), (0.01, 6, [1]), (2.5, 25, [25, 25])],
)
def test_whole_batches_are_drawn_and_a_short_last_one_is_skipped(portion, batch_size, sizes):
    drawn = scoring(wrapped(), portion=portion, batch_size=batch_size).order
    assert [len(batch) for batch in drawn] == sizes


def test_rows_are_drawn_with_replacement_and_sorted_by_length():
    subject, again = (scoring(wrapped(), portion=30.0, batch_size=6) for _ in range(2))
    other = scoring(wrapped(), portion=30.0, batch_size=6, generator=torch.Generator().manual_seed(4))
    drawn = [row for batch in subject.order for row in batch]
    assert len(drawn) == 600
    assert set(drawn) == set(range(20))
    lengths = [ROWS.lengths[row] for row in drawn]
    assert lengths == sorted(lengths)
    assert subject.order == again.order != other.order
    assert subject.order is subject.order  # drawn once, whatever passes there are


def test_the_rows_skipped_for_a_whole_batch_are_not_the_longest():
    model = wrapped()
    longest = max(range(20), key=lambda row: (ROWS.lengths[row], row))
    drawn = [scoring(model, batch_size=11, generator=torch.Generator().manual_seed(seed)).order for seed in range(60)]
    assert any(longest in batch for (batch,) in drawn)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("exits", [(1, 2, 3, 4), (4,)])
def test_sums_are_those_of_each_batch_by_hand(family, exits):
    model = wrapped(family)
    subject = scoring(model, exits=exits)
    context = ScoreContext(seeded(), subject)
    weight = next(iter(groups(model.anatomy, model.network, "neurons"))).member("ffn-out").linear.weight
    signed, absolute = context.gradient(weight, "signed"), context.gradient(weight, "absolute")
    by_hand = []
    for indices in subject.order:
        batch = collate(0)([ROWS[index] for index in indices])
        logits = model.trace(batch, exits=exits).logits
        loss = sum(torch.nn.functional.cross_entropy(answer, batch["labels"]) for answer in logits.values())
        by_hand.append(torch.autograd.grad(loss, weight)[0])
    assert len(by_hand) == 3
    torch.testing.assert_close(signed, sum(by_hand))
    torch.testing.assert_close(absolute, sum(gradient.abs() for gradient in by_hand))
    assert (absolute - signed.abs()).max() > 1e-4
    torch.testing.assert_close(context.gradient(weight, "squared"), sum(gradient.square() for gradient in by_hand))


def test_one_pass_serves_every_weight_and_leaves_nothing_behind():
    model = wrapped().train()
    passes = []

    class Counted(Scoring):
        def gradients(self, reduce):
            passes.append(reduce)
            return super().gradients(reduce)

    subject = scoring(model)
    context = ScoreContext(seeded(), Counted(**{field.name: getattr(subject, field.name) for field in fields(subject)}))
    for target in ("heads", "neurons"):
        for group in groups(model.anatomy, model.network, target):
            for member in group.members:
                assert context.gradient(member.linear.weight, "absolute").shape == member.linear.weight.shape
                assert context.gradient(member.linear.weight, "signed").any()
    assert passes == ["absolute", "signed"]
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())


def test_dropout_is_off_while_it_is_measured():
    loud = wrapped().train()
    for one, other in zip(scores(wrapped(), "heads"), scores(loud, "heads"), strict=True):
        assert torch.equal(one, other)
    with still(loud):
        assert not any(part.training for part in loud.modules())
    assert loud.training


def test_losses_are_weighed_and_the_teacher_asked():
    model = wrapped()
    teacher = teacher_of(wrapped(seed=2))
    together = scoring(model, AS_COST_EFF, teacher).gradients("signed")
    alone = [
        scoring(model, {name: Loss(loss.distiller)}, teacher).gradients("signed") for name, loss in AS_COST_EFF.items()
    ]
    for key, total in together.items():
        torch.testing.assert_close(total, 0.9 * alone[0][key] + 0.1 * alone[1][key] + alone[2][key])
    # A student that is its teacher has nothing to learn from hidden states. (Its attention rounds in another way.)
    own = scoring(model, {"hidden-states": Loss(HiddenStates())}, teacher_of(model)).gradients("absolute")
    assert all(amount.max() < 1e-5 * alone[2][key].abs().max() for key, amount in own.items())


@pytest.mark.parametrize("reading", ["released", "paper"])
@pytest.mark.parametrize("losses", [BY_LABELS, AS_COST_EFF], ids=["labels", "cost-eff"])
@pytest.mark.parametrize("target", ["heads", "neurons"])
def test_g2_gradient_equilibrium_selects_the_same_units(reading, losses, target):
    model, pruner = wrapped(), Taylor(reading)
    teacher = teacher_of(wrapped(seed=2))
    plain, balanced = (
        scores(model, target, pruner, losses=losses, teacher=teacher, equilibrium=on) for on in (False, True)
    )
    for below, (without, with_) in enumerate(zip(plain, balanced, strict=True)):
        torch.testing.assert_close(with_, without / (4 - below), rtol=1e-3, atol=1e-7)
        for keep in range(1, len(without)):
            assert best(with_, keep) == best(without, keep)
    assert len({best(layer, 1) for layer in plain}) > 1


def test_p3_a_head_without_attention_out_ranks_last_under_the_released_reading_alone():
    model = wrapped()
    attention = layers(model.anatomy, model.network)[1].attention
    with torch.no_grad():
        attention.output.dense.weight[:, 16:24] = 0
        for name in ("query", "key", "value"):
            getattr(attention.self, name).weight[16:24] *= 50
    measured = scores(model, "heads")[1]
    assert measured[2] == 0 and measured.argmin() == 2
    # With the same gradient everywhere, the head's large query, key and value would make it the first.

    class Same:
        def gradients(self, reduce):
            return {id(weight): torch.ones_like(weight) for weight in model.network.parameters()}

    group = list(groups(model.anatomy, model.network, "heads"))[1]
    context = ScoreContext(seeded(), Same())
    assert Taylor("released").score(group, context).argmin() == 2
    assert Taylor("released", "all").score(group, context).argmax() == 2


# --- what units put out ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watcher(Pruner):
    """Remembers what it is shown, which a strategy must not."""

    name: ClassVar[str] = "watcher"
    needs_data: ClassVar[bool] = True
    seen: ClassVar[list] = []

    def score(self, group, context):
        return context.observed(group, self)

    def observe(self, trace):
        self.seen.append(trace)
        return (trace.outputs * trace.gradients * trace.mask[:, :, None, None]).sum(dim=(1, 3))


@pytest.fixture
def watcher():
    Watcher.seen.clear()
    return Watcher()


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_what_is_observed_is_the_gradient_of_a_gate_on_the_unit(family, watcher):
    """The example's own: a gate scales the columns by which attention-out or ffn-out reads the unit."""
    model = wrapped(family)
    subject = scoring(model)
    for target in ("heads", "neurons"):
        for group in groups(model.anatomy, model.network, target):
            observed = ScoreContext(seeded(), subject).observed(group, watcher)
            reader = group.members[-1]
            assert reader.dim == 1
            by_hand = []
            for indices in subject.order:
                batch = collate(0)([ROWS[index] for index in indices])
                gates = torch.ones(group.units, requires_grad=True)
                whole = reader.linear.weight
                gated = {name_of(whole, model): whole * gates.repeat_interleave(reader.width)}
                asked = batch | {"record_exits": model.exit_layers}
                logits = torch.func.functional_call(model, gated, (), asked).exit_logits
                loss = sum(torch.nn.functional.cross_entropy(z, batch["labels"]) for z in logits.values())
                by_hand.append(torch.autograd.grad(loss, gates)[0] * len(indices))
            torch.testing.assert_close(observed, sum(by_hand) / 18, rtol=1e-4, atol=1e-6)
            assert observed.abs().max() > 1e-4


def name_of(weight, model):
    return next(key for key, parameter in model.named_parameters() if parameter is weight)


def test_one_pass_shows_every_group(watcher):
    model = wrapped()
    subject = scoring(model)
    context = ScoreContext(seeded(), subject)
    for target in ("heads", "neurons"):
        for group in groups(model.anatomy, model.network, target):
            assert context.observed(group, watcher).shape == (group.units,)
    assert len(watcher.seen) == 3 * 2 * 4  # batches, targets, layers
    heads, neurons = watcher.seen[0], watcher.seen[4]
    assert heads.outputs.shape == heads.gradients.shape == (6, heads.mask.shape[1], 4, 8)
    assert neurons.outputs.shape == (6, heads.mask.shape[1], 64, 1)
    assert not any(len(part._forward_pre_hooks) for part in model.modules())


def test_a_pruner_that_observes_too_little_is_told_so(watcher):
    @dataclass(frozen=True)
    class Wrong(Pruner):
        name: ClassVar[str] = "wrong"

        def score(self, group, context):
            return context.observed(group, self)

        def observe(self, trace):
            return trace.outputs.mean(dim=(1, 2, 3))

    group = next(iter(groups(wrapped().anatomy, wrapped().network, "heads")))
    with pytest.raises(PluginError) as error:
        ScoreContext(seeded(), scoring(wrapped())).observed(group, Wrong())
    assert str(error.value) == (
        "pruner 'wrong' must observe one number for each of 6 examples and 4 heads, not a tensor of shape (6,); "
        "correct its observe method"
    )


def test_a_pruner_that_observes_nothing_is_told_so():
    @dataclass(frozen=True)
    class Blind(Pruner):
        name: ClassVar[str] = "blind"

        def score(self, group, context):
            return context.observed(group, self)

    group = next(iter(groups(wrapped().anatomy, wrapped().network, "heads")))
    with pytest.raises(PluginError) as error:
        Blind().score(group, ScoreContext(seeded(), scoring(wrapped())))
    assert str(error.value) == "pruner 'blind' asks for context.observed; give it an `observe` method"


# --- all layers together ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "least", "kept"),
    [
        (5, 1, [(0, 1, 2), (2,), (0,)]),
        (4, 1, [(0, 1), (2,), (0,)]),
        (3, 1, [(0,), (2,), (0,)]),
        (6, 2, [(0, 1), (1, 2), (0, 1)]),
        (8, 1, [(0, 1, 2), (0, 1, 2), (0, 1)]),
        (9, 1, [(0, 1, 2), (0, 1, 2), (0, 1, 2)]),
    ],
)
def test_the_best_of_all_layers_stay_and_every_layer_keeps_its_least(keep, least, kept):
    scores = [torch.tensor([9.0, 8.0, 7.0]), torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0, 0.0, 0.0])]
    assert best_of_all(scores, keep, least) == kept


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_a_strategy_that_does_not_say_that_it_needs_data_is_told_so():
    with pytest.raises(PluginError) as error:
        ScoreContext(seeded(), None).gradient(torch.nn.Parameter(torch.zeros(2)), "signed")
    assert str(error.value) == (
        "a strategy asks for gradients but does not say `needs_data = True`; add it to its class"
    )


def test_gradients_are_for_units_only():
    model = wrapped()
    context = ScoreContext(seeded(), scoring(model))
    with pytest.raises(PluginError) as error:
        context.gradient(model.exits["1"].classifier.weight, "signed")
    assert str(error.value) == (
        "a strategy asks for the gradient of a weight that is no unit's; use the group's members"
    )
