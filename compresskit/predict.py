"""Labels for text without labels: files of any length, a chunk of rows at a time, or a few texts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from compresskit.batches import batches, collate, encode
from compresskit.checkpoint import Checkpoint
from compresskit.columns import find_texts
from compresskit.data import Rows, input_texts
from compresskit.model import CompressedForSequenceClassification
from compresskit.row_files import Row, open_table
from compresskit.row_writer import RowWriter
from compresskit.run import Run

CHUNK = 256
"""Rows in memory at a time; sorted by length among themselves, so that little is padded."""

BATCH = 32
COLUMNS = ("label", "probability", "exit")


@dataclass(frozen=True)
class Prediction:
    """The answer to one text.

    Args:
        label: name of the class, or the predicted number.
        probability: of that class; None for a number.
        exit: 1-based layer at which the text left.
    """

    label: str | float
    probability: float | None
    exit: int


def predict(
    ready: Checkpoint,
    source: str | Path,
    target: str | Path,
    run: Run,
    text_columns: Sequence[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Copy a file of rows with the columns `label`, `probability` and `exit` added.

    The input is read twice: first to check and count its rows, so that a mistake in the last line is found before the
    work is done. For a model that predicts a number, `probability` is empty.

    Args:
        ready: a model on `run.device` and its tokenizer.
        source, target: csv, tsv or json lines; `source` may be parquet too.
        text_columns: where None, those that the model was compressed with or columns with usual names.
        overwrite: whether `target` may be there already; it may even be `source`.

    Returns:
        How many rows there were.

    Raises:
        DataError: a file or a row can't be read or written; `target` is then as it was.
    """
    table = open_table(source)
    columns = find_texts(table, text_columns, before=ready.columns)
    writer = RowWriter(target, table, COLUMNS, overwrite)
    run.progress.say(f"text: {', '.join(columns)}")
    total = sum(1 for _ in input_texts(table, columns))
    with writer, run.progress.task("classifying", total) as task:
        rows = input_texts(table, columns)
        while chunk := _chunk(rows):
            answers = predict_texts(ready.model, ready.tokenizer, [texts for _, texts in chunk], run)
            for (row, _), answer in zip(chunk, answers, strict=True):
                writer.write(row, (answer.label, answer.probability, answer.exit))
            task.advance(len(chunk))
    return total


def predict_texts(
    model: CompressedForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | tuple[str, ...]],
    run: Run,
) -> list[Prediction]:
    """Answer each text, or pair of texts, in their order."""
    if not texts:
        return []
    pairs = tuple((text,) if isinstance(text, str) else text for text in texts)
    rows = encode(
        Rows(pairs, (0,) * len(pairs), "text"), tokenizer, run.max_tokens, "token_type_ids" in model.input_names
    )
    padded = collate(tokenizer.pad_token_id, tokenizer.pad_token_type_id)
    found: dict[int, Prediction] = {}
    was = model.training
    model.eval()
    with torch.inference_mode(), run.autocast():
        for positions in batches(rows, BATCH, "length"):
            batch = padded([rows[position] for position in positions])
            output = model(**{name: batch[name].to(model.device) for name in model.input_names if name in batch})
            found |= dict(zip(positions, _answers(model, output.logits.float(), output.exits), strict=True))
    model.train(was)
    return [found[position] for position in range(len(pairs))]


def _chunk(rows: Iterator[tuple[Row, tuple[str, ...]]]) -> list[tuple[Row, tuple[str, ...]]]:
    return list(islice(rows, CHUNK))


def _answers(
    model: CompressedForSequenceClassification, logits: torch.Tensor, exits: torch.Tensor
) -> Iterator[Prediction]:
    if model.config.num_labels == 1:
        for number, left in zip(logits[:, 0].tolist(), exits.tolist(), strict=True):
            yield Prediction(number, None, left)
        return
    probabilities, classes = logits.softmax(-1).max(-1)
    for probability, label, left in zip(probabilities.tolist(), classes.tolist(), exits.tolist(), strict=True):
        yield Prediction(str(model.config.id2label[label]), round(probability, 6), left)
