"""How much longer a training step takes here than in a bare PyTorch loop that does the same arithmetic.

    python benchmarks/training_overhead.py --model CHECKPOINT --data DATA/glue/MRPC

Both distil a multi-exit model from a frozen teacher (hidden states and predictions) over the same batches in the same
order; the bare loop has the teacher's outputs of its batches ready in memory. They take turns, and the ratio is the
median over rounds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from compresskit.batches import LengthGrouped, collate, encode
from compresskit.catalogue import load_catalogue
from compresskit.checkpoint import load
from compresskit.data import DataOptions, load_corpus
from compresskit.edits import AddExits
from compresskit.interfaces import Distiller
from compresskit.model import CompressedForSequenceClassification
from compresskit.run import Run, pick_bf16
from compresskit.runtime.processor import keep_freed_memory, quick_gradients
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.surgery import perform
from compresskit.teachers import Teacher
from compresskit.training import Lesson, teach
from compresskit.verbs import Distill, Loss

BATCH = 32


Said = tuple[Mapping[int, Tensor], Sequence[Tensor]]


def bare(
    model: CompressedForSequenceClassification,
    batches: Sequence[Mapping[str, Tensor]],
    said: Sequence[Said],
    bf16: bool,
) -> float:
    """The same arithmetic with nothing around it; seconds."""
    model.train()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-5, fused=True)
    began = time.perf_counter()
    # The dropout of both is the same, so that the ratio is that of what is around the arithmetic.
    with quick_gradients(model, "cpu"):
        for batch, (logits, hidden) in zip(batches, said, strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                trace = model.trace(batch, hidden=True, gradient_equilibrium=True)
            mask = batch["attention_mask"].float()
            weights = mask / (mask.sum(1, keepdim=True) * len(mask))
            loss = sum(
                ((ours.float() - theirs.float()).square().mean(-1) * weights).sum()
                for ours, theirs in zip(trace.hidden, hidden, strict=True)
            )
            for number, z in trace.logits.items():
                loss = loss - (softmax(logits[number], -1) * log_softmax(z.float(), -1)).sum(-1).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return time.perf_counter() - began


def main() -> None:
    """Print seconds per example of both, round by round, and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    run = Run(bf16=pick_bf16("auto", "cpu"), max_tokens=72)
    corpus = load_corpus(options.data, DataOptions(max_train_rows=BATCH * options.steps))
    assert corpus.train is not None
    checkpoint = load(options.model, corpus.task.labels)
    rows = encode(corpus.train, checkpoint.tokenizer, run.max_tokens, token_types=True)
    collator = collate(checkpoint.tokenizer.pad_token_id, checkpoint.tokenizer.pad_token_type_id)
    model = checkpoint.model
    perform(AddExits(tuple(range(1, model.depth + 1)), ClsTanh(), False), model)
    teacher = Teacher(copy.deepcopy(model), list(range(model.config.num_labels)), run)
    teacher.study(rows, collator, hidden=True)
    order = iter(LengthGrouped(rows.lengths, BATCH, seed=0))
    batches = [collator([rows[i] for i in islice(order, BATCH)]) for _ in range(options.steps)]
    traces = [teacher.trace(batch, hidden=True) for batch in batches]
    said = [(trace.logits, [state.half() for state in trace.hidden]) for trace in traces]
    catalogue = load_catalogue()
    names = ("hidden-states", "predictions")
    losses = {name: Loss(cast(Distiller, catalogue.strategy("distiller", name)())) for name in names}
    settings = {"distill": "teacher", "by": losses, "epochs": 1.0, "warmup": 0.0, "schedule": "constant"}
    verb = Distill.model_validate(settings)
    ratios = []
    for number in range(options.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            lesson = Lesson(copy.deepcopy(model), rows, collator, losses, teacher, verb, 2e-5, 0, Path(folder), run)
            ours = teach(lesson)
        theirs = bare(copy.deepcopy(model), batches, said, run.bf16)
        if number:  # the first round warms up
            ratios.append(ours / theirs)
            examples = options.steps * BATCH
            mine, other = ours / examples * 1e3, theirs / examples * 1e3
            print(f"round {number}: here {mine:.2f} ms, bare {other:.2f} ms per example, ratio {ours / theirs:.3f}")
    kind = "bfloat16" if run.bf16 else "float32"
    print(f"median ratio {statistics.median(ratios):.3f} ({kind}, {torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
