"""What a study is: the runs that it asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from compresskit.data import DataOptions
from compresskit.errors import CompresskitError
from compresskit.recipe import Recipe
from compresskit.wording import did_you_mean


@dataclass(frozen=True)
class StudyRun:
    """One recipe on one checkpoint and one data set with one seed.

    Args:
        checkpoint, data, name: as the study calls them.
        recipe: read, with its settings.
        command: what `compresskit` is told, but for the folders that come out.
        rows: the options that say how to read and cut the rows, for evaluating.
        machine: the options about this machine.
        contents: digest of what these words lead to: rows, models, strategies; empty where nobody looked.
    """

    checkpoint: str
    data: str
    name: str
    seed: int
    recipe: Recipe
    command: tuple[str, ...]
    rows: tuple[str, ...]
    machine: tuple[str, ...] = ()
    contents: str = ""

    @property
    def group(self) -> tuple[str, str, int]:
        """Runs of one group may share their first steps."""
        return self.checkpoint, self.data, self.seed

    @property
    def fingerprint(self) -> str:
        """Of what is done; another one is another run."""
        told = json.dumps([*self.group, self.name, self.command, self.machine, self.recipe.to_yaml(), self.contents])
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    @property
    def folder(self) -> str:
        """Where it goes, below the sweep's folder."""
        return f"runs/{self.data}-{self.checkpoint}-{self.name}-{self.seed}-{self.fingerprint}"


@dataclass(frozen=True)
class StudyPlan:
    """One recipe on one checkpoint, with its settings on one data set; `data` is empty where the study names none."""

    run: str
    checkpoint: str
    data: str
    recipe: Recipe


@dataclass(frozen=True)
class Study:
    """Runs to be compared.

    Args:
        runs: in the order of the file; data first, then checkpoints, seeds and recipes.
        against: name of the run that all others are compared with, or None.
        checkpoints: folder or Hub id by name.
        data: where each data set is, and how its rows are read, by name.
        plans: for `--plan-only`, which needs no data.
        original: name of the checkpoint that plans are compared with; None for each run's own.
    """

    name: str
    about: str
    runs: tuple[StudyRun, ...]
    against: str | None
    checkpoints: Mapping[str, str]
    data: Mapping[str, tuple[str, DataOptions]] = field(default_factory=dict)
    plans: tuple[StudyPlan, ...] = ()
    original: str | None = None

    def on(self, machine: Sequence[str]) -> Study:
        """The same with these options about this machine."""
        return replace(self, runs=tuple(replace(run, machine=tuple(machine)) for run in self.runs))

    def only(self, names: Sequence[str]) -> Study:
        """The runs of these names, or on the data of these names, in the same order; all where there is no name.

        Raises:
            CompresskitError: a name is neither a run's nor a data set's.
        """
        if not names:
            return self
        known = {name for plan in self.plans for name in (plan.run, plan.data) if name}
        for name in names:
            if name not in known:
                listed = ", ".join(sorted(known))
                hint = did_you_mean(name, sorted(known))
                raise CompresskitError(f"--only {name}: the study has no such run or data{hint}; it has {listed}")
        runs = tuple(run for run in self.runs if run.name in names or run.data in names)
        plans = tuple(plan for plan in self.plans if plan.run in names or plan.data in names)
        return replace(self, runs=runs, plans=plans)
