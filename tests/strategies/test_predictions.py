"""Distillation of predictions. D1 is a test of the method's catalogue."""

from __future__ import annotations

import math

import pytest
import torch

from compresskit import Trace
from compresskit.strategies.predictions import Predictions


def trace(logits):
    return Trace(logits, (), torch.ones(2, 3))


def random(seed, classes=3, batch=4):
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed))


def test_d1_gradient_is_the_difference_of_the_predictions_over_the_batch():
    z, q = random(0).requires_grad_(), random(1)
    Predictions().loss(trace({12: z}), trace({12: q}), {}).backward()
    torch.testing.assert_close(z.grad, (z.detach().softmax(-1) - q.softmax(-1)) / 4)


def test_d1_temperature_without_its_square():
    """At temperature T the gradient is (p_s - p_t) / (B T); a factor T^2 would make it T (p_s - p_t) / B."""
    z, q = random(0).requires_grad_(), random(1)
    Predictions(temperature=5.0).loss(trace({12: z}), trace({12: q}), {}).backward()
    torch.testing.assert_close(z.grad, ((z.detach() / 5).softmax(-1) - (q / 5).softmax(-1)) / (4 * 5))


def centred(z, q):
    """Half the mean-square difference of logits from which each example's mean is taken."""
    difference = z - q
    return ((difference - difference.mean(-1, keepdim=True)).square().mean(-1) / 2).mean()


def test_d1_hot_gradients_times_the_square_pull_centred_logits_together():
    """Which the loss needs a factor T^2 for, and it has none."""
    z, q, hot = random(0).requires_grad_(), random(1), 1000.0
    Predictions(temperature=hot).loss(trace({12: z}), trace({12: q}), {}).backward()
    (expected,) = torch.autograd.grad(centred(z, q), z)
    torch.testing.assert_close(z.grad * hot**2, expected, rtol=0, atol=1e-3)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("classes", [2, 3])
def test_d1_tinybert_divides_by_the_classes_too(classes):
    """Its soft cross-entropy is a mean over all batch x classes terms (Jiao et al. 2020, released code)."""
    z, q = random(0, classes), random(1, classes)
    theirs = -(q.softmax(-1) * z.log_softmax(-1)).mean()
    torch.testing.assert_close(theirs, Predictions().loss(trace({12: z}), trace({12: q}), {}) / classes)


def test_equal_predictions_leave_the_teacher_s_entropy():
    z = torch.zeros(4, 2)
    assert Predictions().loss(trace({1: z}), trace({1: z}), {}).item() == pytest.approx(math.log(2))


def sce(z, q):
    return -(q.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()


def test_exits_are_added_up_each_with_its_own_teacher():
    student, teacher = {1: random(0), 2: random(1), 4: random(2)}, {1: random(3), 2: random(4), 4: random(5)}
    expected = sum(sce(student[i], teacher[i]) for i in (1, 2, 4))
    torch.testing.assert_close(Predictions().loss(trace(student), trace(teacher), {}), expected)


def test_a_teacher_with_one_exit_teaches_all():
    student, teacher = {1: random(0), 2: random(1)}, {2: random(3)}
    expected = sce(student[1], teacher[2]) + sce(student[2], teacher[2])
    torch.testing.assert_close(Predictions().loss(trace(student), trace(teacher), {}), expected)


def test_the_last_exit_of_a_shallow_student_learns_from_the_teacher_s_last():
    student, teacher = {1: random(0), 2: random(1)}, {1: random(3), 2: random(4), 4: random(5)}
    expected = sce(student[1], teacher[1]) + sce(student[2], teacher[4])
    torch.testing.assert_close(Predictions().loss(trace(student), trace(teacher), {}), expected)


def test_no_gradient_reaches_the_teacher():
    z, q = random(0).requires_grad_(), random(1).requires_grad_()
    Predictions().loss(trace({1: z}), trace({1: q}), {}).backward()
    assert q.grad is None


def test_regression_is_the_squared_error():
    student, teacher = (
        {1: torch.tensor([[1.0], [2.0]]), 2: torch.tensor([[0.0], [5.0]])},
        {2: torch.tensor([[1.0], [4.0]])},
    )
    loss = Predictions().loss(trace(student), trace(teacher), {"labels": torch.zeros(2)})
    assert loss.item() == (0 + 4) / 2 + (1 + 1) / 2


def test_several_labels_at_once_are_independent():
    z, q = random(0, classes=2), random(1, classes=2)
    p = q.sigmoid()
    expected = -(p * z.sigmoid().log() + (1 - p) * (1 - z.sigmoid()).log()).mean()
    batch = {"labels": torch.zeros(4, 2)}
    torch.testing.assert_close(Predictions().loss(trace({1: z}), trace({1: q}), batch), expected)


def test_half_precision_is_computed_in_single():
    loss = Predictions().loss(trace({1: random(0).half()}), trace({1: random(1).half()}), {})
    assert loss.dtype == torch.float32
