"""Makes docs/results/cost-eff.md and its plot from the JSON files in docs/results/cost-eff/.

python studies/cost_eff_page.py [--check]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cost_eff_targets import targets

HERE = Path(__file__).parent.parent / "docs" / "results"
NOTES = HERE / "cost-eff" / "notes.md"
PAGE, PLOT = HERE / "cost-eff.md", HERE / "cost-eff.png"
TITLES = {
    "sst2": "SST-2 (12,000 training rows, for the teacher all 67,349; all 872 dev rows)",
    "mrpc": "MRPC (3,667 training rows, all 408 dev rows)",
    "qnli": "QNLI-dev-split (4,463 training rows, 1,000 dev rows)",
    "sick": "SICK entailment (4,500 training rows, 2,000 dev rows)",
}
Result = dict[str, Any]
Table = Callable[[list[Result]], Iterator[str]]


def main() -> None:
    """Write the page, or check that it is what the results give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in sorted((HERE / "cost-eff").glob("*.json"))]
    text = "\n".join(page(results)) + "\n"
    if options.check:
        stale = f"{PAGE} is not what its results give; run python studies/cost_eff_page.py"
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else stale)
    PAGE.write_text(text, encoding="utf-8")
    if results:
        plot(results)


def page(results: list[Result]) -> Iterator[str]:
    """The page, line by line."""
    yield "# COST-EFF on real text"
    yield ""
    yield "Made by `python studies/cost_eff_page.py` from the files in [cost-eff/](cost-eff/), which"
    yield "`studies/cost_eff.py` writes."
    yield ""
    lines = (HERE / "cost-eff" / "held-out.jsonl").read_text(encoding="utf-8").splitlines()
    trials = sorted((json.loads(line) for line in lines), key=lambda trial: str(trial["name"]))
    for line in NOTES.read_text(encoding="utf-8").strip().splitlines():
        if line == "<!-- table: targets -->":
            yield from targets(results)
        else:
            table = TABLES.get(line)
            yield from table(trials) if table else (line,)
    if results:
        yield from ("", "![Accuracy against FLOPs reduction](cost-eff.png)")
    for family, title in TITLES.items():
        mine = [result for result in results if result["task"].split("-")[0] == family]
        if not mine:
            yield from ("", f"## {title}", "", "Not run yet.")
            continue
        yield from ("", f"## {title}", "")
        yield from models(mine)
        for result in mine:
            yield from details(result)


def exit_heads(trials: list[Result]) -> Iterator[str]:
    """Accuracy of every exit, one row a setting."""
    rows = [trial for trial in trials if trial["name"].startswith("exit-heads")]
    exits = len(rows[0]["accuracy"]["model"])
    yield table_line(["settings", "teacher", *(f"exit {number}" for number in range(1, exits + 1))])
    yield table_line(["---", *["---:"] * (1 + exits)])
    for trial in rows:
        scores = trial["accuracy"]["teacher"] + trial["accuracy"]["model"]
        yield table_line([settings(trial), *(f"{score:.4f}" for score in scores)])


def finetunes(trials: list[Result]) -> Iterator[str]:
    """Mean accuracy over the splits, one row a setting, one column a data set."""
    seen: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        study, source, *_ = trial["name"].split("_")
        if study == "finetune":
            seen.setdefault(settings(trial), {}).setdefault(source, []).append(trial["accuracy"]["model"][-1])
    counts: dict[str, int] = {}
    for found in seen.values():
        counts |= {source: len(scores) for source, scores in found.items()}
    splits = [f"{source} ({count} {'split' if count == 1 else 'splits'})" for source, count in counts.items()]
    yield table_line(["settings", *splits])
    yield table_line(["---", *["---:"] * len(counts)])
    for row, found in seen.items():
        yield table_line([row, *(f"{statistics.mean(found[s]):.4f}" if s in found else "" for s in counts)])


