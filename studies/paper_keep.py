"""Keeps of a sweep of recipes/studies/paper.yaml what docs/results/paper.md needs: no texts and no paths."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paper_results import ROOT, STUDY, Run, accuracy, digits, rows_of, run_of
from ruamel.yaml import YAML

from compresskit.sweep.costs import flops_at_full_depth, mean_flops
from compresskit.sweep.runner import read_results
from compresskit.sweep.study import StudyRun
from compresskit.sweep.study_file import read_study

Json = dict[str, Any]
SLACK = 0.005
"""By how much answers may miss the scores: with other threads sums are rounded otherwise, and a row or two may turn."""


def keep(sweep: Path, folder: Path, study: Path = STUDY) -> Iterator[str]:
    """Write a file for each finished run of the study and one for the rows of each data set, and tell what was done.

    A run is left out where its recipe or its settings are not those of the study as it is now.

    Raises:
        ValueError: answers do not come to the scores, or are to other rows than another run's.
    """
    planned = {(run.data, run.name, run.seed): run for run in read_study(study).runs}
    for kind in ("rows", "runs"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for path in stale(folder, study):
        path.unlink()
        yield f"{path.stem}: removed, the study has it otherwise now"
    for line in read_results(sweep):
        data, name, seed = place = line["data"], line["run"], line["seed"]
        run = planned.get(place)
        if line["state"] != "done":
            yield f"{data} {name} {seed}: left out, it is not done ({line['state']})"
        elif run is None or not _as_planned(line, run, sweep):
            yield f"{data} {name} {seed}: left out, the study has no such run, or with another recipe or settings"
        else:
            answers = _answers(line, run, sweep)
            rows: Json = {"labels": digits(answers["labels"]), "tokens": answers["tokens"]}
            kept = _kept(line, run, answers) | _made_with(sweep / line["folder"])
            _check(run_of(kept, rows_of(rows)), f"{data} {name} {seed}")
            _write_rows(folder / "rows" / f"{data}.json", json.dumps(rows) + "\n")
            written = json.dumps(kept, indent=1) + "\n"
            (folder / "runs" / f"{data}-{name}-{seed}.json").write_text(written, encoding="utf-8")
            yield f"{data} {name} {seed}: kept"


def stale(folder: Path, study: Path = STUDY) -> list[Path]:
    """Files of runs that the study, as it is now, would not do so."""
    planned = {(run.data, run.name, run.seed): run for run in read_study(study).runs}

    def is_stale(path: Path) -> bool:
        kept = json.loads(path.read_text(encoding="utf-8"))
        run = planned.get((kept["data"], kept["run"], kept["seed"]))
        return run is None or kept["command"] != _public(run.command, run) or kept["recipe"] != _recipe(run)

    return [path for path in sorted(folder.glob("runs/*.json")) if is_stale(path)]


def _recipe(run: StudyRun) -> str:
    """Of what the recipe's file does, whatever words it has for it, so that the study's page knows when it changes."""
    path = Path(run.command[1])
    shipped = ROOT / "compresskit" / "recipes" / f"{run.command[1]}.yaml"
    told = YAML(typ="safe").load((path if path.suffix == ".yaml" else shipped).read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(told["steps"], sort_keys=True).encode()).hexdigest()[:16]


def _as_planned(line: Mapping[str, Any], run: StudyRun, sweep: Path) -> bool:
    recipe = (sweep / line["folder"] / "recipe.yaml").read_text(encoding="utf-8")
    return _public(line["command"], run) == _public(run.command, run) and recipe == run.recipe.to_yaml()


def _public(command: Sequence[str], run: StudyRun) -> list[str]:
    """A command of this run on some machine, with the paths of the study: the repository's, CHECKPOINT and DATA."""
    words, planned = list(command), list(run.command)
    recipe = Path(planned[1])
    words[1] = str(recipe.relative_to(ROOT)) if recipe.is_relative_to(ROOT) else str(recipe)
    for option in ("--model", "--data"):
        words[words.index(option) + 1] = planned[planned.index(option) + 1]
    return words


def _answers(line: Mapping[str, Any], run: StudyRun, sweep: Path) -> Json:
    """To every row at every exit; asked for anew where an earlier `evaluate` wrote those at the last exit alone."""
    told: Json = json.loads((sweep / f"{line['folder']}.answers.json").read_text(encoding="utf-8"))
    if "per_exit" in told:
        return told
    data = line["command"][line["command"].index("--data") + 1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.json"
        words = ["evaluate", str(sweep / line["folder"]), "--data", data, *run.rows, "--answers", str(path)]
        command = [sys.executable, "-m", "compresskit", *words, "--no-timing", "--quiet", "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        again: Json = json.loads(path.read_text(encoding="utf-8"))
        return again


def _write_rows(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{path} has other rows than this sweep was evaluated on; delete that folder and keep all anew"
        )
    path.write_text(text, encoding="utf-8")


def _kept(line: Mapping[str, Any], run: StudyRun, answers: Mapping[str, Any]) -> Json:
    report, evaluation = line["report"], line["evaluation"]
    return {
        **{key: line[key] for key in ("data", "checkpoint", "run", "seed", "state")},
        "command": _public(line["command"], run),
        "recipe": _recipe(run),
        "report": {side: _side(report[side]) for side in ("original", "model")},
        "seconds": {step["name"]: round(step["seconds"], 1) for step in report["steps"]},
        "evaluation": {key: value for key, value in evaluation.items() if key not in ("labels", "confusion")},
        "answers": {
            "per_exit": {layer: digits(said) for layer, said in answers["per_exit"].items()},
            "leaving_early": digits(answers["leaving_early"] or ()),
            "exits": digits(answers["exits"] or ()),
        },
    }


def _made_with(folder: Path) -> Json:
    """Versions of what its result depends on, and what the model was trained in."""
    record = json.loads((folder / "compression.json").read_text(encoding="utf-8"))
    return {"versions": record["versions"], "precision": record["run"]["precision"]}


def _side(side: Mapping[str, Any]) -> Json:
    """Sizes, and what each block costs."""
    blocks = [{key: block[key] for key in ("part", "layer", "macs")} for block in side["blocks"]]
    return {**{key: side[key] for key in ("parameters", "flops", "shape")}, "blocks": blocks}


def _check(run: Run, named: str) -> None:
    """That answers and where they leave come to about what the evaluation says."""
    evaluation, labels = run.line["evaluation"], run.rows.labels
    own = evaluation["operating_point"]
    pairs = [(accuracy(run.answers[each["exit"]], labels), each["accuracy"]) for each in evaluation["per_exit"]]
    if own:
        pairs.append((accuracy(run.early, labels), own["accuracy"]))
        whole = flops_at_full_depth(run.line["report"]["original"])
        said = whole / mean_flops(run.line["report"]["model"], own["histogram"])
        pairs.append((run.reduction(range(len(labels))), said))
    for found, said in pairs:
        if abs(found - said) > SLACK * said:
            raise ValueError(f"{named}: its answers come to {found}, its evaluation says {said}; run it again")
