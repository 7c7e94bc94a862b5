"""What the conformance checks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def require(fulfilled: bool, strategy: type, complaint: str) -> None:
    """Raise AssertionError with the strategy's class and the complaint, unless fulfilled."""
    if not fulfilled:
        raise AssertionError(f"{strategy.__name__} {complaint}")


@contextmanager
def other_luck(seed: int) -> Iterator[None]:
    """The global random state of torch set to something, and put back: nothing may depend on it."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in type, shape and every bit that compares; NaN equals NaN."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(one.isnan(), other.isnan())
        and bool(((one == other) | one.isnan()).all())
    )


def like(sizes: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return scale * torch.randn(sizes, generator=torch.Generator().manual_seed(seed))
