"""The recipes that a name stands for: compresskit's own, and those that plugins bring along."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from compresskit import __version__
from compresskit.errors import RecipeError
from compresskit.installed import Origin, entry_points, origin_of, plugins_named
from compresskit.wording import did_you_mean

FOLDER = "recipes"
"""In a package: each `*.yaml` in it is a recipe, called as the file is."""
OWN = Path(__file__).parent / FOLDER


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that has a name."""

    name: str
    path: Path
    origin: Origin


def recipes_installed() -> list[RecipeFile]:
    """Those of compresskit, then those of the plugins in use; of each in the order of their names.

    Raises:
        PluginError: COMPRESSKIT_PLUGINS names a plugin that is not installed.
    """
    found = dict.fromkeys([(OWN, Origin("compresskit", __version__)), *_folders()])
    return [RecipeFile(path.stem, path, origin) for folder, origin in found for path in _recipes_in(folder)]


def recipes_shipped() -> tuple[str, ...]:
    """Names of the recipes that come with compresskit itself."""
    return tuple(path.stem for path in _recipes_in(OWN))


def recipe_text(path_or_name: str) -> str:
    """The text of a recipe file (anything that exists or ends in .yaml or .yml) or of an installed recipe.

    Raises:
        RecipeError: there is none, or there are two of that name, or it is no text.
        PluginError: COMPRESSKIT_PLUGINS names a plugin that is not installed.
    """
    path = Path(path_or_name)
    if path.is_dir() or not path.exists():
        path = _named(path_or_name)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{path} can't be read ({error.strerror}); check its permissions") from error


def _recipes_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"), key=lambda path: path.stem)


def _named(name: str) -> Path:
    known = recipes_installed()
    found = [recipe for recipe in known if recipe.name == name]
    if len(found) > 1:
        places = " and ".join(f"{recipe.path} ({recipe.origin})" for recipe in found)
        raise RecipeError(f"recipes of the name '{name}' are {places}; give the path of the one that you mean")
    if not found and Path(name).is_dir():
        raise RecipeError(f"{name} is a folder; name the recipe file in it")
    if not found:
        what = f"recipe file {name}" if name.endswith((".yaml", ".yml")) else f"recipe '{name}'"
        names = list(dict.fromkeys(recipe.name for recipe in known))
        told = f"give a file, install the plugin that brings it, or take one of: {', '.join(names)}"
        raise RecipeError(f"there is no {what}{did_you_mean(name, names)}; {told}")
    return found[0].path


def _folders() -> Iterator[tuple[Path, Origin]]:
    """Where plugins may have recipes: a folder in their package. They are not imported, so this is quick."""
    for point in entry_points(plugins_named()):
        for package in _package(point):
            yield package / FOLDER, origin_of(point)


def _package(point: EntryPoint) -> list[Path]:
    """The folder of the outermost package of a plugin's module; none where the module is a single file, or gone."""
    spec = importlib.util.find_spec(point.module.partition(".")[0])
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
