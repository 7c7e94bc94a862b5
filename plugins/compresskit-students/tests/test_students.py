"""The losses: what every distiller must do, and the papers' formulas on numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compresskit_students import (
    AttentionScores,
    AttentionTransfer,
    Cosine,
    FeatureTransfer,
    ProjectedStates,
    Relations,
)
from transformers import BertConfig

from compresskit import Projections, Sizes, Trace
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import Original, load
from compresskit.edits import LayerShape, Shape
from compresskit.errors import CompresskitError, RecipeError
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.strategies.labels import Labels
from compresskit.strategies.predictions import Predictions
from compresskit.testing import apply_tiny, parametrize, save_tiny, strategy_checks, trainings

RECIPES = Path(__file__).parent.parent / "compresskit_students" / "recipes"
ALL = (
    AttentionScores(),
    AttentionTransfer(),
    AttentionTransfer(progressive=True),
    Cosine(),
    FeatureTransfer(),
    FeatureTransfer(progressive=True),
    ProjectedStates(),
    Relations(2),
    Relations(4, 3),
)
ONE_PADDED = torch.tensor([[1, 1, 0]])


@pytest.mark.parametrize(**parametrize(*ALL))
def test_is_a_good_strategy(check):
    check()


COUNTS_PADDING = ("ignores_what_is_in_padding", "ignores_how_much_padding_there_is", "is_the_mean_over_examples")


@pytest.mark.parametrize(
    "check",
    [c for c in strategy_checks(AttentionScores("positions")) if c[0] not in COUNTS_PADDING],
    ids=lambda c: c[0],
)
def test_the_released_mean_is_a_good_strategy_but_for_padding(check):
    """It is there to repeat the released code, whose mean counts padding; its manual page says so."""
    check[1]()


def like(*sizes, seed):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def layer(seed, heads=2, size=4, batch=2, tokens=3):
    return Projections(*(like(batch, heads, tokens, size, seed=100 * seed + part) for part in range(3)))


def states(count, width=8, seed=0, batch=2, tokens=3):
    return tuple(like(batch, tokens, width, seed=1000 * (seed + 1) + number) for number in range(count))


def trace(hidden=(), attention=(), projected=(), mask=None):
    mask = torch.ones(2, 3, dtype=torch.long) if mask is None else mask
    return Trace({1: torch.zeros(2, 2)}, tuple(hidden), mask, attention=tuple(attention), projected=tuple(projected))


# --- D3: layer maps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [(4, [3, 6, 9, 12]), (6, [2, 4, 6, 8, 10, 12])])
def test_d3_attention_learns_from_evenly_spread_layers(ours, theirs):
    """2 5 8 11 counted from 0 for four layers, 1 3 5 7 9 11 for six: a student of just those has nothing to learn."""
    teacher = [layer(number) for number in range(12)]
    right = trace(attention=[teacher[number - 1] for number in theirs])
    for distiller in (AttentionScores(), AttentionTransfer()):
        assert distiller.loss(right, trace(attention=teacher), {}).item() == pytest.approx(0, abs=1e-6)
        off = trace(attention=[teacher[number - 2] for number in theirs])
        assert distiller.loss(off, trace(attention=teacher), {}).item() > 0.1


@pytest.mark.parametrize(("ours", "theirs"), [(4, [0, 3, 6, 9, 12]), (6, [0, 2, 4, 6, 8, 10, 12])])
def test_d3_hidden_states_learn_from_evenly_spread_states_and_the_embedding_from_the_embedding(ours, theirs):
    teacher = states(13)
    chosen = [teacher[number] for number in theirs]
    found = ProjectedStates().loss(trace(projected=chosen), trace(hidden=teacher), {})
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert FeatureTransfer().loss(trace(hidden=chosen), trace(hidden=teacher), {}).item() == pytest.approx(0, abs=1e-6)
    other = [teacher[number - 1] for number in theirs]
    assert ProjectedStates().loss(trace(projected=other), trace(hidden=teacher), {}).item() > 1


def test_layers_that_do_not_fit_evenly_are_refused():
    with pytest.raises(CompresskitError) as error:
        AttentionScores().loss(trace(attention=[layer(0)] * 5), trace(attention=[layer(0)] * 12), {})
    assert str(error.value) == (
        "attention-scores: the teacher's 12 layers can't be shared out evenly among the student's 5; "
        "keep a number of layers that divides the teacher's"
    )


def test_other_numbers_of_heads_are_refused_but_for_relations():
    mine, theirs = trace(attention=[layer(0, heads=1, size=8)]), trace(attention=[layer(1, heads=2, size=4)])
    for distiller in (AttentionScores(), AttentionTransfer()):
        with pytest.raises(CompresskitError) as error:
            distiller.loss(mine, theirs, {})
        assert str(error.value) == (
            f"{distiller.name}: the student's layers have [1] heads and the teacher's [2], "
            "and heads are compared one by one; keep all heads, or learn from relations"
        )
    assert Relations(4).loss(mine, theirs, {}).item() > 0


def test_d3_distilberts_recipe_keeps_the_layers_0_2_4_7_9_11():
    """Counted from 0, of BERT base, in which layers are told apart by numbers of neurons that they have not."""
    bert = load_catalogue().anatomy("bert")
    marked = Shape(tuple(LayerShape(12, 1000 + layer) for layer in range(12)))
    plan = make_plan(read_recipe(RECIPES / "distilbert.yaml"), Original("bert", BertConfig(), bert, marked))
    assert [layer.neurons - 1000 for layer in plan.shape.layers] == [0, 2, 4, 7, 9, 11]


# --- formulas --------------------------------------------------------------------------------------------------------


def test_attention_scores_are_those_before_the_softmax_over_the_root_of_the_size():
    """One head of size 4, one token: q k / 2 of 2 * 4 / 2 = 4 and 0, so 16."""
    one = Projections(torch.full((1, 1, 1, 4), 2.0), torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4))
    none = Projections(*(torch.zeros(1, 1, 1, 4) for _ in range(3)))
    mask = torch.ones(1, 1, dtype=torch.long)
    for average in ("examples", "positions"):
        found = AttentionScores(average).loss(trace(attention=[one], mask=mask), trace(attention=[none], mask=mask), {})
        assert found.item() == pytest.approx(16.0)


def test_the_released_mean_divides_by_padding_and_counts_its_queries():
    """One text of one token and two of padding, errors 1 everywhere: 3 pairs with a real key out of 9."""
    ones = Projections(torch.ones(1, 1, 3, 1), torch.ones(1, 1, 3, 1), torch.ones(1, 1, 3, 1))
    none = Projections(*(torch.zeros(1, 1, 3, 1) for _ in range(3)))
    mask = torch.tensor([[1, 0, 0]])
    pair = trace(attention=[ones], mask=mask), trace(attention=[none], mask=mask)
    assert AttentionScores("positions").loss(*pair, {}).item() == pytest.approx(3 / 9)
    assert AttentionScores().loss(*pair, {}).item() == pytest.approx(1.0)


def test_cosine_of_the_last_states_is_one_at_right_angles_and_two_for_the_opposite():
    def last(*row):
        """After a first state that is the same everywhere."""
        return trace(hidden=[torch.ones(1, 1, 2), torch.tensor([[row]])], mask=torch.ones(1, 1, dtype=torch.long))

    for row, loss in (((3.0, 0.0), 0.0), ((0.0, 5.0), 1.0), ((-2.0, 0.0), 2.0)):
        assert Cosine().loss(last(*row), last(1.0, 0.0), {}).item() == pytest.approx(loss, abs=1e-6)


def test_features_that_differ_in_mean_and_variance_alone_are_equal():
    teacher = states(3)
    assert FeatureTransfer().loss(trace(hidden=[7 * s + 3 for s in teacher]), trace(hidden=teacher), {}).item() < 1e-4


def test_features_are_averaged_over_dimensions_and_tokens_and_added_up_over_layers():
    """Two tokens and one of padding. Layer 1: (0 4 4 0) / 4 = 2 and 0, so 1; layer 2: 4 and 4, so 4; 5 in all."""
    up, across = [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]  # of mean 0 and variance 1
    down = [-number for number in up]

    def given(*layers):
        return trace(hidden=[torch.tensor([tokens]) for tokens in ([up, up, up], *layers)], mask=ONE_PADDED)

    student, teacher = given([across, up, across], [down, down, across]), given([up, up, down], [up, up, down])
    assert FeatureTransfer().loss(student, teacher, {}).item() == pytest.approx(5.0, rel=1e-4)  # the norm's epsilon


def divergence(first, second):
    """KL(first || second) of two distributions."""
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


def heads_of(*heads):
    """(1, heads, tokens, 4): of each token a number in the first entry, and nothing in the others."""
    return torch.tensor([[[[number, 0.0, 0.0, 0.0] for number in head] for head in heads]])


@pytest.mark.parametrize(("average", "expected"), [("examples", (50 + 25) / 8), ("positions", (55 + 25) / 18)])
def test_attention_scores_are_averaged_over_heads_and_pairs_and_added_up_over_layers(average, expected):
    """Two tokens and one of padding, two heads: 2 * 2 * 2 = 8 errors a layer, and 2 * 3 * 3 = 18 positions.

    Keys of 2 and 4 make 1 and 2 of a query of 1, for the root of a size of 4. Layer 1: a head's queries of 1 and 3 err
    by 1 2 3 6, squared 1 + 4 + 9 + 36 = 50, and padding's of 1 by 1 2, squared 5. Layer 2: a query of 1 in one head, 5,
    and of 2 in the other, by 2 4, squared 20.
    """
    none, keys = heads_of([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]), heads_of([2.0, 4.0, 9.0], [2.0, 4.0, 9.0])
    one, two = heads_of([1.0, 3.0, 1.0], [0.0, 0.0, 0.0]), heads_of([1.0, 0.0, 0.0], [0.0, 2.0, 0.0])
    student = trace(attention=[Projections(none, none, none)] * 2, mask=ONE_PADDED)
    teacher = trace(attention=[Projections(one, keys, none), Projections(two, keys, none)], mask=ONE_PADDED)
    assert AttentionScores(average).loss(student, teacher, {}).item() == pytest.approx(expected)


RIGHT = [[0.0, 0.0], [0.0, 0.0], [9.0, 9.0]]  # two tokens, and padding that is not
WRONG = [[1.0, 3.0], [0.0, 0.0], [9.0, 9.0]]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([[[2.0, 0.0], [2.0, 4.0], [9.0, 9.0]], [[0.0, 2.0], [0.0, 0.0], [9.0, 9.0]]], 2.5 + 6 + 1),
        ([RIGHT, RIGHT], 2.5),
    ],
    ids=["all-wrong", "embedding-wrong"],
)
def test_states_are_averaged_over_dimensions_and_tokens_and_added_up_with_the_embeddings(layers, expected):
    """Embedding: (1 + 9) / 2 = 5 and 0, so 2.5; layer 1: (4 + 0) / 2 = 2 and (4 + 16) / 2 = 10, so 6; layer 2: 2 and

    0, so 1.
    """
    student = trace(projected=[torch.tensor([tokens]) for tokens in (WRONG, *layers)], mask=ONE_PADDED)
    teacher = trace(hidden=[torch.zeros(1, 3, 2)] * 3, mask=ONE_PADDED)
    assert ProjectedStates().loss(student, teacher, {}).item() == pytest.approx(expected)


def test_attention_transfer_is_the_mean_over_heads_and_queries_of_the_divergence_from_the_teacher():
    """One of two heads and one of two queries has anything to learn: (.9, .1) where the student has (.5, .5).

    KL(teacher || student) is 0.3681, a quarter of which is 0.0920; the other way round it is 0.5108. A second layer
    has it at both queries of a head. The third token is padding.
    """
    none = heads_of([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    # The root of a size of 4 halves the scores.
    keys = heads_of([2 * math.log(9), 0.0, 50.0], [0.0, 0.0, 50.0])
    student = trace(attention=[Projections(none, none, none)] * 2, mask=ONE_PADDED)
    one, two = heads_of([1.0, 0.0, 7.0], [0.0, 0.0, 7.0]), heads_of([1.0, 1.0, 7.0], [0.0, 0.0, 7.0])
    teacher = trace(attention=[Projections(one, keys, none), Projections(two, keys, none)], mask=ONE_PADDED)
    expected = divergence((0.9, 0.1), (0.5, 0.5)) * (1 / 4 + 2 / 4)
    assert AttentionTransfer().loss(student, teacher, {}).item() == pytest.approx(expected, rel=1e-5)


def test_relations_are_the_mean_over_heads_and_queries_added_up_over_queries_keys_and_values():
    """Only the first relation head's first query has anything to learn: a quarter of each divergence.

    A vector of length a at token 1 and none at token 2 relates as softmax(a^2 / 2, 0), for the root of a size of 4.
    Queries are (.9, .1) at the teacher, keys (.8, .2), and values (.9, .1) at the student; else it is (.5, .5). The
    third token is padding.
    """
    nine, four = math.sqrt(2 * math.log(9)), math.sqrt(2 * math.log(4))

    def part(length):
        return heads_of([length, 0.0, 9.0], [0.0, 0.0, 9.0])

    student = trace(attention=[Projections(part(0.0), part(0.0), part(nine))], mask=ONE_PADDED)
    teacher = trace(attention=[Projections(part(nine), part(four), part(0.0))], mask=ONE_PADDED)
    even = (0.5, 0.5)
    each = divergence((0.9, 0.1), even), divergence((0.8, 0.2), even), divergence(even, (0.9, 0.1))
    assert Relations(2).loss(student, teacher, {}).item() == pytest.approx(sum(each) / 4, rel=1e-5)


def test_relations_do_not_see_a_rotation_within_a_relation_head():
    """Q Q^T of each relation head of four dimensions stays as it is, though every number changes."""
    rotation = torch.linalg.qr(like(4, 4, seed=9)).Q
    teacher = layer(3, heads=2, size=4)
    turned = Projections(*(part @ rotation for part in teacher))
    assert Relations(2).loss(trace(attention=[turned]), trace(attention=[teacher]), {}).item() == pytest.approx(
        0, abs=1e-5
    )
    assert Relations(8).loss(trace(attention=[turned]), trace(attention=[teacher]), {}).item() > 0.01


def test_relations_take_the_layer_that_is_asked_for():
    teacher = trace(attention=[layer(1), layer(2), layer(3)])
    assert Relations(2, 2).loss(trace(attention=[layer(2)]), teacher, {}).item() == pytest.approx(0, abs=1e-6)
    assert Relations(2).loss(trace(attention=[layer(3)]), teacher, {}).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(CompresskitError) as error:
        Relations(2, 4).loss(trace(attention=[layer(2)]), teacher, {})
    assert str(error.value) == "relations: the teacher has 3 layers and no layer 4"
    with pytest.raises(CompresskitError) as error:
        Relations(3).loss(trace(attention=[layer(2)]), teacher, {})
    assert str(error.value) == (
        "relations: 3 relation heads can't share 8 dimensions; choose a number that divides the widths of student and "
        "teacher"
    )


@pytest.mark.parametrize(("step", "turn"), [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2), (14, 2)])
@pytest.mark.parametrize("transfer", [FeatureTransfer, AttentionTransfer])
def test_mobileberts_layers_take_turns(transfer, step, turn):
    ours, theirs = (trace(states(4, seed=seed), [layer(10 * seed + each) for each in range(3)]) for seed in (1, 2))
    student = replace(ours, step=step, steps=15)
    whose = [ours if each == turn else theirs for each in range(3)]
    alone = trace(
        [ours.hidden[0], *(one.hidden[each + 1] for each, one in enumerate(whose))],
        [one.attention[each] for each, one in enumerate(whose)],
    )
    torch.testing.assert_close(transfer(True).loss(student, theirs, {}), transfer().loss(alone, theirs, {}))


@pytest.mark.parametrize(
    ("loss", "layers", "heads", "problem"),
    [
        ("attention-scores", [2, 4], "1/2", "the student's layers have [2] heads and the teacher's [4], and"),
        (
            "attention-scores",
            [1, 2, 4],
            None,
            "the teacher's 4 layers can't be shared out evenly among the",
        ),
        (
            "attention-transfer",
            [2, 4],
            "1/2",
            "the student's layers have [2] heads and the teacher's [4], and",
        ),
        (
            "feature-transfer",
            [1, 2, 4],
            None,
            "the teacher's 4 layers can't be shared out evenly among the",
        ),
        ("projected-hidden-states", [1, 2, 4], None, "the teacher's 4 layers can't be shared out evenly among the"),
        ("{relations: {weight: 1, with: {layer: 5}}}", [2, 4], None, "it has 4 layers and no layer 5; correct 'layer'"),
        ("relations", [2, 4], None, "12 relation heads can't share 32 dimensions; choose a number that divides the"),
        ("attention-scores", [2, 4], None, None),
        ("{relations: {weight: 1, with: {heads: 4}}}", [1, 2, 4], "1/2", None),
    ],
)
def test_what_cannot_be_compared_is_told_before_the_teacher_is_trained(tmp_path, loss, layers, heads, problem):
    cut = f"- {{prune: heads, by: magnitude, keep: {heads}}}\n" if heads else ""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipe: 1\nname: some\nsteps:\n- finetune: {epochs: 1}\n"
        f"- {{prune: layers, keep: {layers}}}\n{cut}- {{distill: teacher, by: {loss}, epochs: 1}}\n"
    )
    original = load(str(save_tiny(tmp_path / "model", layers=4))).original
    if problem is None:
        assert make_plan(read_recipe(path), original)
        return
    with pytest.raises(RecipeError) as caught:
        make_plan(read_recipe(path), original)
    name = loss.strip("{").partition(":")[0]
    assert f"distill: {name} can't learn from teacher: {problem}" in str(caught.value)


# --- recipes ---------------------------------------------------------------------------------------------------------

TRANSFER = {"feature-transfer": (100, FeatureTransfer(progressive=True))}
TRANSFER["attention-transfer"] = (1, AttentionTransfer(progressive=True))
TEACHER = {"epochs": 3}
ANSWERS = {"teacher": "teacher", "epochs": 3, "learning_rate": 3e-5, "by": {"predictions": (1, Predictions())}}
LAYERS_FIRST = {"teacher": "teacher", "epochs": 10, "learning_rate": 5e-5}
AS_RELEASED = {"schedule": "constant", "warmup": 0}
TRAININGS = {
    # The authors' weights are 5, 2 and 1, the first times the square of the temperature, which `predictions` omits.
    "distilbert": [
        TEACHER,
        {"teacher": "teacher", "epochs": 3, "learning_rate": 5e-5, "warmup": 0.05, "max_grad_norm": 5}
        | {"by": {"predictions": (5 * 2**2, Predictions(2.0)), "labels": (2, Labels()), "cosine": (1, Cosine())}},
    ],
    "tinybert": [
        TEACHER,
        {
            **LAYERS_FIRST,
            **AS_RELEASED,
            "by": {"attention-scores": (1, AttentionScores()), "projected-hidden-states": (1, ProjectedStates())},
        },
        ANSWERS,
    ],
    "minilm": [TEACHER, {**LAYERS_FIRST, "by": {"relations": (1, Relations(12))}}, ANSWERS],
    "mobilebert": [TEACHER, {**LAYERS_FIRST, **AS_RELEASED, "epochs": 6, "by": TRANSFER}, ANSWERS],
    "well-read": [TEACHER, {**ANSWERS, "epochs": 4, "learning_rate": 5e-5}],
    "first-layers": [{"when": "always", "epochs": 3}],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_methods_trainings_in_numbers(name):
    assert trainings(RECIPES / f"{name}.yaml") == TRAININGS[name]


def test_the_first_layers_are_the_models_own(tmp_path):
    """Bit for bit, embeddings and pooler too: before the fine-tuning the classifier alone is drawn."""
    untouched = ("steps.0.keep=[1, 2]", "steps.1.finetune.epochs=0.01", "steps.1.finetune.learning_rate=1e-30")
    report = apply_tiny(RECIPES / "first-layers.yaml", tmp_path, *untouched, layers=4)
    assert len(report.model.shape.layers) == 2
    before, after = load(str(tmp_path / "model")).model, load(str(tmp_path / "out")).model
    theirs = before.state_dict()
    for name, weight in after.state_dict().items():
        if ".classifier." not in name:
            assert torch.equal(weight, theirs[name]), name


QUICK = {
    "distilbert": ("steps.1.keep=[1, 2]", "steps.2.epochs=1"),
    "tinybert": ("steps.1.keep=[2, 4]", "steps.2.epochs=1", "steps.3.epochs=1"),
    "minilm": (
        "steps.1.keep=[2, 4]",
        "steps.2.epochs=1",
        "steps.3.epochs=1",
        "steps.2.by={relations: {with: {heads: 4}}}",
    ),
    "well-read": ("steps.1.keep=[2, 4]", "steps.2.epochs=1"),
    "mobilebert": ("steps.2.epochs=1", "steps.3.epochs=1"),
}


@pytest.mark.parametrize("name", QUICK)
def test_the_recipe_runs(name, tmp_path):
    report = apply_tiny(RECIPES / f"{name}.yaml", tmp_path, "steps.0.finetune.epochs=1", *QUICK[name], layers=4)
    assert len(report.model.shape.layers) == (4 if name == "mobilebert" else 2)
    assert report.model.parameters < report.original.parameters


def test_a_student_of_another_size_learns_through_the_projection_which_is_not_kept(tmp_path):
    from safetensors.torch import load_file

    teacher = apply_tiny(
        RECIPES / "well-read.yaml", tmp_path / "t", "steps.0.finetune.epochs=1", *QUICK["well-read"], layers=4
    )
    assert teacher.model.parameters
    (tmp_path / "recipe.yaml").write_text(
        "recipe: 1\nsteps:\n"
        f"- {{distill: {tmp_path / 't' / 'out'}, by: [projected-hidden-states, predictions], epochs: 1}}\n"
    )
    apply_tiny(tmp_path / "recipe.yaml", tmp_path, hidden=16, heads=2, layers=2)
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert not any(name.startswith("projection") for name in kept)


def test_a_layer_without_heads_has_no_relations():
    sizes = Sizes(heads=(2, 0), neurons=(8, 8), head_size=8, hidden=16)
    with pytest.raises(ValueError) as error:
        Relations(2).check(sizes, replace(sizes, heads=(2, 2)))
    assert str(error.value) == (
        "a layer without attention heads has no relations; "
        "keep some in the student's last layer, and choose a teacher's 'layer' with some"
    )