def last_exits(study: str, source: str, above: tuple[str, ...], shown: str = "model") -> Table:
    """A table of accuracy at the last exit, one row a setting, one column a split.

    Args:
        study, source: of the trials.
        above: models that all settings share, in the first rows.
        shown: the model that is compared.
    """

    def table(trials: list[Result]) -> Iterator[str]:
        seen: dict[str, dict[str, Result]] = {}
        for trial in trials:
            name = trial["name"].split("_")
            if name[:2] == [study, source]:
                seen.setdefault(settings(trial), {})[name[2]] = trial
        whole = max(seen.values(), key=len)
        means = ["mean"] if len(whole) > 1 else []
        yield table_line(["settings", *(f"split {split}" for split in whole), *means])
        yield table_line(["---", *["---:"] * len([*whole, *means])])
        rows = [(f"({name})", name, whole) for name in above]
        for row, name, mine in [*rows, *((row, shown, mine) for row, mine in seen.items())]:
            scores = [mine[split]["accuracy"][name][-1] if split in mine else None for split in whole]
            found = [score for score in scores if score is not None]
            cells = [*scores, *[statistics.mean(found) if len(found) == len(whole) else None for _ in means]]
            yield table_line([row, *("" if score is None else f"{score:.4f}" for score in cells)])

    return table


def settings(trial: Result) -> str:
    """What was set, as code; settings that all of a study share are left out."""
    words = trial["command"].split(" --set ")[1:]
    shown = [word.strip("'") for word in words]
    shared = {"schedule": 2, "rates": 5}.get(trial["name"].split("_")[0], 0)
    shown = shown[shared:]
    return "<br>".join(f"`{setting}`" for setting in shown) or ("what all share" if shared else "as the recipe stands")


TABLES: dict[str, Table] = {
    "<!-- table: exit heads -->": exit_heads,
    "<!-- table: fine-tuning -->": finetunes,
    "<!-- table: schedules -->": last_exits("schedule", "mrpc", ("teacher", "assistant")),
    "<!-- table: gentle assistants -->": last_exits("assistant", "sst2", (), "assistant"),
    "<!-- table: rates, SST-2 -->": last_exits("rates", "sst2", ("assistant",)),
    "<!-- table: rates, MRPC -->": last_exits("rates", "mrpc", ("assistant",)),
}


def models(results: list[Result]) -> Iterator[str]:
    """One row a model, at full depth."""
    metrics = [name for name in last(results[0]["evaluations"]["teacher"]) if name not in ("exit", "matthews")]
    yield table_line(["seed", "model", "parameters", "FLOPs reduction", *metrics])
    yield table_line(["---", "---", "---:", "---:", *["---:"] * len(metrics)])
    values: dict[str, list[dict[str, float]]] = {}
    for result in results:
        report = result["record"]["report"]
        before, after = report["original"], report["model"]
        rows = {"teacher (the original, fine-tuned)": ("teacher", before["parameters"], 1.0)}
        rows["assistant"] = ("assistant", None, None)
        reduction = before["flops"]["flops_all"] / after["flops"]["flops_all"]
        rows[result["recipe"]] = ("model", after["parameters"], reduction)
        for name, (key, count, less) in rows.items():
            found = last(result["evaluations"][key])
            seen = values.setdefault(name, [])
            if any(entry["seed"] == result["seed"] for entry in seen):
                continue
            seen.append({"seed": result["seed"], **{metric: found[metric] for metric in metrics}})
            cells = [str(result["seed"]), name, f"{count:,}" if count else "", f"{less:.2f}" if less else ""]
            yield table_line([*cells, *(f"{found[metric]:.4f}" for metric in metrics)])
    for name, seen in values.items():
        if len(seen) > 1:
            columns = [[entry[metric] for entry in seen] for metric in metrics]
            means = [f"{statistics.mean(column):.4f} ± {statistics.stdev(column):.4f}" for column in columns]
            yield table_line([f"mean of {len(seen)}", name, "", "", *means])
    yield ""
    yield "Scores at the last exit; FLOPs (`flops_all`) of one example of 128 tokens at full depth; ± is one standard"
    yield "deviation over seeds."


