"""Distillation of hidden states. D2 and D4 are tests of the method's catalogue."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from compresskit import Trace
from compresskit.errors import CompresskitError
from compresskit.strategies.hidden_states import HiddenStates


def trace(*hidden, mask=None):
    tokens = torch.ones(hidden[0].shape[:2], dtype=torch.long) if mask is None else mask
    return Trace({1: torch.zeros(len(hidden[0]), 2)}, hidden, tokens)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lengths():
    """Example 1 has one token with squared error 4, example 2 three tokens with error 0; padded to four."""
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]])
    student = torch.full((2, 4, 5), 9.0)  # padding is far off, and must not matter
    student[0, 0] = 2.0
    student[1, :3] = 0.0
    teacher = torch.zeros(2, 4, 5)
    return student, teacher, mask


def test_d2_examples_count_alike():
    student, teacher, mask = lengths()
    assert HiddenStates().loss(trace(student, student, mask=mask), trace(teacher, teacher), {}).item() == 2 * 2.0


def test_d2_positions_count_padding_too():
    student, teacher, mask = lengths()
    loss = HiddenStates("positions").loss(trace(student, student, mask=mask), trace(teacher, teacher), {})
    assert loss.item() == 2 * 0.5


def test_d2_more_padding_changes_nothing():
    student, teacher, mask = lengths()
    wider = pad(student, (0, 0, 0, 3), value=7.0), pad(teacher, (0, 0, 0, 3)), pad(mask, (0, 3))
    before = HiddenStates().loss(trace(student, student, mask=mask), trace(teacher, teacher), {})
    after = HiddenStates().loss(trace(wider[0], wider[0], mask=wider[2]), trace(wider[1], wider[1]), {})
    assert before == after


@pytest.mark.parametrize("average", ["examples", "positions"])
def test_d4_student_equal_to_teacher(average):
    hidden = [random(seed, 2, 4, 3) for seed in range(4)]
    assert HiddenStates(average).loss(trace(*hidden), trace(*hidden), {}).item() == 0


def test_gradient_is_that_of_the_written_formula():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    ours = [random(seed, 3, 4, 5).requires_grad_() for seed in range(3)]
    theirs = [random(seed, 3, 4, 5) for seed in range(3, 6)]
    loss = HiddenStates().loss(trace(*ours, mask=mask), trace(*theirs, mask=mask), {})
    expected = torch.zeros(())
    for s, t in zip(ours, theirs, strict=True):
        for example in range(3):
            tokens = int(mask[example].sum())
            expected = expected + (s[example, :tokens] - t[example, :tokens]).square().mean() / 3
    torch.testing.assert_close(loss, expected)
    for got, wanted in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, ours), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("shallow", "deep", "taught"),
    [
        (4, 12, [0, 3, 6, 9, 12]),
        (6, 12, [0, 2, 4, 6, 8, 10, 12]),
        (12, 12, list(range(13))),
        (2, 3, [0, 2, 3]),
        (3, 4, [0, 1, 3, 4]),
    ],
)
def test_depths_are_mapped_evenly(shallow, deep, taught):
    """The teacher's layer k holds k everywhere, and the student's layer the number that it should learn from."""
    theirs = [torch.full((1, 1, 1), float(layer)) for layer in range(deep + 1)]
    ours = [torch.full((1, 1, 1), float(layer)) for layer in taught]
    assert len(ours) == shallow + 1
    assert HiddenStates().loss(trace(*ours), trace(*theirs), {}).item() == 0


def test_an_example_without_tokens_is_no_nan():
    hidden = random(0, 2, 3, 4), random(1, 2, 3, 4)
    mask = torch.tensor([[0, 0, 0], [1, 1, 1]])
    assert torch.isfinite(HiddenStates().loss(trace(*hidden, mask=mask), trace(*hidden[::-1]), {}))


def test_half_precision_is_computed_in_single():
    hidden = random(0, 2, 3, 4).half(), random(1, 2, 3, 4).half()
    assert HiddenStates().loss(trace(*hidden), trace(*hidden[::-1]), {}).dtype == torch.float32


def test_a_teacher_of_another_width_is_refused():
    ours, theirs = random(0, 2, 3, 4), random(0, 2, 3, 8)
    with pytest.raises(CompresskitError) as caught:
        HiddenStates().loss(trace(ours, ours), trace(theirs, theirs), {})
    assert str(caught.value) == (
        "hidden-states: the teacher's hidden states are (2, 3, 8) and the student's (2, 3, 4) (batch, tokens, hidden "
        "size); distil by predictions alone, or from a teacher of the same hidden size"
    )


def test_says_what_it_needs():
    assert HiddenStates.needs_hidden
    assert HiddenStates.needs_teacher
