"""Compares settings on rows held out of train, so that no choice sees the rows that are reported on.

Interrupt it at will and start it again.

    python studies/held_out.py --model CHECKPOINT --data DATA --work WORK [--workers 2] [--only exit-heads finetune]

DATA holds glue/SST-2, glue/MRPC, glue/QNLI-dev-split and SICK, each with train.tsv. WORK takes the rows and the models.
Each trial adds a line to docs/results/cost-eff/held-out.jsonl; `python studies/cost_eff_page.py` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice, product, takewhile
from pathlib import Path

from cost_eff import TEACHER, command

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results" / "cost-eff" / "held-out.jsonl"
HEAD = ("steps.1.head=mean-tanh", "steps.3.exit_learning_rate=1e-3")
GROWING = ("steps.4.steps.3.learning_rate=2e-5", "steps.4.steps.3.restore=0.12")
"""As in COST-EFF's released code the learning rate grows with every round; there it begins at 1e-5."""
ROUNDS = "steps.4.steps.3.by=[hidden-states, predictions]"
RECOVERY = "steps.5.by=[hidden-states, predictions]"


def finetunes(rates: Iterable[str], epochs: Iterable[int], *others: str) -> list[tuple[str, ...]]:
    """Settings of the fine-tuning, each rate with each number of epochs."""
    tuned = "steps.0.finetune"
    return [(f"{tuned}.epochs={n}", f"{tuned}.learning_rate={rate}", *others) for rate, n in product(rates, epochs)]


