"""The tables of docs/results/paper.md."""

from __future__ import annotations

import shlex
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from paper_results import Results, Run, accuracy, data_of_study, f1

from compresskit.sweep.results import Cell, at_cost, cells, machines, plus_minus

TITLES = {"sst2": "SST-2", "mrpc": "MRPC", "qnli": "QNLI-dev-split"}
METRICS = {"sst2": ("accuracy",), "mrpc": ("f1", "accuracy"), "qnli": ("accuracy",)}
"""Where there is one figure, it is of the first."""
SIZES = ("8x", "2x")
SQUAT = {
    "layers": "layer-dropped student, fine-tuned",
    "distilbert": "DistilBERT-style",
    "tinybert": "TinyBERT without general distillation",
}
LEAVING = {
    "deebert": "DeeBERT at matched width",
    "pabee": "PABEE at matched width",
    "berxit": "BERxiT at matched width",
    "fastbert": "FastBERT at matched width",
}
METHODS = {**SQUAT, **LEAVING, "cofi": "CoFi", "cost-eff": "COST-EFF"}
WITH_EXITS = ("cost-eff", *LEAVING)
ABLATIONS = ("cost-eff-8x", "no-features", "labels", "no-exit-loss", "two-stage")
ELSEWHERE = (
    "DistilBERT with its own pre-training",
    "TinyBERT with general distillation",
    "MobileBERT",
    "BERT 8L-256H and 6L-768H, the pre-trained miniatures",
    "DeeBERT and PABEE on the pre-trained miniatures 12L-256H and 12L-512H",
    "ElasticBERT, and COST-EFF on it",
)
EQUAL = {"8x": (9.0, 10.0, 12.0, 16.0, 24.0, 32.0), "2x": (2.0, 2.5, 3.0, 4.0, 6.0, 8.0)}
"""FLOPs reductions at which ways to leave early are compared."""
LAYERS = range(1, 7)
TO_BE_RUN = "to be run"


def state(results: Results) -> Iterator[str]:
    """How much of the study is done."""
    names = {"original", *ABLATIONS, *(name for size in SIZES for name in sized(METHODS, size))}
    asked = sum(len(told["seeds"]) for told in data_of_study().values()) * len(names)
    done = sum(len(found) for found in results.runs.values())
    if done < asked:
        yield f'**{done} of {asked} runs are done.** What has no result yet says "{TO_BE_RUN}".'


def data_sets(results: Results) -> Iterator[str]:
    """What is learnt from and evaluated on."""
    rows = []
    for data, told in data_of_study().items():
        learnt = f"{told['max_train_rows']:,}" if "max_train_rows" in told else "all"
        found = results.rows.get(data)
        n, commonest = (f"{len(found.labels):,}", f"{found.commonest:.3f}") if found else (TO_BE_RUN, "")
        rows.append([TITLES[data], learnt, str(told["max_tokens"]), ", ".join(map(str, told["seeds"])), n, commonest])
    columns = ["data", "training rows", "tokens at most", "seeds", "n, rows evaluated on", "of the commonest class"]
    yield from table(columns, rows)


def table_3(results: Results) -> Iterator[str]:
    """Costs and scores at full depth, a table for each data set."""
    labels = {"original": "original, fine-tuned"}
    labels |= {f"{name}-{size}": f"{method} (`{name}-{size}`)" for size in SIZES for name, method in METHODS.items()}
    for data in TITLES:
        found = {label: results.on(data, [name]) for name, label in labels.items()}
        seed = seed_timed(results.runs.get(data, ()))
        rows = [[label, *(full_depth(runs, data, seed) if runs else [TO_BE_RUN])] for label, runs in found.items()]
        yield from heading(results, data)
        yield from table(["method", "parameters", "FLOPs", *METRICS[data], "ms, batch 1", "ms, batch 32"], rows)
        yield from ("", timed(results.runs.get(data, ())), "", *guessing(results, data))


def guessing(results: Results, data: str) -> Iterator[str]:
    """Whose mean accuracy is below that of always saying the commonest class."""
    commonest = results.rows[data].commonest if data in results.rows else 0.0
    names = dict.fromkeys(run.name for run in results.runs.get(data, ()))
    scores = {
        name: statistics.mean(statistics.mean(run.right("last")) for run in results.on(data, [name])) for name in names
    }
    below = [f"`{name}`" for name, score in scores.items() if score < commonest]
    if below:
        yield f"Less accurate than always saying the commonest class ({commonest:.3f}): {', '.join(below)}."
        yield ""


def full_depth(runs: Sequence[Run], data: str, seed: int | None) -> list[str]:
    """Reductions and scores of the seeds of one run, and milliseconds."""
    cell = cell_of(runs)
    last = [run.line["evaluation"]["per_exit"][-1] for run in runs]
    scores = [plus_minus([found[metric] for found in last], asked(data)) for metric in METRICS[data]]
    return [f"{cell.parameters:.2f}", f"{cell.flops:.2f}", *scores, *milliseconds(runs, seed, "full depth")]


