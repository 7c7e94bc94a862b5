"""YAML text -> Recipe. Every mistake is found before a weight is loaded; all are reported at once with their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compresskit import yaml_tree
from compresskit.catalogue import Catalogue, load_catalogue, options_of
from compresskit.errors import RecipeError
from compresskit.interfaces import Strategy
from compresskit.recipe_files import RecipeFile, recipe_text
from compresskit.step_reader import StepReader
from compresskit.verbs import Finetune, Loss, Prune, Repeat, Training, Verb, plain
from compresskit.wording import did_you_mean, nearest, show
from compresskit.yaml_tree import Mistakes, Node

VERSION = 1
SEEDS = 2**32 - 1
"""The largest seed that every library below takes."""

TOP = ("recipe", "name", "about", "seed", "steps")


@dataclass(frozen=True)
class Recipe:
    """What to do to a model, in order.

    Args:
        seed: of everything random in the run.
        source: the path or name that it was read from.
    """

    name: str
    about: str
    seed: int
    steps: tuple[Verb, ...]
    source: str = field(default="", compare=False)

    def to_yaml(self) -> str:
        """The recipe with every default written out; `read_recipe` reads it back to an equal recipe."""
        head = {"recipe": VERSION, "name": self.name, "about": self.about, "seed": self.seed}
        return yaml_tree.write({**head, "steps": [_written(step) for step in self.steps]})


def read_recipe(path_or_name: str | Path, overrides: Sequence[str] = (), catalogue: Catalogue | None = None) -> Recipe:
    """Read a recipe file, or an installed recipe by its name.

    Args:
        overrides: `steps.3.epochs=1` and the like: dotted paths into the YAML, items numbered from 0, values in YAML.
        catalogue: where strategies are looked up; the installed ones by default.

    Raises:
        RecipeError: it can't be read or carried out; the message lists every mistake with its line.
    """
    source = str(path_or_name)
    mistakes = Mistakes()
    root = yaml_tree.read(recipe_text(source), mistakes)
    recipe = None
    if root is not None:
        for argument in overrides:
            yaml_tree.override(root, argument, mistakes)
        recipe = _recipe(root, source, catalogue or load_catalogue(), mistakes)
    if mistakes or recipe is None:
        raise RecipeError(mistakes.listing(source))
    return recipe


def about(file: RecipeFile) -> str:
    """What an installed recipe says of itself, or that it can't be carried out here."""
    try:
        return " ".join(read_recipe(file.path).about.split())
    except RecipeError:
        return f"Can't be carried out here; `compresskit check {file.name}` says why."


def needs_data(recipe: Recipe) -> bool:
    """Whether any step trains, or any strategy looks at data."""
    return any(_needs_data(step) for step in recipe.steps)


def _needs_data(step: Verb) -> bool:
    if isinstance(step, Repeat):
        return any(_needs_data(inner) for inner in step.steps)
    strategies = (value for value in dict(step).values() if isinstance(value, Strategy))
    return isinstance(step, Training) or any(strategy.needs_data for strategy in strategies)


def _recipe(root: Node, source: str, catalogue: Catalogue, mistakes: Mistakes) -> Recipe | None:
    if not isinstance(root.value, dict):
        mistakes.add(root.where, f"a recipe is a mapping with the keys {', '.join(TOP)}")
        return None
    top = root.value
    if "study" in top and "recipe" not in top:
        mistakes.add(top["study"].where, "this is a study, not a recipe; use compresskit sweep")
        return None
    for key, node in top.items():
        if key not in TOP:
            mistakes.add(node.where, f"unknown key '{key}'{did_you_mean(key, TOP)}")
    _check_version(top.get("recipe"), root, mistakes)
    name = _top(top, "name", str, Path(source).stem, mistakes)
    about = _top(top, "about", str, "", mistakes)
    seed = _top(top, "seed", int, 42, mistakes)
    if seed > SEEDS:
        mistakes.add(top["seed"].where, f"'seed' must be at most {SEEDS}, not {seed}")
    # Steps under a misspelt key are read all the same, for the mistakes in them.
    meant = next((node for key, node in top.items() if key not in TOP and nearest(key, TOP) == "steps"), root)
    steps = top.get("steps", meant)
    if not isinstance(steps.value, list) or not steps.value:
        mistakes.add(steps.where, "'steps' must be a list of at least one step")
        return None
    return Recipe(name, about, seed, StepReader(catalogue, mistakes).steps(steps.value, "steps", rounds=False), source)


def _check_version(node: Node | None, root: Node, mistakes: Mistakes) -> None:
    if node is None:
        mistakes.add(root.where, f"the line 'recipe: {VERSION}' is missing; it says which recipe format this is")
    elif node.plain() != VERSION or isinstance(node.value, bool):
        known = f"this compresskit reads format {VERSION}"
        mistakes.add(node.where, f"recipe format {show(node.plain())} is unknown; {known}")


def _top(top: Mapping[str, Node], key: str, kind: type[Any], default: Any, mistakes: Mistakes) -> Any:
    value = top[key].plain() if key in top else default
    if isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0):
        return value
    words = "text" if kind is str else "a whole number from 0"
    mistakes.add(top[key].where, f"'{key}' must be {words}, not {show(value)}")
    return default


def _written(step: Verb) -> Any:
    """A step as the mapping that a recipe has for it, the verb's key first."""
    if isinstance(step, Prune) and step.target == "layers":
        return {"prune": "layers", "keep": plain(step.keep)}
    result: dict[str, Any] = {}
    names = step.options()
    for key in sorted(names, key=lambda key: (key != step.name, key != "by")):
        value = getattr(step, names[key])
        if key in step.parts and value is None:
            continue
        if key in step.parts:
            result[key] = {value.name: _options(value)} if _options(value) else value.name
        elif isinstance(value, Strategy):
            result |= {key: value.name, "with": _options(value)}
        elif key in step.losses and not value:
            continue
        elif key in step.losses:
            result[key] = {name: _written_loss(loss) for name, loss in value.items()}
        elif isinstance(step, Repeat) and key == "steps":
            result[key] = [_written(inner) for inner in step.steps]
        else:
            result[key] = plain(value)
    return {"finetune": result} if isinstance(step, Finetune) else result


def _written_loss(loss: Loss) -> dict[str, Any]:
    banks = {"banks": list(loss.banks)} if loss.banks else {}
    return {"weight": loss.weight, "after": loss.after, **banks, "with": _options(loss.distiller)}


def _options(strategy: Strategy) -> Any:
    return options_of(type(strategy)).dump_python(strategy, mode="json")