RATES = ("3e-5", "5e-5")
SMALL_BATCH = "steps.0.finetune.batch_size=16"
USUAL = [*finetunes(RATES, (2, 3, 4, 6)), *finetunes(("8e-5", "1e-4"), (4,))]
FINETUNES = (
    ("mrpc", 5, [*USUAL, *finetunes(RATES, (4, 6), SMALL_BATCH)]),
    ("qnli", 2, USUAL),
    ("sick", 2, USUAL),
    ("sst2", 1, [*finetunes(RATES, (1, 2, 4)), *finetunes(("5e-5",), (2,), SMALL_BATCH)]),
)
SCHEDULES: tuple[tuple[str, ...], ...] = (
    (*HEAD, *GROWING),
    (*HEAD, *GROWING, "steps.5.epochs=6", "steps.6.epochs=10"),
    (*HEAD, *GROWING, "steps.5.learning_rate=2e-4", "steps.6.learning_rate=1e-4"),
    (*HEAD, *GROWING, RECOVERY),
    (*HEAD, *GROWING, ROUNDS, RECOVERY),
    HEAD,
    (*HEAD, ROUNDS, RECOVERY),
)
CHOSEN = (*HEAD, ROUNDS, RECOVERY)
MEDIUM = ("steps.4.steps.3.learning_rate=1e-4", "steps.5.learning_rate=2e-4", "steps.6.learning_rate=1e-4")
FAST = ("steps.4.steps.3.learning_rate=2e-4", "steps.5.learning_rate=5e-4", "steps.6.learning_rate=2e-4")
FASTEST = ("steps.4.steps.3.learning_rate=5e-4", "steps.5.learning_rate=1e-3", "steps.6.learning_rate=5e-4")
WHOLE = ("steps.4.steps.3.epochs=1",)
LONG = ("steps.5.epochs=15", "steps.6.epochs=9")
LONGER = ("steps.5.epochs=20", "steps.6.epochs=12")
HEAVIER = ("steps.6.by={hidden-states: 1, predictions: 10}",)
ALONE = ("steps.6.by=predictions",)
LIGHTER = ("steps.6.by={hidden-states: 5, predictions: 1}",)
RELEASED = (
    "steps.4.steps.3.epochs=2",
    *GROWING[1:],
    "steps.4.steps.3.learning_rate=1e-5",
    "steps.5.epochs=20",
    "steps.5.learning_rate=3e-5",
    "steps.6.epochs=10",
    "steps.6.learning_rate=2e-5",
)
"""Lengths and rates of COST-EFF's released code for MRPC."""
FASTER: tuple[tuple[str, str, tuple[int, ...], tuple[tuple[str, ...], ...]], ...] = (
    ("sst2", "cost-eff-8x", (0,), ((), FAST, (*FAST, *WHOLE, *LONGER), (*FAST, *HEAVIER), (*FAST, *ALONE))),
    ("sst2", "cost-eff-8x", (0,), ((*FAST, *LIGHTER),)),
    ("mrpc", "cost-eff-8x", (0, 1, 2), ((), FAST)),
    ("mrpc", "cost-eff-8x", (1, 2), (MEDIUM, LONG, (*MEDIUM, *LONG), (*FAST, *LONG))),
    ("mrpc", "cost-eff-8x", (1,), (FASTEST, RELEASED)),
)
"""Each with the splits."""
GENTLE: tuple[tuple[str, ...], ...] = (
    ("steps.2.learning_rate=2e-5", "steps.3.learning_rate=2e-5"),
    ("steps.2.learning_rate=2e-5", "steps.3.learning_rate=2e-5", "steps.3.epochs=2", "steps.3.by=predictions"),
)
OWN = {"sst2": ("steps.4.steps.3.epochs=0.5",), "mrpc": (SMALL_BATCH,)}
"""What `studies/cost_eff.py` sets for a data set."""


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Args:
        folder: below DATA.
        train: rows to learn from.
        dev: rows to choose by.
        tokens: `--max-tokens`.
        phrases: most rows are parts of other rows, so whole sentences are held out, with all of their parts.
        teacher: the teacher of the studies `assistant` and `rates` learns apart, from all rows that are not held out.
    """

    folder: str
    train: int
    dev: int
    tokens: int
    phrases: bool = False
    teacher: bool = False


SOURCES = {
    "sst2-5000": Source("glue/SST-2", 5000, 1500, 64, phrases=True),
    "sst2": Source("glue/SST-2", 12000, 1500, 64, phrases=True, teacher=True),
    "mrpc": Source("glue/MRPC", 3267, 400, 72),
    "qnli": Source("glue/QNLI-dev-split", 3763, 700, 128),
    "sick": Source("SICK", 3800, 700, 64),
}


@dataclass(frozen=True)
class Trial:
    """One recipe with some settings on one split.

    Args:
        study: which comparison it belongs to.
        source: key of `SOURCES`.
        split: seed of the drawing of rows.
        seed: of the recipe.
        recipe: a shipped one, or a file in this folder.
        settings: for `--set`.
    """

    study: str
    source: str
    split: int
    seed: int
    recipe: str
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        """A folder's name that tells this trial from the others."""
        # What all rates share would make the name longer than a folder's may be.
        shared = (*CHOSEN, *OWN[self.source]) if self.study == "rates" else ()
        told = [setting for setting in self.settings if setting not in shared]
        name = "_".join([self.study, self.source, str(self.split), *told])
        return name.translate(str.maketrans("[]{}, :", "()()+-="))

    @property
    def commands(self) -> list[list[str]]:
        """With placeholders for the places; the last one makes what is compared."""
        rows, given = f"WORK/{self.source}-{self.split}", "CHECKPOINT"
        apart = []
        if SOURCES[self.source].teacher and self.study in ("assistant", "rates"):
            teacher = f"{rows}-teacher"
            apart, given = [self._apply("studies/finetune.yaml", given, f"{rows}-all", teacher, TEACHER)], teacher
        return [*apart, self._apply(self.recipe, given, rows, "OUT", self.settings)]

    def _apply(self, recipe: str, model: str, rows: str, out: str, settings: tuple[str, ...]) -> list[str]:
        words = ["apply", recipe, "--model", model, "--data", rows, "--out", out]
        words += ["--max-tokens", str(SOURCES[self.source].tokens), "--seed", str(self.seed)]
        return words + [word for setting in settings for word in ("--set", setting)]


def trials() -> Iterator[Trial]:
    """Everything that is compared."""
    heads: tuple[tuple[str, ...], ...] = ((), HEAD[:1], HEAD[1:], HEAD)
    for head in heads:
        yield Trial("exit-heads", "sst2-5000", 7, 42, "studies/exit-heads.yaml", head)
    for source, splits, settings in FINETUNES:
        for setting, split in product(settings, range(splits)):
            yield Trial("finetune", source, split, 42 + split, "studies/finetune.yaml", setting)
    for schedule, split in product(SCHEDULES, range(3)):
        yield Trial("schedule", "mrpc", split, 42 + split, "cost-eff-8x", schedule)
    for gentle in GENTLE:
        yield Trial("assistant", "sst2", 0, 42, "studies/assistant.yaml", gentle)
    for source, recipe, drawn, compared in FASTER:
        for rates, split in product(compared, drawn):
            yield Trial("rates", source, split, 42 + split, recipe, (*CHOSEN, *OWN[source], *rates))


