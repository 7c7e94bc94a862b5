"""The runs of a study, done by a stand-in for compresskit that takes no time; and one that is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from compresskit.cli import cli
from compresskit.errors import CompresskitError
from compresskit.sweep.plans import plans_of
from compresskit.sweep.runner import RESULTS, Sweep, finished, read_results, unfinished
from compresskit.sweep.study_file import read_study
from compresskit.testing import save_tiny, tiny_text

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

def after(flag, words=sys.argv):
    return words[words.index(flag) + 1]

diary = Path(os.environ["DIARY"])
told = {"words": sys.argv[1:], "threads": os.environ.get("OMP_NUM_THREADS"), "at": time.time()}
with diary.open("a") as file:
    file.write(json.dumps(told) + "\\n")
if sys.argv[1] == "apply":
    out = Path(after("--out"))
    if os.environ.get("KILLED", "nothing") in str(out):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("CRASHED", "nothing") in str(out):
        sys.exit("Traceback (most recent call last):\\nMemoryError")
    if os.environ.get("FAIL", "nothing") in str(out):
        print("step 1 of 3", file=sys.stderr)
        sys.exit("Error: half.yaml: 1 mistake\\n  line 3: no")
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps(sys.argv[1:]))
    if "RECIPE" in os.environ:
        (out / "recipe.yaml").write_text(os.environ["RECIPE"])
    taken = []
    for run in Path(after("--reuse")).glob("*/run.json") if "--reuse" in sys.argv else ():
        if after("--seed") == after("--seed", json.loads(run.read_text())):
            taken += [path.name for path in run.parent.glob("steps/*")]
    for number, name in enumerate(("finetune", "exit", "distill"), start=1):
        folder = out / "steps" / f"{number:02d}-{name}"
        if (folder / "step.json").is_file():
            continue
        if f"{number:02d}-{name}" not in taken:
            time.sleep(float(os.environ.get("PAUSE", "0")))
        folder.mkdir(parents=True)
        (folder / "step.json").write_text("{}")
    side = {"parameters": 100, "flops": {"flops_all": 10.0}}
    report = {"original": side, "model": {"parameters": 50, "flops": {"flops_all": 4.0}}}
    (out / "report.json").write_text("no" if "NO_REPORT" in os.environ else json.dumps(report))
else:
    told = {"task": "classification", "labels": [0, 1], "answers": [0, 0]}
    if "--timing" in sys.argv and "FAIL_TIMING" in os.environ:
        sys.exit("Error: no memory")
    if "--answers" in sys.argv:
        Path(after("--answers")).write_text(json.dumps(told))
    times = [{"label": "full", "batch": 1, "median": 2.0}] if "--timing" in sys.argv else []
    value = float(os.environ.get("TIMED_VALUE", "0.5")) if times else 0.5
    found = {"metric": "accuracy", "value": value, "operating_point": None, "sweep": [], "milliseconds": times}
    print(json.dumps(found))
"""

