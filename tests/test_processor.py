"""Faster training on a processor: memory that is kept, dropout from random bits."""

from __future__ import annotations

import platform
import sys

import pytest
import torch
from torch import nn

from compresskit.runtime.processor import BitDropout, keep_freed_memory, quick_dropout


@pytest.mark.parametrize(("p", "dtype"), [(0.1, torch.float32), (0.5, torch.bfloat16), (0.25, torch.float32)])
def test_dropout_from_bits_drops_as_many_as_it_says_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    dropped = round(p * 2**16)
    out = BitDropout(p)(torch.ones(401, 999, dtype=dtype))
    kept = torch.tensor(2**16 / (2**16 - dropped)).to(dtype)
    assert set(out.unique().tolist()) == {0.0, kept.item()}
    # Five standard deviations of a count of independent draws.
    assert abs((out == 0).float().mean().item() - p) < 5 * (p * (1 - p) / out.numel()) ** 0.5
    # Every one of the four places in a random word is as likely: a naive `random_()` never sets the highest bit.
    for place in range(4):
        part = out.flatten()[place::4]
        assert abs((part == 0).float().mean().item() - p) < 5 * (p * (1 - p) / part.numel()) ** 0.5


def test_what_is_dropped_gets_no_gradient_and_the_rest_its_scale():
    x = torch.randn(64, 33, requires_grad=True)
    out = BitDropout(0.25)(x)
    out.sum().backward()
    assert torch.equal(x.grad == 0, out == 0)
    assert x.grad.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_the_same_seed_drops_the_same():
    module, x = BitDropout(0.1), torch.ones(7, 5)
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(torch.ones(50, 50)), module(torch.ones(50, 50)))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_extremes_are_torchs_own(p):
    x = torch.randn(9, 9)
    assert torch.equal(BitDropout(p)(x), x if p < 1 else torch.zeros(9, 9))


def test_in_eval_mode_nothing_is_dropped():
    x = torch.randn(9, 9)
    assert BitDropout(0.5).eval()(x) is x


def test_dropout_is_quick_only_inside_and_only_on_a_processor():
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(nn.Dropout(0.1), Own(0.1))
    with quick_dropout(model, "cuda"):
        assert [type(module) for module in model] == [nn.Dropout, Own]
    with pytest.raises(KeyError), quick_dropout(model, "cpu"):
        assert [type(module) for module in model] == [BitDropout, Own]
        raise KeyError
    assert [type(module) for module in model] == [nn.Dropout, Own]


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
