"""Faster training on a processor: memory that is kept, dropout from random bits, attention with gradients."""

from __future__ import annotations

import platform
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from compresskit.runtime import processor
from compresskit.runtime.processor import BitDropout, attend, keep_freed_memory, quick_gradients


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
    with quick_gradients(model, "cuda"):
        assert [type(module) for module in model] == [nn.Dropout, Own]
    with pytest.raises(KeyError), quick_gradients(model, "cpu"):
        assert [type(module) for module in model] == [BitDropout, Own]
        raise KeyError
    assert [type(module) for module in model] == [nn.Dropout, Own]


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def attention_inputs(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(3, 2, 7, 5, dtype=dtype, requires_grad=True) for _ in "qkv"]


SEEN = torch.arange(7) < torch.tensor([[7], [4], [1]])[:, None, None]
"""Of three texts the tokens that are no padding, (3, 1, 1, 7)."""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attn_mask": SEEN},
        {"attn_mask": torch.zeros(3, 1, 7, 7).masked_fill(~SEEN, torch.finfo(torch.float32).min)},
        {"attn_mask": SEEN, "scale": 0.3},
        {"is_causal": True},
    ],
    ids=["all", "padding", "added", "scale", "causal"],
)
def test_attention_and_its_gradients_are_torchs(options):
    inputs, out_weights = attention_inputs(torch.float64), torch.randn(3, 2, 7, 5, dtype=torch.float64)
    mask = options.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        options = options | {"attn_mask": mask.double()}
    found = []
    for function in (scaled_dot_product_attention, attend):
        out = function(*inputs, **options)
        found.append((out, *torch.autograd.grad((out * out_weights).sum(), inputs)))
    for theirs, ours in zip(*found, strict=True):
        # The softmax is in float32.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_attention_drops_is_drawn_from_bits_and_the_mean_stays():
    torch.manual_seed(0)
    alike = torch.zeros(64, 8, 50, 16)
    out = attend(alike, alike, torch.ones_like(alike), dropout_p=0.1)
    kept = 2**16 / (2**16 - round(0.1 * 2**16))
    # With equal scores each of 50 tokens counts a fiftieth, and dropped ones nothing.
    counts = out[..., 0] * 50 / kept
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-3)
    assert out[..., 0].mean().item() == pytest.approx(1, abs=5 * (0.1 / 0.9 / (64 * 8 * 50 * 50)) ** 0.5)


@pytest.mark.parametrize(
    ("limit", "dropout", "ours"), [(2 * 7 * 7, 0.0, False), (2 * 7 * 7, 0.1, True), (3 * 98, 0.0, True)]
)
def test_large_maps_are_left_to_torch_unless_it_would_hold_them_too(limit, dropout, ours, monkeypatch):
    monkeypatch.setattr(processor, "LARGEST_MAP", limit)
    asked = []
    monkeypatch.setattr(processor, "scaled_dot_product_attention", lambda *a, **_: asked.append("torch") or a[2])
    attend(*attention_inputs(), dropout_p=dropout)
    assert asked == ([] if ours else ["torch"])


def test_attention_is_ours_only_inside_with_gradients_and_on_a_processor(monkeypatch):
    asked = []
    monkeypatch.setattr(processor, "attend", lambda *a, **_: asked.append("ours") or a[2])
    inputs = attention_inputs()
    with quick_gradients(nn.Module(), "cuda"):
        scaled_dot_product_attention(*inputs)
    with quick_gradients(nn.Module(), "cpu"):
        with torch.no_grad():
            scaled_dot_product_attention(*inputs)
        assert asked == []
        scaled_dot_product_attention(*inputs)
        assert asked == ["ours"]
    scaled_dot_product_attention(*inputs)
    assert asked == ["ours"]
