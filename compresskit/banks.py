"""Banks: what frozen models made of every training row, for losses that hold a student against many rows at once.

As with a teacher, a bank's models run in eval mode, over batches in a fixed order before the training begins, so that a
run that is killed and resumed computes the very same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compresskit.batches import Collate, Encoded, batches
from compresskit.model import CompressedForSequenceClassification as Model
from compresskit.run import Run
from compresskit.teachers import BATCH, run_frozen

BYTES = 2
"""Of a number in half precision."""


def features(model: Model, rows: Encoded, collate: Collate, run: Run) -> Tensor:
    """(rows, size) in half precision: what the last layer makes of the first token of each row."""
    found = torch.empty(len(rows), model.hidden_size, dtype=torch.float16)
    order = batches(rows, BATCH, "length")
    with run.progress.task("filling a bank", len(order)) as task:
        for indices in order:
            batch = collate([rows[index] for index in indices])
            found[batch["index"]] = run_frozen(model, batch, run, hidden=True).hidden[-1][:, 0].to(found)
            task.advance()
    return found
