"""Learning the labels, over all exits."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from compresskit import Trace
from compresskit.strategies.labels import Labels


def trace(*logits):
    return Trace(dict(enumerate(logits, start=1)), (), torch.ones(2, 3))


def random(seed, classes=3):
    return torch.randn(4, classes, generator=torch.Generator().manual_seed(seed))


def test_cross_entropy_is_added_up_over_exits():
    labels = torch.tensor([0, 2, 1, 1])
    exits = [random(seed) for seed in range(3)]
    expected = sum(cross_entropy(z, labels) for z in exits)
    torch.testing.assert_close(Labels().loss(trace(*exits), None, {"labels": labels}), expected)


def test_gradient():
    z = random(0).requires_grad_()
    labels = torch.tensor([0, 2, 1, 1])
    Labels().loss(trace(z), None, {"labels": labels}).backward()
    torch.testing.assert_close(z.grad, (z.detach().softmax(-1) - torch.eye(3)[labels]) / 4)


def test_regression_is_the_squared_error():
    exits = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]])
    for labels in (torch.tensor([1.0, 4.0]), torch.tensor([[1.0], [4.0]]), torch.tensor([1, 4])):
        assert Labels().loss(trace(*exits), None, {"labels": labels}).item() == (0 + 4) / 2 + (1 + 1) / 2


def test_several_labels_at_once_are_independent():
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    exits = [random(seed) for seed in range(2)]
    expected = sum(binary_cross_entropy_with_logits(z, labels) for z in exits)
    torch.testing.assert_close(Labels().loss(trace(*exits), None, {"labels": labels}), expected)


def test_needs_no_teacher():
    assert not Labels.needs_teacher
    assert not Labels.needs_hidden
