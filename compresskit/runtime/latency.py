"""Milliseconds, measured on the machine at hand.

What is to be compared is timed in turns, batch by batch, because a machine that other work shares is never the same
twice. Times are medians with quartiles, so one interruption changes nothing.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
Call = Callable[[Batch], object]


@dataclass(frozen=True)
class Timing:
    """Milliseconds per example over several passes.

    Args:
        median: of the passes.
        low, high: their first and third quartile.
        passes: how many there were.
    """

    median: float
    low: float
    high: float
    passes: int


def milliseconds(
    calls: Sequence[Call], batches: Sequence[Batch], warmup: int = 2, repeats: int = 5, min_seconds: float = 0.5
) -> tuple[Timing, ...]:
    """Time forward passes in inference mode, in turns: a, b, c, a, b, c on one batch after another.

    Args:
        calls: each runs a model, which should be in eval mode, on a batch.
        batches: at least one, on the model's device; the first axis of every tensor is the examples.
        warmup: calls of each before the clock starts.
        repeats: passes over `batches`, at least.
        min_seconds: passes go on until the clock has run so long.
    """
    examples = _examples(batches)
    return tuple(_timing(seconds, examples) for seconds in _passes(calls, batches, warmup, repeats, min_seconds))


def processor(device: str | torch.device = "cpu") -> str:
    """The name of the processor or GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def _passes(
    calls: Sequence[Call], batches: Sequence[Batch], warmup: int, repeats: int, min_seconds: float
) -> tuple[list[float], ...]:
    """Seconds of each pass over the batches, for each call."""
    if not batches:
        raise ValueError("there is nothing to time without a batch")
    if repeats < 1:
        raise ValueError(f"repeats={repeats} times nothing; at least 1 is needed")
    seconds: tuple[list[float], ...] = tuple([] for _ in calls)
    with torch.inference_mode(), _no_garbage_collection():
        for index in range(warmup):
            for call in calls:
                _timed(call, batches[index % len(batches)])
        while len(seconds[0]) < repeats or sum(map(sum, seconds)) < min_seconds:
            sums = [0.0] * len(calls)
            for batch in batches:
                for index, call in enumerate(calls):
                    sums[index] += _timed(call, batch)
            for passes, total in zip(seconds, sums, strict=True):
                passes.append(total)
    return seconds


def _timed(call: Call, batch: Batch) -> float:
    """Seconds of one call, the work on the GPU included."""
    device = next(iter(batch.values())).device
    _synchronize(device)
    start = time.perf_counter()
    call(batch)
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Its pauses fall on whoever happens to be running."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _examples(batches: Sequence[Batch]) -> int:
    return sum(len(next(iter(batch.values()))) for batch in batches)


def _timing(seconds: Sequence[float], examples: int) -> Timing:
    each = [1000 * passed / examples for passed in seconds]
    low, high = _quartiles(each)
    return Timing(median(each), low, high, len(each))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third
