"""Carries out a recipe: the loop that everything else serves. A run that was stopped goes on from its last finished step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from compresskit import __version__
from compresskit.batches import Collate, Encoded, collate, encode
from compresskit.checkpoint import FORMAT, RECORD, Checkpoint, load, save
from compresskit.data import Corpus, DataOptions, load_corpus
from compresskit.edits import edit_to_json
from compresskit.errors import CompresskitError, DataError
from compresskit.journal import Entry, Journal, digest
from compresskit.modules import CompressedForSequenceClassification
from compresskit.papers import card, origins, versions
from compresskit.plan import Plan, Planned, make_plan
from compresskit.recipe import Recipe, needs_data
from compresskit.report import Report
from compresskit.report_builder import compare
from compresskit.run import Run
from compresskit.steps import ORIGINAL, Workshop, carry_out
from compresskit.verbs import Exit, Training, Verb

REPORT = "report.json"


@dataclass(frozen=True)
class Job:
    """A recipe with the model and the data it is applied to.

    Args:
        plan: what will be done.
        fresh: loads the original anew, with a head for the data's labels.
        original: loaded once, for its tokenizer and fingerprint.
        corpus: the data, or None for a recipe that needs none.
        run: device, precision, memory, progress.
    """

    plan: Plan
    fresh: Callable[[], Checkpoint]
    original: Checkpoint
    corpus: Corpus | None
    run: Run

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The original's."""
        return self.original.tokenizer

    def digests(self) -> list[str]:
        """One per step: of everything that the step's result depends on."""
        last = digest(
            __version__,
            _fingerprint(self.original.model),
            self.original.model.config.original,
            self.corpus.fingerprint if self.corpus else None,
            self.plan.recipe.seed,
            self.run.bf16,
            self.run.device,
            self.run.max_tokens,
        )
        found = []
        for planned in self.plan.steps:
            last = digest(last, _describe(planned))
            found.append(last)
        return found

    def rows(self) -> tuple[Encoded | None, Collate | None]:
        """The training data in tokens, with token types, which a teacher may read where the student does not."""
        if self.corpus is None or self.corpus.train is None:
            return None, None
        rows = encode(self.corpus.train, self.tokenizer, self.run.max_tokens, token_types=True)
        return rows, collate(self.tokenizer.pad_token_id, self.tokenizer.pad_token_type_id)


def apply(
    recipe: Recipe,
    model: str,
    data: str | None,
    options: DataOptions,
    out: Path,
    run: Run,
    reuse: Path | None = None,
) -> Report:
    """Apply a recipe to a model and write the result to `out`.

    Args:
        recipe: what to do.
        model: folder or Hub id of the original.
        data: folder, file or Hub id of labelled text; None for a recipe that needs none.
        options: how to read the data.
        out: where the result, its report and the finished steps go.
        run: device, precision, memory, progress.
        reuse: another output folder whose first steps are taken over where they are the same.

    Returns:
        The report, which is in `out` too.

    Raises:
        CompresskitError: bad input, found before anything is written; or a step that failed, with all before it kept.
    """
    state = PartialState(cpu=run.device == "cpu")
    job = prepare(recipe, model, data, options, run)
    digests = job.digests()
    names = [planned.name for planned in job.plan.steps]
    journal = Journal(out, digests, names, [_is_kept(planned) for planned in job.plan.steps])
    with state.main_process_first():
        done = journal.open(reuse if state.is_main_process else None)
    workshop = _workshop(job, journal, done)
    for number, planned in enumerate(job.plan.steps, start=1):
        if number <= len(done):
            continue
        run.progress.say(f"step {number} of {len(digests)}: {describe(planned)}")
        result = carry_out(planned, number, workshop)
        folder = f"steps/{number:02d}-{planned.name}"
        _save_name(planned, result.skipped, str(out / folder), workshop)
        entry = Entry(
            number, planned.name, digests[number - 1], result.edits, _relative(workshop.saved, out), result.seconds, result.skipped
        )
        if state.is_main_process:
            journal.commit(entry, workshop.model, job.tokenizer)
        state.wait_for_everyone()
        done.append(entry)
    workshop.teachers.clear()
    report = _finish(job, journal, done, workshop, out) if state.is_main_process else None
    state.wait_for_everyone()
    return report or Report.from_json(json.loads((out / REPORT).read_text(encoding="utf-8")))