def main() -> None:
    """Do every trial that has no line yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="trials side by side")
    parser.add_argument("--only", nargs="*", default=["exit-heads", "finetune", "schedule", "assistant", "rates"])
    parser.add_argument("--rows-only", action="store_true", help="write the rows of all trials, and do none")
    options = parser.parse_args()
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    done = {json.loads(line)["name"] for line in lines}
    asked = [trial for trial in trials() if trial.study in options.only]
    left = [trial for trial in asked if trial.name not in done]
    for source, split in sorted({(trial.source, trial.split) for trial in (asked if options.rows_only else left)}):
        hold_out(options.data / SOURCES[source].folder, options.work / f"{source}-{split}", SOURCES[source], split)
    if options.rows_only:
        return
    # The first trial on some rows makes what the others take over from it.
    first = {(trial.study, trial.source, trial.split): trial for trial in reversed(left)}
    for wave in (list(first.values()), [trial for trial in left if trial not in first.values()]):
        with ThreadPoolExecutor(options.workers) as pool:
            for finished in as_completed([pool.submit(run, trial, options.model, options.work) for trial in wave]):
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(finished.result() + "\n")


def hold_out(source: Path, target: Path, sizes: Source, split: int) -> None:
    """Draw without replacement from train.tsv; write train.tsv and dev.tsv, header kept."""
    header, *rows = (source / "train.tsv").read_text(encoding="utf-8-sig").splitlines()
    rows = random.Random(split).sample(rows, len(rows))  # noqa: S311 - not a secret
    if sizes.phrases:
        dev = list(islice(sentences(rows), sizes.dev))
        held = "\n".join(map(words, dev))
        rest = [row for row in rows if words(row) not in held]
        write(target.with_name(f"{target.name}-all"), header, rest, dev)
        train = rest[: sizes.train]
    else:
        train, dev = rows[: sizes.train], rows[sizes.train :][: sizes.dev]
    write(target, header, train, dev)


def write(folder: Path, header: str, train: list[str], dev: list[str]) -> None:
    """A folder that `--data` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.tsv", train), ("dev.tsv", dev)):
        (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def sentences(rows: list[str]) -> Iterator[str]:
    """Rows that end as a sentence does and are part of no other row."""
    everything = "\n".join(map(words, rows))
    for row in rows:
        if words(row).endswith(" . ") and everything.count(words(row)) == 1:
            yield row


def words(row: str) -> str:
    """The text of a row whose words are parted by spaces, a space at both ends."""
    return f" {row.split(chr(9), maxsplit=1)[0].strip()} "


def run(trial: Trial, model: Path, work: Path) -> str:
    """Apply the recipe and evaluate the teacher, the assistant and the result; one line of JSON."""
    out, data = work / trial.name, work / f"{trial.source}-{trial.split}"
    places = {"CHECKPOINT": str(model), "OUT": str(out)} | {
        f"studies/{path.name}": str(path) for path in HERE.glob("*.yaml")
    }
    for line in trial.commands:
        real = [places[word] if word in places else word.replace("WORK", str(work)) for word in line]
        command([*real, *(reuse(trial, work) if "OUT" in line else ())])
    steps = [json.loads(path.read_text()) for path in sorted(out.glob("steps/*/step.json"))]
    saved = {name: out / folder for step in steps for name, folder in step["saved"].items() if folder != "original"}
    models = {name: saved[name] for name in ("teacher", "assistant") if name in saved} | {"model": out}
    length = ["--max-tokens", str(SOURCES[trial.source].tokens), "--no-timing", "--json"]
    scores = {}
    for name, folder in models.items():
        found = json.loads(command(["evaluate", str(folder), "--data", str(data), *length]))
        scores[name] = [round(score["accuracy"], 4) for score in found["per_exit"]]
    shown = shlex.join(["compresskit", *trial.commands[-1]])
    record = json.loads((out / "compression.json").read_text())
    machine = record["report"]["model"]["milliseconds"][0]["processor"]
    found = {"name": trial.name, "command": shown, "machine": machine, "torch": record["versions"]["torch"]}
    return json.dumps(found | {"accuracy": scores})


def reuse(trial: Trial, work: Path) -> list[str]:
    """The option that takes over equal steps of the most like schedule on the same rows."""
    begun = work.glob(f"{trial.study}_{trial.source}_{trial.split}*/run.json")
    others = [path.parent for path in sorted(begun) if path.parent.name != trial.name]
    if not others:
        return []
    return ["--reuse", str(max(others, key=lambda other: alike(other.name, trial.name)))]


def alike(one: str, other: str) -> int:
    """How many letters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


if __name__ == "__main__":
    main()
