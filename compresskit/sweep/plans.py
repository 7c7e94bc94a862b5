"""What the runs of a study would make, from the configs alone."""

from __future__ import annotations

from typing import Any

from compresskit.checkpoint import read_original
from compresskit.plan import Plan, make_plan
from compresskit.sweep.study import Study
from compresskit.tables import Table


def plans_of(study: Study) -> dict[str, Plan]:
    """The plan of every run, by its folder.

    Raises:
        CompresskitError: a checkpoint can't be read, or a recipe does not fit it.
    """
    originals = {name: read_original(where) for name, where in study.checkpoints.items()}
    return {run.folder: make_plan(run.recipe, originals[run.checkpoint]) for run in study.runs}


def plans_to_json(study: Study) -> list[dict[str, Any]]:
    """One object for each recipe on each checkpoint: as `compresskit plan --json`, with both names.

    Raises:
        CompresskitError: as `plans_of`.
    """
    originals = {name: read_original(where) for name, where in study.checkpoints.items()}
    return [
        {"run": name, "checkpoint": where, **make_plan(recipe, originals[where]).to_json()}
        for name, (recipe, places) in study.plans.items()
        for where in places
    ]


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
    note = "Reductions against the checkpoint, at full depth and 128 tokens."
    return Table(study.name, columns, tuple(rows), note)