RECIPE = """\
recipe: 1
name: {name}
steps:
- finetune: {{epochs: 1}}
- {{exit: all, by: entropy, with: {{threshold: 0.3}}}}
- {{distill: teacher, by: predictions, epochs: {epochs}}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study of two recipes with the same first two steps, and the stand-in."""
    save_tiny(tmp_path / "model", trained=False)
    for name, epochs in (("one", 1), ("two", 2)):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(name=name, epochs=epochs))
    (tmp_path / "study.yaml").write_text(
        "study: 1\ncheckpoints: {tiny: model}\ndata: {text: rows}\nseeds: [1, 2]\nruns: [one.yaml, two.yaml]\n"
    )
    (tmp_path / "fake" / "compresskit").mkdir(parents=True)
    (tmp_path / "fake" / "compresskit" / "__init__.py").write_text("")
    (tmp_path / "fake" / "compresskit" / "__main__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.chdir(tmp_path)  # or `-m compresskit` would find the one where the tests were started
    monkeypatch.setenv("DIARY", str(tmp_path / "diary"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


class Watcher:
    def __init__(self):
        self.seen = []

    def show(self, rows):
        if rows not in self.seen[-1:]:
            self.seen.append(rows)


def sweep(place, jobs=1, machine=(), **how):
    study = read_study(place / "study.yaml").on(machine)
    watcher = Watcher()
    lines = Sweep(study, plans_of(study), place / "out", jobs, **how).carry_out(watcher)
    return lines, watcher.seen


def done(place, word="apply"):
    told = [json.loads(line) for line in (place / "diary").read_text().splitlines()]
    return [one for one in told if one["words"][0] == word]


def after(flag, one):
    return one["words"][one["words"].index(flag) + 1] if flag in one["words"] else None


def test_every_run_is_a_line_with_its_report_and_evaluation(place):
    lines, seen = sweep(place)
    assert [(line["run"], line["seed"], line["state"]) for line in lines] == [
        ("one", 1, "done"), ("two", 1, "done"), ("one", 2, "done"), ("two", 2, "done")
    ]  # fmt: skip
    assert lines == read_results(place / "out")
    assert all(line["evaluation"]["milliseconds"] for line in lines)
    assert lines[0]["report"]["model"]["parameters"] == 50
    assert seen[-1][0][-2:] == ("done", "accuracy 0.5000")
    assert seen[0][0][-2:] == ("running", "step 1 of 3")


def test_milliseconds_are_measured_alone_once_all_runs_are_done(place):
    sweep(place, jobs=4)
    asked = [json.loads(line)["words"] for line in (place / "diary").read_text().splitlines()]
    assert ["--timing" in words for words in asked] == [False] * 8 + [True] * 4
    assert all(("--no-timing" in words) != ("--timing" in words) for words in asked)


def test_steps_may_be_taken_over_from_every_run_there_is(place):
    sweep(place)
    assert [after("--reuse", one) for one in done(place)] == [None] + 3 * [str(place / "out" / "runs")]


def test_runs_that_this_sweep_is_not_asked_for_have_steps_too(place):
    """As those of another `--only`, or from before a setting was changed."""
    sweep(place)
    (place / "two.yaml").write_text(RECIPE.format(name="two", epochs=4))
    (place / "diary").write_text("")
    study = read_study(place / "study.yaml").only(["two"])
    Sweep(study, plans_of(study), place / "out").carry_out(Watcher())
    assert [after("--reuse", one) for one in done(place)] == [str(place / "out" / "runs")] * 2


def test_who_needs_steps_that_another_is_just_making_waits_for_them_alone(place, monkeypatch):
    """With a job for each run, the second of a seed begins once the first has made what they share, and not later."""
    monkeypatch.setenv("PAUSE", "1")
    sweep(place, jobs=4)
    at = {(after("--seed", one), Path(one["words"][1]).stem): one["at"] for one in done(place)}
    assert all(at[seed, "two"] - at[seed, "one"] > 1.9 for seed in "12")
    assert all(at[seed, "two"] - at[seed, "one"] < 3 for seed in "12")
    assert abs(at["1", "one"] - at["2", "one"]) < 0.9


def test_cores_are_shared_out_among_jobs_unless_the_user_did(place, monkeypatch):
    sweep(place, jobs=2)
    assert {one["threads"] for one in done(place)} == {str(max((os.cpu_count() or 1) // 2, 1))}
    timed = [one["threads"] for one in done(place, "evaluate") if "--timing" in one["words"]]
    assert timed == [None] * 4  # nothing else runs by then
    (place / "diary").unlink()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    study = read_study(place / "study.yaml")
    Sweep(study, plans_of(study), place / "again", 2).carry_out(Watcher())
    assert {one["threads"] for one in done(place)} == {"7"}


def test_a_launcher_starts_trainings_and_nothing_else(place):
    launcher = (sys.executable, "-X", "utf8")
    study = read_study(place / "study.yaml").on(("--device", "cpu"))
    begun = []
    popen = subprocess.Popen

    class Popen(popen):
        def __init__(self, words, **how):
            begun.append(tuple(words))
            super().__init__(words, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Popen)
        Sweep(study, plans_of(study), place / "out", launcher=launcher).carry_out(Watcher())
    assert {words[:3] for words in begun if "apply" in words} == {launcher}
    assert {words[:2] for words in begun if "evaluate" in words} == {(sys.executable, "-m")}
    assert all(words[-2:] == ("--device", "cpu") for words in begun)


def test_what_a_launcher_prints_is_no_report(place):
    script = place / "launch.sh"
    script.write_text('#!/bin/sh\necho "launching on node17"\nexec "$@"\n')
    script.chmod(0o755)
    lines, _ = sweep(place, launcher=(str(script), sys.executable))
    assert [line["state"] for line in lines] == ["done"] * 4
    assert all("launching on node17" in log.read_text() for log in (place / "out" / "runs").glob("*.log"))


def test_a_run_that_leaves_no_report_has_failed(place, monkeypatch):
    monkeypatch.setenv("NO_REPORT", "1")
    lines, _ = sweep(place)
    logs = [place / "out" / f"{line['folder']}.log" for line in lines]
    assert [line["error"] for line in lines] == [f"it ended without writing report.json; see {log}" for log in logs]


def test_two_names_for_the_same_are_two_runs(place):
    (place / "study.yaml").write_text(
        "study: 1\ncheckpoints: {tiny: model, twin: model}\ndata: {text: rows, again: rows}\n"
        "runs: [{recipe: one.yaml, name: a}, {recipe: one.yaml, name: b}]\n"
    )
    for _ in range(2):
        lines, _ = sweep(place)
        names = [(line["data"], line["checkpoint"], line["run"]) for line in lines]
        assert len(set(names)) == len(names) == 8
        assert [(line["data"], line["checkpoint"], line["run"]) for line in read_results(place / "out")] == names
    assert len(done(place)) == 8


def test_a_run_whose_speed_could_not_be_measured_is_done_all_the_same(place, monkeypatch):
    monkeypatch.setenv("FAIL_TIMING", "1")
    lines, _ = sweep(place)
    assert [line["state"] for line in lines] == ["done"] * 4
    assert lines[0]["timing_error"] == "no memory"
    assert lines[0]["evaluation"]["value"] == 0.5


def test_another_precision_is_another_run(place):
    sweep(place, machine=("--precision", "bf16"))
    (place / "diary").write_text("")
    sweep(place, machine=("--precision", "fp32"))
    assert len(done(place)) == 4


def test_the_score_is_that_of_the_answers_that_were_kept(place, monkeypatch):
    """With other threads, as where time is measured, it may come out otherwise."""
    monkeypatch.setenv("TIMED_VALUE", "0.25")
    lines, _ = sweep(place)
    assert [line["evaluation"]["value"] for line in lines] == [0.5] * 4
    assert all(line["evaluation"]["milliseconds"] for line in lines)


def test_speed_that_could_not_be_measured_is_measured_by_the_next_command(place, monkeypatch):
    monkeypatch.setenv("FAIL_TIMING", "1")
    sweep(place)
    monkeypatch.delenv("FAIL_TIMING")
    lines, _ = sweep(place)
    assert all(line["evaluation"]["milliseconds"] and "timing_error" not in line for line in lines)


def test_the_error_of_a_run_is_that_of_its_last_attempt(place, monkeypatch):
    monkeypatch.setenv("FAIL", "tiny-one-1")
    sweep(place)
    monkeypatch.setenv("FAIL", "nothing")
    monkeypatch.setenv("KILLED", "tiny-one-1")
    lines, _ = sweep(place)
    log = place / "out" / f"{lines[0]['folder']}.log"
    assert lines[0]["error"] == f"it was ended by SIGKILL; see {log}"
    monkeypatch.setenv("KILLED", "nothing")
    monkeypatch.setenv("CRASHED", "tiny-one-1")
    lines, _ = sweep(place)
    assert lines[0]["error"] == "MemoryError"


def test_two_sweeps_in_one_folder_keep_apart(place):
    holds = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); "
    holds += "print('held', flush=True); sys.stdin.read()"
    out = place / "out"
    out.mkdir()
    (out / RESULTS).touch()
    words = [sys.executable, "-c", holds, str(out)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CompresskitError) as error:
            sweep(place)
        other.stdin.close()
    assert str(error.value) == (
        f"--out {out}: another sweep is at work in it; wait until it is done, or give another folder"
    )
    assert not (place / "diary").exists()
    sweep(place)
    sweep(place)  # the first has let go of it


def test_a_recipe_that_changes_under_a_sweep_is_told(place, monkeypatch):
    study = read_study(place / "study.yaml")
    monkeypatch.setenv("RECIPE", study.runs[0].recipe.to_yaml())
    lines, _ = sweep(place)
    told = "its recipe was changed after the sweep began; the same command does it as it is now"
    assert [line.get("error") for line in lines] == [None, told, told, told]
    monkeypatch.delenv("RECIPE")
    lines, _ = sweep(place)  # with the recipe as it was again: what the other one left is out of the way
    assert [line["state"] for line in lines] == ["done"] * 4
    assert len(list(place.glob("out/runs/*-changed-*/steps"))) == 3


def test_a_failed_run_is_told_and_the_others_go_on(place, monkeypatch):
    monkeypatch.setenv("FAIL", "tiny-one-1")
    lines, seen = sweep(place)
    assert [line["state"] for line in lines] == ["failed", "done", "done", "done"]
    assert lines[0]["error"] == "half.yaml: 1 mistake\n  line 3: no"
    assert seen[-1][0][-2:] == ("failed", "half.yaml: 1 mistake")
    assert read_results(place / "out")[0]["state"] == "failed"
    study = read_study(place / "study.yaml")
    assert unfinished(study, place / "out") == "1 of 4 runs have no results yet. Failed: text tiny one 1."
    assert unfinished(study, place / "elsewhere") == "4 of 4 runs have no results yet."

    monkeypatch.setenv("FAIL", "nothing")
    (place / "diary").unlink()
    lines, _ = sweep(place)
    assert [line["state"] for line in lines] == ["done"] * 4
    assert [(Path(one["words"][1]).stem, after("--seed", one)) for one in done(place)] == [("one", "1")]
    assert len(read_results(place / "out")) == 4


def test_a_run_that_a_killed_sweep_left_behind_is_waited_for(place):
    study = read_study(place / "study.yaml")
    out = place / "out" / study.runs[0].folder
    out.mkdir(parents=True)
    (place / "out" / RESULTS).touch()
    holds = "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); "
    holds += "print('held', flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", holds, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        lines, seen = sweep(place)
    assert [line["state"] for line in lines] == ["done"] * 4
    assert seen[0][0][-2:] == ("waiting", "another process is at work in it")
    began = {after("--out", one): one["at"] for one in done(place)}
    assert began[str(out)] > min(began.values()) + 0.5


def test_what_is_done_is_told_as_the_study_is_now(place, monkeypatch):
    lines, _ = sweep(place)
    assert finished(read_study(place / "study.yaml"), place / "out") == lines
    (place / "two.yaml").write_text(RECIPE.format(name="two", epochs=9))  # what its runs did is of another recipe
    changed = read_study(place / "study.yaml")
    assert finished(changed, place / "out") == [lines[0], lines[2]]
    monkeypatch.setenv("FAIL", "tiny-two-1")
    sweep(place)
    assert [(line["run"], line["seed"]) for line in finished(changed, place / "out")] == [
        ("one", 1),
        ("one", 2),
        ("two", 2),
    ]


def test_what_is_done_is_not_done_again(place):
    sweep(place)
    (place / "diary").write_text("")
    lines, _ = sweep(place)
    assert [line["state"] for line in lines] == ["done"] * 4
    assert (place / "diary").read_text() == ""


def test_a_launcher_that_is_not_there_and_a_folder_of_others_are_refused(place):
    study = read_study(place / "study.yaml")
    with pytest.raises(CompresskitError) as error:
        Sweep(study, plans_of(study), place / "out", launcher=["nonsense"]).carry_out(Watcher())
    assert str(error.value) == "--launcher nonsense: there is no such command; install it or correct it"
    assert not (place / "out").exists()
    with pytest.raises(CompresskitError) as error:
        Sweep(study, plans_of(study), place / "model").carry_out(Watcher())
    assert str(error.value) == (
        f"--out {place / 'model'} was not written by compresskit sweep (config.json is in it); give a new folder"
    )


def test_results_of_others_are_left_alone(place):
    (place / "out").mkdir()
    (place / "out" / RESULTS).write_text('{"my": "work"}\n' * 3)
    with pytest.raises(CompresskitError) as error:
        sweep(place)
    assert str(error.value) == (
        f"--out {place / 'out'} was not written by compresskit sweep ({RESULTS} is in it); give a new folder"
    )
    assert (place / "out" / RESULTS).read_text() == '{"my": "work"}\n' * 3


def test_there_is_one_line_a_run_in_the_end(place):
    sweep(place)
    assert len((place / "out" / RESULTS).read_text().splitlines()) == 4


def test_a_line_that_a_kill_cut_short_is_written_again(place):
    sweep(place)
    path = place / "out" / RESULTS
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:-1]) + "\n" + whole[-1][:30])
    assert len(read_results(place / "out")) == 3
    lines, _ = sweep(place)
    assert [line["state"] for line in lines] == ["done"] * 4
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_line_that_lacks_only_its_end_counts(place):
    sweep(place)
    path = place / "out" / RESULTS
    path.write_text(path.read_text().rstrip("\n"))
    (place / "diary").unlink()
    sweep(place)
    assert not (place / "diary").exists()
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("line", ["{}", "1", '["a"]', "{"])
def test_a_line_that_is_no_runs_is_told(place, line):
    (place / "out").mkdir()
    (place / "out" / RESULTS).write_text(f"{line}\n{line}\n")
    with pytest.raises(CompresskitError) as error:
        read_results(place / "out")
    assert str(error.value) == f"{place / 'out' / RESULTS}, line 1, is not a run's; delete the line"


def test_a_launcher_with_an_open_quotation_mark_is_told(place):
    words = ["sweep", str(place / "study.yaml"), "--out", str(place / "out"), "--launcher", "accelerate 'launch"]
    tiny_text(place / "rows", 32, eval_rows=16)
    found = CliRunner().invoke(cli, words)
    assert found.output.endswith("Error: --launcher accelerate 'launch: a quotation mark is left open; close it\n")
    assert not (place / "out").exists()


@pytest.mark.parametrize("launched", [False, True], ids=["alone", "launched"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_stops_what_runs_and_goes_on_later(place, monkeypatch, how, launched):
    """Launchers start others and wait for them, and some don't hand on what they are told."""
    monkeypatch.setenv("PAUSE", "0.5")
    code = textwrap.dedent(
        """
        import signal
        import sys
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins without it
        from compresskit.sweep.plans import plans_of
        from compresskit.sweep.runner import Sweep
        from compresskit.sweep.study_file import read_study

        class Nobody:
            def show(self, rows):
                print(rows[0][-1], flush=True)

        study = read_study(Path(sys.argv[1]))
        launcher = [sys.executable, sys.argv[3]] if len(sys.argv) > 3 else []
        Sweep(study, plans_of(study), Path(sys.argv[2]), launcher=launcher).carry_out(Nobody())
        """
    )
    settings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = place / "go.py"
    script.write_text("import os\nos.environ['PYTHONPATH'] = " + repr(str(place / "fake")) + code)
    words = [sys.executable, str(script), str(place / "study.yaml"), str(place / "out")]
    if launched:
        (place / "launch.py").write_text("import subprocess, sys\nsubprocess.run([sys.executable, *sys.argv[1:]])\n")
        words.append(str(place / "launch.py"))
    with subprocess.Popen(words, env=settings, stdout=subprocess.PIPE, text=True) as process:
        assert any("step 2" in line for line in process.stdout)
        process.send_signal(how)
        process.stdout.read()
        assert process.wait() != 0
    steps = len(list(place.glob("out/runs/*/steps/*/step.json")))
    time.sleep(1.2)
    assert len(list(place.glob("out/runs/*/steps/*/step.json"))) == steps < 3  # nothing runs on
    monkeypatch.setenv("PAUSE", "0")
    lines, _ = sweep(place)
    assert [line["state"] for line in lines] == ["done"] * 4


def test_a_real_sweep(tmp_path):
    save_tiny(tmp_path / "model", trained=False)
    tiny_text(tmp_path / "rows", 32, eval_rows=16)
    (tmp_path / "one.yaml").write_text(RECIPE.format(name="one", epochs=3))
    (tmp_path / "study.yaml").write_text(
        "study: 1\ncheckpoints: {tiny: model}\ndata: {text: {data: rows, max_tokens: 24}}\nruns: [one.yaml]\n"
    )
    found = CliRunner().invoke(cli, ["sweep", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    (line,) = read_results(tmp_path / "out")
    assert line["state"] == "done"
    assert line["evaluation"]["metric"] == "accuracy"
    assert {time["batch"] for time in line["evaluation"]["milliseconds"]} == {1, 32}
    answers = json.loads((tmp_path / "out" / f"{line['folder']}.answers.json").read_text())
    assert len(answers["labels"]) == len(answers["answers"]) == len(answers["leaving_early"]) == 16
    right = sum(said == label for said, label in zip(answers["answers"], answers["labels"], strict=True))
    assert line["evaluation"]["value"] == right / 16
    assert max(len(row) for row in found.stdout.splitlines()) <= 80
