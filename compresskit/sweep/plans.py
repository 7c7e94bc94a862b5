"""What the runs of a study would make, from the configs alone, and what they work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj

from compresskit.checkpoint import Original, read_original
from compresskit.data import load_corpus
from compresskit.errors import CompresskitError
from compresskit.job import code_versions, outside_models, sources
from compresskit.journal import digest
from compresskit.plan import Plan, make_plan
from compresskit.recipe import Recipe
from compresskit.sweep.study import Study, StudyRun
from compresskit.tables import Table


def plans_of(study: Study) -> dict[str, Plan]:
    """The plan of every run, by its folder.

    Raises:
        CompresskitError: a checkpoint can't be read, or a recipe does not fit it.
    """
    originals = _originals(study, {run.checkpoint for run in study.runs})
    plans = _make_plans([(run.name, run.checkpoint, run.recipe) for run in study.runs], originals)
    return {run.folder: plan for run, plan in zip(study.runs, plans, strict=True)}


def _make_plans(asked: Sequence[tuple[str, str, Recipe]], originals: Mapping[str, Original]) -> list[Plan]:
    """Of recipes by the names of their run and checkpoint.

    Raises:
        CompresskitError: every run whose recipe does not fit its checkpoint, and why.
    """
    plans: list[Plan] = []
    wrong: dict[str, None] = {}  # what is the same with every seed is told once
    for name, checkpoint, recipe in asked:
        original = originals[checkpoint]
        try:
            plans.append(make_plan(recipe, original))
        except CompresskitError as error:
            wrong[f"runs, {name} on {checkpoint}: {error}"] = None
    if wrong:
        raise CompresskitError("\n".join(wrong))
    return plans


def check(study: Study) -> tuple[Study, dict[str, Plan]]:
    """The study, its runs told apart by what they work on and with too, and the plan of every run.

    Raises:
        CompresskitError: every mistake in checkpoints and data.
    """
    plans: dict[str, Plan] = {}
    rows: dict[tuple[str, int], str] = {}
    wrong = []
    try:
        plans = plans_of(study)
    except CompresskitError as error:
        wrong.append(str(error))
    try:
        rows = _read_rows(study)
    except CompresskitError as error:
        wrong.append(str(error))
    if wrong:
        raise CompresskitError("\n".join(wrong))
    files = cache(_files_digest)

    def contents(run: StudyRun, plan: Plan) -> str:
        models = [study.checkpoints[run.checkpoint], *outside_models(run.recipe)]
        strategies = [sources(planned) for planned in plan.steps]
        return digest(code_versions(), rows[run.data, run.seed], [files(Path(name)) for name in models], strategies)

    found = [(replace(run, contents=contents(run, plan := plans[run.folder])), plan) for run in study.runs]
    return replace(study, runs=tuple(run for run, _ in found)), {run.folder: plan for run, plan in found}


def _read_rows(study: Study) -> dict[tuple[str, int], str]:
    """A digest of the rows that the runs of each data set and seed read.

    Raises:
        CompresskitError: every mistake, with the name of its data set.
    """
    found: dict[tuple[str, int], str] = {}
    wrong: dict[str, str] = {}
    for name, seed in dict.fromkeys((run.data, run.seed) for run in study.runs):
        where, options = study.data[name]
        try:
            corpus = load_corpus(where, replace(options, seed=seed))
        except CompresskitError as error:
            wrong.setdefault(name, f"data.{name}: {error}")
        else:
            found[name, seed] = digest(corpus.fingerprint, corpus.eval_fingerprint)
    if wrong:
        raise CompresskitError("\n".join(wrong.values()))
    return found


def _files_digest(folder: Path) -> str:
    """Of the weights, configs and vocabularies in a folder; a Hub id, which has none here, is known by its name."""
    files = [path for path in sorted(folder.glob("*")) if path.is_file() and path.suffix.lower() != ".md"]
    whole = []
    for path in files:
        with path.open("rb") as file:
            whole.append((path.name, sha_fileobj(file).hex()))
    return digest(whole)


def _originals(study: Study, names: Collection[str]) -> dict[str, Original]:
    found, wrong = {}, []
    for name, where in study.checkpoints.items():
        if name in names:
            try:
                found[name] = read_original(where)
            except CompresskitError as error:
                wrong.append(f"checkpoints.{name}: {error}")
    if wrong:
        raise CompresskitError("\n".join(wrong))
    return found


def plans_to_json(study: Study) -> list[dict[str, Any]]:
    """One object for each recipe on each checkpoint, as `compresskit plan --json`, with both names and the data's.

    Where settings make it another plan on other data, there is one for each.

    Raises:
        CompresskitError: as `plans_of`.
    """
    needed = {name for plan in study.plans for name in (plan.checkpoint, study.original) if name}
    originals = _originals(study, needed)
    made: list[dict[str, Any]] = []
    plans = _make_plans([(one.run, one.checkpoint, one.recipe) for one in study.plans], originals)
    for one, plan in zip(study.plans, plans, strict=True):
        sizes = plan.to_json(against=originals[study.original or one.checkpoint])
        about = {"run": one.run, "checkpoint": one.checkpoint}
        same = [other for other in made if other == {**about, "data": other["data"], **sizes}]
        if same:
            same[0]["data"].append(one.data)
        else:
            made.append({**about, "data": [one.data] if one.data else [], **sizes})
    return made


def plan_table(study: Study) -> Table:
    """Parameters, and reductions under the two conventions that people are shown."""
    rows = []
    plans = plans_to_json(study)
    several = Counter((plan["run"], plan["checkpoint"]) for plan in plans)
    for plan in plans:
        flops = plan["reduction"]["flops"]
        on = f" on {', '.join(plan['data'])}" if several[plan["run"], plan["checkpoint"]] > 1 else ""
        rows.append(
            (
                plan["run"] + on,
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