def details(result: Result) -> Iterator[str]:
    """Per exit, sweep, times and the command of one run."""
    found = result["evaluations"]
    model = found["model"]
    metrics = [name for name in model["per_exit"][0] if name not in ("exit", "matthews")]
    yield from (
        "",
        f"### {result['recipe']}, seed {result['seed']}",
        "",
        "```console",
        *(f"$ {line}" for line in result["commands"]),
        "```",
        "",
    )
    counts = model["confusion"]["last_exit"]
    majority = max(sum(row) for row in counts) / sum(map(sum, counts))
    yield f"Every example answered at one exit (always the commonest class: accuracy {majority:.4f}):"
    yield ""
    yield table_line(["exit", *(f"assistant {m}" for m in metrics), *(f"{result['recipe']} {m}" for m in metrics)])
    yield table_line(["---:"] * (1 + 2 * len(metrics)))
    for theirs, ours in zip(found["assistant"]["per_exit"], model["per_exit"], strict=True):
        scores = [f"{side[m]:.4f}" for side in (theirs, ours) for m in metrics]
        yield table_line([str(ours["exit"]), *scores])
    yield from ("", "Leaving early by entropy:", "")
    yield table_line(["threshold", *metrics, "mean exit", "FLOPs reduction"])
    yield table_line(["---:"] * (3 + len(metrics)))
    for point in model["sweep"]:
        scores = [f"{point[m]:.4f}" for m in metrics]
        costs = [f"{point['mean_exit']:.2f}", f"{point['flops_reduction']:.2f}"]
        yield table_line([f"{point['threshold']:g}", *scores, *costs])
    yield from ("", "Measured milliseconds per example:", "")
    report = result["record"]["report"]
    yield table_line(["model", "", "batch", "mean tokens", "median", "quartiles"])
    yield table_line(["---", "---", "---:", "---:", "---:", "---:"])
    for name, side in (("original", report["original"]), (result["recipe"], report["model"])):
        for t in side["milliseconds"]:
            spread = f"{t['low']:.2f} to {t['high']:.2f}"
            yield table_line([name, t["label"], str(t["batch"]), str(t["tokens"]), f"{t['median']:.2f}", spread])
    times = report["model"]["milliseconds"][0]
    yield ""
    threads = f"{times['threads']} {'thread' if times['threads'] == 1 else 'threads'}"
    beside = ", another run beside it" if times["threads"] == 1 else ""
    yield f"On {times['processor']}, {threads}{beside}, {times['dtype']}, with the rows' real lengths."
    spent = {name: seconds for name, seconds in result["seconds"].items() if seconds}
    shared = f" (the steps shared with {result['shared_steps_from']} included)" if result["shared_steps_from"] else ""
    yield ""
    yield f"Training time{shared}: " + "; ".join(f"{name} {seconds:,.0f} s" for name, seconds in spent.items()) + "."
    yield f"In all {sum(spent.values()) / 60:.1f} minutes" + (
        f", and {result['teacher_seconds'] / 60:.1f} before them for the teacher." if result["teacher_seconds"] else "."
    )
    if result["wall_seconds"]:
        own = " without the steps shared" if result["shared_steps_from"] else ""
        yield f"With scores, report and three evaluations{own} {result['wall_seconds'] / 60:.1f} minutes went by."


def last(evaluation: dict[str, Any]) -> dict[str, float]:
    """Scores at the last exit."""
    found: dict[str, float] = evaluation["per_exit"][-1]
    return found


def table_line(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def plot(results: list[Result]) -> None:
    """Accuracy against FLOPs reduction along the sweep, one panel a task; marks and dashes differ too, for grey."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    families = [family for family in TITLES if any(result["task"].split("-")[0] == family for result in results)]
    panels = max(len(families), 1)
    figure, axes = plt.subplots(1, panels, figsize=(4.2 * panels, 3.6), squeeze=False)
    styles = {"cost-eff-2x": ("#0072B2", "o-"), "cost-eff-8x": ("#D55E00", "s--")}
    for axis, family in zip(axes[0], families, strict=True):
        for result in results:
            if result["task"].split("-")[0] == family:
                colour, line = styles[result["recipe"]]
                sweep = result["evaluations"]["model"]["sweep"]
                label = f"{result['recipe']}, seed {result['seed']}"
                xs, ys = [p["flops_reduction"] for p in sweep], [p["accuracy"] for p in sweep]
                axis.plot(xs, ys, line, color=colour, label=label, markersize=4, linewidth=1)
                teacher = last(result["evaluations"]["teacher"])["accuracy"]
                axis.axhline(teacher, color="grey", linewidth=0.7, linestyle=":")
                axis.set_title(f"{family} (n = {result['evaluations']['model']['rows']})")
        axis.set_xlabel("FLOPs reduction (times)")
        axis.set_ylabel("accuracy")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
