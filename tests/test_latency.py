"""Timing against a clock that the tests move themselves."""

from __future__ import annotations

import gc
import platform
from pathlib import Path

import pytest
import torch

from compresskit.runtime import latency
from compresskit.runtime.latency import Timing, milliseconds, processor


class Clock:
    """A clock that stands still until a call takes its time."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def takes(self, name, *seconds):
        """A call that takes these numbers of seconds, one after another, then the last one for ever."""
        left = list(seconds)

        def call(batch):
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock.now)
    return clock


def batch(examples: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.ones(examples, 3, dtype=torch.long)}


def test_milliseconds_are_per_example(clock):
    (timing,) = milliseconds([clock.takes("a", 2.0)], [batch(4), batch(6)], min_seconds=0)
    assert timing == Timing(median=400.0, low=400.0, high=400.0, passes=5)


def test_warm_up_is_not_timed(clock):
    (timing,) = milliseconds([clock.takes("a", 90.0, 50.0, 1.0)], [batch(1)], warmup=2, repeats=3, min_seconds=0)
    assert timing == Timing(1000.0, 1000.0, 1000.0, 3)


def test_the_median_and_quartiles_of_the_passes(clock):
    (timing,) = milliseconds(
        [clock.takes("a", 5.0, 1.0, 2.0, 3.0, 90.0)], [batch(1)], warmup=0, repeats=5, min_seconds=0
    )
    assert timing == Timing(median=3000.0, low=2000.0, high=5000.0, passes=5)


def test_one_pass_is_its_own_spread(clock):
    assert milliseconds([clock.takes("a", 2.0)], [batch(1)], 0, 1, 0) == (Timing(2000.0, 2000.0, 2000.0, 1),)


def test_passes_go_on_until_the_clock_has_run_long_enough(clock):
    (timing,) = milliseconds([clock.takes("a", 0.25)], [batch(1)], warmup=0, repeats=2, min_seconds=2.0)
    assert timing.passes == 8


def test_calls_take_turns_batch_by_batch(clock):
    milliseconds([clock.takes(name, 1.0) for name in "abc"], [batch(1), batch(2)], warmup=1, repeats=2, min_seconds=0)
    assert "".join(clock.log) == "abc" + "abcabc" * 2


def test_each_call_has_its_own_times(clock):
    slow, fast = milliseconds([clock.takes("a", 2.0, 20.0), clock.takes("b", 1.0, 10.0)], [batch(1)], 0, 3, 0)
    assert (slow.median, slow.low, slow.high) == (20_000.0, 11_000.0, 20_000.0)
    assert (fast.median, fast.low, fast.high) == (10_000.0, 5_500.0, 10_000.0)


def test_a_real_model_runs_in_inference_mode_without_garbage_collection():
    seen = []
    linear = torch.nn.Linear(3, 2)

    def call(batch):
        seen.append((linear(batch["x"]).is_inference(), gc.isenabled()))

    (timing,) = milliseconds([call], [{"x": torch.ones(2, 3)}], warmup=1, repeats=2, min_seconds=0)
    assert seen == [(True, False)] * 3
    assert gc.isenabled()
    assert 0 < timing.low <= timing.median <= timing.high


def test_garbage_collection_stays_off_where_it_was_off():
    gc.disable()
    try:
        milliseconds([lambda batch: None], [batch(1)], min_seconds=0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_nothing_to_time():
    with pytest.raises(ValueError) as error:
        milliseconds([lambda batch: None], [])
    assert str(error.value) == "there is nothing to time without a batch"
    with pytest.raises(ValueError) as error:
        milliseconds([lambda batch: None], [batch(1)], repeats=0)
    assert str(error.value) == "repeats=0 times nothing; at least 1 is needed"


def cpuinfo(monkeypatch, text):
    monkeypatch.setattr(Path, "exists", lambda self: text is not None)
    monkeypatch.setattr(Path, "read_text", lambda self, **options: text)


def test_the_processor_is_named_by_cpuinfo(monkeypatch):
    cpuinfo(monkeypatch, "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nmodel name\t: Some CPU @ 2.00GHz\n")
    assert processor() == "Some CPU @ 2.00GHz"


@pytest.mark.parametrize("text", [None, "processor : 0\n"])
def test_the_processor_is_named_by_platform_otherwise(monkeypatch, text):
    cpuinfo(monkeypatch, text)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processor() == "arm"


@pytest.mark.cuda
def test_work_on_a_gpu_is_waited_for():
    big = torch.ones(4096, 4096, device="cuda")

    def call(batch):
        for _ in range(20):
            torch.mm(big, big)

    (timing,) = milliseconds([call], [{"x": torch.ones(1, 1, device="cuda")}], repeats=3, min_seconds=0)
    # 20 products are 2.7 TFLOPs, which no GPU does in the microseconds that launching them takes.
    assert timing.median > 1
    assert processor("cuda") == torch.cuda.get_device_name()
