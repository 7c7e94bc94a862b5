"""The policies: what every exit policy must do, and where the papers' examples leave."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from compresskit_early_exit import Learned, MaximumProbability, NormalizedEntropy, Patience

from compresskit import ExitTrail
from compresskit.catalogue import build
from compresskit.testing import parametrize


@pytest.mark.parametrize(
    **parametrize(Patience(1), Patience(2, 0.5), MaximumProbability(0.9), NormalizedEntropy(0.5), Learned(0.1))
)
def test_is_a_good_strategy(check):
    check()


def leaves_at(policy, *answers, signals=(), dtype=torch.float32):
    """The 1-based exit at which one example leaves; the last one leaves in any case.

    Args:
        answers: logits of each exit, as lists.
    """
    depth = len(answers)
    for met in range(1, depth):
        logits = tuple(torch.tensor([answer], dtype=dtype) for answer in answers[:met])
        trail = ExitTrail(logits, tuple(range(1, met + 1)), depth, tuple(torch.tensor([s]) for s in signals[:met]))
        if policy.leave(trail).item():
            return met
    return depth


def saying(*classes):
    return [[float(number == said) for number in range(2)] for said in classes]


# --- X4: patience ----------------------------------------------------------------------------------------------------


def test_x4_patience_counts_agreements_in_a_row():
    """A count that falls back to 1 would leave at exit 3, one that began at 1 too."""
    assert leaves_at(Patience(2), *saying(0, 1, 1, 1, 1, 1)) == 4
    assert leaves_at(Patience(1), *saying(0, 1, 0, 1, 0, 1)) == 6
    assert leaves_at(Patience(1), *saying(0, 1, 1, 1, 1, 1)) == 3


def test_x4_the_answer_is_that_of_the_exit_and_no_vote():
    """Exits say 0 0 0 1 1 1 1 1: at a patience of 3 the example leaves at exit 7 and says 1, not 0 at exit 3."""
    assert leaves_at(Patience(3), *saying(0, 0, 0, 1, 1, 1, 1, 1)) == 7


@pytest.mark.parametrize("patience", range(1, 9))
def test_x2_nobody_leaves_before_patience_plus_one_nor_at_a_patience_of_the_depth(patience):
    same = saying(*[1] * 6)
    assert leaves_at(Patience(patience), *same) == min(patience + 1, 6)


def test_x4_of_coin_tosses_two_to_the_minus_patience_leave_at_once():
    """All 2^t+1 sequences of t + 1 tosses: t agreements in a row are one in 2^t."""
    for patience in (1, 2, 4):
        tosses = list(itertools.product((0, 1), repeat=patience + 1))
        left = sum(leaves_at(Patience(patience), *saying(*toss), *saying(0)) == patience + 1 for toss in tosses)
        assert left / len(tosses) == 2**-patience


def test_x4_regression_agrees_within_the_tolerance_and_never_at_zero():
    answers = [[1.0], [1.0], [1.0], [1.0]]
    assert leaves_at(Patience(1), *answers) == 4
    assert leaves_at(Patience(1, 0.1), *answers) == 2
    assert leaves_at(Patience(1, 0.1), [1.0], [1.2], [1.25], [1.25]) == 3


# --- X2, X6: limits and ties -----------------------------------------------------------------------------------------


def test_x2_speed_one_leaves_at_the_first_exit_whatever_it_says():
    for classes in (2, 3, 5, 7):
        for scale in (0.0, 1e-4, 1.0, 100.0):
            logits = [(scale * torch.randn(classes, generator=torch.Generator().manual_seed(classes))).tolist()] * 3
            assert leaves_at(NormalizedEntropy(1.0), *logits) == 1


def test_a_speed_of_one_half_is_an_entropy_of_0_347_for_two_classes():
    def logit(entropy):
        low, high = 0.0, 20.0
        for _ in range(80):
            mid = (low + high) / 2
            p = 1 / (1 + math.exp(-mid))
            value = -(p * math.log(p) + (1 - p) * math.log(1 - p))
            low, high = (mid, high) if value > entropy else (low, mid)
        return low

    below, above = [0.0, logit(0.346)], [0.0, logit(0.348)]
    assert leaves_at(NormalizedEntropy(0.5), below, below) == 1
    assert leaves_at(NormalizedEntropy(0.5), above, above) == 2


def test_x6_ties_leave_by_speed_and_by_probability_but_not_by_certainty():
    even = [0.0, 0.0]
    assert leaves_at(MaximumProbability(0.5), even, even) == 1
    assert leaves_at(MaximumProbability(0.51), even, even) == 2
    assert leaves_at(NormalizedEntropy(0.0), [0.0, 120.0], even) == 1
    assert leaves_at(Learned(0.5), even, even, signals=(0.0,)) == 2
    assert leaves_at(Learned(0.51), even, even, signals=(0.0,)) == 1


def test_x3_extreme_logits_are_sure_and_not_nan():
    for policy in (NormalizedEntropy(0.01), MaximumProbability(0.999)):
        for logits in ([0.0, 120.0], [1000.0, 0.0]):
            assert leaves_at(policy, logits, logits) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_x3_what_half_precision_can_not_tell_from_certainty_is_told(dtype):
    """At a gap of 20 the entropy is e^-20 * 21 = 4.3e-8, over ln 2 6e-8, but in fp16 e^-20 is 0.

    At a gap of 9 the likelier class has 1 / (1 + e^-9) = 0.99988, and in fp16 1.
    """
    far, near = [0.0, 20.0], [0.0, 9.0]
    assert leaves_at(NormalizedEntropy(1e-7), far, far, dtype=dtype) == 1
    assert leaves_at(NormalizedEntropy(1e-8), far, far, dtype=dtype) == 2
    assert leaves_at(MaximumProbability(0.9998), near, near, dtype=dtype) == 1
    assert leaves_at(MaximumProbability(0.9999), near, near, dtype=dtype) == 2


# --- learned ---------------------------------------------------------------------------------------------------------


def test_who_thinks_itself_likely_to_be_wrong_stays():
    sure = [0.0, 9.0]
    assert leaves_at(Learned(0.1), sure, sure, sure, signals=(4.0, -4.0)) == 2
    assert leaves_at(Learned(0.1), sure, sure, sure) == 3  # exits that say nothing
    assert leaves_at(Learned(0.1), [1.5], [1.5], [1.5], signals=(-4.0,)) == 1  # regression


@pytest.mark.parametrize("policy", [MaximumProbability(0.5), NormalizedEntropy(0.5), Learned(0.5)], ids=repr)
def test_from_setting_to_setting_fewer_leave_at_once_from_everybody_to_nobody(policy):
    """Of 80 examples whose exit is ever surer: p of the likelier class is 1 / (1 + e^-gap), from 0.5 to 0.9996."""
    gaps = torch.arange(80) / 10
    trail = ExitTrail((torch.stack([0 * gaps, gaps], dim=1),), (1,), 6, (-gaps,))
    dials = [build(type(policy), {policy.dial: setting}) for setting in policy.settings(2, 6)]
    leave = [int(dial.leave(trail).sum()) for dial in dials]
    assert (leave[0], leave[-1]) == (80, 0)
    assert len(leave) >= 2 + 5 and all(one > next_ for one, next_ in itertools.pairwise(leave))


@pytest.mark.parametrize(
    "policy", [Patience(2), MaximumProbability(0.5), NormalizedEntropy(0.5), Learned(0.5)], ids=repr
)
def test_every_setting_can_be_had(policy):
    for classes in (1, 2, 3):
        for setting in policy.settings(classes, 6):
            assert getattr(build(type(policy), {policy.dial: setting}), policy.dial) == setting
    assert list(Patience(2).settings(2, 4)) == [1, 2, 3, 4]
    assert list(MaximumProbability(0.5).settings(1, 4)) == []
