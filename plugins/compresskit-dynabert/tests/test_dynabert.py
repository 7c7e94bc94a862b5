"""Sub-networks are the right prefixes and layers, rewiring moves no answer, and one is cut out as it was trained."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compresskit_dynabert import DynaBert, First, KeptStates, SlopeOfGates
from compresskit_dynabert.subnetworks import kept_layers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from compresskit import Sizes, Trace, UnitTrace
from compresskit.apply import apply
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import load
from compresskit.data import DataOptions
from compresskit.errors import CompresskitError, RecipeError
from compresskit.masking import sizes
from compresskit.model import wrap
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.run import Run
from compresskit.strategies.predictions import Predictions
from compresskit.testing import apply_tiny, parametrize, save_tiny, tiny_model, tiny_text, trainings

RECIPES = Path(__file__).parent.parent / "compresskit_dynabert" / "recipes"
BERT = Sizes(heads=(12,) * 12, neurons=(3072,) * 12, head_size=64, hidden=768)
QUICK = (
    "steps.0.finetune.epochs=0.2",
    "steps.3.epochs=0.2",
    "steps.4.epochs=0.2",
    "steps.3.mask={dynabert: {widths: [1.0, 0.5]}}",
    "steps.4.mask={dynabert: {widths: [1.0, 0.5], depths: [1.0, 0.75]}}",
)


@pytest.mark.parametrize(
    **parametrize(DynaBert(), DynaBert((1.0, 0.5), (1.0, 0.5)), KeptStates(), SlopeOfGates(), First())
)
def test_is_a_good_strategy(check):
    check()


# --- sub-networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "kept"),
    [(1.0, tuple(range(12))), (0.75, (0, 1, 2, 4, 5, 6, 8, 9, 10)), (0.5, (0, 2, 4, 6, 8, 10)), (0.01, ())],
)
def test_d3_the_layers_of_a_depth(share, kept):
    assert kept_layers(12, share) == kept


def test_a_width_takes_the_first_heads_and_neurons():
    module = DynaBert((0.25,)).build(BERT)
    masks = module.masks(0, 0, 1)
    assert masks.heads[7].nonzero().flatten().tolist() == [0, 1, 2]
    assert masks.neurons[7].nonzero().flatten().tolist() == list(range(768))
    assert masks.layers == (True,) * 12


@pytest.mark.parametrize(("count", "part"), [(6, 0.75), (6, 0.25), (2, 0.75), (12, 0.3), (3072, 0.3), (12, 0.25)])
def test_a_width_is_as_many_units_as_prune_keeps_for_it(tmp_path, count, part):
    path = tmp_path / "r.yaml"
    path.write_text(f"recipe: 1\nname: some\nsteps:\n  - {{prune: neurons, by: first, keep: {part}}}\n")
    original = load(str(save_tiny(tmp_path / "model", neurons=count))).original
    kept = make_plan(read_recipe(path), original).shape.layers[0].neurons
    sizes = Sizes(heads=(4,), neurons=(count,), head_size=8, hidden=32)
    assert int(DynaBert((part,)).build(sizes).masks(0, 0, 1).neurons[0].sum()) == kept


def test_at_least_one_head_is_in_every_width():
    masks = DynaBert((0.1,)).build(BERT).masks(0, 0, 1)
    assert [int(heads.sum()) for heads in masks.heads] == [1] * 12


def test_every_width_at_every_depth_makes_a_pass_the_largest_first():
    module = DynaBert((0.5, 1.0), (0.5, 1.0)).build(BERT)
    seen = [module.masks(number, 0, 1) for number in range(module.passes)]
    assert [(sum(masks.layers), int(masks.heads[0].sum())) for masks in seen] == [(12, 12), (12, 6), (6, 12), (6, 6)]


def test_a_depth_that_leaves_nothing_is_a_mistake(tmp_path):
    path = tmp_path / "r.yaml"
    step = "finetune: {when: always, epochs: 1, mask: {dynabert: {depths: [0.1]}}}"
    path.write_text(f"recipe: 1\nname: some\nsteps:\n  - {step}\n")
    original = load(str(save_tiny(tmp_path / "model", layers=3))).original
    with pytest.raises(RecipeError) as caught:
        make_plan(read_recipe(path), original)
    assert str(caught.value).endswith(
        "line 4: steps[0] finetune: mask dynabert has a depth of 0.1, which leaves none of 3 layers; leave it out"
    )


# --- what they learn -------------------------------------------------------------------------------------------------


def trace(*values):
    """Hidden states of one number each, for a text of two tokens and one that is padded."""
    states = tuple(torch.full((1, 3, 1), float(value)) for value in values)
    return Trace({1: torch.zeros(1, 2)}, states, torch.tensor([[1, 1, 0]]))


@pytest.mark.parametrize(
    ("mine", "taught"),
    [(12, list(range(13))), (9, [0, 1, 2, 4, 5, 6, 8, 9, 10, 12]), (6, [0, 2, 4, 6, 8, 10, 12]), (0, [0])],
)
def test_a_student_of_fewer_layers_learns_from_evenly_spread_states_and_in_the_last_from_the_last(mine, taught):
    teacher = trace(*range(13))
    assert float(KeptStates().loss(trace(*taught), teacher, {})) == 0
    # One state off by 3 costs 9, whichever it is.
    for place in range(mine + 1):
        off = [value + 3 * (place == index) for index, value in enumerate(taught)]
        assert float(KeptStates().loss(trace(*off), teacher, {})) == 9


# The layers that run, by floor(i / m) on paper.
DEPTHS = [
    (6, 0.75, [0, 1, 2, 4]),
    (12, 0.4, [0, 2, 5, 7, 10]),
    (12, 0.7, [0, 1, 2, 4, 5, 7, 8, 10]),
    (12, 0.8, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]),
    (12, 0.9, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]),
]


@pytest.mark.parametrize(("layers", "depth", "kept"), DEPTHS)
def test_each_state_learns_from_that_of_the_layer_that_runs_and_the_last_from_the_last(layers, depth, kept):
    model = wrap(tiny_model(layers=layers), load_catalogue().anatomy("bert")).eval()
    ran = []
    for index, part in enumerate(model.body):
        part.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        student = model.trace(batch(), hidden=True, masks=DynaBert((1.0,), (depth,)).build(sizes(model)).masks(0, 0, 1))
    assert ran == kept
    states = [torch.full_like(student.hidden[0], 9.0)] * (layers + 1)
    for place, state in zip([*kept, layers], student.hidden, strict=True):
        states[place] = state
    assert float(KeptStates().loss(student, replace(student, hidden=tuple(states)), {})) == 0


def test_in_training_too_the_loss_is_told_which_layers_run(tmp_path, monkeypatch):
    seen = []
    loss = KeptStates.loss
    monkeypatch.setattr(KeptStates, "loss", lambda self, *given: seen.append(given[0].ran) or loss(self, *given))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipe: 1\nname: some\nsteps:\n- finetune: {epochs: 0.2}\n"
        "- {distill: teacher, by: kept-states, epochs: 0.2, mask: {dynabert: {widths: [1.0], depths: [1.0, 0.75]}}}\n"
    )
    apply_tiny(path, tmp_path, layers=6)
    assert set(seen) == {(True,) * 6, (True, True, True, False, True, False)}


def test_a_teacher_of_another_width_is_refused():
    wide = Trace({1: torch.zeros(1, 2)}, (torch.zeros(1, 3, 2),), torch.ones(1, 3))
    with pytest.raises(CompresskitError) as caught:
        KeptStates().loss(trace(0), wide, {})
    assert str(caught.value) == (
        "kept-states: the teacher's hidden states are of another size than the student's; distil by predictions alone, "
        "or from a teacher of the same hidden size"
    )


def test_the_slope_of_a_gate_adds_tokens_before_and_examples_after_the_absolute_value():
    """2 * 1 + 1 * -2 = 0, the third token being padding, and 3 * 2 + -1 * 1 + 1 * -4 = 1."""
    outputs = torch.tensor([[2.0, 1.0, 9.0], [3.0, -1.0, 1.0]]).reshape(2, 3, 1, 1)
    gradients = torch.tensor([[1.0, -2.0, 5.0], [2.0, 1.0, -4.0]]).reshape(2, 3, 1, 1)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    seen = SlopeOfGates().observe(UnitTrace(outputs, gradients, mask))
    assert seen.flatten().tolist() == [0.0, 1.0]


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_the_methods_trainings_in_numbers():
    widths = (1.0, 0.75, 0.5, 0.25)
    taught = {"epochs": 3, "warmup": 0}
    assert trainings(RECIPES / "dynabert.yaml") == [
        {"epochs": 3},
        {**taught, "teacher": "teacher", "save_as": "adaptive-in-width", "mask": DynaBert(widths)}
        | {"by": {"predictions": (1, Predictions()), "kept-states": (0.1, KeptStates())}},
        {**taught, "teacher": "adaptive-in-width", "mask": DynaBert(widths, (1.0, 0.75, 0.5))}
        | {"by": {"predictions": (1, Predictions()), "kept-states": (1, KeptStates())}},
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A DynaBERT of four layers, and what was done to it."""
    folder = tmp_path_factory.mktemp("dynabert")
    apply_tiny(RECIPES / "dynabert.yaml", folder, *QUICK, layers=4)
    return folder / "out"


