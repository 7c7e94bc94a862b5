"""What a frozen teacher says about each training example, computed once and reused in every epoch.

The teacher runs in eval mode, over batches in a fixed order before the training begins, and its hidden states are kept
in half precision. A run that is killed and resumed recomputes the very same numbers, whatever batch it stopped in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compresskit.batches import Collate, Encoded, batches
from compresskit.errors import CheckpointError
from compresskit.interfaces import Trace
from compresskit.labels import plain
from compresskit.model import CompressedForSequenceClassification as Model
from compresskit.run import Run

BATCH = 32


def match_labels(teacher: Sequence[str], student: Sequence[str], name: str) -> list[int]:
    """For each of the student's classes, the column of the teacher's logits with the same name.

    Raises:
        CheckpointError: the names are not the same.
    """
    if len(teacher) == len(student) == 1:
        return [0]
    for form in (str, plain):  # as written; or else whatever the letter case, and LABEL_0 for 0
        theirs = {form(label): index for index, label in enumerate(teacher)}
        if len(theirs) == len(teacher) and sorted(theirs) == sorted(form(label) for label in student):
            return [theirs[form(label)] for label in student]
    raise CheckpointError(
        f"teacher {name} knows the labels {', '.join(teacher)}, the student {', '.join(student)}; "
        "give both the same names in config.json (id2label) or use another teacher"
    )


def run_frozen(model: Model, batch: Mapping[str, Tensor], run: Run, hidden: bool, attention: bool = False) -> Trace:
    """Run a model in eval mode without gradients, to its full depth, on the inputs that its own family reads."""
    model.eval()
    on_device = {name: batch[name].to(run.device) for name in model.input_names if name in batch}
    with torch.no_grad(), run.autocast():
        return model.trace(on_device, hidden=hidden, attention=attention)


@dataclass
class Teacher:
    """A frozen model with what it said about the training rows.

    Args:
        model: in eval mode, run at full depth.
        columns: for each of the student's classes, the teacher's column.
        run: device, precision and memory.
    """

    model: Model
    columns: list[int]
    run: Run

    def __post_init__(self) -> None:
        self.logits: dict[int, Tensor] | None = None
        self.hidden: Tensor | None = None
        self.starts: list[int] = []
        self.lengths: list[int] = []

    def hidden_bytes(self, rows: Encoded) -> int:
        """What half-precision hidden states of all rows take."""
        return sum(rows.lengths) * (self.model.depth + 1) * self.model.hidden_size * 2

    def study(self, rows: Encoded, collate: Collate, hidden: bool) -> None:
        """Answer every row once; keep hidden states too if asked for and they fit the budget. Nothing is done twice."""
        keep_hidden = hidden and self.hidden is None and self.hidden_bytes(rows) <= self.run.cache_bytes
        if self.logits is not None and not keep_hidden:
            return
        self.lengths = list(rows.lengths)
        self.starts = [0]
        for length in self.lengths[:-1]:
            self.starts.append(self.starts[-1] + length)
        logits: dict[int, Tensor] = {}
        order = batches(rows, BATCH, "length")
        with self.run.progress.task("asking the teacher", len(order)) as task:
            for indices in order:
                batch = collate([rows[index] for index in indices])
                trace = self.ask(batch, hidden=keep_hidden)
                where = batch["index"]
                for number, answer in trace.logits.items():
                    table = logits.setdefault(number, torch.empty(len(rows), answer.shape[-1]))
                    table[where] = answer.float().cpu()
                if keep_hidden:
                    self._keep(where.tolist(), trace.hidden)
                task.advance()
        self.logits = logits

    def _keep(self, indices: Sequence[int], hidden: Sequence[Tensor]) -> None:
        block = torch.stack(tuple(hidden), dim=2).to("cpu", torch.float16)  # (batch, tokens, L + 1, H)
        if self.hidden is None:
            self.hidden = torch.empty((sum(self.lengths), *block.shape[2:]), dtype=torch.float16)
        for row, index in enumerate(indices):
            start, length = self.starts[index], self.lengths[index]
            self.hidden[start : start + length] = block[row, :length]

    def ask(self, batch: Mapping[str, Tensor], hidden: bool, attention: bool = False) -> Trace:
        """Run the teacher now; what it answers has the student's classes."""
        trace = run_frozen(self.model, batch, self.run, hidden, attention)
        logits = {number: answer[:, self.columns].float() for number, answer in trace.logits.items()}
        return Trace(logits, trace.hidden, trace.mask, attention=trace.attention)

    def trace(self, batch: Mapping[str, Tensor], hidden: bool, attention: bool = False) -> Trace:
        """What the teacher said about these rows: from memory where it is there, else asked now.

        Args:
            batch: with `index`, the rows' numbers in what was studied.
            hidden: whether hidden states are needed.
            attention: whether queries, keys and values are.
        """
        if self.logits is None or attention or (hidden and self.hidden is None):
            return self.ask(batch, hidden, attention)
        indices = batch["index"].cpu()
        device = batch["input_ids"].device
        logits = {number: table[indices].to(device) for number, table in self.logits.items()}
        states: tuple[Tensor, ...] = ()
        if hidden and self.hidden is not None:
            states = self._recall(indices.tolist(), batch["input_ids"].shape[1], device)
        return Trace(logits, states, batch["attention_mask"])

    def _recall(self, indices: Sequence[int], tokens: int, device: torch.device) -> tuple[Tensor, ...]:
        assert self.hidden is not None
        block = self.hidden.new_zeros((len(indices), tokens, *self.hidden.shape[1:]))
        for row, index in enumerate(indices):
            start, length = self.starts[index], self.lengths[index]
            block[row, :length] = self.hidden[start : start + length]
        return tuple(state.float() for state in block.to(device).unbind(2))
