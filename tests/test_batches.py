from __future__ import annotations

import pickle
from itertools import chain

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from compresskit.batches import LengthGrouped, batches, collate, encode
from compresskit.data import Rows
from compresskit.errors import DataError

PAD, CLS, SEP = 0, 1, 2
WORDS = {f"w{number}": number + 4 for number in range(20)}


@pytest.fixture(params=["with token types", "without"])
def tokenizer(request):
    """One id per word, special tokens as BERT's. The second kind is DistilBERT's, whose model takes no token types."""
    core = Tokenizer(
        models.WordLevel({"[PAD]": PAD, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": 3} | WORDS, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    types = ["token_type_ids"] if request.param == "with token types" else []
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=["input_ids", *types, "attention_mask"],
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )


def text(*numbers):
    return " ".join(f"w{number}" for number in numbers)


def ids(*numbers):
    return [number + 4 for number in numbers]


PAIRS = Rows(((text(0, 1, 2), text(3)), (text(4), text(5, 6, 7, 8, 9)), (text(1), text(2))), (1, 0, 2), "train.csv")
SINGLES = Rows(((text(0, 1),), (text(2),), (text(3, 4, 5, 6),)), (0.5, 2.0, 4.75), "train.csv")


@pytest.fixture
def singles(tokenizer):
    return encode(SINGLES, tokenizer, 16, token_types=False)


# --- encode


def test_an_example_is_its_row_in_numbers(tokenizer):
    encoded = encode(PAIRS, tokenizer, 16, token_types=True)
    assert len(encoded) == 3
    assert encoded.lengths == [7, 9, 5]
    assert encoded[0] == {
        "index": 0,
        "input_ids": [CLS, *ids(0, 1, 2), SEP, *ids(3), SEP],
        "attention_mask": [1] * 7,
        "token_type_ids": [0, 0, 0, 0, 0, 1, 1],
        "labels": 1,
    }


def test_token_types_only_where_asked_for(singles):
    assert singles[2] == {
        "index": 2,
        "input_ids": [CLS, *ids(3, 4, 5, 6), SEP],
        "attention_mask": [1] * 6,
        "labels": 4.75,
    }
    assert singles.token_types is None


def test_the_longer_text_loses_tokens_first(tokenizer):
    encoded = encode(PAIRS, tokenizer, 7, token_types=False)
    assert encoded[1]["input_ids"] == [CLS, *ids(4), SEP, *ids(5, 6, 7), SEP]
    assert max(encoded.lengths) == 7
    assert encode(SINGLES, tokenizer, 4, token_types=False)[2]["input_ids"] == [CLS, *ids(3, 4), SEP]


def test_chunks_leave_no_seam(tokenizer, monkeypatch):
    whole = encode(PAIRS, tokenizer, 16, token_types=True)
    monkeypatch.setattr("compresskit.batches.CHUNK", 2)
    chunked = encode(PAIRS, tokenizer, 16, token_types=True)
    assert [chunked[row] for row in range(3)] == [whole[row] for row in range(3)]


def test_storage_is_flat_and_small(tokenizer):
    encoded = encode(PAIRS, tokenizer, 16, token_types=True)
    assert (encoded.token_ids.dtype, encoded.token_types.dtype) == (torch.int32, torch.uint8)
    assert encoded.token_ids.shape == encoded.token_types.shape == (sum(encoded.lengths),)
    assert encoded.offsets.tolist() == [0, 7, 16, 21]


def test_a_subset_keeps_the_index_of_the_whole_and_shares_its_memory(tokenizer):
    encoded = encode(PAIRS, tokenizer, 16, token_types=True)
    some = encoded.subset([2, 0, 2])
    assert [example["index"] for example in (some[0], some[1], some[2])] == [2, 0, 2]
    assert some[1] == encoded[0]
    assert some.lengths == [5, 7, 5]
    assert some.subset([1])[0] == encoded[0]
    assert some.token_ids.data_ptr() == encoded.token_ids.data_ptr()


@pytest.mark.parametrize(("rows", "least"), [(SINGLES, 3), (PAIRS, 5)])
def test_room_for_one_token_of_each_text(tokenizer, rows, least):
    assert max(encode(rows, tokenizer, least, token_types=False).lengths) == least
    with pytest.raises(DataError) as caught:
        encode(rows, tokenizer, least - 1, token_types=False)
    special = {3: 2, 5: 3}[least]
    assert str(caught.value) == (
        f"--max-tokens {least - 1} leaves no room for text beside {special} special tokens; give {least} or more"
    )


# --- batches


def test_collate_pads_to_the_longest(tokenizer):
    encoded = encode(PAIRS, tokenizer, 16, token_types=True)
    batch = collate(pad_id=9, pad_type=1)([encoded[2], encoded[0]])
    assert batch.keys() == {"index", "input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["input_ids"].tolist() == [
        [CLS, *ids(1), SEP, *ids(2), SEP, 9, 9],
        [CLS, *ids(0, 1, 2), SEP, *ids(3), SEP],
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0], [1] * 7]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]
    assert batch["index"].tolist() == [2, 0]
    assert batch["labels"].tolist() == [2, 1]
    assert {name: tensor.dtype for name, tensor in batch.items()} == dict.fromkeys(batch, torch.int64)


