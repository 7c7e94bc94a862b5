"""What the runs of a study would make, from the configs alone."""

from __future__ import annotations

from typing import Any

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


def check(study: Study) -> dict[str, Plan]:
    """The plans of all runs, once checkpoints and data are known to be right.

    Raises:
        CompresskitError: every mistake in either.
    """
    plans, wrong = {}, []
    try:
        plans = plans_of(study)
    except CompresskitError as error:
        wrong.append(str(error))
    try:
        check_data(study)
    except CompresskitError as error:
        wrong.append(str(error))
    if wrong:
        raise CompresskitError("\n".join(wrong))
    return plans


def check_data(study: Study) -> None:
    """Read the rows of every data set that a run needs, so that what is wrong with one is known before any run.

    Raises:
        CompresskitError: every mistake, with the name of its data set.
    """
    wrong = []
    for name in dict.fromkeys(run.data for run in study.runs):
        where, options = study.data[name]
        try:
            load_corpus(where, options)
        except CompresskitError as error:
            wrong.append(f"data.{name}: {error}")
    if wrong:
        raise CompresskitError("\n".join(wrong))


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
