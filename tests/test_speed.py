"""What is timed, on which batches, and that timing changes nothing."""

from __future__ import annotations

import pytest
import torch

from compresskit.batches import collate, encode
from compresskit.data import Rows
from compresskit.run import Run
from compresskit.speed import EARLY, FULL, SAMPLES, time_rows, time_shape
from compresskit.testing import tiny_compressed, tiny_tokenizer
from compresskit.testing.text import sentences

pytestmark = pytest.mark.usefixtures("quick_clock")


def encoded(model, count):
    texts = tuple((text,) for text in sentences(count))
    return encode(Rows(texts, (0,) * count, "test"), tiny_tokenizer(model.anatomy.model_type), 128, token_types=True)


class Recorder:
    """Remembers the batches and modes that a model is called with."""

    def __init__(self, model):
        self.calls = []
        self.hook = model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, model, args, inputs):
        self.calls.append((tuple(inputs["input_ids"].shape), model.leave_early, model.training, sorted(inputs)))


def test_rows_are_timed_in_batches_of_one_and_thirty_two():
    model = tiny_compressed("roberta", exits=(1, 2))
    seen = Recorder(model)
    times = time_rows(model, encoded(model, 100), collate(0), Run())
    assert times.original == ()
    assert [(time.label, time.batch) for time in times.model] == [(FULL, 1), (EARLY, 1), (FULL, 32), (EARLY, 32)]
    assert {call[0][0] for call in seen.calls} == set(SAMPLES)
    # Its family reads no token types, though the rows have them; both ways are timed, in eval mode.
    assert {call[3][-1] for call in seen.calls} == {"input_ids"}
    assert {call[1] for call in seen.calls} == {True, False}
    assert not any(call[2] for call in seen.calls)


def test_the_original_is_timed_at_full_depth_on_the_same_batches():
    model, original = tiny_compressed(exits=(1, 2)), tiny_compressed(seed=1)
    one, other = Recorder(model), Recorder(original)
    times = time_rows(model, encoded(model, 3), collate(0), Run(), original=original)
    assert [(time.label, time.batch) for time in times.original] == [(FULL, 1), (FULL, 32)]
    assert {call[0] for call in one.calls} == {call[0] for call in other.calls}
    assert {time.setting for time in times.original} == {time.setting for time in times.model}


def test_the_original_full_depth_and_leaving_early_take_turns_on_each_batch(monkeypatch):
    model, original, turns = tiny_compressed(exits=(1, 2)), tiny_compressed(seed=1), []
    original.register_forward_pre_hook(lambda *_: turns.append("original"))
    model.register_forward_pre_hook(lambda *_: turns.append(EARLY if model.leave_early else FULL))
    time_rows(model, encoded(model, 40), collate(0), Run(), original=original)
    assert len(turns) % 3 == 0
    assert turns == ["original", FULL, EARLY] * (len(turns) // 3)


def test_without_text_random_tokens_are_timed_at_full_depth():
    model = tiny_compressed(exits=(1, 2))
    seen = Recorder(model)
    times = time_shape(model, Run())
    assert [(time.label, time.batch, time.tokens) for time in times.model] == [(FULL, 1, 128), (FULL, 8, 128)]
    assert {call[0] for call in seen.calls} == {(1, 128), (8, 128)}
    assert not any(call[1] for call in seen.calls)


def test_timing_leaves_the_model_as_it_was():
    model = tiny_compressed(exits=(1, 2)).train()
    model.leave_early = False
    before = torch.random.get_rng_state()
    time_shape(model, Run())
    assert model.training
    assert not model.leave_early
    assert torch.equal(torch.random.get_rng_state(), before)
