"""Magnitude: norms of the units' own weights."""

from __future__ import annotations

import pytest
import torch

from compresskit.strategies.magnitude import Magnitude


def test_norms_by_hand(group, context):
    neurons = group("neurons", units=2, width=1, hidden=2)
    into, out = (member.linear.weight for member in neurons.members)
    with torch.no_grad():
        into.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        out.copy_(torch.tensor([[2.0, 0.0], [4.0, -4.0]]))
    lent = context(neurons)
    assert Magnitude().score(neurons, lent).tolist() == [1 + 2 + 2 + 4, 3 + 4]
    assert Magnitude(norm=2).score(neurons, lent).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("norm", [1, 2])
def test_heads_count_all_four_matrices(group, context, norm):
    heads = group("heads", units=3, width=2, hidden=4)
    expected = []
    for head in range(3):
        rows = slice(2 * head, 2 * head + 2)
        parts = [m.linear.weight[rows] if m.dim == 0 else m.linear.weight[:, rows] for m in heads.members]
        expected.append(torch.cat([part.detach().reshape(-1) for part in parts]).norm(p=norm))
    scores = Magnitude(norm).score(heads, context(heads))
    torch.testing.assert_close(scores, torch.stack(expected))
    assert not scores.requires_grad


def test_needs_no_data():
    assert not Magnitude.needs_data
