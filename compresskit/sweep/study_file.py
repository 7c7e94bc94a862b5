"""A study file -> the runs that it asks for. Every mistake in it and in its recipes is found before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from compresskit import yaml_tree
from compresskit.data import DataOptions
from compresskit.errors import CompresskitError, RecipeError
from compresskit.recipe import Recipe, read_recipe
from compresskit.recipe_files import recipes_installed
from compresskit.sweep.study import Study, StudyPlan, StudyRun
from compresskit.wording import complaint, did_you_mean, option, show
from compresskit.yaml_tree import Mistakes, Node, Where

VERSION = 1
TOP = {
    "study": "the number of the format, 1",
    "name": "of the study; the file's where nothing is said",
    "about": "one or two sentences",
    "checkpoints": "folders or Hub ids by the names that the results call them",
    "data": "data sets by name: a path or Hub id, or a mapping as below",
    "seeds": "where a data set has none of its own; `[42]` where nothing is said",
    "runs": "recipes: a path, the name of an installed one, or a mapping as below",
    "against": "name of the run that the others are compared with",
    "original": "name of the checkpoint that `--plan-only` compares all with; each run's own where nothing is said",
}
"""Keys of a study and what they mean."""


def _once(values: list[Any]) -> list[Any]:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"must list at least one, and each once, not {show(values)}")
    return values


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Names = Annotated[list[str], AfterValidator(_once)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """What every mapping in a study has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class DataPart(Part):
    """One data set; the options are those of `compresskit apply`."""

    data: str
    """Folder, file or Hub id; a path may begin where the study's file is."""
    eval_data: str | None = None
    """Rows to evaluate on, in place of the data's own."""
    text_columns: str | None = None
    """One or two columns of text."""
    label_column: str | None = None
    """The column of labels."""
    task: Literal["auto", "classification", "regression"] | None = None
    """`classification` or `regression`, where it can't be seen."""
    max_train_rows: Count | None = None
    """Draw so many training rows."""
    max_eval_rows: Count | None = None
    """Draw so many rows to evaluate on."""
    max_tokens: Count | None = None
    """Cut longer texts."""
    seeds: Annotated[list[Seed], AfterValidator(_once)] | None = None
    """In place of the study's seeds."""


class RunPart(Part):
    """One recipe with its settings."""

    recipe: str
    """A path, which may begin where the study's file is, or the name of an installed recipe."""
    name: str | None = None
    """What the results call it; the name of its file where nothing is said."""
    settings: list[str] = Field(default=[], alias="set")
    """As after `--set`, on all data."""
    settings_on: dict[str, list[str]] = Field(default={}, alias="set_on")
    """As after `--set`, on the data of that name."""
    checkpoints: Names | None = None
    """Names of the checkpoints that it is applied to; all where nothing is said."""
    data: Names | None = None
    """Names of the data that it is applied to; all where nothing is said."""