def batch():
    ids = torch.randint(5, 50, (4, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def test_rewiring_moves_no_answer(made):
    before, after = (
        AutoModelForSequenceClassification.from_pretrained(made / "steps" / step)
        for step in ("01-finetune", "02-rewire")
    )
    with torch.no_grad():
        torch.testing.assert_close(after(**batch()).logits, before(**batch()).logits, atol=1e-5, rtol=1e-5)
    moved = [
        not torch.equal(one.attention.self.query.weight, other.attention.self.query.weight)
        for one, other in zip(before.body, after.body, strict=True)
    ]
    assert any(moved)


def test_a_sub_network_that_is_cut_out_answers_as_it_was_trained(made, tmp_path):
    whole = AutoModelForSequenceClassification.from_pretrained(made)
    module = DynaBert((0.5,), (0.75,)).build(sizes(whole))
    with torch.no_grad():
        asked = whole.trace(batch(), masks=module.masks(0, 0, 1)).last
    from compresskit.apply import apply
    from compresskit.data import DataOptions
    from compresskit.run import Run

    kept = [layer + 1 for layer in kept_layers(4, 0.75)]
    recipe = read_recipe(RECIPES / "dynabert-subnetwork.yaml", [f"steps.2.keep={kept}"])
    apply(recipe, str(made), None, DataOptions(), tmp_path / "out", Run())
    cut = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(cut(**batch()).logits, asked, atol=1e-5, rtol=1e-4)
    assert [(layer.heads, layer.neurons) for layer in cut.shape.layers] == [(2, 32)] * 3


def test_the_best_units_come_first(tmp_path):
    """What `first` keeps of a model that was rewired is what the score itself would have kept, whatever the width."""
    model = save_tiny(tmp_path / "model", layers=2)
    weights = load_file(model / "model.safetensors")
    for number in (0, 1):  # heads and neurons that are worth what their place says, the last most
        place = f"bert.encoder.layer.{number}"
        for name, units in ((f"{place}.attention.self.query.weight", 4), (f"{place}.intermediate.dense.weight", 64)):
            size = len(weights[name]) // units
            weights[name] *= torch.arange(1, units + 1).repeat_interleave(size).unsqueeze(1)
    save_file(weights, model / "model.safetensors", {"format": "pt"})

    def kept(*steps):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("recipe: 1\nname: some\nsteps:\n" + "".join(f"- {{{step}}}\n" for step in steps))
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        apply(read_recipe(recipe), str(model), None, DataOptions(), out, Run())
        return load_file(out / "model.safetensors")

    rewired = ("rewire: heads, by: magnitude", "rewire: neurons, by: magnitude")
    for width in ("1/2", "1/4"):
        first = [f"prune: {units}, by: first, keep: {width}" for units in ("heads", "neurons")]
        scored = [f"prune: {units}, by: magnitude, keep: {width}" for units in ("heads", "neurons")]
        mine, theirs = kept(*rewired, *first), kept(*scored)
        assert mine.keys() == theirs.keys()
        for name, weight in mine.items():  # the same rows and columns, in another order
            assert torch.allclose(weight.flatten().sort()[0], theirs[name].flatten().sort()[0]), name


def test_two_processes_end_with_the_weights_of_one(tmp_path):
    """Gradients of all passes over all rows add up, however many processes share them."""
    model = save_tiny(
        tmp_path / "model", trained=False, layers=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    data = tiny_text(tmp_path / "data", 64, eval_rows=8)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: 1\nname: some\nsteps:\n- finetune:\n    when: always\n    epochs: 2\n    batch_size: 16\n"
        "    learning_rate: 1e-3\n    mask: {dynabert: {widths: [1.0, 0.5], depths: [1.0, 0.5]}}\n"
    )
    found = []
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"] if processes == 2 else []
        apply = ["compresskit", "apply", str(recipe), "--model", str(model), "--data", str(data), "--out", str(out)]
        words = [sys.executable, "-m", *launch, *apply, "--device", "cpu", "--precision", "fp32", "--no-timing"]
        ended = subprocess.run([*words, "--quiet"], capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode == 0, ended.stderr
        found.append(load_file(out / "model.safetensors"))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)
    last = "encoder.layer.2.output.dense.weight"
    start = load_file(model / "model.safetensors")[last]
    assert float((found[0][f"network.bert.{last}"] - start).abs().max()) > 1e-3
