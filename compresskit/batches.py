"""From rows of text to batches of token ids: tokenized once, kept flat, grouped by length, padded to the batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from compresskit.data import Rows
from compresskit.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 2_048
"""Rows tokenized at a time: enough to keep the fast tokenizer's threads busy, few enough to keep Python lists short."""

MEGA_BATCH = 50
"""Batches that are sorted by length together."""

Example: TypeAlias = Mapping[str, int | float | list[int]]
"""One row as numbers: `index`, `input_ids`, `attention_mask`, `labels` and, where asked for, `token_type_ids`."""

Collate: TypeAlias = Callable[[Sequence[Example]], dict[str, Tensor]]
"""Makes a padded batch of tensors from examples."""


@dataclass(frozen=True, eq=False)
class Encoded(Dataset[Example]):
    """Tokenized rows. Subsets share the memory of the whole.

    Args:
        token_ids: int32, all rows end to end.
        token_types: uint8, as long as `token_ids`, or None.
        offsets: int64, (rows of the whole + 1,): row r has the tokens offsets[r] to offsets[r + 1].
        labels: (rows of the whole,), int64 class ids or float32 numbers.
        rows: the rows of the whole that this is, in order, repeats allowed. Each example tells its own as `index`.
        lengths: tokens of each of `rows`.
    """

    token_ids: Tensor
    token_types: Tensor | None
    offsets: Tensor
    labels: Tensor
    rows: tuple[int, ...]
    lengths: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Example:
        row = self.rows[position]
        start, end = self.offsets[row : row + 2].tolist()
        example: dict[str, int | float | list[int]] = {
            "index": row,
            "input_ids": self.token_ids[start:end].tolist(),
            "attention_mask": [1] * (end - start),
        }
        if self.token_types is not None:
            example["token_type_ids"] = self.token_types[start:end].tolist()
        return example | {"labels": self.labels[row].item()}

    def subset(self, positions: Sequence[int]) -> Encoded:
        """These positions, in this order; the examples keep the `index` that they have in the whole."""
        rows = tuple(self.rows[position] for position in positions)
        lengths = [self.lengths[position] for position in positions]
        return Encoded(self.token_ids, self.token_types, self.offsets, self.labels, rows, lengths)


def encode(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_tokens: int, token_types: bool) -> Encoded:
    """Tokenize every row, with special tokens; a long one loses tokens from the end of its longer text.

    Args:
        tokenizer: of transformers, any kind.
        max_tokens: of a row, special tokens included.
        token_types: whether to keep them, even for a tokenizer whose own model takes none: a teacher may.

    Raises:
        DataError: `max_tokens` leaves no room for the text.
    """
    pair = len(rows.texts[0]) == 2
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_tokens < special + len(rows.texts[0]):
        raise DataError(
            f"--max-tokens {max_tokens} leaves no room for text beside {special} special tokens; "
            f"give {special + len(rows.texts[0])} or more"
        )
    ids, types, lengths = [], [], []
    for start in range(0, len(rows.texts), CHUNK):
        texts = [list(column) for column in zip(*rows.texts[start : start + CHUNK], strict=True)]
        coded = tokenizer(
            *texts,
            truncation="longest_first",
            max_length=max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=token_types,
        )
        lengths += [len(row) for row in coded["input_ids"]]
        ids.append(_flat(coded["input_ids"], torch.int32))
        if token_types:
            types.append(_flat(coded["token_type_ids"], torch.uint8))
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    labels = torch.tensor(rows.labels, dtype=torch.float32 if isinstance(rows.labels[0], float) else torch.int64)
    flat_types = torch.cat(types) if token_types else None
    return Encoded(torch.cat(ids), flat_types, offsets, labels, tuple(range(len(lengths))), lengths)


def collate(pad_id: int, pad_type: int = 0) -> Collate:
    """A function from examples to tensors, padded on the right to the longest of them.

    It gives `input_ids`, `attention_mask` and `token_type_ids` as int64 (batch, tokens), and (batch,) of `index` as
    int64 and of `labels` as int64 or float32. It can be pickled to the workers of a DataLoader.
    """
    return partial(_collate, {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": pad_type})


def batches(encoded: Encoded, size: int, order: Literal["length", "given"]) -> list[list[int]]:
    """Positions in `encoded`, batch by batch, each once.

    Args:
        order: `length` puts rows of like length together, longest first, so that little is padded, memory runs short at
            once or never, and the time left is not underestimated; `given` leaves them as they are.
    """
    positions = list(range(len(encoded)))
    if order == "length":
        positions.sort(key=lambda position: -encoded.lengths[position])
    return _cut(positions, size)


class LengthGrouped(Sampler[int]):
    """A random order for training in which the rows of a batch have like lengths; each row at most once per epoch.

    The rows are shuffled, cut to whole batches (others are left out in another epoch; with fewer rows than one batch,
    none is), cut into mega-batches of `MEGA_BATCH` batches (fewer in a small data set, so that the batches differ from
    epoch to epoch) and sorted by length within them; then the batches are shuffled, so that training doesn't see long
    and short ones in turn. The batch with the longest row goes first: where memory doesn't suffice, it shows at once.

    Args:
        lengths: tokens of each row.
        batch_size: of the rows that one optimizer step sees over all processes, so that every process gets like
            lengths.
        seed: with the epoch, all that the order depends on.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Another epoch, another order; the same epoch, the same order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size * self.batch_size or len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # A string seeds through SHA-512, so that seed 42, epoch 1 shares nothing with seed 43, epoch 0.
        chance = random.Random(f"{self.seed} {self.epoch}")  # noqa: S311 - no secret hangs on it
        rows = list(range(len(self.lengths)))
        chance.shuffle(rows)
        # Before sorting; afterwards it would always be short rows that are left out.
        del rows[len(self) :]
        mega = self.batch_size * max(1, min(MEGA_BATCH, len(rows) // (4 * self.batch_size)))
        rows = [row for part in _cut(rows, mega) for row in sorted(part, key=lambda row: -self.lengths[row])]
        cut = _cut(rows, self.batch_size)
        chance.shuffle(cut)
        if cut:
            first = max(range(len(cut)), key=lambda position: self._longest(cut[position]))
            cut[0], cut[first] = cut[first], cut[0]
        return chain.from_iterable(cut)

    def _longest(self, batch: Sequence[int]) -> int:
        return max(self.lengths[row] for row in batch)


def _collate(padding: Mapping[str, int], examples: Sequence[Example]) -> dict[str, Tensor]:
    batch = {}
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name in padding:
            batch[name] = _padded(values, padding[name])
        else:
            batch[name] = torch.tensor(values)
    return batch


def _padded(rows: Sequence[Any], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _flat(rows: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
    return torch.tensor(list(chain.from_iterable(rows)), dtype=dtype)


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
