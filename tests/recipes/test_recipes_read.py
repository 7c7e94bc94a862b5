"""Every shipped recipe reads, says where it comes from, and is read back from its resolved text."""

from __future__ import annotations

from fractions import Fraction

import pytest

from compresskit.recipe import needs_data, read_recipe
from compresskit.recipe_files import recipe_text, recipes_shipped
from compresskit.verbs import Finetune, Prune, Repeat, Training


def steps_of(recipe):
    for step in recipe.steps:
        yield step
        yield from step.steps if isinstance(step, Repeat) else ()


@pytest.mark.parametrize("name", recipes_shipped())
def test_reads_and_round_trips(name, tmp_path):
    recipe = read_recipe(name)
    assert recipe.name == name
    if name.startswith("cost-eff"):
        assert "Shen et al. 2022, arXiv:2210.15523" in recipe.about.replace("\n", " ")
    resolved = tmp_path / "recipe.yaml"
    resolved.write_text(recipe.to_yaml(), encoding="utf-8")
    assert read_recipe(resolved) == recipe
    assert read_recipe(resolved).to_yaml() == recipe.to_yaml()


def test_what_ships():
    shipped = recipes_shipped()
    assert list(shipped) == sorted(set(shipped))
    assert set(shipped) >= {
        "cost-eff-2x",
        "cost-eff-8x",
        "cost-eff-8x-labels",
        "cost-eff-8x-no-exit-loss",
        "cost-eff-8x-no-features",
        "cost-eff-8x-two-stage",
        "cost-eff-demo",
        "shape-8x",
    }


ASSISTANT = [
    ("finetune", 4, 5e-5, {}),
    ("distill", 1, 5e-5, {"hidden-states": (1, 0)}),
    ("distill", 4, 5e-5, {"predictions": (0.5, 0), "labels": (0.5, 0)}),
]
ROUND = ("distill", 1, 5e-5, {"hidden-states": (1, 0), "predictions": (1, 0.5)})
RECOVERY = [
    ("distill", 10, 1e-4, {"hidden-states": (1, 0)}),
    ("distill", 6, 5e-5, {"hidden-states": (1, 0), "predictions": (1, 0)}),
]


@pytest.mark.parametrize("name", ["cost-eff-8x", "cost-eff-2x"])
def test_the_methods_trainings_in_numbers(name):
    """Epochs, learning rate, and weight and beginning of each loss, as decision 6 tells them."""
    told = [
        (step.name, step.epochs, step.learning_rate, {key: (loss.weight, loss.after) for key, loss in step.by.items()})
        for step in steps_of(read_recipe(name))
        if isinstance(step, Training)
    ]
    assert told == [*ASSISTANT, ROUND, *RECOVERY]


def test_a_trainings_defaults_are_those_of_the_released_code():
    """Weight decay, clipping, warm-up and linear schedule; batch and rate are its first of each."""
    step = Finetune(epochs=1)
    assert (step.weight_decay, step.max_grad_norm, step.warmup, step.schedule) == (0.01, 1.0, 0.1, "linear")
    assert (step.batch_size, step.learning_rate, step.gradient_equilibrium, step.restore) == (32, 2e-5, True, 0.0)


@pytest.mark.parametrize("name", ["cost-eff-8x", "cost-eff-2x"])
def test_the_methods_scores_in_numbers(name):
    scored = [step for step in steps_of(read_recipe(name)) if isinstance(step, Prune)]
    assert [step.target for step in scored] == ["heads", "neurons"]
    for step in scored:
        weights = {key: loss.weight for key, loss in step.loss.items()}
        assert weights == {"predictions": 0.9, "labels": 0.1, "hidden-states": 1}
        assert (step.portion, step.batch_size, step.by.reading) == (0.3, 32, "released")
        assert step.loss["hidden-states"].distiller.average == "positions"


def test_the_method_needs_data_and_its_shape_alone_does_not():
    method = [name for name in recipes_shipped() if name.startswith("cost-eff")]
    assert all(needs_data(read_recipe(name)) for name in method)
    assert not needs_data(read_recipe("shape-8x"))


def test_the_assistant_is_made_alike_so_that_its_steps_can_be_shared():
    names = ("cost-eff-2x", "cost-eff-8x", "cost-eff-8x-labels", "cost-eff-8x-no-exit-loss")
    assert len({recipe_text(name).partition("  # Slenderize")[0].partition("steps:")[2] for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "heads", "neurons", "rank"),
    [
        ("cost-eff-8x", "1/6", "1/12", "1/6"),
        ("cost-eff-2x", "1/2", "1/2", "1/2"),
        ("cost-eff-demo", "1/3", "1/4", "1/4"),
        ("shape-8x", "1/6", "1/12", "1/6"),
    ],
)
def test_targets(name, heads, neurons, rank):
    steps = list(steps_of(read_recipe(name)))
    assert [step.keep for step in steps if isinstance(step, Prune)] == [Fraction(heads), Fraction(neurons)]
    assert [step.rank for step in steps if hasattr(step, "rank")] == [Fraction(rank)]


def test_no_features_has_no_hidden_states():
    for step in steps_of(read_recipe("cost-eff-8x-no-features")):
        losses = getattr(step, "loss", None) or (step.by if hasattr(step, "epochs") and hasattr(step, "by") else {})
        assert "hidden-states" not in losses


def test_labels_ablation_learns_from_no_predictions_after_the_assistant():
    recipe = read_recipe("cost-eff-8x-labels")
    later = list(steps_of(recipe))[4:]
    assert all("predictions" not in (step.loss if isinstance(step, Prune) else getattr(step, "by", {}))
               for step in later if isinstance(step, (Prune, Training)))  # fmt: skip


def test_ablations_train_as_long_as_the_method():
    def epochs(name):
        return sum(step.epochs * (10 if "steps[4].steps" in step.label else 1)
                   for step in steps_of(read_recipe(name)) if isinstance(step, Training))  # fmt: skip

    for name in ("cost-eff-8x-labels", "cost-eff-8x-no-exit-loss", "cost-eff-8x-no-features"):
        assert epochs(name) == epochs("cost-eff-8x") == 4 + 1 + 4 + 10 + 10 + 6


def test_two_stage_has_one_exit_first_and_trains_the_others_last_and_alone():
    finetune, *steps = [step for step in steps_of(read_recipe("cost-eff-8x-two-stage")) if hasattr(step, "exits")]
    assert isinstance(finetune, Finetune)  # there are no exits yet
    *first, second = steps
    assert [(step.exits, step.gradient_equilibrium) for step in first] == [("last", False)] * 7
    assert {step.train for step in first if isinstance(step, Training)} == {"all"}
    assert (second.exits, second.train) == ("all", "shallow-exits")


def test_no_exit_loss_prunes_without_exits_and_ends_with_them():
    steps = list(steps_of(read_recipe("cost-eff-8x-no-exit-loss")))
    inner = [step for step in steps if "steps[4].steps" in step.label and hasattr(step, "exits")]
    assert [(step.exits, step.gradient_equilibrium) for step in inner] == [("last", False)] * 3
    assert steps[-1].exits == "all"