def prepare(recipe: Recipe, model: str, data: str | None, options: DataOptions, run: Run) -> Job:
    """Read and check everything that a run needs; nothing is written.

    Raises:
        CompresskitError: what is wrong with the recipe, the model or the data.
    """
    torch.manual_seed(recipe.seed)
    original = load(model)
    if data is None and needs_data(recipe):
        raise DataError(f"recipe {recipe.name} trains or scores on data; name labelled text with --data")
    corpus = None
    if data is not None:
        corpus = load_corpus(data, options, original.labels if original.head_trained else None)

    def fresh() -> Checkpoint:
        # A new head is drawn at random: from the recipe's seed, so that every load gives the same.
        torch.manual_seed(recipe.seed)
        if original.head_trained or corpus is None:
            return load(model)
        return load(model, corpus.task.labels, corpus.task.kind == "regression")

    first = fresh()
    if first.model.shape.exits and any(isinstance(verb, Exit) for verb in recipe.steps):
        raise CompresskitError(f"{model} has exits already; leave the exit step out of the recipe or start from its original")
    return Job(make_plan(recipe, first.original), fresh, first, corpus, run)


def describe(planned: Planned) -> str:
    """`prune heads and neurons (round 3)`."""
    work = planned.work
    if isinstance(work, tuple):
        text = "prune " + " and ".join(verb.target for verb in work)
    else:
        target = {"distill": "teacher", "factorize": "target"}.get(planned.name)
        text = planned.name + (f" {getattr(work, target)}" if target else "")
    return text + (f" (round {planned.iteration})" if planned.iteration else "")


def _workshop(job: Job, journal: Journal, done: list[Entry]) -> Workshop:
    """The workshop as the last finished step left it."""
    rows, collator = job.rows()
    model = job.fresh().model
    if done:
        model = load(str(journal.out / done[-1].folder)).model
        job.run.progress.say(f"going on after step {len(done)} of {len(journal.digests)}, which is in {journal.out}")
    saved = {} if not done else {name: _absolute(where, journal.out) for name, where in done[-1].saved.items()}
    return Workshop(
        job.fresh,
        model.to(job.run.device),
        job.original.head_trained,
        rows,
        collator,
        job.run,
        job.plan.recipe.seed,
        journal.scratch,
        saved,
    )


def _finish(job: Job, journal: Journal, done: list[Entry], workshop: Workshop, out: Path) -> Report:
    """Measure, write the model with its papers, and return the report."""
    if (out / REPORT).is_file() and (out / RECORD).is_file():
        return Report.from_json(json.loads((out / REPORT).read_text(encoding="utf-8")))
    teacher = workshop.saved.get("teacher", ORIGINAL)
    reference = job.fresh() if teacher == ORIGINAL else load(teacher)
    seconds = [
        (f"{entry.number:02d} {describe(planned)}", entry.seconds)
        for entry, planned in zip(done, job.plan.steps, strict=True)
        if entry.seconds
    ]
    report = compare(
        original=job.original,
        reference=reference if job.corpus else None,
        model=workshop.model,
        corpus=job.corpus,
        run=job.run,
        seconds=seconds,
        name=str(out),
    )
    recipe = job.plan.recipe
    record = {
        "format": FORMAT,
        "recipe": recipe.to_yaml(),
        "seed": recipe.seed,
        "base_model": job.original.original.name,
        "versions": versions(),
        "origins": origins(recipe),
        "edits": [edit_to_json(edit) | {"step": entry.number} for entry in done for edit in entry.edits],
        "report": report.to_json(),
    }
    files = {
        RECORD: json.dumps(record, indent=1),
        REPORT: json.dumps(report.to_json(), indent=1),
        "recipe.yaml": recipe.to_yaml(),
        "README.md": card(recipe, job.original.original.name, report),
    }
    save(workshop.model, job.tokenizer, out, files)
    return report


def _save_name(planned: Planned, skipped: bool, folder: str, workshop: Workshop) -> None:
    name = getattr(planned.work, "save_as", None)
    if name and not skipped:
        workshop.saved[name] = folder


def _is_kept(planned: Planned) -> bool:
    """Weights of steps inside a repeat go once the next step is done, unless they have a name."""
    return planned.iteration == 0 or bool(getattr(planned.work, "save_as", None))


def _describe(planned: Planned) -> list[Any]:
    """What a step's result depends on beside the steps before it."""
    verbs = planned.work if isinstance(planned.work, tuple) else (planned.work,)
    return [planned.iteration, planned.shape.to_json(), [_plain(verb) for verb in verbs]]


def _plain(verb: Verb) -> str:
    fields = {name: repr(value) for name, value in dict(verb).items() if name not in ("line", "label")}
    if isinstance(verb, Training):
        fields.pop("save_as")
    return json.dumps({"verb": verb.name, **fields}, sort_keys=True)


def _fingerprint(model: CompressedForSequenceClassification) -> str:
    """Of every weight's bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _relative(saved: dict[str, str], out: Path) -> dict[str, str]:
    return {name: where if where == ORIGINAL else str(Path(where).relative_to(out)) for name, where in saved.items()}


def _absolute(where: str, out: Path) -> str:
    return where if where == ORIGINAL else str(out / where)
