"""Every shipped recipe is carried out from end to end, with two batches per training, and does what it says it does."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from compresskit import report_builder, steps
from compresskit.anatomy import groups
from compresskit.apply import REPORT
from compresskit.checkpoint import load, read_original
from compresskit.cost import parameters
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.recipe_files import recipes_shipped
from compresskit.report import Report
from compresskit.speed import Times
from compresskit.testing import apply_tiny
from compresskit.verbs import Exit, Finetune, Repeat, Training

SIZES = {"layers": 2, "heads": 12, "hidden": 48, "neurons": 48}
"""Of which a sixth and a twelfth can be kept."""

ROUNDS = 2
BODY, FIRST, LAST = "body", "exit 1", "exit 2"
HIDDEN, SOFT, HARD = "hidden-states", "predictions", "labels"
pytestmark = pytest.mark.usefixtures("light_collections")


@dataclass
class Asked:
    """What a training, or a scoring, was asked for, and the parts of the model that a training moved."""

    losses: set[str]
    exits: tuple[int, ...]
    equilibrium: bool
    moved: set[str] | None = None


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """Carries out a recipe once, noting what each training and each scoring was asked for and what it moved."""

    @functools.cache
    def carried_out(name):
        folder = tmp_path_factory.mktemp(name)
        trainings, scorings = [], []
        teach, scoring = steps.teach, steps.Scoring

        def watched_teach(lesson):
            before = {name: weight.clone() for name, weight in lesson.model.state_dict().items()}
            seconds = teach(lesson)
            after = lesson.model.state_dict()
            moved = {part(name) for name, weight in after.items() if not torch.equal(weight, before[name])}
            trainings.append(Asked(set(lesson.losses), lesson.exits, lesson.equilibrium, moved))
            return seconds

        def watched_scoring(*args):
            made = scoring(*args)
            scorings.append(Asked(set(made.losses), made.exits, made.gradient_equilibrium))
            return made

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "teach", watched_teach)
            patch.setattr(steps, "Scoring", watched_scoring)
            # Milliseconds take seconds to measure.
            patch.setattr(report_builder, "time_rows", lambda *args, **how: Times((), ()))
            patch.setattr(report_builder, "time_shape", lambda *args, **how: Times((), ()))
            report = apply_tiny(name, folder, *shortened(name), **SIZES)
        return SimpleNamespace(folder=folder, report=report, trainings=trainings, scorings=scorings)

    return carried_out


def part(weight):
    """`exit 2` for a weight of the second layer's exit, or that it is the body's."""
    first, number, *_ = weight.split(".")
    return f"exit {number}" if first == "exits" else BODY


def shortened(name):
    """Overrides: two batches per training, the first of which only warms up, and two rounds per repeat."""
    for place, step in enumerate(read_recipe(name).steps):
        at = f"steps.{place}"
        if isinstance(step, Repeat):
            yield f"{at}.repeat={ROUNDS}"
            yield from (f"{at}.steps.{n}.epochs=1" for n, s in enumerate(step.steps) if isinstance(s, Training))
        elif isinstance(step, Training):
            yield f"{at}.finetune.epochs=1" if isinstance(step, Finetune) else f"{at}.epochs=1"


@pytest.mark.parametrize("name", recipes_shipped())
def test_what_is_planned_is_what_is_made(name, carried_out):
    done = carried_out(name)
    original = read_original(str(done.folder / "model"))
    planned = make_plan(read_recipe(name), original).shape
    made = load(str(done.folder / "out")).model
    assert made.shape == done.report.model.shape == planned != original.shape
    for target in ("heads", "neurons"):
        units = [group.units for group in groups(made.anatomy, made.network, target)]
        assert units == [getattr(layer, target) for layer in planned.layers]
    counted = sum(weight.numel() for weight in made.parameters())
    assert counted == done.report.model.parameters == parameters(original.dims, planned)
    assert counted < done.report.original.parameters == parameters(original.dims, original.shape)


@pytest.mark.parametrize("name", recipes_shipped())
def test_exits_and_the_report_are_there(name, carried_out):
    done = carried_out(name)
    made = load(str(done.folder / "out")).model
    exits = next((step for step in read_recipe(name).steps if isinstance(step, Exit)), None)
    assert made.exit_layers == ((1, 2) if exits and exits.layers == "all" else exits.layers if exits else (2,))
    assert made.policy == (exits.by if exits else None)
    assert Report.from_json(json.loads((done.folder / "out" / REPORT).read_text())) == done.report
    assert bool(done.trainings) == any(isinstance(step, (Training, Repeat)) for step in read_recipe(name).steps)
    if exits and made.untrained:
        assert (name, done.report.model.leaving) == ("shape-8x", None)
    elif exits:
        assert sum(done.report.model.leaving.histogram.values()) == 32
    with torch.no_grad():
        ids = torch.tensor([[2, 7, 8, 9, 3], [2, 8, 3, 0, 0]])
        answers = made.trace({"input_ids": ids, "attention_mask": (ids > 0).long()}).logits
    assert tuple(answers) == made.exit_layers
    assert all(bool(torch.isfinite(answer).all()) for answer in answers.values())


@pytest.mark.parametrize(
    ("name", "heads", "neurons", "rank"),
    [("cost-eff-8x", 2, 4, 8), ("cost-eff-2x", 6, 24, 24), ("cost-eff-demo", 4, 12, 12), ("shape-8x", 2, 4, 8)],
)
def test_shapes_by_hand(name, heads, neurons, rank, carried_out):
    shape = carried_out(name).report.model.shape
    assert [(layer.heads, layer.neurons) for layer in shape.layers] == [(heads, neurons)] * 2
    assert shape.rank == rank


# --- what the ablations have of the method, and what they do otherwise

ALL = {BODY, FIRST, LAST}
FINETUNED = Asked({HARD}, (2,), False, {BODY})
METHOD = [
    FINETUNED,
    Asked({HIDDEN}, (1, 2), True, {BODY}),
    Asked({SOFT, HARD}, (1, 2), True, ALL),
    *[Asked({HIDDEN, SOFT}, (1, 2), True, ALL)] * ROUNDS,
    Asked({HIDDEN}, (1, 2), True, {BODY}),
    Asked({HIDDEN, SOFT}, (1, 2), True, ALL),
]
"""Finetune, assistant in two steps, rounds of slenderizing, recovery in two steps."""

SCORED = [Asked({HIDDEN, SOFT, HARD}, (1, 2), True)] * ROUNDS


@pytest.mark.parametrize("name", ["cost-eff-8x", "cost-eff-2x"])
def test_the_method(name, carried_out):
    done = carried_out(name)
    assert done.trainings == METHOD
    assert done.scorings == SCORED


def test_labels_take_the_place_of_the_assistants_predictions(carried_out):
    done = carried_out("cost-eff-8x-labels")
    assert done.trainings[:3] == METHOD[:3]
    assert done.trainings[3:] == [replace(asked, losses=relabelled(asked)) for asked in METHOD[3:]]
    assert done.scorings == [replace(asked, losses=relabelled(asked)) for asked in SCORED]


def relabelled(asked):
    return {HARD if name == SOFT else name for name in asked.losses}


def test_without_features_predictions_take_their_place(carried_out):
    done = carried_out("cost-eff-8x-no-features")
    assert done.trainings == [
        FINETUNED,
        Asked({SOFT}, (1, 2), True, ALL),
        Asked({SOFT, HARD}, (1, 2), True, ALL),
        *[Asked({SOFT}, (1, 2), True, ALL)] * (ROUNDS + 2),
    ]
    assert done.scorings == [Asked({SOFT, HARD}, (1, 2), True)] * ROUNDS


def test_without_the_exits_losses_slenderizing_sees_the_last_exit_alone(carried_out):
    done = carried_out("cost-eff-8x-no-exit-loss")
    slenderizing = slice(3, 3 + ROUNDS)
    assert done.trainings[slenderizing] == [Asked({HIDDEN, SOFT}, (2,), False, {BODY, LAST})] * ROUNDS
    others = (slice(slenderizing.start), slice(slenderizing.stop, None))
    assert [done.trainings[part] for part in others] == [METHOD[part] for part in others]
    assert done.scorings == [Asked({HIDDEN, SOFT, HARD}, (2,), False)] * ROUNDS


def test_two_stages_have_one_exit_first_and_then_move_the_others_alone(carried_out):
    done = carried_out("cost-eff-8x-two-stage")
    *first, second = done.trainings
    assert first == [Asked(asked.losses, (2,), False, asked.moved - {FIRST}) for asked in METHOD]
    assert second == Asked({SOFT, HARD}, (1, 2), True, {FIRST})
    assert done.scorings == [Asked({HIDDEN, SOFT, HARD}, (2,), False)] * ROUNDS


def test_the_demo_takes_every_step_of_the_method_but_one(carried_out):
    done = carried_out("cost-eff-demo")
    assert done.trainings == [
        FINETUNED,
        Asked({SOFT, HARD}, (1, 2), True, ALL),
        *[Asked({HIDDEN}, (1, 2), True, {BODY})] * ROUNDS,
        Asked({HIDDEN, SOFT}, (1, 2), True, ALL),
    ]
    assert done.scorings == [Asked({SOFT, HARD}, (1, 2), True)] * ROUNDS


def test_the_shape_alone_learns_nothing(carried_out):
    done = carried_out("shape-8x")
    assert (done.trainings, done.scorings) == ([], [])
    assert done.report.model.shape == carried_out("cost-eff-8x").report.model.shape
