"""Taylor importance against numbers worked out by hand. P2 and P3 are tests of the method's catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compresskit.strategies.taylor import Taylor

READINGS = ("released", "paper")


def set_weight(member, values):
    with torch.no_grad():
        member.linear.weight.copy_(torch.as_tensor(values, dtype=torch.float32).reshape(member.linear.weight.shape))


def test_p2_readings_on_fixed_numbers(group, context):
    """One neuron with eight weights, five batches: 28.521 as released, 0.021 as in the paper."""
    rng = np.random.default_rng(0)
    gradients, weights = rng.standard_normal((5, 8)), rng.standard_normal(8)
    assert abs((weights * gradients.sum(0)).sum()) == pytest.approx(0.021, abs=5e-4)
    assert np.abs(weights * gradients.sum(0)).sum() == pytest.approx(9.159, abs=5e-4)
    assert np.abs((gradients * weights).sum(1)).sum() == pytest.approx(20.866, abs=5e-4)
    neuron = group("neurons", units=1, width=1, hidden=4)
    lent = context(neuron)
    for position, member in enumerate(neuron.members):
        part = slice(4 * position, 4 * position + 4)
        set_weight(member, weights[part])
        shape = (5, *member.linear.weight.shape)
        lent.gradients[id(member.linear.weight)] = torch.tensor(gradients[:, part], dtype=torch.float32).reshape(shape)
    assert Taylor().score(neuron, lent).item() == pytest.approx(28.521, abs=5e-4)
    assert Taylor(reading="paper").score(neuron, lent).item() == pytest.approx(0.021, abs=5e-4)


@pytest.mark.parametrize("matrices", ["attention-out", "all"])
@pytest.mark.parametrize("target", ["heads", "neurons"])
def test_p2_released_is_never_below_paper(group, context, target, matrices):
    for seed in range(20):
        units = group(target, units=4, width=3, hidden=5, seed=seed)
        lent = context(units, seed)
        released = Taylor("released", matrices).score(units, lent)
        assert (released >= Taylor("paper", matrices).score(units, lent)).all()


def test_p2_gradients_that_cancel(group, context):
    """Gradients +1 and -1 in two batches: 0 in the paper's reading, 2 |w| in the released one."""
    neuron = group("neurons", units=1, width=1, hidden=1)
    lent = context(neuron)
    for member, weight in zip(neuron.members, (3.0, -0.5), strict=True):
        set_weight(member, weight)
        lent.gradients[id(member.linear.weight)] = torch.tensor([1.0, -1.0]).reshape(2, 1, 1)
    assert Taylor().score(neuron, lent).item() == 2 * (3.0 + 0.5)
    assert Taylor("paper").score(neuron, lent).item() == 0


def test_p2_weights_that_cancel(group, context):
    """w * g of +6 in one matrix and -6 in the other: the paper's sum runs over both before its absolute value."""
    neuron = group("neurons", units=1, width=1, hidden=1)
    lent = context(neuron)
    for member, weight in zip(neuron.members, (3.0, -3.0), strict=True):
        set_weight(member, weight)
        lent.gradients[id(member.linear.weight)] = torch.full((1, 1, 1), 2.0)
    assert Taylor().score(neuron, lent).item() == 12
    assert Taylor("paper").score(neuron, lent).item() == 0


def test_p3_head_without_attention_out_ranks_last_as_released(group, context):
    heads = group("heads", units=4, width=2, hidden=6)
    with torch.no_grad():
        heads.member("attention-out").linear.weight[:, 2:4] = 0
        for role in ("query", "key", "value"):
            heads.member(role).linear.weight[2:4] *= 100
    lent = context(heads)
    released = Taylor().score(heads, lent)
    assert released.argmin() == 1
    assert released[1] == 0
    assert Taylor(matrices="all").score(heads, lent).argmax() == 1
    assert Taylor("paper").score(heads, lent).argmax() == 1
    assert Taylor("paper", "attention-out").score(heads, lent)[1] == 0


@pytest.mark.parametrize("reading", READINGS)
def test_heads_are_runs_of_their_width(group, context, reading):
    heads = group("heads", units=3, width=2, hidden=4)
    lent = context(heads)
    weight = heads.member("attention-out").linear.weight.detach()
    gradients = lent.gradients[id(heads.member("attention-out").linear.weight)]
    expected = []
    for head in range(3):
        w, g = weight[:, 2 * head : 2 * head + 2], gradients[:, :, 2 * head : 2 * head + 2]
        expected.append((w.abs() * g.abs().sum(0)).sum() if reading == "released" else (w * g.sum(0)).sum().abs())
    scores = Taylor(reading, "attention-out").score(heads, lent)
    torch.testing.assert_close(scores, torch.stack(expected))
    assert not scores.requires_grad


@pytest.mark.parametrize("reading", READINGS)
def test_neurons_use_their_row_and_their_column(group, context, reading):
    neurons = group("neurons", units=3, width=1, hidden=4)
    lent = context(neurons)
    into, out = (member.linear.weight for member in neurons.members)
    gi, go = lent.gradients[id(into)], lent.gradients[id(out)]
    expected = []
    for unit in range(3):
        w = torch.cat([into[unit], out[:, unit]]).detach()
        g = torch.cat([gi[:, unit], go[:, :, unit]], dim=1)
        expected.append((w.abs() * g.abs().sum(0)).sum() if reading == "released" else (w * g.sum(0)).sum().abs())
    torch.testing.assert_close(Taylor(reading).score(neurons, lent), torch.stack(expected))
    torch.testing.assert_close(Taylor(reading, "all").score(neurons, lent), torch.stack(expected))


def test_needs_data():
    assert Taylor.needs_data
