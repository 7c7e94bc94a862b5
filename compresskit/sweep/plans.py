"""What the runs of a study would make, from the configs alone, and what they work on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj

from compresskit.checkpoint import Original, read_original
from compresskit.data import load_corpus
from compresskit.errors import CompresskitError
from compresskit.plan import Plan, make_plan
from compresskit.sweep.study import Study
from compresskit.tables import Table


def plans_of(study: Study) -> dict[str, Plan]:
    """The plan of every run, by its folder.

    Raises:
        CompresskitError: a checkpoint can't be read, or a recipe does not fit it.
    """
    originals = _originals(study)
    return {run.folder: make_plan(run.recipe, originals[run.checkpoint]) for run in study.runs}


def check(study: Study) -> tuple[Study, dict[str, Plan]]:
    """The study, its runs told apart by what their checkpoints and data hold too, and the plan of every run.

    Raises:
        CompresskitError: every mistake in either.
    """
    rows: dict[str, str] = {}
    wrong = []
    try:
        plans_of(study)
    except CompresskitError as error:
        wrong.append(str(error))
    try:
        rows = _read_rows(study)
    except CompresskitError as error:
        wrong.append(str(error))
    if wrong:
        raise CompresskitError("\n".join(wrong))
    files = {name: _files_digest(Path(where)) for name, where in study.checkpoints.items()}
    runs = tuple(replace(run, contents=rows[run.data] + files[run.checkpoint]) for run in study.runs)
    read = replace(study, runs=runs)
    return read, plans_of(read)


def _read_rows(study: Study) -> dict[str, str]:
    """A digest of the rows of every data set that a run needs.

    Raises:
        CompresskitError: every mistake, with the name of its data set.
    """
    found, wrong = {}, []
    for name in dict.fromkeys(run.data for run in study.runs):
        where, options = study.data[name]
        try:
            corpus = load_corpus(where, options)
        except CompresskitError as error:
            wrong.append(f"data.{name}: {error}")
        else:
            found[name] = corpus.fingerprint + corpus.eval_fingerprint
    if wrong:
        raise CompresskitError("\n".join(wrong))
    return found


def _files_digest(folder: Path) -> str:
    """Of all files right in a folder; of a Hub id, which has none here, it is that of nothing."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.glob("*") if path.is_file()):
        with path.open("rb") as file:
            whole.update(path.name.encode() + sha_fileobj(file))
    return whole.hexdigest()


def _originals(study: Study) -> dict[str, Original]:
    found, wrong = {}, []
    for name, where in study.checkpoints.items():
        try:
            found[name] = read_original(where)
        except CompresskitError as error:  # noqa: PERF203 - every mistake is to be told
            wrong.append(f"checkpoints.{name}: {error}")
    if wrong:
        raise CompresskitError("\n".join(wrong))
    return found


def plans_to_json(study: Study) -> list[dict[str, Any]]:
    """One object for each recipe on each checkpoint: as `compresskit plan --json`, with both names.

    Raises:
        CompresskitError: as `plans_of`.
    """
    originals = _originals(study)
    made = []
    for name, (recipe, places) in study.plans.items():
        for where in places:
            plan = make_plan(recipe, originals[where]).to_json(against=originals[study.original or where])
            made.append({"run": name, "checkpoint": where, **plan})
    return made


def plan_table(study: Study) -> Table:
    """Parameters, and reductions under the two conventions that people are shown."""
    rows = []
    for plan in plans_to_json(study):
        flops = plan["reduction"]["flops"]
        rows.append(
            (
                plan["run"],
                plan["checkpoint"],
                f"{plan['planned']['parameters']:,}",
                f"{plan['reduction']['parameters']:.3f}",
                f"{flops['flops_all']:.3f}",
                f"{flops['torch110']:.3f}",
            )
        )
    columns = ("run", "checkpoint", "parameters", "params", "flops_all", "torch110")
    note = f"Reductions against {study.original or 'the checkpoint'}, at full depth and 128 tokens."
    return Table(study.name, columns, tuple(rows), note)
