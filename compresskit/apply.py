"""Carries out a recipe: the loop that everything else serves. A stopped run goes on from its last finished step."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState

from compresskit.batches import Collate, Encoded
from compresskit.checkpoint import FORMAT, RECORD, load, save
from compresskit.data import DataOptions
from compresskit.edits import edit_to_json
from compresskit.job import Job, prepare
from compresskit.journal import WEIGHTS, Entry, Journal
from compresskit.papers import card, origins, versions
from compresskit.plan import Planned
from compresskit.recipe import Recipe
from compresskit.report import Report
from compresskit.report_builder import compare
from compresskit.run import Run
from compresskit.steps import Workshop, carry_out
from compresskit.verbs import ORIGINAL, Finetune

REPORT = "report.json"
PATIENCE = timedelta(days=7)
"""How long processes wait for the first one while it measures and saves."""


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
        reuse: another output folder, or a folder of such, whose first steps are taken over where they are the same.

    Returns:
        The report, which is in `out` too.

    Raises:
        CompresskitError: bad input, found before anything is written; or a step that failed, with all before it kept.
    """
    state = PartialState(cpu=run.device == "cpu", timeout=PATIENCE)
    job = prepare(recipe, model, data, options, run, state.num_processes)
    digests, steps = job.digests(), job.plan.steps
    names, kept = [step.name for step in steps], [_is_kept(step) for step in steps]
    journal = Journal(out, job.digest(), digests, names, kept)
    if journal.is_finished((REPORT, RECORD, WEIGHTS)):
        run.progress.say(f"{out} is finished already; nothing was done, and this is its report")
        return _read_report(out)
    with closing(journal):
        _go_through(job, journal, reuse, state)
    return _read_report(out)


def _go_through(job: Job, journal: Journal, reuse: Path | None, state: PartialState) -> None:
    """Do the steps that are not done yet, and write the result."""
    run, out = job.run, journal.out
    if job.corpus is not None:
        run.progress.say(str(job.corpus))
    data_in_tokens = job.rows()
    if state.is_main_process:
        journal.open(reuse)
    state.wait_for_everyone()
    done = journal.done()
    if reuse is not None and not done:
        run.progress.say(f"{reuse} has no finished first step that is the same, so nothing is taken over")
    state.wait_for_everyone()
    workshop = _workshop(job, journal, done, data_in_tokens)
    for number, planned in enumerate(job.plan.steps, start=1):
        if number <= len(done):
            continue
        run.progress.say(f"step {number} of {len(journal.digests)}: {describe(planned)}")
        workshop.scratch = journal.scratch(number)
        result = carry_out(planned, number, workshop)
        if result.skipped:
            run.progress.say("skipped: the head is trained already")
        workshop.edits += [(number, edit) for edit in result.edits]
        digest = journal.digests[number - 1]
        entry = Entry(number, planned.name, digest, result.edits, {}, result.seconds, result.skipped)
        _save_name(planned, entry, out, workshop)
        entry = replace(entry, saved=_relative(workshop.saved, out))
        if state.is_main_process:
            journal.commit(entry, workshop.model, job.tokenizer)
        state.wait_for_everyone()
        done.append(entry)
    workshop.teachers.clear()
    workshop.banks.clear()
    if state.is_main_process:
        _finish(job, done, workshop, out)
    state.wait_for_everyone()


def describe(planned: Planned) -> str:
    """`prune heads and neurons (round 3)`, as messages and the report have it."""
    work = planned.work
    if isinstance(work, tuple):
        text = f"{planned.name} " + " and ".join(verb.target for verb in work)
    else:
        target = {"distill": "teacher", "share": "target", "factorize": "target"}.get(planned.name)
        text = planned.name + (f" {getattr(work, target)}" if target else "")
    return text + (f" (round {planned.iteration})" if planned.iteration else "")


def _workshop(job: Job, journal: Journal, done: list[Entry], data: tuple[Encoded | None, Collate | None]) -> Workshop:
    """The workshop as the last finished step left it."""
    model = job.fresh().model
    if done:
        model = load(str(journal.out / done[-1].folder)).model
        job.run.progress.say(f"going on after step {len(done)} of {len(journal.digests)}, which is in {journal.out}")
    return Workshop(
        job.fresh,
        model.to(job.run.device),
        job.original.head_trained,
        *data,
        job.run,
        job.plan.recipe.seed,
        journal.scratch(len(done) + 1),
        _saved(done, journal.out),
        logs=journal.out / "logs",
        edits=[(entry.number, edit) for entry in done for edit in entry.edits],
    )


def _finish(job: Job, done: list[Entry], workshop: Workshop, out: Path) -> None:
    """Measure, and write the model with its papers."""
    tuned = [
        entry.folder
        for entry, planned in zip(done, job.plan.steps, strict=True)
        if isinstance(planned.work, Finetune) and not entry.skipped and planned.shape == job.plan.original.shape
        if (out / entry.folder / WEIGHTS).is_file()
    ]
    # A head that nothing trained answers at random; its scores would only flatter the result.
    untouched = job.fresh() if job.original.head_trained else None
    reference = load(str(out / tuned[0])) if tuned else untouched
    seconds = [
        (f"{entry.number:02d} {describe(planned)}", entry.seconds)
        for entry, planned in zip(done, job.plan.steps, strict=True)
        if entry.seconds
    ]
    report = compare(
        original=job.original,
        reference=reference,
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
        "data": {"data": job.data, **asdict(job.options)} if job.data is not None else None,
        "run": {
            "max_tokens": job.run.max_tokens,
            "precision": "bf16" if job.run.bf16 else "fp32",
            "device": job.run.device,
        },
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


def _read_report(out: Path) -> Report:
    return Report.from_json(json.loads((out / REPORT).read_text(encoding="utf-8")))


def _save_name(planned: Planned, entry: Entry, out: Path, workshop: Workshop) -> None:
    name = getattr(planned.work, "save_as", None)
    if name and not entry.skipped:
        workshop.saved.setdefault(name, []).append(str(out / entry.folder))


def _is_kept(planned: Planned) -> bool:
    """Weights of steps inside a repeat go once the next step is done, unless they have a name."""
    return planned.iteration == 0 or bool(getattr(planned.work, "save_as", None))


def _relative(saved: dict[str, list[str]], out: Path) -> dict[str, str]:
    """The latest of each name, as a step's record holds it."""
    return {
        name: ORIGINAL if folders[-1] == ORIGINAL else str(Path(folders[-1]).relative_to(out))
        for name, folders in saved.items()
    }


def _saved(done: list[Entry], out: Path) -> dict[str, list[str]]:
    """What `_relative` has told of, step by step."""
    saved: dict[str, list[str]] = {}
    for entry in done:
        for name, where in entry.saved.items():
            folder = where if where == ORIGINAL else str(out / where)
            if folder not in saved.setdefault(name, []):
                saved[name].append(folder)
    return saved
