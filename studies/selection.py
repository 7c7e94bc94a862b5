"""What choosing weights on the rows that are reported on would add, on MRPC: the last training once more, watched.

    python studies/selection.py --model CHECKPOINT --data DATA --work WORK [--only mrpc-42]

WORK holds the models that `studies/cost_eff.py` left. The last training of each is done again from the weights before
it, and every 50 optimizer steps the last exit answers the rows that are reported on.
"""

from __future__ import annotations

import argparse
import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cost_eff import TASKS

from compresskit.apply import Workshop, carry_out
from compresskit.batches import collate, encode
from compresskit.checkpoint import load
from compresskit.data import DataOptions
from compresskit.evaluate import evaluate
from compresskit.job import Job, prepare
from compresskit.recipe import read_recipe
from compresskit.run import Run, pick_bf16

EVERY = 50
RECIPE = "cost-eff-8x"


class Watched:
    """A Progress that has the model answer every so many optimizer steps."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.workshop: Workshop | None = None
        self.steps = 0
        self.training = False
        self.scores: list[tuple[float, float]] = []

    def task(self, description: str, total: int) -> AbstractContextManager[Watched]:
        """Only training counts."""
        self.training = description.startswith("training")
        return nullcontext(self)

    def say(self, message: str) -> None:
        """Nobody listens."""

    def update(self, description: str) -> None:
        """Nobody listens."""

    def advance(self, n: int = 1) -> None:
        """One optimizer step is done."""
        self.steps += n if self.training else 0
        if self.training and self.steps % EVERY == 0:
            self.look()

    def look(self) -> None:
        """Accuracy and F1 of the last exit now."""
        job, corpus = self.job, self.job.corpus
        assert corpus is not None
        assert self.workshop is not None
        rows = encode(corpus.eval, job.tokenizer, job.run.max_tokens, token_types=True)
        model = copy.deepcopy(self.workshop.model).eval()
        # Accelerate wraps `forward` while it trains; a copy of that would still run the model that is trained.
        model.__dict__.pop("forward", None)
        padded = collate(job.tokenizer.pad_token_id, job.tokenizer.pad_token_type_id)
        found = evaluate(model, rows, padded, corpus.task, Run(bf16=job.run.bf16), (), latency=False)
        last = found.per_exit[max(found.per_exit)]
        self.scores.append((last["accuracy"], last["f1"]))


def main() -> None:
    """Watch the last training of each run on MRPC."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[task.name for task in TASKS if task.name.startswith("mrpc")])
    options = parser.parse_args()
    for task in TASKS:
        if task.name in options.only:
            watch(task.name, options.work / f"{task.name}-{RECIPE}", options.model, options.data / task.folder)


def watch(name: str, out: Path, model: str, data: Path) -> None:
    """Do the last training again and print what it came to on the way."""
    recipe = read_recipe(out / "recipe.yaml")
    run = Run(bf16=pick_bf16("auto", "cpu"), max_tokens=72)
    job = prepare(recipe, model, str(data), DataOptions(seed=recipe.seed), run)
    watched = Watched(job)
    number = len(job.plan.steps)
    before = next(out.glob(f"steps/{number - 1:02d}-*"))
    saved = {"assistant": str(next(out.glob("steps/04-*")))}
    with TemporaryDirectory() as scratch:
        workshop = Workshop(
            job.fresh,
            load(str(before)).model,
            True,
            *job.rows(),
            replace(run, progress=watched),
            recipe.seed,
            Path(scratch),
            saved,
        )
        watched.workshop = workshop
        carry_out(job.plan.steps[-1], number, workshop)
    watched.look()
    best = max(watched.scores, key=lambda score: score[1])
    for word, (accuracy, f1) in (("at the end", watched.scores[-1]), (f"best of {len(watched.scores)}", best)):
        print(f"{name}, {word}: accuracy {accuracy:.4f}, F1 {f1:.4f}", flush=True)


if __name__ == "__main__":
    main()