def test_numbers_to_predict_are_float32(singles):
    batch = collate(PAD)([singles[0], singles[1]])
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [0.5, 2.0]


def test_whole_numbers_to_predict_are_float32_too(tokenizer):
    encoded = encode(Rows(((text(1),), (text(2),)), (1.0, 2.0), "a.csv"), tokenizer, 8, token_types=False)
    assert collate(PAD)([encoded[0], encoded[1]])["labels"].dtype == torch.float32


def test_the_collator_travels_to_workers(singles):
    travelled = pickle.loads(pickle.dumps(collate(PAD)))
    assert travelled([singles[0]])["input_ids"].tolist() == [singles[0]["input_ids"]]


def test_batches_hold_each_row_once(singles):
    assert batches(singles, 2, "given") == [[0, 1], [2]]
    assert batches(singles, 2, "length") == [[2, 0], [1]]
    some = singles.subset([1, 2])
    assert batches(some, 8, "length") == [[1, 0]]


# --- LengthGrouped

LENGTHS = [(row * 37) % 101 + 3 for row in range(1_003)]


def cut(rows, size=4):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize(("total", "taken"), [(0, 0), (1, 1), (3, 3), (4, 4), (5, 4), (17, 16), (1_003, 1_000)])
def test_whole_batches_with_each_row_once_at_most(total, taken):
    rows = list(LengthGrouped(LENGTHS[:total], 4, seed=42))
    assert len(LengthGrouped(LENGTHS[:total], 4, seed=42)) == len(rows) == len(set(rows)) == taken
    assert set(rows) <= set(range(total))


def test_the_rows_left_out_for_whole_batches_are_not_the_short_ones():
    lengths = [5] * 31 + [50] * 32
    left_out = set()
    sampler = LengthGrouped(lengths, 32, seed=42)
    for epoch in range(40):
        sampler.set_epoch(epoch)
        left_out |= set(range(63)) - set(sampler)
    assert {lengths[row] for row in left_out} == {5, 50}
    assert len(left_out) > 55


def test_the_order_hangs_on_seed_and_epoch_alone():
    sampler, twin, other = (LengthGrouped(LENGTHS, 4, seed) for seed in (42, 42, 43))
    first = list(sampler)
    assert first == list(sampler) == list(twin)
    assert first != list(other)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert list(sampler) != list(other)
    sampler.set_epoch(0)
    assert first == list(sampler)


@pytest.mark.parametrize("epoch", range(3))
def test_the_longest_row_comes_in_the_first_batch(epoch):
    sampler = LengthGrouped(LENGTHS[:1_000], 4, seed=42)
    sampler.set_epoch(epoch)
    assert max(LENGTHS[row] for row in list(sampler)[:4]) == max(LENGTHS[:1_000])


def test_a_batch_has_rows_of_like_length():
    rows = list(LengthGrouped(LENGTHS, 4, seed=42))
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in cut(rows))
    unsorted = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in cut(list(range(1_003))))
    assert padded / sum(LENGTHS) < 1.06
    assert unsorted / sum(LENGTHS) > 1.4


def test_long_and_short_batches_are_mixed():
    first_rows = [LENGTHS[batch[0]] for batch in cut(list(LengthGrouped(LENGTHS, 4, seed=42)))[1:-1]]
    falls = sum(first_rows[i] > first_rows[i + 1] for i in range(len(first_rows) - 1))
    assert 0.4 < falls / (len(first_rows) - 1) < 0.6


def test_batches_of_a_small_set_differ_between_epochs():
    sampler = LengthGrouped(LENGTHS[:64], 4, seed=42)
    together = {frozenset(batch) for batch in cut(list(sampler))}
    sampler.set_epoch(1)
    assert len(together & {frozenset(batch) for batch in cut(list(sampler))}) < 4


@pytest.mark.parametrize("total", [66, 1_003])
def test_a_batch_falls_from_long_to_short(total):
    for batch in cut(list(LengthGrouped(LENGTHS[:total], 4, seed=1))):
        lengths = [LENGTHS[row] for row in batch]
        assert lengths == sorted(lengths, reverse=True)


def test_a_data_loader_takes_it_all(singles):
    loader = DataLoader(
        singles, batch_size=2, sampler=LengthGrouped(singles.lengths, 2, seed=0), collate_fn=collate(PAD), num_workers=0
    )
    loaded = [batch["index"].tolist() for batch in loader]
    assert [len(batch) for batch in loaded] == [2]
    assert set(chain.from_iterable(loaded)) < {0, 1, 2}
