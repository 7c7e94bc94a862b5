"""The papers that go with a finished model: its card, and where everything came from."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from compresskit import __version__
from compresskit.catalogue import load_catalogue
from compresskit.recipe import Recipe
from compresskit.report import Report, Side

PACKAGES = ("compresskit", "torch", "transformers", "datasets", "accelerate", "safetensors", "tokenizers")


def card(recipe: Recipe, base: str, report: Report) -> str:
    """The model card: front matter for the Hub, the before/after table, and the recipe.

    Args:
        recipe: what was done.
        base: folder or Hub id of the original.
        report: of the result.
    """
    front = ["---", "library_name: compresskit", "pipeline_tag: text-classification"]
    if not Path(base).exists():
        front.append(f"base_model: {base}")
    front += ["tags:", "- compresskit", *(["- early-exit"] if report.model.shape.exits else []), "---", ""]
    return "\n".join(
        [
            *front,
            f"# {Path(base).name}, compressed by {recipe.name}",
            "",
            recipe.about.strip(),
            "",
            f"Base model: `{Path(base).name}`. Made with compresskit {__version__}; `recipe.yaml` repeats it and",
            "`compression.json` says what was done.",
            "",
            replace(report, model=_named(report.model), original=_named(report.original)).to_markdown(),
            "",
            "## Use",
            "",
            "```python",
            "import compresskit",
            "from transformers import pipeline",
            "",
            'classify = pipeline("text-classification", "path/to/this/folder")',
            "```",
            "",
            "## Recipe",
            "",
            "```yaml",
            recipe.to_yaml().rstrip(),
            "```",
            "",
        ]
    )


def _named(side: Side | None) -> Any:
    """Where a folder lies on this machine is nobody else's business."""
    return replace(side, name=Path(side.name).name) if side is not None and Path(side.name).is_absolute() else side


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found = {package: metadata.version(package) for package in PACKAGES if package != "compresskit"}
    return {"compresskit": __version__} | found


def origins(recipe: Recipe) -> dict[str, str]:
    """Which distribution each strategy of the recipe came from."""
    catalogue = load_catalogue()
    found: dict[str, str] = {}
    for verb in recipe.steps:
        inner = getattr(verb, "steps", ())
        for strategy in [*verb.strategies(), *(each for step in inner for each in step.strategies())]:
            found[strategy.name] = str(catalogue.origin(type(strategy)))
    return found