def read_study(path: Path, overrides: Sequence[str] = (), data_needed: bool = True) -> Study:
    """Read a study file.

    Args:
        overrides: `checkpoints.minilm=FOLDER` and the like, as for recipes.
        data_needed: whether the runs will be done; a plan needs no data.

    Raises:
        CompresskitError: it can't be read, or not carried out; the message lists every mistake with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CompresskitError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise CompresskitError(f"study file {path} can't be read ({error.strerror}); give a file") from error
    mistakes = Mistakes()
    root = yaml_tree.read(text, mistakes)
    study = None
    if root is not None:
        for argument in overrides:
            yaml_tree.override(root, argument, mistakes)
        study = _Reader(path, root, mistakes).study(data_needed)
    if mistakes or study is None:
        raise CompresskitError(mistakes.listing(str(path)))
    return study


AnyPart = TypeVar("AnyPart", bound=Part)


class _Reader:
    """Reads the parts of a study, gathering mistakes."""

    def __init__(self, path: Path, root: Node, mistakes: Mistakes) -> None:
        self.path = path
        self.root = root
        self.mistakes = mistakes
        self.top: Mapping[str, Node] = {}

    def study(self, data_needed: bool) -> Study | None:
        if not isinstance(self.root.value, dict):
            self.mistakes.add(self.root.where, f"a study is a mapping with the keys {', '.join(TOP)}")
            return None
        self.top = self.root.value
        if "recipe" in self.top and "study" not in self.top:
            self.mistakes.add(self._where("recipe"), "this is a recipe, not a study; use compresskit apply")
            return None
        for key, node in self.top.items():
            if key not in TOP:
                self.mistakes.add(node.where, f"unknown key '{key}'{did_you_mean(key, TOP)}")
        asked = self._plain("study")
        if isinstance(asked, int) and asked > VERSION:
            self.mistakes.add(
                self._where("study"),
                f"study format {asked} is newer than this compresskit reads ({VERSION}); update it",
            )
        elif asked != VERSION or asked is True:
            self.mistakes.add(self._where("study"), f"the line 'study: {VERSION}' is missing; it says what this is")
        for key in ("name", "about"):
            if not isinstance(self._plain(key), (str, type(None))):
                self.mistakes.add(self._where(key), f"'{key}' must be text, not {show(self._plain(key))}")
        checkpoints = self._checkpoints()
        data = self._data() if data_needed or "data" in self.top else {}
        seeds = self._seeds()
        parts = self._runs(checkpoints, data)
        against = self._chosen("against", "run", parts if not self.mistakes else {})
        original = self._chosen("original", "checkpoint", checkpoints)
        recipes = {
            (name, where): recipe
            for name, (part, node) in parts.items()
            for where in (tuple(data) or ("",))
            if (recipe := self._recipe(part, where, node)) is not None
        }
        if self.mistakes:
            return None
        runs = tuple(self._product(checkpoints, data, seeds, parts, recipes))
        plans = tuple(
            StudyPlan(name, checkpoint, on, recipes[name, on])
            for name, (part, _) in parts.items()
            for checkpoint in part.checkpoints or checkpoints
            for on in (part.data or tuple(data) if data else ("",))
        )
        name, about = (str(self._plain(key) or "") for key in ("name", "about"))
        rows = {name: (self._path(part.data), _data_options(part, self._path)) for name, part in data.items()}
        return Study(name or self.path.stem, about, runs, against, checkpoints, rows, plans, original)

    def _chosen(self, key: str, what: str, known: Mapping[str, object]) -> str | None:
        """One of the study's own names."""
        name = self._plain(key)
        if name is not None and known and (not isinstance(name, str) or name not in known):
            hint = did_you_mean(str(name), known)
            self.mistakes.add(self._where(key), f"'{key}' must name a {what}{hint}, one of {', '.join(known)}")
        return None if name is None else str(name)

    def _check_name(self, name: str, label: str, where: Where) -> None:
        """Names become parts of file names."""
        if not re.fullmatch(r"\w[\w.+ -]*", name):
            self.mistakes.add(
                where,
                f"{label}: the name '{name}' becomes part of file names; begin it with a letter or digit, "
                "and use letters, digits, spaces and . _ + - alone",
            )

    def _plain(self, key: str) -> Any:
        return self.top[key].plain() if key in self.top else None

    def _where(self, key: str) -> Where:
        return self.top[key].where if key in self.top else self.root.where

    def _named(self, key: str, what: str) -> Mapping[str, Node]:
        node = self.top.get(key)
        if node is None or not isinstance(node.value, dict) or not node.value:
            self.mistakes.add(self._where(key), f"'{key}' must be a mapping of names to {what}")
            return {}
        return node.value

    def _checkpoints(self) -> dict[str, str]:
        found = {}
        for name, node in self._named("checkpoints", "folders or Hub ids").items():
            self._check_name(name, "checkpoints", node.where)
            if isinstance(node.value, str):
                found[name] = self._path(node.value)
            else:
                self.mistakes.add(
                    node.where, f"checkpoints.{name} must be a folder or a Hub id, not {show(node.plain())}"
                )
        return found

    def _data(self) -> dict[str, DataPart]:
        found = {}
        for name, node in self._named("data", "data sets").items():
            plain = node if not isinstance(node.value, str) else Node({"data": node}, node.where)
            self._check_name(name, "data", node.where)
            part = self._part(DataPart, plain, f"data.{name}")
            if part is not None:
                found[name] = part
        return found

    def _seeds(self) -> list[int]:
        seeds = self._plain("seeds") if "seeds" in self.top else [42]
        right = isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
        if not right or len(set(seeds)) < len(seeds):
            self.mistakes.add(
                self._where("seeds"), f"'seeds' must be a list of different numbers from 0, not {show(seeds)}"
            )
            return []
        return list(seeds)

    def _runs(self, checkpoints: Mapping[str, str], data: Mapping[str, DataPart]) -> dict[str, tuple[RunPart, Node]]:
        node = self.top.get("runs")
        if node is None or not isinstance(node.value, list) or not node.value:
            self.mistakes.add(self._where("runs"), "'runs' must be a list of at least one recipe")
            return {}
        found: dict[str, tuple[RunPart, Node]] = {}
        for index, item in enumerate(node.value):
            label = f"runs[{index}]"
            plain = item if not isinstance(item.value, str) else Node({"recipe": item}, item.where)
            part = self._part(RunPart, plain, label)
            if part is None:
                continue
            name = part.name or Path(part.recipe).stem
            self._check_name(name, label, item.where)
            if name in found:
                self.mistakes.add(item.where, f"{label}: another run is called '{name}'; give it a 'name' of its own")
            self._known(part.checkpoints or [], checkpoints, f"{label}: checkpoint", item)
            self._known([*(part.data or []), *part.settings_on], data, f"{label}: data", item)
            found[name] = part, item
        return found

    def _known(self, names: Sequence[str], known: Mapping[str, object], what: str, node: Node) -> None:
        for name in names:
            if name not in known and known:
                hint = did_you_mean(name, known)
                self.mistakes.add(node.where, f"{what} '{name}' is none of the study's{hint}: {', '.join(known)}")

    def _part(self, kind: type[AnyPart], node: Node, label: str) -> AnyPart | None:
        if not isinstance(node.value, dict):
            self.mistakes.add(node.where, f"{label} must be a name or a mapping, not {show(node.plain())}")
            return None
        known = [part.alias or key for key, part in kind.model_fields.items()]
        try:
            return kind.model_validate(node.plain())
        except ValidationError as error:
            for found in error.errors():
                path = found["loc"]
                where = node.at(path).where
                if found["type"] == "extra_forbidden":
                    key = str(path[0])
                    self.mistakes.add(where, f"{label}: unknown option '{key}'{did_you_mean(key, known)}")
                else:
                    self.mistakes.add(where, f"{label}: '{option(path)}' {complaint(found)}")
            # What is left without the unknown may have mistakes of its own.
            rest = {key: value for key, value in node.value.items() if key in known}
            return self._part(kind, Node(rest, node.where), label) if len(rest) < len(node.value) else None

    def _recipe(self, part: RunPart, data: str, node: Node) -> Recipe | None:
        try:
            return read_recipe(self._recipe_path(part), (*part.settings, *part.settings_on.get(data, ())))
        except RecipeError as error:
            first, *rest = str(error).splitlines()
            for line in rest or [first]:
                self.mistakes.add(node.where, f"{part.recipe}: {line.strip()}")
        return None

    def _recipe_path(self, part: RunPart) -> str:
        """As `_path`, but for a folder beside the study, such as a run's, that is called as an installed recipe is."""
        named = part.recipe in {recipe.name for recipe in recipes_installed()}
        return part.recipe if named and (self.path.parent / part.recipe).is_dir() else self._path(part.recipe)

    def _path(self, name: str) -> str:
        """A path from where the study's file is, where there is one; else the name as it is."""
        beside = self.path.parent / name
        return str(beside.resolve()) if beside.exists() else name

    def _product(
        self,
        checkpoints: Mapping[str, str],
        data: Mapping[str, DataPart],
        seeds: Sequence[int],
        parts: Mapping[str, tuple[RunPart, Node]],
        recipes: Mapping[tuple[str, str], Recipe],
    ) -> Iterator[StudyRun]:
        for (on, rows), checkpoint in product(data.items(), checkpoints):
            for seed, (name, (part, _)) in product(rows.seeds or seeds, parts.items()):
                if checkpoint in (part.checkpoints or checkpoints) and on in (part.data or data):
                    settings = (*part.settings, *part.settings_on.get(on, ()))
                    words = ["apply", self._recipe_path(part), "--model", checkpoints[checkpoint]]
                    words += ["--data", self._path(rows.data), "--seed", str(seed)]
                    words += [word for setting in settings for word in ("--set", setting)]
                    learnt, read = _options(rows, self._path)
                    recipe = replace(recipes[name, on], seed=seed)
                    yield StudyRun(checkpoint, on, name, seed, recipe, (*words, *learnt, *read), read)


def _data_options(rows: DataPart, path: Callable[[str], str]) -> DataOptions:
    return DataOptions(
        None if rows.text_columns is None else tuple(rows.text_columns.split(",")),
        rows.label_column,
        rows.task or "auto",
        None if rows.eval_data is None else path(rows.eval_data),
        rows.max_train_rows,
        rows.max_eval_rows,
    )


def _options(rows: DataPart, path: Callable[[str], str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options for learning alone, and those for reading rows at all."""
    given = {
        "--eval-data": None if rows.eval_data is None else path(rows.eval_data),
        "--text-columns": rows.text_columns,
        "--label-column": rows.label_column,
        "--task": rows.task,
        "--max-eval-rows": rows.max_eval_rows,
        "--max-tokens": rows.max_tokens,
    }
    read = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    learnt = () if rows.max_train_rows is None else ("--max-train-rows", str(rows.max_train_rows))
    return learnt, tuple(read)
