"""What makes training faster on a processor without changing what is learned."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # mallopt(3)


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next batch instead of handing it back to the system.

    Every training step allocates the same activations and gradients anew. By default the large ones are mapped and
    unmapped each time, and the system clears every page again. For programs only: it holds for the whole process.

    Returns:
        Whether it did: it takes glibc.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = ((MMAP_THRESHOLD, 2**30), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 2**26))
    return bool(min(library.mallopt(name, value) for name, value in settings))


class BitDropout(nn.Dropout):
    """Dropout from 16 random bits an element, several times as fast as drawing a number for each.

    The probability is rounded to the nearest of 65,536, and what is kept is scaled by the rounded one.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its parent's name
        """(...) to (...); unchanged in eval mode."""
        dropped = round(self.p * 2**16)
        if not self.training or dropped in (0, 2**16):
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        return input * (bits >= dropped - 2**15).to(input.dtype).mul_(2**16 / (2**16 - dropped))


@contextmanager
def quick_dropout(model: nn.Module, device: str) -> Iterator[None]:
    """While it lasts, the model's dropouts are `BitDropout` on a processor; a GPU draws fast enough."""
    found = [module for module in model.modules() if type(module) is nn.Dropout] if device == "cpu" else []
    for module in found:
        module.__class__ = BitDropout
    try:
        yield
    finally:
        for module in found:
            module.__class__ = nn.Dropout
