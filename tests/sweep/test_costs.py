"""What a text costs that leaves at some exit, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import BertConfig

from compresskit.catalogue import load_catalogue
from compresskit.cost import dims_of, flops, original_shape
from compresskit.edits import AddExits
from compresskit.report import Report, Side
from compresskit.strategies.tanh_heads import MeanTanh
from compresskit.sweep.costs import flops_at_full_depth, flops_by_exit, mean_flops


def side(exits=(), read_out=True, heads=0, answer=0):
    """Three layers of 10 + 20 MACs after an embedding of 5."""
    layers = [{"part": part, "layer": n, "macs": m} for n in (1, 2, 3) for part, m in (("attention", 10), ("ffn", 20))]
    ends = [{"part": "exits", "layer": None, "macs": heads}, {"part": "read-out", "layer": None, "macs": answer}]
    return {
        "shape": {"heads": [2, 2, 2], "exits": list(exits), "read_out": read_out},
        "blocks": [{"part": "word embeddings", "layer": None, "macs": 5}, *layers, *ends],
    }


def test_every_head_that_is_asked_is_paid_for():
    asked = side(exits=(1, 2, 3), read_out=False, heads=12)
    assert flops_by_exit(asked) == {1: 2 * (5 + 30 + 4), 2: 2 * (5 + 60 + 8), 3: 2 * (5 + 90 + 12)}
    assert flops_at_full_depth(asked) == 2 * (5 + 90 + 4)


def test_a_kept_read_out_answers_at_the_last_layer():
    kept = side(exits=(2, 3), heads=4, answer=7)
    assert flops_by_exit(kept) == {2: 2 * (5 + 60 + 4), 3: 2 * (5 + 90 + 4 + 7)}
    assert flops_at_full_depth(kept) == 2 * (5 + 90 + 7)


def test_without_exits_everybody_goes_to_the_last_layer():
    assert flops_by_exit(side(answer=7)) == {3: 2 * (5 + 90 + 7)}
    assert flops_at_full_depth(side(answer=7)) == 2 * (5 + 90 + 7)


def test_the_mean_is_over_the_histogram():
    asked = side(exits=(1, 3), read_out=False, heads=4)
    assert mean_flops(asked, {"1": 3, "3": 1}) == pytest.approx((3 * 2 * (35 + 2) + 2 * (95 + 4)) / 4)


def test_it_is_what_flops_all_counts_and_the_heads():
    config = BertConfig(num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=64)
    anatomy = load_catalogue([]).anatomy("bert")
    dims = replace(dims_of(anatomy, config), classes=2)
    shape = original_shape(anatomy, config).after(AddExits((1, 2, 3), MeanTanh(), False))
    report = Report(Side.sized("tiny", dims, shape)).to_json()["model"]
    head = 2 * MeanTanh().macs(32, 2, 128)
    for exit_, found in flops_by_exit(report).items():
        assert found == flops(dims, shape, 128, exit_)["flops_all"] + exit_ * head
    assert flops_at_full_depth(report) == flops(dims, shape, 128)["flops_all"] + head
