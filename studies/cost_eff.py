"""Runs COST-EFF on real tasks and keeps what was measured as JSON, one file a run.

Interrupt it at will and start it again.

    python studies/cost_eff.py --model CHECKPOINT --data DATA --work WORK [--only sst2 mrpc-42]

DATA holds glue/SST-2, glue/MRPC, glue/QNLI-dev-split and SICK, each with train.tsv and dev.tsv. WORK takes the models.
Results go to docs/results/cost-eff/; `python studies/cost_eff_page.py` makes the page from them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "cost-eff"
FINETUNE = Path(__file__).parent / "finetune.yaml"
RECIPES = ("cost-eff-8x", "cost-eff-2x")
CHOSEN = (
    "steps.1.head=mean-tanh",
    "steps.3.exit_learning_rate=1e-3",
    "steps.4.steps.3.by=[hidden-states, predictions]",
    "steps.5.by=[hidden-states, predictions]",
)
"""What is set in every run, chosen on rows held out of train: see docs/results/cost-eff/notes.md."""
MANY_ROWS = (
    "steps.4.steps.3.epochs=0.5",
    "steps.4.steps.3.learning_rate=2e-4",
    "steps.5.learning_rate=5e-4",
    "steps.6.learning_rate=2e-4",
)
"""For SST-2: half an epoch a round, as in the paper's settings for it."""
TEACHER = ("steps.0.finetune.epochs=1",)
"""For SST-2: the teacher learns apart, one epoch of all 67,349 rows; what comes after it sees 12,000 of them."""
FEW_ROWS = (
    "steps.0.finetune.batch_size=16",
    "steps.4.steps.3.learning_rate=1e-4",
    "steps.5.learning_rate=2e-4",
    "steps.6.learning_rate=1e-4",
)
"""For MRPC."""


@dataclass(frozen=True)
class Task:
    """One data set with one seed.

    Args:
        name: of the results.
        folder: below DATA.
        options: of `apply` that this data set needs.
        seed: of the recipe.
        schedule: what of the recipe is set for this data set.
        teacher: what is set to fine-tune the checkpoint apart, on all rows; where empty the recipe does it.
    """

    name: str
    folder: str
    options: tuple[str, ...]
    seed: int = 42
    schedule: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """The option for the length that texts are cut to."""
        return self.options[self.options.index("--max-tokens") :]


TASKS = (
    Task("sst2", "glue/SST-2", ("--max-train-rows", "12000", "--max-tokens", "64"), 42, MANY_ROWS, TEACHER),
    Task("mrpc-42", "glue/MRPC", ("--max-tokens", "72"), schedule=FEW_ROWS),
    Task("qnli", "glue/QNLI-dev-split", ("--max-tokens", "128")),
    Task("sick", "SICK", ("--max-tokens", "64")),
    Task("mrpc-43", "glue/MRPC", ("--max-tokens", "72"), 43, FEW_ROWS),
    Task("mrpc-44", "glue/MRPC", ("--max-tokens", "72"), 44, FEW_ROWS),
)


def main() -> None:
    """Do every run that has no result yet, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        if task.name in options.only:
            for recipe in options.recipes:
                if not (RESULTS / f"{task.name}-{recipe}.json").is_file():
                    run(task, recipe, options.model, options.data / task.folder, options.work)


def run(task: Task, recipe: str, model: Path, data: Path, work: Path) -> None:
    """Apply the recipe, evaluate teacher, assistant and result, write the JSON."""
    out, given = work / f"{task.name}-{recipe}", work / f"{task.name}-teacher"
    others = [work / f"{task.name}-{name}" for name in RECIPES if name != recipe]
    other = next((folder for folder in others if folder.is_dir()), None)
    places = {
        "CHECKPOINT": model,
        f"DATA/{task.folder}": data,
        "TEACHER": given,
        "OUT": out,
        "studies/finetune.yaml": FINETUNE,
    }
    shown = []
    if task.teacher:
        # On all rows, so without the options that draw some.
        shown.append([*words("studies/finetune.yaml", "CHECKPOINT", task, "TEACHER", task.teacher), *task.tokens])
    start = "TEACHER" if task.teacher else "CHECKPOINT"
    shown.append([*words(recipe, start, task, "OUT", (*CHOSEN, *task.schedule)), *task.options])
    real = [[str(places.get(word, word)) for word in line] for line in shown]
    for line in real[:-1]:
        command(line)
    resumed, began = (out / "steps").is_dir(), time.perf_counter()
    command([*real[-1], "--json", *(("--reuse", str(other)) if other else ())])
    apart = sorted(given.glob("steps/*/step.json")) if task.teacher else []
    steps = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("steps/*/step.json"))}
    saved = next(step["saved"] for step in reversed(steps.values()) if step["saved"])
    teacher = given if task.teacher else out / saved["teacher"]
    models = {"teacher": teacher, "assistant": out / saved["assistant"], "model": out}
    found = {
        name: json.loads(command(["evaluate", str(folder), "--data", str(data), *task.tokens, "--json"]))
        for name, folder in models.items()
    }
    record = json.loads((out / "compression.json").read_text())
    result = {
        "task": task.name,
        "recipe": recipe,
        "seed": task.seed,
        "commands": [shlex.join(["compresskit", *line]) for line in shown],
        # Of the whole run; what went before an interruption was not measured.
        "wall_seconds": None if resumed else time.perf_counter() - began,
        "teacher_seconds": sum(json.loads(path.read_text())["seconds"] for path in apart),
        "shared_steps_from": other.name if other else None,
        "seconds": {name: step["seconds"] for name, step in steps.items()},
        "evaluations": found,
        "record": {key: record[key] for key in ("versions", "report")},
    }
    text = json.dumps(result, indent=1)
    for place, name in ((model, "CHECKPOINT"), (given, "TEACHER"), (out, "OUT"), (work, "WORK")):
        text = text.replace(str(place), name)
    (RESULTS / f"{task.name}-{recipe}.json").write_text(text + "\n", encoding="utf-8")


def words(recipe: str, model: str, task: Task, out: str, settings: tuple[str, ...]) -> list[str]:
    """A command with placeholders for the places."""
    line = ["apply", recipe, "--model", model, "--data", f"DATA/{task.folder}", "--out", out]
    return [*line, "--seed", str(task.seed), *(word for setting in settings for word in ("--set", setting))]


def command(line: list[str]) -> str:
    """Run compresskit and return what it printed; its progress goes to the terminal."""
    done = subprocess.run([sys.executable, "-m", "compresskit", *line], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
