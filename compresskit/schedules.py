"""How counts get to what a recipe names, in whole units: by rounds, and over layers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def towards(start: int, goal: int, way: Fraction) -> int:
    """Whole units kept when `way` of the distance is done: int(start - (start - goal) t / T), as COST-EFF schedules."""
    return int(start - (start - goal) * way)


def by_ratios(start: int, goal: int, way: Fraction) -> int:
    """The same where each round keeps the same part of what is left: start * (goal / start) ** (t / T)."""
    if way == 1:
        return goal
    left = start * (goal / start) ** float(way)
    # A whole number may come out a hair below itself.
    whole = round(left)
    return max(whole if abs(left - whole) < 1e-9 * start else int(left), goal)


def spread(total: int, most: Sequence[int]) -> list[int]:
    """Shares that add up to the total, as even as they can be with none above its most."""
    shares, left = [0] * len(most), total
    for place, index in enumerate(sorted(range(len(most)), key=lambda index: most[index])):
        shares[index] = min(left // (len(most) - place), most[index])
        left -= shares[index]
    return shares
