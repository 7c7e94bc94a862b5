"""The page about study files and what `compresskit sweep` writes."""

from __future__ import annotations

from typing import Any

from compresskit.sweep.study_file import TOP, DataPart, Part, RunPart
from generator.parts import page, table, words

ABOUT = """\
A study is a YAML file for `compresskit sweep`; [Compare recipes](../how-to/compare-recipes.md) shows one. `--set`
changes a value as in recipes: `--set checkpoints.minilm=FOLDER`."""
LINES = (
    ("`data`, `checkpoint`, `run`, `seed`", "as the study calls them"),
    ("`state`", "`done` or `failed`"),
    ("`folder`", "the run's, below the sweep's; beside it are its log (`.log`) and its answers (`.answers.json`)"),
    (
        "`fingerprint`",
        "of recipe, options, rows, files of models, code of strategies, and versions; ends the folder's name",
    ),
    ("`command`, `machine`", "what `compresskit` was told, but for the folders"),
    ("`report`, `seconds`", "as `report.json` of the run, and the sum of its steps' seconds"),
    ("`evaluation`", "as `evaluate --json`; its milliseconds are measured when all runs are done"),
    ("`error`", "of a failed run, what it said"),
    ("`timing_error`", "where its speed could not be measured"),
)
ANSWERS = (
    ("`task`, `labels`", "the kind of task, and each row's label"),
    ("`tokens`", "of each row, without padding"),
    ("`answers`", "to each row at the last exit"),
    ("`per_exit`", "the same at every exit, by its layer from 1"),
    ("`leaving_early`, `exits`", "each row's answer where it left, and the layer; null where nobody leaves early"),
)


def studies() -> str:
    """Keys of a study, lines of `results.jsonl`, and answers."""
    return page(
        "Studies",
        ABOUT,
        table(("key", "meaning"), ((f"`{key}`", told) for key, told in TOP.items())),
        "## An entry of `data`",
        _options(DataPart),
        "## An entry of `runs`",
        _options(RunPart),
        "## results.jsonl\n\nOne line of JSON for each run:",
        table(("key", "meaning"), LINES),
        "## evaluate --answers, and the .answers.json of a run",
        table(("key", "meaning"), ANSWERS),
    )


def _options(part: type[Part]) -> str:
    schema: dict[str, Any] = part.model_json_schema()
    required = set(schema.get("required", []))
    rows = (
        (f"`{key}`", words(value), "required" if key in required else "", value["description"].replace("\n", " "))
        for key, value in schema["properties"].items()
    )
    return table(("key", "value", "", "meaning"), rows)
