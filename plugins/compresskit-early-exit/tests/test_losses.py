"""The losses: what every distiller must do, and the papers' formulas on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from compresskit_early_exit import AlternatingLabels, Certainty, LearnedCertainty, SelfDistillation, WeightedLabels

from compresskit import Trace
from compresskit.errors import CompresskitError
from compresskit.testing import parametrize, strategy_checks

BY_THREE = WeightedLabels((1.0, 0.5, 0.3))


@pytest.mark.parametrize(
    **parametrize(WeightedLabels(), BY_THREE, AlternatingLabels(), SelfDistillation(), SelfDistillation("paper"))
)
def test_is_a_good_strategy(check):
    check()


def named(check):
    return check[0]


@pytest.mark.parametrize("check", [c for c in strategy_checks(Certainty()) if c[0] != "moves_the_student"], ids=named)
def test_certainty_is_a_good_strategy(check):
    """The traces of the checks have no signals, so there is nothing that it could move."""
    check[1]()


def trace(logits, step=0, signals=None):
    return Trace(logits, (), torch.ones(len(next(iter(logits.values()))), 1), signals or {}, step)


def exits(depth, classes=2, batch=3):
    draw = torch.Generator().manual_seed(0)
    return {n: torch.randn(batch, classes, generator=draw).requires_grad_() for n in range(1, depth + 1)}


LABELS = {"labels": torch.tensor([0, 1, 1])}


def gradients(loss, logits):
    return torch.autograd.grad(loss, list(logits.values()), allow_unused=True, materialize_grads=True)


def test_o1_pabees_exit_j_of_twelve_counts_j_over_78():
    logits = exits(12)
    plain = gradients(sum(torch.nn.functional.cross_entropy(z, LABELS["labels"]) for z in logits.values()), logits)
    found = gradients(WeightedLabels().loss(trace(logits), None, LABELS), logits)
    for number, (weighted, one) in enumerate(zip(found, plain, strict=True), start=1):
        torch.testing.assert_close(weighted, one * number / 78)


def test_branchynets_weights_scale_their_exits_gradients():
    logits = exits(2)
    plain = gradients(sum(torch.nn.functional.cross_entropy(z, LABELS["labels"]) for z in logits.values()), logits)
    found = gradients(WeightedLabels((1.0, 0.3)).loss(trace(logits), None, LABELS), logits)
    torch.testing.assert_close(found[0], plain[0])
    torch.testing.assert_close(found[1], 0.3 * plain[1])


def test_a_list_of_the_wrong_length_is_refused():
    with pytest.raises(CompresskitError) as error:
        WeightedLabels((1.0, 0.3)).loss(trace(exits(3)), None, LABELS)
    assert str(error.value) == "weighted-labels: 2 weights for 3 exits; give one weight for each exit"


@pytest.mark.parametrize("last", [True, False])
def test_o2_berxits_even_steps_move_the_last_exit_alone(last):
    for step in range(4):
        logits = exits(3)
        found = gradients(AlternatingLabels(last).loss(trace(logits, step), None, LABELS), logits)
        moved = [bool(gradient.any()) for gradient in found]
        assert moved == ([False, False, True] if step % 2 == 0 else [True, True, last])


def test_certainty_is_the_squared_error_of_guessing_ones_mistakes():
    """Exit 1 is wrong about the second example only and says 0.5, 0.5, 0.5: 1/4. Exit 2 is right and sure: 0."""
    right = torch.tensor([[5.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
    wrong = torch.tensor([[5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    logits = {1: wrong, 2: right, 3: right}
    signals = {1: torch.zeros(3), 2: torch.full((3,), -40.0), 3: torch.full((3,), 40.0)}
    assert Certainty().loss(trace(logits, 0, signals), None, LABELS).item() == pytest.approx((0.25 + 0) / 2)


def test_an_exit_that_is_always_wrong_learns_to_say_so():
    signal = torch.zeros(3, requires_grad=True)
    wrong = torch.tensor([[0.0, 5.0], [5.0, 0.0], [5.0, 0.0]])
    for _ in range(200):
        loss = Certainty().loss(trace({1: wrong, 2: wrong}, 0, {1: signal}), None, LABELS)
        (gradient,) = torch.autograd.grad(loss, signal)
        signal = (signal - 10 * gradient).detach().requires_grad_()
    assert torch.sigmoid(signal).min() > 0.95


def test_what_an_exit_says_of_itself_moves_the_layers_below_it():
    """Section 3.2: the certainty is read from the layer, and the layer learns to be read so."""
    head = LearnedCertainty()
    hidden = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits, signal = head.build(8, 2, 0.0)(hidden, torch.ones(3, 2), head.build_shared(8, 2, 0.0))
    Certainty().loss(trace({1: logits.detach(), 2: logits.detach()}, 0, {1: signal}), None, LABELS).backward()
    assert hidden.grad[:, 0].abs().min() > 0
    assert not hidden.grad[:, 1].any()  # it reads the first token


@pytest.mark.parametrize("answer", [2.5, 0.5])
def test_in_regression_being_wrong_is_a_matter_of_degree_and_not_of_direction(answer):
    """One away from the label of 1.5, above or below; the exit says 0.5."""
    logits, labels = {1: torch.tensor([[answer]]), 2: torch.tensor([[answer]])}, {"labels": torch.tensor([1.5])}
    loss = Certainty().loss(trace(logits, 0, {1: torch.tensor([0.0])}), None, labels)
    assert loss.item() == pytest.approx((math.tanh(1.0) - 0.5) ** 2)


def test_in_regression_the_certainty_moves_what_an_exit_says_of_itself_and_never_its_answer():
    logits = exits(2, classes=1)
    signal = torch.zeros(3, requires_grad=True)
    labels = {"labels": torch.tensor([0.0, 1.0, 1.0])}
    found = gradients(Certainty().loss(trace(logits, 0, {1: signal}), None, labels), {**logits, 0: signal})
    assert [bool(gradient.any()) for gradient in found] == [False, False, True]


def logit(*probabilities):
    return torch.tensor([probabilities]).log()


def test_o4_fastberts_direction_as_released_and_as_printed():
    """KL((.9, .1) || (.5, .5)) = 0.3681, and the other way round 0.5108."""
    logits = {1: logit(0.5, 0.5), 2: logit(0.9, 0.1)}
    assert SelfDistillation().loss(trace(logits), None, {}).item() == pytest.approx(0.3681, abs=5e-5)
    assert SelfDistillation("paper").loss(trace(logits), None, {}).item() == pytest.approx(0.5108, abs=5e-5)


def test_o4_fastberts_loss_is_the_sum_over_the_exits_below_the_last():
    """KL((.9, .1) || (.5, .5)) = 0.3681 and KL((.9, .1) || (.8, .2)) = .9 ln 9/8 + .1 ln 1/2 = 0.0367."""
    logits = {1: logit(0.5, 0.5), 2: logit(0.8, 0.2), 3: logit(0.9, 0.1)}
    assert SelfDistillation().loss(trace(logits), None, {}).item() == pytest.approx(0.4048, abs=5e-5)


@pytest.mark.parametrize(
    ("distiller", "step", "loss"),
    [
        (WeightedLabels(), 0, (1 * 6.5 + 2 * 2 + 3 * 4) / 6),
        (BY_THREE, 0, 1 * 6.5 + 0.5 * 2 + 0.3 * 4),
        (AlternatingLabels(), 0, 4),
        (AlternatingLabels(), 1, 6.5 + 2 + 4),
        (AlternatingLabels(last=False), 1, 6.5 + 2),
        (SelfDistillation(), 0, (0**2 + 5**2) / 2 + (2**2 + 0**2) / 2),
    ],
    ids=repr,
)
def test_in_regression_errors_are_squared(distiller, step, loss):
    """Two examples: exit 1 is off by 2 and 3, (4 + 9) / 2 = 6.5; exit 2 by 0 and 2, 2; the last by 2 and 2, 4."""
    logits = {1: torch.tensor([[3.0], [3.0]]), 2: torch.tensor([[1.0], [-2.0]]), 3: torch.tensor([[3.0], [-2.0]])}
    found = distiller.loss(trace(logits, step), None, {"labels": torch.tensor([1.0, 0.0])})
    assert found.item() == pytest.approx(loss)


def test_o4_the_last_exit_teaches_and_does_not_learn():
    logits = exits(3)
    found = gradients(SelfDistillation().loss(trace(logits), None, {}), logits)
    assert [bool(gradient.any()) for gradient in found] == [True, True, False]
