"""What a recipe comes to on one model: the schedules and sizes that COST-EFF prints, and every mistake in its words."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import isclose

import pytest
from transformers import BertConfig, ElectraConfig, MobileBertConfig

from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import Original
from compresskit.cost import CONVENTIONS, dims_of, flops, original_shape, parameters
from compresskit.edits import (
    AddExits,
    CutHeads,
    CutLayers,
    FactorizeEmbedding,
    LayerShape,
    ProjectEmbeddings,
    ShareLayers,
)
from compresskit.errors import RecipeError
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.schedules import by_ratios, spread, towards
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.verbs import Distill, Exit, Factorize, Prune

EIGHT_FFN = [2790, 2508, 2227, 1945, 1664, 1382, 1100, 819, 537, 256]
EIGHT_RANK = [704, 640, 576, 512, 448, 384, 320, 256, 192, 128]
TWO_FFN = [2816, 2560, 2304, 2048, 1792, 1536]
TWO_RANK = [704, 640, 576, 512, 448, 384]
EIGHT_MILLIONS = ["108.91", "99.93", "90.37", "80.82", "71.26", "61.71", "52.14", "42.58", "33.03", "23.47", "13.92"]


def original(config=None, family="bert", edits=()):
    config = config or BertConfig()
    anatomy = load_catalogue().anatomy(family)
    shape = original_shape(anatomy, config)
    for edit in edits:
        shape = shape.after(edit)
    return Original("here", config, anatomy, shape)


TINY = BertConfig(num_hidden_layers=4, num_attention_heads=4, hidden_size=32, intermediate_size=64, vocab_size=500)


@pytest.fixture
def plan_of(tmp_path):
    """A plan for steps written as YAML, one per line."""

    def plan_of(*steps, model=None):
        path = tmp_path / "r.yaml"
        path.write_text("recipe: 1\nsteps:\n" + "".join(f"  - {step}\n" for step in steps), encoding="utf-8")
        return make_plan(read_recipe(path), model or original(TINY))

    return plan_of


@pytest.fixture
def mistakes_of(plan_of, tmp_path):
    """The mistakes that a plan is refused for."""

    def mistakes_of(*steps, model=None):
        with pytest.raises(RecipeError) as error:
            plan_of(*steps, model=model)
        first, *rest = str(error.value).splitlines()
        assert first == f"{tmp_path / 'r.yaml'}: {len(rest)} mistake{'s' if len(rest) > 1 else ''}"
        return [line.strip() for line in rest]

    return mistakes_of


# --- the printed schedules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "heads", "neurons", "ranks"),
    [
        ("cost-eff-8x", list(range(11, 1, -1)), EIGHT_FFN, EIGHT_RANK),
        ("cost-eff-2x", list(range(11, 5, -1)), TWO_FFN, TWO_RANK),
    ],
)
def test_p6_schedules_of_bert_base(name, heads, neurons, ranks):
    plan = make_plan(read_recipe(name), original())
    prunings = [step for step in plan.steps if step.name == "prune"]
    factorizings = [step for step in plan.steps if step.name == "factorize"]
    assert [step.iteration for step in prunings] == list(range(1, len(heads) + 1))
    assert [step.shape.layers for step in prunings] == [
        (LayerShape(a, f),) * 12 for a, f in zip(heads, neurons, strict=True)
    ]
    assert [step.shape.rank for step in factorizings] == ranks


def test_p6_parameters_after_each_step_of_8x():
    plan = make_plan(read_recipe("cost-eff-8x"), original())
    dims = plan.original.dims
    assistant = next(step for step in plan.steps if step.name == "exit")
    shapes = [assistant.shape, *(step.shape for step in plan.steps if step.name == "factorize")]
    assert [f"{parameters(dims, shape) / 1e6:.2f}" for shape in shapes] == EIGHT_MILLIONS
    assert parameters(dims, plan.shape) == 13_920_024


@pytest.mark.parametrize(
    ("name", "expected", "torch110"),
    [("cost-eff-8x", 13_920_024, 8.899), ("cost-eff-2x", 54_984_984, 1.986), ("shape-8x", 13_920_024, 8.899)],
)
def test_p6_what_the_plan_says_of_the_whole(name, expected, torch110):
    plan = make_plan(read_recipe(name), original())
    report = plan.to_json()
    assert list(report) == ["original", "planned", "reduction"]
    assert report["original"]["parameters"] == 109_483_778
    assert report["planned"]["parameters"] == expected
    assert report["reduction"]["parameters"] == 109_483_778 / expected
    assert round(report["reduction"]["flops"]["torch110"], 3) == torch110
    assert [list(report[key]["flops"]) for key in report] == [list(CONVENTIONS)] * 3
    assert report["planned"]["flops"] == flops(plan.original.dims, plan.shape, 128)
    assert plan.to_json(tokens=64)["planned"]["flops"] == flops(plan.original.dims, plan.shape, 64)


def test_f4_factoring_pays_below_the_break_even_rank():
    model = original()
    whole = parameters(model.dims, model.shape)

    def saved(rank):
        return whole - parameters(model.dims, model.shape.after(FactorizeEmbedding(rank)))

    assert saved(749) > 0 > saved(750)
    break_even = 749 + saved(749) / (saved(749) - saved(750))
    assert isclose(break_even, 30_522 * 768 / (30_522 + 768), rel_tol=1e-12)
    assert round(break_even, 2) == 749.15


@pytest.mark.parametrize("name", ["cost-eff-8x", "cost-eff-2x", "cost-eff-demo", "shape-8x"])
@pytest.mark.parametrize("config", [TINY, BertConfig(num_hidden_layers=6, hidden_size=384, intermediate_size=1536)])
def test_recipes_fit_other_depths_and_widths(name, config):
    plan = make_plan(read_recipe(name), original(config))
    prunings = [step.shape for step in plan.steps if step.name == "prune"]
    assert len(set(plan.shape.layers)) == 1
    assert plan.shape.exits == tuple(range(1, config.num_hidden_layers + 1))
    heads = [shape.layers[0].heads for shape in prunings]
    assert heads == sorted(heads, reverse=True)
    assert plan.shape.layers[0].heads >= 1


# --- amounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "goal", "way", "left"),
    [
        (12, 2, Fraction(1, 10), 11),
        (3072, 256, Fraction(1, 10), 2790),  # 2790.4
        (3072, 256, Fraction(3, 10), 2227),  # 2227.2
        (3072, 256, Fraction(1), 256),
        (768, 8, Fraction(11, 20), 350),  # exactly; 349 in floats
        (5, 5, Fraction(1, 2), 5),
    ],
)
def test_whole_units_on_the_way(start, goal, way, left):
    assert towards(start, goal, way) == left


@pytest.mark.parametrize(
    ("keep", "left"),
    [("4", 4), ("1", 1), ("0.5", 2), ("3/8", 2), ("0.3", 1), ("1/8", 1), ("3/4", 3), ("7/8", 4)],
)
def test_a_fraction_is_rounded_to_the_nearest_count(plan_of, keep, left):
    assert plan_of(f"{{prune: heads, by: magnitude, keep: {keep}}}").shape.layers == (LayerShape(left, 64),) * 4


def test_a_rank_is_a_part_of_the_embeddings_own_size(plan_of):
    electra = ElectraConfig(embedding_size=128, hidden_size=256)
    plan = plan_of("{factorize: word-embeddings, by: svd, rank: 1/4}", model=original(electra, "electra"))
    assert plan.shape.rank == 32


# --- pieces of work --------------------------------------------------------------------------------------------------


def names(plan):
    return [(step.name, len(step.work) if isinstance(step.work, tuple) else 1, step.iteration) for step in plan.steps]


def test_neighbouring_prunes_share_one_pass(plan_of):
    plan = plan_of("{prune: heads, by: taylor, keep: 2}", "{prune: neurons, by: taylor, keep: 8}")
    assert names(plan) == [("prune", 2, 0)]
    assert plan.shape.layers == (LayerShape(2, 8),) * 4


@pytest.mark.parametrize(
    "second",
    [
        "{prune: heads, by: taylor, keep: 1}",
        "{prune: neurons, by: taylor, keep: 8, portion: 0.5}",
        "{prune: neurons, by: taylor, keep: 8, batch_size: 8}",
        "{prune: neurons, by: taylor, keep: 8, exits: last}",
        "{prune: neurons, by: taylor, keep: 8, gradient_equilibrium: false}",
        "{prune: layers, keep: [1, 2]}",
    ],
)
def test_other_neighbours_are_pieces_of_their_own(plan_of, second):
    assert names(plan_of("{prune: heads, by: taylor, keep: 2}", second)) == [("prune", 1, 0), ("prune", 1, 0)]


def test_a_third_prune_of_a_target_pruned_already_begins_a_new_piece(plan_of):
    plan = plan_of(
        "{prune: heads, by: magnitude, keep: 3}",
        "{prune: neurons, by: magnitude, keep: 8}",
        "{prune: heads, by: magnitude, keep: 2}",
    )
    assert names(plan) == [("prune", 2, 0), ("prune", 1, 0)]
    assert [step.shape.layers[0].heads for step in plan.steps] == [3, 2]


def test_a_repeat_is_unrolled_with_shapes_on_the_way(plan_of):
    plan = plan_of(
        "repeat: 3\n    steps:\n"
        "      - {prune: heads, by: magnitude, keep: 1}\n"
        "      - {factorize: word-embeddings, by: svd, rank: 8}"
    )
    assert names(plan) == [(name, 1, n) for n in (1, 2, 3) for name in ("prune", "factorize")]
    assert [(step.shape.layers[3].heads, step.shape.rank) for step in plan.steps] == [
        (3, None),
        (3, 24),
        (2, 24),
        (2, 16),
        (1, 16),
        (1, 8),
    ]


def test_a_repeat_never_plans_to_grow_what_it_cut(plan_of):
    plan = plan_of(
        "repeat: 2\n    steps:\n"
        "      - {prune: heads, by: magnitude, keep: 1}\n"
        "      - {factorize: word-embeddings, by: svd, rank: 8}\n"
        "      - {prune: heads, by: magnitude, keep: 3}"
    )
    assert [step.shape.layers[0].heads for step in plan.steps] == [2, 2, 2, 1, 1, 1]


def test_work_keeps_its_verb_and_order(plan_of):
    plan = plan_of(
        "finetune: {epochs: 1}",
        "{exit: [2, 4], by: entropy, with: {threshold: 0.1}, pooler: keep}",
        "{prune: layers, keep: [1, 2, 4]}",
        "{factorize: word-embeddings, by: svd, rank: 3}",
        "{distill: teacher, by: predictions, epochs: 1}",
    )
    assert [step.name for step in plan.steps] == ["finetune", "exit", "prune", "factorize", "distill"]
    kinds = [type(step.work[0] if isinstance(step.work, tuple) else step.work) for step in plan.steps]
    assert kinds[1:] == [Exit, Prune, Factorize, Distill]
    assert [step.shape.exits for step in plan.steps] == [(), (2, 4), (2, 3), (2, 3), (2, 3)]
    assert (plan.shape.read_out, plan.shape.rank, len(plan.shape.layers)) == (True, 3, 3)


def test_start_original_takes_the_shape_as_given(plan_of):
    given = original(TINY, edits=[CutLayers((0, 1, 2)), FactorizeEmbedding(9)])
    plan = plan_of("{exit: all, by: entropy, with: {threshold: 0.1}, start: original}", model=given)
    assert plan.shape == given.shape.after(AddExits((1, 2, 3), ClsTanh(), False))
    assert plan.original.dims == dims_of(given.anatomy, TINY)


@pytest.mark.parametrize(
    ("total", "most", "shares"),
    [
        (8, [4, 4, 4, 4], [2, 2, 2, 2]),
        (10, [4, 4, 4, 4], [2, 2, 3, 3]),
        (10, [4, 1, 4, 4], [3, 1, 3, 3]),
        (16, [4, 4, 4, 4], [4, 4, 4, 4]),
        (7, [1, 1, 9], [1, 1, 5]),
    ],
)
def test_a_total_is_spread_evenly_below_each_most(total, most, shares):
    assert spread(total, most) == shares
    assert sum(shares) == total


def test_all_layers_together_keep_a_part_of_all_units_whose_cost_is_exact(plan_of):
    plan = plan_of("{prune: heads, by: magnitude, keep: 0.6, scope: global}")
    assert sum(layer.heads for layer in plan.shape.layers) == 10
    uneven = replace(plan.shape, layers=tuple(replace(plan.shape.layers[0], heads=n) for n in (1, 4, 1, 4)))
    dims = plan.original.dims
    assert parameters(dims, uneven) == parameters(dims, plan.shape)
    assert flops(dims, uneven) == flops(dims, plan.shape)


def test_counts_may_go_by_equal_ratios(plan_of):
    steps = plan_of("{repeat: 3, pace: geometric, steps: [{prune: neurons, by: magnitude, keep: 1/8}]}").steps
    assert [step.shape.layers[0].neurons for step in steps] == [32, 16, 8]


@pytest.mark.parametrize(
    ("start", "goal", "left"),
    [
        (1000, 1, [100, 10, 1]),
        (10, 7, [8, 7, 7]),
        (5, 5, [5, 5, 5]),
        (64, 1, [32, 16, 8, 4, 2, 1]),
        (3072, 3, [1536, 768, 384, 192, 96, 48, 24, 12, 6, 3]),
    ],
)
def test_on_the_way_by_ratios_whole_numbers_stay_whole_and_nothing_falls_below_the_goal(start, goal, left):
    assert [by_ratios(start, goal, Fraction(t, len(left))) for t in range(1, len(left) + 1)] == left


def test_a_total_is_reached_in_equal_steps(plan_of):
    steps = plan_of("{repeat: 3, steps: [{prune: heads, by: magnitude, keep: 1/4, scope: global}]}").steps
    assert [sum(layer.heads for layer in step.shape.layers) for step in steps] == [12, 8, 4]


# --- mistakes --------------------------------------------------------------------------------------------------------

EXIT = "by: entropy, with: {threshold: 0.1}"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "{prune: heads, by: magnitude, keep: 5}",
            "prune: keep 5 is more than the 4 heads; keep at most 4",
        ),
        (
            "{prune: neurons, by: magnitude, keep: 65}",
            "prune: keep 65 is more than the 64 neurons; keep at most 64",
        ),
        (
            "{prune: heads, by: magnitude, keep: 1/9}",
            "prune: keep 1/9 of 4 heads leaves none; keep at least 1/4",
        ),
        (
            "{prune: heads, by: magnitude, keep: 17, scope: global}",
            "prune: keep 17 is more than the 16 heads of all layers; keep at most 16",
        ),
        (
            "{prune: heads, by: magnitude, keep: 1/8, scope: global}",
            "prune: keep 1/8 of 16 heads leaves less than 1 for each of the 4 layers; keep at least 4",
        ),
        (
            "{prune: heads, by: magnitude, keep: 7, scope: global, least: 2}",
            "prune: keep 7 of 16 heads leaves less than 2 for each of the 4 layers; keep at least 8",
        ),
        (
            "{prune: layers, keep: [1, 5]}",
            "prune: keep 5 is not one of the 4 layers; give numbers from 1 to 4",
        ),
        (
            "{factorize: word-embeddings, by: svd, rank: 33}",
            "factorize: rank 33 is more than the 32 dimensions of the word embedding; rank at most 32",
        ),
        (
            "{factorize: word-embeddings, by: svd, rank: 1/100}",
            "factorize: rank 1/100 of 32 dimensions of the word embedding leaves none; rank at least 1/32",
        ),
        (
            f"{{exit: [1, 3], {EXIT}}}",
            "exit: the last exit is after layer 3, but the model has 4 layers; add 4 to the list",
        ),
        (
            f"{{exit: [2, 6], {EXIT}}}",
            "exit: layer 6 is not one of the 4 layers; give numbers from 1 to 4, 4 included",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(mistakes_of, step, message):
    assert mistakes_of(step) == [f"line 3: steps[0] {message}"]


def test_every_mistake_is_told_at_once_with_its_line(mistakes_of):
    assert mistakes_of(
        "{prune: layers, keep: [1, 5]}",
        "{prune: heads, by: magnitude, keep: 5}",
        "{prune: heads, by: magnitude, keep: 2}",
        f"{{exit: [1], {EXIT}}}",
    ) == [
        "line 3: steps[0] prune: keep 5 is not one of the 4 layers; give numbers from 1 to 4",
        "line 4: steps[1] prune: keep 5 is more than the 4 heads; keep at most 4",
        "line 6: steps[3] exit: the last exit is after layer 1, but the model has 4 layers; add 4 to the list",
    ]


def test_a_mistake_in_a_repeat_is_told_once(mistakes_of):
    repeat = "repeat: 3\n    steps: [{prune: heads, by: magnitude, keep: 5}]"
    assert mistakes_of(repeat) == ["line 4: steps[0].steps[0] prune: keep 5 is more than the 4 heads; keep at most 4"]


def test_counts_are_held_against_what_earlier_steps_left(mistakes_of):
    assert mistakes_of(
        "{prune: heads, by: magnitude, keep: 2}",
        "{factorize: word-embeddings, by: svd, rank: 8}",
        "{prune: heads, by: magnitude, keep: 3}",
        "{factorize: word-embeddings, by: svd, rank: 9}",
        "{prune: layers, keep: [1, 2]}",
        f"{{exit: [4], {EXIT}}}",
    ) == [
        "line 5: steps[2] prune: keep 3 is more than the 2 heads; keep at most 2",
        "line 6: steps[3] factorize: rank 9 is more than the word embedding's 8 by now; rank at most 8",
        "line 8: steps[5] exit: layer 4 is not one of the 2 layers; give numbers from 1 to 2, 2 included",
    ]


def test_exits_cannot_be_put_in_twice(mistakes_of):
    given = original(TINY, edits=[AddExits((4,), ClsTanh(), False)])
    (told,) = mistakes_of(f"{{exit: all, {EXIT}, pooler: keep}}", model=given)
    assert told == (
        f"line 3: steps[0] exit: {given.name} has exits already; leave this step out, or give --model its original"
    )


# --- shared layers and projected embeddings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "owners", "left"), [(1, (0, 0, 0, 0), (0, 0, 0)), (2, (0, 0, 2, 2), (0, 0, 2)), (4, (), ())]
)
def test_layers_share_in_runs_of_neighbours(plan_of, groups, owners, left):
    plan = plan_of(f"{{share: layers, groups: {groups}}}", "{prune: layers, keep: [1, 2, 4]}")
    assert [step.name for step in plan.steps] == ["share", "prune"]
    assert plan.steps[0].shape == replace(original(TINY).shape, owners=owners)
    assert plan.shape.owners == left
    assert flops(plan.original.dims, plan.steps[0].shape) == flops(plan.original.dims, plan.original.shape)


def test_a_projection_is_planned_without_weights(plan_of):
    plan = plan_of("{factorize: embeddings, by: svd, rank: 1/4}")
    assert (plan.shape.embedding, plan.shape.rank) == (8, None)
    electra = ElectraConfig(num_hidden_layers=2, embedding_size=128)
    assert (
        plan_of("{factorize: embeddings, by: svd, rank: 1/4}", model=original(electra, "electra")).shape.embedding == 32
    )


@pytest.mark.parametrize(
    ("edits", "step", "message"),
    [
        ([], "{share: layers, groups: 3}", "share: 4 layers can't be split into 3 equal groups; choose 1 or 2 or 4"),
        (
            [CutHeads(1, (0,))],
            "{share: layers, groups: 2}",
            (
                "share: layers 1 to 2 have different sizes and can't share weights; share before "
                "pruning, or keep equal numbers"
            ),
        ),
        (
            [ShareLayers((0, 0, 0, 0), "mean")],
            "{share: layers, groups: 2}",
            "share: here has layers that share weights; leave this step out, or give --model its original",
        ),
        (
            [ShareLayers((0, 0, 0, 0), "mean")],
            "{prune: heads, by: magnitude, keep: 2}",
            "prune: here has layers that share weights; prune heads before sharing, or leave it out",
        ),
        (
            [],
            "{factorize: embeddings, by: svd, rank: 33}",
            "factorize: rank 33 is more than the 32 dimensions of the word embedding; rank at most 32",
        ),
        *(
            (
                [edit],
                f"{{factorize: {target}, by: svd, rank: 2}}",
                "factorize: here has factorized embeddings; leave this step out, or give --model its original",
            )
            for edit, target in (
                (ProjectEmbeddings(9), "embeddings"),
                (ProjectEmbeddings(9), "word-embeddings"),
                (FactorizeEmbedding(9), "embeddings"),
            )
        ),
    ],
)
def test_what_cannot_be_shared_or_projected_is_refused(mistakes_of, edits, step, message):
    assert mistakes_of(step, model=original(TINY, edits=edits)) == [f"line 3: steps[0] {message}"]


def test_what_runs_through_more_than_heads_and_neurons_is_not_projected(mistakes_of, plan_of):
    mobile = original(MobileBertConfig(num_hidden_layers=4), "mobilebert")
    assert mistakes_of("{factorize: embeddings, by: svd, rank: 2}", model=mobile) == [
        (
            "line 3: steps[0] factorize: the embeddings of mobilebert models can't be projected; "
            "factorize word-embeddings instead, or leave it out"
        )
    ]
    planned = plan_of(
        "{factorize: word-embeddings, by: svd, rank: 1/2}",
        "{factorize: attention, by: svd, rank: 1/2}",
        "{prune: neurons, by: magnitude, keep: 1/2}",
        model=mobile,
    )
    assert planned.shape.rank == 64
    assert planned.shape.layers == (LayerShape(4, 256, (64, 64, 64, 64, None, None)),) * 4