def not_reproduced(_: Results) -> Iterator[str]:
    """Rows of the paper that exist only with somebody's own pre-training."""
    rows = [[name, "not reproduced: needs the published weights"] for name in ELSEWHERE]
    yield from table(["row of the paper", "state"], rows, words=(0, 1))


def equal_flops(results: Results) -> Iterator[str]:
    """Scores of the ways to leave early where they cost the same."""
    for data in TITLES:
        yield from heading(results, data, METRICS[data][0])
        for size in SIZES:
            found = {name: results.on(data, [name]) for name in sized(WITH_EXITS, size)}
            rows = [
                [name, *(at_equal_flops(cell_of(runs), EQUAL[size]) if runs else [TO_BE_RUN])]
                for name, runs in found.items()
            ]
            yield from table(["FLOPs reduction", *(f"{reduction:g}" for reduction in EQUAL[size])], rows)
            yield ""


def at_equal_flops(cell: Cell, reductions: Sequence[float]) -> list[str]:
    """The score at each reduction, the mean over seeds; empty outside of what was swept."""
    found = [at_cost(cell.curve, cell.whole / reduction) for reduction in reductions]
    return ["" if value is None else f"{value:.3f}" for value in found]


def dial(results: Results) -> Iterator[str]:
    """The operating point of each recipe."""
    for data in TITLES:
        found = {name: results.on(data, [name]) for size in SIZES for name in sized(WITH_EXITS, size)}
        seed = seed_timed(results.runs.get(data, ()))
        rows = [[name, *(as_set(runs, data, seed) if runs else [TO_BE_RUN])] for name, runs in found.items()]
        yield from heading(results, data)
        yield from table(["run", "dial", "FLOPs", *METRICS[data], "ms, batch 1", "ms, batch 32"], rows, words=(0, 1))
        yield from ("", timed(results.runs.get(data, ())), "")


def as_set(runs: Sequence[Run], data: str, seed: int | None) -> list[str]:
    """Dial, FLOPs reduction, scores and milliseconds of leaving early as the recipe says."""
    own = [run.line["evaluation"]["operating_point"] for run in runs]
    setting, cell = f"{own[0]['policy']['by']}, {own[0]['threshold']:g}", cell_of(runs)
    scores = [plus_minus([point[metric] for point in own], asked(data)) for metric in METRICS[data]]
    return [setting, f"{cell.flops_early:.2f}", *scores, *milliseconds(runs, seed, "leaving early")]


def exits(results: Results) -> Iterator[str]:
    """The score of each exit of all that have some."""
    names = [name for size in SIZES for name in sized(WITH_EXITS, size)]
    for data in TITLES:
        yield from per_exit(results, data, names)


def ablations(results: Results) -> Iterator[str]:
    """The same of COST-EFF and its ablations."""
    for data in TITLES:
        yield from per_exit(results, data, ABLATIONS)


def per_exit(results: Results, data: str, names: Sequence[str]) -> Iterator[str]:
    """The score of each exit, and their mean."""
    rows = []
    for name in names:
        runs = results.on(data, [name])
        if runs:
            cell = cell_of(runs)
            shown = [f"{cell.per_exit[layer]:.3f}" if layer in cell.per_exit else "" for layer in LAYERS[:-1]]
            rows.append(
                [name, *shown, plus_minus(cell.values, asked(data)), f"{statistics.mean(cell.per_exit.values()):.3f}"]
            )
        else:
            rows.append([name, TO_BE_RUN])
    yield from heading(results, data, METRICS[data][0])
    yield from table(["exit", *map(str, LAYERS), "mean"], rows)
    yield ""


def simple(results: Results) -> Iterator[str]:
    """Short rows beside all rows."""
    columns = ["run", "FLOPs, all", "short", "full depth, all", "short", "leaving early, all", "short"]
    for data, title in TITLES.items():
        found = {name: results.on(data, [name]) for size in SIZES for name in sized((*SQUAT, "cost-eff"), size)}
        n = (
            f" ({len(results.rows[data].simple):,} of {len(results.rows[data].labels):,})"
            if data in results.rows
            else ""
        )
        yield from (f"**{title}, short rows{n}, {METRICS[data][0]}**", "")
        yield from table(
            columns, [[name, *(on_simple(runs, data) if runs else [TO_BE_RUN])] for name, runs in found.items()]
        )
        yield ""


def on_simple(runs: Sequence[Run], data: str) -> list[str]:
    """FLOPs reduction leaving early, score at full depth, and score leaving early; each of all rows, then the short."""
    rows = runs[0].rows
    parts = (range(len(rows.labels)), rows.simple)
    score = {"accuracy": accuracy, "f1": f1}[METRICS[data][0]]

    def scores(answers: Sequence[Sequence[int]]) -> list[str]:
        return [
            plus_minus([score(pick(said, part), pick(rows.labels, part)) for said in answers], asked(data))
            for part in parts
        ]

    last = scores([run.answers[max(run.answers)] for run in runs])
    if not runs[0].exits:
        return [*[f"{cell_of(runs).flops:.2f}"] * 2, *last]
    costs = [f"{statistics.mean(run.reduction(part) for run in runs):.2f}" for part in parts]
    return [*costs, *last, *scores([run.early for run in runs])]


