"""Entropy exits. X2, X3 and X6 are tests of the method's catalogue."""

from __future__ import annotations

import math

import pytest
import torch

from compresskit import ExitTrail
from compresskit.strategies.entropy import Entropy, entropy


def leaves(logits, threshold):
    return Entropy(threshold).leave(ExitTrail((torch.zeros_like(logits), logits), (1, 2), 12)).tolist()


@pytest.mark.parametrize(
    ("logits", "dtype", "expected"),
    [
        ((2.0, -1.0), torch.float32, 0.190865),
        ((0.0, 0.0), torch.float32, math.log(2)),
        ((0.0, 0.0, 0.0), torch.float32, math.log(3)),
        ((0.0, 120.0), torch.float32, 0.0),
        ((0.0, 20.0), torch.float16, 0.0),
        ((0.0, 20.0), torch.bfloat16, 0.0),
        ((1000.0, 0.0), torch.float32, 0.0),
        ((0.0, 1.0, 2.0), torch.float64, 0.832396),
    ],
)
def test_x3_entropy(logits, dtype, expected):
    found = entropy(torch.tensor([logits], dtype=dtype))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, abs=2e-6)


def test_x3_the_surest_input_leaves():
    assert leaves(torch.tensor([[0.0, 120.0], [1000.0, 0.0], [0.0, 0.1]]), 0.01) == [True, True, False]


def test_x6_a_tie_goes_on():
    """Two logits of 0 have the entropy ln 2 exactly as fp32 has it."""
    tie = entropy(torch.zeros(1, 2)).item()
    assert leaves(torch.zeros(1, 2), tie) == [False]
    assert leaves(torch.zeros(1, 2), math.nextafter(tie, 1)) == [False]  # compared in fp32
    assert leaves(torch.zeros(1, 2), tie + 1e-6) == [True]


def test_x2_limits():
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 5
    logits[0] = torch.tensor([1000.0, 0.0, 0.0])
    assert not any(leaves(logits, 0.0))
    assert all(leaves(logits, math.log(3) + 1e-3))
    counts = [sum(leaves(logits, threshold)) for threshold in (0.0, 0.1, 0.3, 0.6, 1.0, 1.1)]
    assert counts == sorted(counts)


def test_only_the_exit_at_hand_decides():
    trail = ExitTrail((torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])), (3, 4), 12)
    assert Entropy(0.5).leave(trail).tolist() == [False]


def test_regression_never_leaves():
    assert leaves(torch.randn(4, 1), 5.0) == [False] * 4
