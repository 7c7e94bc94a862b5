"""Carrying out a recipe on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compresskit.report import Report
from compresskit.testing.models import save_tiny
from compresskit.testing.text import tiny_text

if TYPE_CHECKING:
    from compresskit.verbs import Training


def apply_tiny(recipe: str | Path, folder: Path, *overrides: str, model_type: str = "bert", **sizes: Any) -> Report:
    """Apply a recipe to a tiny untrained model and a tiny text, on the processor, in seconds.

    Args:
        recipe: a path or the name of an installed recipe.
        folder: gets `model`, `data` and `out`, the result.
        overrides: as after `--set`, to shorten the training: `steps.0.finetune.epochs=0.5`.
        model_type, sizes: as for `tiny_model`.

    Raises:
        CompresskitError: the recipe can't be carried out.
        TypeError: a keyword is nothing that `tiny_model` takes.
    """
    # The trainer takes seconds to import, which tests of strategies alone should not pay.
    from compresskit.apply import apply
    from compresskit.data import DataOptions
    from compresskit.recipe import read_recipe
    from compresskit.run import Run

    model = save_tiny(folder / "model", model_type, trained=False, **sizes)
    data = tiny_text(folder / "data")
    return apply(read_recipe(recipe, overrides), str(model), str(data), DataOptions(), folder / "out", Run())


def trainings(recipe: str | Path) -> list[dict[str, Any]]:
    """What the training steps of a recipe say otherwise than the options' defaults; those inside a repeat once.

    A test that spells it out tells when a recipe is no longer the method it is named after. Losses are told by name, as
    (weight, distiller).

    Args:
        recipe: a path or the name of an installed recipe.

    Raises:
        RecipeError: it is none.
    """
    from compresskit.recipe import read_recipe
    from compresskit.verbs import Repeat, Training

    found = read_recipe(recipe).steps
    steps = [each for step in found for each in (step.steps if isinstance(step, Repeat) else (step,))]
    return [_said(step) for step in steps if isinstance(step, Training)]


def _said(step: Training) -> dict[str, Any]:
    options = {
        name: getattr(step, name)
        for name, field in type(step).model_fields.items()
        if name not in ("line", "label") and getattr(step, name) not in (field.default, None)
    }
    for name in set(step.losses) & set(options):
        options[name] = {key: (loss.weight, loss.distiller) for key, loss in options[name].items()}
    return options