def spent(results: Results) -> Iterator[str]:
    """Hours of training, and how they spread over the data sets."""
    each = {data: hours(found) for data in TITLES if (found := results.runs.get(data))}
    if each:
        parts = ", ".join(f"{time:.1f} of {TITLES[data]}" for data, time in each.items())
        yield f"The steps of the runs above come to {sum(each.values()):.1f} hours of one thread, those that runs share"
        yield f"counted once: {parts}."


def hours(runs: Sequence[Run]) -> float:
    """Of all steps of these runs. A step is shared where it and all before it took the same tenths of a second."""
    steps = {}
    for run in runs:
        before: tuple[object, ...] = (run.line["seed"],)
        for step in run.line["seconds"].items():
            before = (*before, step)
            steps[before] = step[1]
    return sum(steps.values()) / 3600


def versions(results: Results) -> Iterator[str]:
    """What the runs were made with."""
    runs = [run.line for found in results.runs.values() for run in found]
    known = Counter(
        ", ".join([*(f"{name} {version}" for name, version in line["versions"].items()), line["precision"]])
        for line in runs
    )
    for told, count in known.items():
        yield from textwrap.wrap(f"Made with {told} ({count} of {len(runs)} runs).", 120)


def commands(results: Results) -> Iterator[str]:
    """What was done, a block for each data set."""
    names = ["original", *(name for size in SIZES for name in sized(METHODS, size)), *ABLATIONS[1:]]
    for data in TITLES:
        yield from heading(results, data)
        found = {name: runs for name in names if (runs := results.on(data, [name]))}
        if not found:
            yield from ("To be run.", "")
            continue
        yield "```console"
        for name, runs in found.items():
            seeds = ", ".join(str(run.line["seed"]) for run in runs)
            spent = statistics.mean(sum(run.line["seconds"].values()) for run in runs)
            yield f"# {name}, SEED {seeds}: {spent:,.0f} s"
            words = list(runs[0].line["command"])
            words[words.index("--seed") + 1] = "SEED"
            yield from wrapped(["$", "compresskit", *map(shlex.quote, words), "--out", "RUN"])
        yield from ("```", "")


def sized(methods: Sequence[str] | dict[str, str], size: str) -> list[str]:
    """Names of runs."""
    return [f"{method}-{size}" for method in methods]


def cell_of(runs: Sequence[Run]) -> Cell:
    """The seeds of one run put together."""
    (found,) = cells([run.line for run in runs], Path(), None)
    return found


def asked(data: str) -> int:
    """Seeds that the study asks for."""
    return len(data_of_study()[data]["seeds"])


def pick(values: Sequence[int], positions: Sequence[int]) -> list[int]:
    """The values there."""
    return [values[position] for position in positions]


def seed_timed(runs: Sequence[Run]) -> int | None:
    """The last seed of which every run was timed, one after the other, so that times compare; None without one."""
    missing = {run.line["seed"] for run in runs if not run.line["evaluation"]["milliseconds"]}
    return max({run.line["seed"] for run in runs} - missing, default=None)


def milliseconds(runs: Sequence[Run], seed: int | None, label: str) -> list[str]:
    """With that seed at batch 1 and 32, or that they are to be measured."""
    times = [time for run in runs if run.line["seed"] == seed for time in run.line["evaluation"]["milliseconds"]]
    found = {time["batch"]: f"{time['median']:.2f}" for time in times if time["label"] == label}
    return [found.get(batch, "to be measured") for batch in (1, 32)]


def timed(runs: Sequence[Run]) -> str:
    """Machine, threads and precision of the milliseconds, and the seed that they are of."""
    seed = seed_timed(runs)
    if seed is None:
        return "Milliseconds are measured once all runs are done."
    evaluations = [run.line["evaluation"] for run in runs if run.line["seed"] == seed]
    return f"Milliseconds are of seed {seed}, measured on {'; '.join(machines(evaluations))}."


def n_of(results: Results, data: str) -> str:
    """How many rows a data set is evaluated on, where that is known."""
    return f" (n = {len(results.rows[data].labels):,})" if data in results.rows else ""


def heading(results: Results, data: str, metric: str = "") -> Iterator[str]:
    """Of a data set, below a section."""
    yield from (f"**{TITLES[data]}{n_of(results, data)}{', ' if metric else ''}{metric}**", "")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> Iterator[str]:
    """In Markdown; columns stand to the right but those of words, and short rows are filled up."""
    yield table_line(columns)
    yield table_line(["---" if number in words else "---:" for number in range(len(columns))])
    for row in rows:
        yield table_line([*row, *[""] * (len(columns) - len(row))])


def table_line(row: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(row) + " |"


def wrapped(words: Sequence[str], width: int = 100) -> Iterator[str]:
    """A command on lines that a shell takes for one, broken before options."""
    parts = [words[0]]
    for word in words[1:]:
        if word.startswith("--"):
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(part) > width:
            yield f"{line} \\"
            line = f"    {part}"
        else:
            line += f" {part}"
    yield line
