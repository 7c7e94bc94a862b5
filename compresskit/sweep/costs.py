"""What a text costs that leaves at some exit, from the blocks of a report. Every head that is asked is counted.

The reductions that `report` and `evaluate` print leave heads out, as their conventions do; but ways to leave early have
heads of very different sizes, and are compared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Side = Mapping[str, Any]
"""What a report says of one of its two models."""


def flops_by_exit(side: Side) -> dict[int, float]:
    """FLOPs of one text that leaves after each layer with an exit, or after the last where there is none.

    Two for each multiply-accumulate of weight matrices, the layers' attention products, and all heads that are asked
    until there, as heads count themselves: weight matrices alone, so FastBERT's lack what their attention multiplies.
    """
    own = own_heads(side)
    depth = len(side["shape"]["heads"])
    head = _macs(side, "exits") / max(len(own), 1)
    costs = {}
    for layer in side["shape"]["exits"] or (depth,):
        asked = sum(number <= layer for number in own) * head
        costs[layer] = 2 * (_body(side, layer) + asked + (_macs(side, "read-out") if layer == depth else 0))
    return costs


def flops_at_full_depth(side: Side) -> float:
    """FLOPs of one text that goes to the last layer, where nobody asks the heads before."""
    own, depth = own_heads(side), len(side["shape"]["heads"])
    head = _macs(side, "exits") / len(own) if depth in own else 0.0
    return 2 * (_body(side, depth) + head + _macs(side, "read-out"))


def mean_flops(side: Side, histogram: Mapping[str, int]) -> float:
    """FLOPs of one text on average, given how many leave at each layer."""
    costs = flops_by_exit(side)
    return sum(costs[int(layer)] * count for layer, count in histogram.items()) / sum(histogram.values())


def own_heads(side: Side) -> tuple[int, ...]:
    """Layers with an exit head; where the original's read-out is kept, it answers at the last."""
    shape = side["shape"]
    kept = {len(shape["heads"])} if shape["read_out"] else set()
    return tuple(layer for layer in shape["exits"] if layer not in kept)


def _body(side: Side, layer: int) -> float:
    """MACs of embeddings and of layers up to this one."""
    blocks = (block for block in side["blocks"] if block["part"] not in ("exits", "read-out"))
    return float(sum(block["macs"] for block in blocks if (block["layer"] or 0) <= layer))


def _macs(side: Side, part: str) -> float:
    return float(sum(block["macs"] for block in side["blocks"] if block["part"] == part))
