"""The scores: what every pruner must do, and what each paper's formula gives on numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compresskit_scores import DropNet, Fisher, Michel, Molchanov, Random
from transformers import BertConfig

from compresskit import Group, UnitTrace
from compresskit.anatomy import Member
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import Original
from compresskit.cost import original_shape
from compresskit.plan import make_plan
from compresskit.recipe import read_recipe
from compresskit.testing import apply_tiny, parametrize, trainings

RECIPES = Path(__file__).parent.parent / "compresskit_scores" / "recipes"


@pytest.mark.parametrize(
    **parametrize(
        Random(),
        Michel(),
        Michel("gate", normalize=False),
        Molchanov(),
        Molchanov("positions"),
        Molchanov("signed", normalize=False),
        Fisher(),
        Fisher("weights"),
        DropNet(),
    )
)
def test_is_a_good_strategy(check):
    check()


class Seen:
    """A context that has seen one batch."""

    def __init__(self, outputs, gradients, mask=None):
        """Shapes (batch, tokens, units)."""
        outputs, gradients = torch.tensor(outputs), torch.tensor(gradients)
        mask = torch.ones(outputs.shape[:2]) if mask is None else torch.tensor(mask)
        self.trace = UnitTrace(outputs.unsqueeze(-1), gradients.unsqueeze(-1), mask)

    def observed(self, group, pruner):
        return pruner.observe(self.trace).mean(dim=0)


def scores(pruner, *seen, **more):
    return pruner.score(None, Seen(*seen, **more)).tolist()


# --- P8: Michel ------------------------------------------------------------------------------------------------------


def test_p8_michel_takes_each_examples_own_gradient():
    """Three examples with gradients 1, -1, 1 at an output of 1: 3 in all. Running sums, as in a script that never

    zeroes them, would give 1 + 0 + 1 = 2, and the signed sum 1.
    """
    batch = ([[[1.0]], [[1.0]], [[1.0]]], [[[1.0]], [[-1.0]], [[1.0]]])
    for reading in ("tokens", "gate"):
        assert scores(Michel(reading, normalize=False), *batch) == [pytest.approx(3 / 3)]


def test_p8_with_one_token_both_readings_agree_and_with_two_they_need_not():
    alone = ([[[2.0, -3.0]]], [[[0.5, 1.0]]])
    assert scores(Michel("tokens", False), *alone) == scores(Michel("gate", False), *alone) == [1.0, 3.0]
    two = ([[[1.0], [1.0]]], [[[1.0], [-1.0]]])
    assert scores(Michel("tokens", False), *two) == [2.0]
    assert scores(Michel("gate", False), *two) == [0.0]


def test_a_heads_entries_are_one_product_before_the_absolute_value():
    trace = UnitTrace(torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[1.0, -1.0]]]]), torch.ones(1, 1))
    assert Michel("tokens").observe(trace).tolist() == [[0.0]]


# --- P10: Molchanov --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reading", "score"), [("paper", 0.0), ("positions", 1.0), ("signed", 0.0)])
def test_p10_positions_of_an_example_cancel_in_the_paper(reading, score):
    assert scores(Molchanov(reading, normalize=False), [[[1.0], [1.0]]], [[[1.0], [-1.0]]]) == [score]


@pytest.mark.parametrize(("reading", "score"), [("paper", 1.0), ("positions", 1.0), ("signed", 0.0)])
def test_p10_examples_do_not_cancel_in_the_paper(reading, score):
    assert scores(Molchanov(reading, normalize=False), [[[1.0]], [[1.0]]], [[[1.0]], [[-1.0]]]) == [score]


@pytest.mark.parametrize("reading", ["paper", "positions", "signed"])
def test_p10_what_the_loss_would_fall_with_counts_as_much_as_what_it_would_rise_with(reading):
    """Products of -2 and 1: without the absolute value the first unit would be cut first."""
    assert scores(Molchanov(reading, normalize=False), [[[1.0, 1.0]]], [[[-2.0, 1.0]]]) == [2.0, 1.0]


# Two tokens of a unit of two numbers; the products are 1, 2, -4 and 3.
WIDE = UnitTrace(
    torch.tensor([[[[1.0, -2.0]], [[4.0, 3.0]]]]), torch.tensor([[[[1.0, -1.0]], [[-1.0, 1.0]]]]), torch.ones(1, 2)
)


@pytest.mark.parametrize(("reading", "score"), [("paper", 2 / 4), ("positions", 10 / 4), ("signed", 2 / 4)])
def test_p10_all_numbers_of_a_head_count_towards_the_mean(reading, score):
    assert Molchanov(reading).observe(WIDE).tolist() == [[score]]


@pytest.mark.parametrize("pruner", [Molchanov(), Michel()])
def test_p10_a_layers_scores_have_length_one(pruner):
    found = scores(pruner, [[[3.0, 4.0]]], [[[1.0, 1.0]]])
    assert found == [pytest.approx(0.6), pytest.approx(0.8)]
    assert scores(pruner, [[[0.0, 0.0]]], [[[1.0, 1.0]]]) == [0.0, 0.0]


# --- P9: DropNet -----------------------------------------------------------------------------------------------------


def test_p9_a_dead_unit_goes_first_and_signs_do_not_count():
    """The signed means of the three are 0, 0 and 0.1."""
    found = scores(DropNet(), [[[0.0, 5.0, 0.1], [0.0, -5.0, 0.1]]], [[[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]]])
    assert found == [0.0, 5.0, pytest.approx(0.1)]


def test_p9_a_heads_activity_is_the_mean_over_its_numbers():
    """(1 + 2) / 2 = 1.5 and (4 + 3) / 2 = 3.5."""
    assert DropNet().observe(WIDE).tolist() == [[(1.5 + 3.5) / 2]]


# --- Fisher ----------------------------------------------------------------------------------------------------------


def test_fisher_squares_each_examples_gate_gradient():
    """(1 * 2 + 1 * 1)^2 = 9 and (-1 * 3)^2 = 9, of which the mean is 9; the square of the mean would be 0."""
    outputs, gradients = [[[1.0], [1.0]], [[-1.0], [0.0]]], [[[2.0], [1.0]], [[3.0], [7.0]]]
    assert scores(Fisher(), outputs, gradients) == [9.0]


class TwoBatches:
    """A context that has seen two batches; of each matrix, (out, in), it is given the gradient in either."""

    def __init__(self, *each):
        self.each = {id(weight): torch.tensor(gradients) for weight, gradients in each}

    def gradient(self, weight, reduce):
        of = {"signed": lambda g: g, "absolute": torch.abs, "squared": torch.square}[reduce]
        return of(self.each[id(weight)]).sum(dim=0)


def test_fisher_of_weights_squares_weights_and_the_gradients_of_each_batch():
    """Two neurons, of hidden states of one number; the first one's gradients cancel over the batches.

    First: 2^2 * (1^2 + (-1)^2) = 8 of ffn-in and 3^2 * (1^2 + 2^2) = 45 of ffn-out, 53 in all. Second: (-1)^2 * (3^2 +
    1^2) = 10 and (1/2)^2 * (4^2 + 0^2) = 4, 14 in all.
    """
    into, out = torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)
    with torch.no_grad():
        into.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        out.weight.copy_(torch.tensor([[3.0, 0.5]]))
    neurons = Group("neurons", 0, 2, (Member("ffn-in", into, 0, 1), Member("ffn-out", out, 1, 1)))
    seen = TwoBatches(
        (into.weight, [[[1.0], [3.0]], [[-1.0], [1.0]]]),
        (out.weight, [[[1.0, 4.0]], [[2.0, 0.0]]]),
    )
    assert Fisher("weights").score(neurons, seen).tolist() == [53.0, 14.0]


# --- random ----------------------------------------------------------------------------------------------------------


def test_every_unit_is_as_likely_to_be_kept_and_the_seed_decides():
    """Half of four units, by 400 seeds: each is kept 200 times, give or take four standard deviations of 10."""

    class Seeded:
        def __init__(self, seed):
            self.generator = torch.Generator().manual_seed(seed)

    four = Group("neurons", 0, 4, ())
    kept = torch.stack([Random().score(four, Seeded(seed)).topk(2).indices for seed in range(400)])
    assert kept.flatten().bincount(minlength=4).tolist() == pytest.approx([200] * 4, abs=40)
    assert len({frozenset(pair) for pair in kept.tolist()}) == 6  # every pair there is


# --- padding ---------------------------------------------------------------------------------------------------------


PLAIN = (Michel("tokens", False), Michel("gate", False), Fisher(), DropNet())
SIGNED = tuple(Molchanov(reading, False) for reading in ("paper", "positions", "signed"))


@pytest.mark.parametrize("pruner", [*PLAIN, *SIGNED], ids=repr)
def test_padding_changes_nothing(pruner):
    outputs, gradients = [[[1.0, -2.0], [0.5, 3.0]]], [[[0.3, 0.2], [1.0, 0.1]]]
    bare = scores(pruner, outputs, gradients)
    padded = [[*outputs[0], [50.0, -60.0]]], [[*gradients[0], [7.0, 8.0]]]
    assert scores(pruner, *padded, mask=[[1.0, 1.0, 0.0]]) == [pytest.approx(value) for value in bare]
    assert min(abs(value) for value in bare) > 0.009


@pytest.mark.parametrize("pruner", [Michel(), Molchanov(), Molchanov("positions"), Fisher(), DropNet()], ids=str)
def test_a_text_without_tokens_counts_as_nothing(pruner):
    one = scores(pruner, [[[1.0, 2.0]]], [[[1.0, 3.0]]])
    both = scores(pruner, [[[1.0, 2.0]], [[3.0, 4.0]]], [[[1.0, 3.0]], [[5.0, 1.0]]], mask=[[1.0], [0.0]])
    assert both[0] / both[1] == pytest.approx(one[0] / one[1])  # some are normalised


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_each_round_of_dropnet_begins_from_the_first_weights():
    rounds = {"when": "always", "rewind": True, "epochs": 3}
    assert trainings(RECIPES / "dropnet-neurons.yaml") == [{"epochs": 3}, rounds]


def test_michels_recipe_cuts_heads_of_all_layers_together(tmp_path):
    report = apply_tiny(RECIPES / "michel-heads.yaml", tmp_path, "steps.0.finetune.epochs=0.5")
    assert sum(layer.heads for layer in report.model.shape.layers) == 5  # 0.6 of 8, rounded


def test_p9_dropnets_recipe_keeps_eight_tenths_in_each_round(tmp_path):
    """Of 3,072 neurons in 12 layers, as planned for BERT base."""
    bert = load_catalogue().anatomy("bert")
    original = Original("bert", BertConfig(), bert, original_shape(bert, BertConfig()))
    plan = make_plan(read_recipe(RECIPES / "dropnet-neurons.yaml"), original)
    left = [sum(layer.neurons for layer in step.shape.layers) for step in plan.steps if step.name == "prune"]
    assert left == [int(12 * 3072 * 0.8**round_) for round_ in range(1, 10)] + [round(12 * 3072 * 0.8**10)]
    quick = ("steps.0.finetune.epochs=0.5", "steps.1.repeat=2", "steps.1.steps.1.finetune.epochs=0.5")
    report = apply_tiny(RECIPES / "dropnet-neurons.yaml", tmp_path, *quick)
    assert sum(layer.neurons for layer in report.model.shape.layers) == 14


def test_molchanovs_recipe_halves_the_neurons(tmp_path):
    quick = ("steps.0.finetune.epochs=0.5", "steps.1.repeat=2", "steps.2.epochs=0.5")
    report = apply_tiny(RECIPES / "molchanov-neurons.yaml", tmp_path, *quick)
    neurons = [layer.neurons for layer in report.model.shape.layers]
    assert sum(neurons) == 64
    assert neurons != [32, 32]
