"""Writes a plugin to start from: a distribution that installs, passes its own tests and runs in a recipe at once."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from ruamel.yaml import YAML

from compresskit.catalogue import load_catalogue
from compresskit.errors import CompresskitError
from compresskit.installed import entry_points, origin_of
from compresskit.recipe_files import recipes_installed
from compresskit.writing import saving

TEMPLATES = Path(__file__).parent
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new_plugin(name: str, kind: str, folder: Path) -> tuple[Path, ...]:
    """Write a distribution called `compresskit-NAME` with one strategy called NAME.

    Args:
        name: small letters, digits and hyphens.
        kind: `pruner`, `factorizer`, `exit`, `distiller`, `exit-head` or `masker`: a folder of templates beside this
            file.
        folder: new or empty.

    Returns:
        The files, relative to the folder.

    Raises:
        CompresskitError: the name is none or is taken, or the folder holds something.
    """
    if not NAME.fullmatch(name):
        raise CompresskitError(
            f"'{name}' is no name for a plugin; use small letters, digits and hyphens, as in my-score"
        )
    if name.startswith("compresskit-"):
        raise CompresskitError(
            f"the distribution is called compresskit-NAME by itself; give the name without it, as in "
            f"{name.removeprefix('compresskit-')}"
        )
    taken = _taken(name)
    if taken:
        raise CompresskitError(f"{taken}; choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CompresskitError(f"{folder} is there already and not empty; give another folder with --out")
    module = f"compresskit_{name.replace('-', '_')}"
    # With its kind the class is called like nothing that the templates import.
    strategy = "".join(part.capitalize() for part in (*name.split("-"), *kind.split("-")))
    words = {"name": name, "module": module, "strategy": strategy}
    written = {}
    for template in (*sorted((TEMPLATES / "common").iterdir()), *sorted((TEMPLATES / kind).iterdir())):
        target = PLACES[template.name.removesuffix(".template")].format(**words)
        written[target] = Template(template.read_text(encoding="utf-8")).substitute(words)
    with saving(folder):
        for target, text in written.items():
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return tuple(Path(target) for target in sorted(written))


def _taken(name: str) -> str | None:
    """What else this name stands for: as a strategy, an installed distribution, a recipe, or in any recipe's YAML."""
    for entry in load_catalogue().entries():
        if entry.name == name and isinstance(entry.what, type):
            return f"'{name}' is the name of a strategy already ({entry.origin})"
    for point in entry_points(None):
        if point.name == name or origin_of(point).distribution == f"compresskit-{name}":
            return f"'{name}' is the name of a plugin already ({origin_of(point)})"
    for recipe in recipes_installed():
        if recipe.name == name:
            return f"'{name}' is the name of a recipe already ({recipe.origin})"
    if YAML(typ="safe").load(name) != name:
        return f"'{name}' is no text in YAML, where recipes would name it"
    return None


PLACES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "strategy.py": "{module}/__init__.py",
    "recipe.yaml": "{module}/recipes/{name}.yaml",
    "test.py": "tests/test_{module}.py",
}
"""Where each template goes."""
