"""The margin policy: what every exit policy must do, and what this one alone does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from compresskit_margin import Margin

from compresskit import ExitTrail
from compresskit.testing import apply_tiny, parametrize

RECIPE = Path(__file__).parent.parent / "recipes" / "leave-by-margin.yaml"


@pytest.mark.parametrize(**parametrize(Margin(threshold=0.5)))
def test_is_a_good_strategy(check):
    check()


def leaves(logits, threshold):
    return Margin(threshold).leave(ExitTrail((torch.zeros_like(logits), logits), (1, 2), 12)).tolist()


@pytest.mark.parametrize("ahead", [0.5, 1.0, 3.0])
def test_with_two_classes_the_margin_is_a_tanh(ahead):
    """p - (1 - p) = tanh(d / 2), where d is the difference of the logits."""
    logits = torch.tensor([[1.0, 1.0 + ahead], [ahead, 0.0]])
    assert leaves(logits, math.tanh(ahead / 2) - 1e-5) == [True, True]
    assert leaves(logits, math.tanh(ahead / 2) + 1e-5) == [False, False]


def test_losers_do_not_matter():
    """The first has the larger margin, 0.40 to 0.24, and the larger entropy, 0.95 to 0.67."""
    logits = torch.tensor([[0.6, 0.2, 0.2], [0.6199, 0.3799, 0.0002]]).log()
    assert leaves(logits, 0.3) == [True, False]


def test_limits():
    logits = torch.tensor([[0.0, 120.0, 0.0], [1.0, 1.001, 0.0], [2.0, 2.0, 0.0]])
    assert leaves(logits, 1.0) == [False, False, False]
    assert leaves(logits, 0.0) == [True, True, False]


def test_only_the_exit_at_hand_decides():
    assert Margin(0.5).leave(ExitTrail((torch.tensor([[9.0, 0.0]]), torch.zeros(1, 2)), (3, 4), 12)).tolist() == [False]


def test_regression_never_leaves():
    assert leaves(torch.randn(4, 1), 0.0) == [False] * 4


def test_the_recipe_runs(tmp_path):
    report = apply_tiny(RECIPE, tmp_path, "steps.0.finetune.epochs=0.5", "steps.2.batch_size=8")
    assert report.model.shape.exits == (1, 2)
    assert report.model.leaving is not None
    assert report.model.leaving.policy == "margin, threshold 0.8"
