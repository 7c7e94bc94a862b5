"""What makes training faster on a processor without changing what is learned."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

LARGEST_MAP = 2**24
"""Elements of an attention map above which it is better never held in whole."""
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


class _PlainAttention(TorchFunctionMode):
    """Where gradients are wanted, PyTorch's attention on a processor is done by `attend`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        instead = func is scaled_dot_product_attention and torch.is_grad_enabled()
        return (attend if instead else func)(*args, **(kwargs or {}))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: Any,
) -> Tensor:
    """`scaled_dot_product_attention` as two matrix products and a softmax.

    PyTorch's kernel that never holds the map is slow backwards on a processor, and with dropout there is none. Maps
    that are large, and what encoders don't use, are left to PyTorch.

    Args:
        query, key, value: (batch, heads, tokens, head size).
        attn_mask: true where a token may be seen, or added to the scores; broadcast to (batch, heads, tokens, tokens).
        dropout_p: share of the map that is dropped, with `BitDropout`.
        is_causal, scale, others: as in PyTorch.

    Returns:
        (batch, heads, tokens, head size).
    """
    batch, heads, tokens, size = query.shape
    large = batch * heads * tokens * key.shape[-2] > LARGEST_MAP and not dropout_p
    if large or is_causal or others.get("enable_gqa"):
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)
    query, key, value = (part.reshape(batch * heads, -1, size) for part in (query, key, value))
    scores = torch.bmm(query * (size**-0.5 if scale is None else scale), key.transpose(1, 2))
    scores = scores.view(batch, heads, tokens, -1)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    seen = BitDropout(dropout_p)(torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype))
    return torch.bmm(seen.view(batch * heads, tokens, -1), value).view(batch, heads, tokens, size)


@contextmanager
def quick_gradients(model: nn.Module, device: str) -> Iterator[None]:
    """While it lasts, a processor is faster at the model's dropouts and, where gradients are wanted, its attention.

    The dropouts are `BitDropout`, the attention is `attend`. A GPU is fast enough as it is.
    """
    if device != "cpu":
        yield
        return
    found = [module for module in model.modules() if type(module) is nn.Dropout]
    for module in found:
        module.__class__ = BitDropout
    try:
        with _PlainAttention():
            yield
    finally:
        for module in found:
            module.__class__ = nn.Dropout
