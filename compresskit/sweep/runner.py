"""Does the runs of a study in processes of their own, some side by side, and keeps one line of JSON for each.

Stopped at any moment, it goes on: a finished run is a line in `results.jsonl`, and a run that was under way continues
as `compresskit apply` does. Runs of one checkpoint, data set and seed take over each other's first steps where they are
the same (`apply --reuse` finds them), so a teacher or an assistant is trained once; who would need one that is just
being trained waits for it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from compresskit.errors import CompresskitError
from compresskit.journal import RUN, at_work, hold, let_go
from compresskit.plan import Plan
from compresskit.sweep.study import Study, StudyRun
from compresskit.writing import saving

RESULTS = "results.jsonl"
START = b'{"data": "'
"""What every line of them begins with."""
REPORT = "report.json"
RECIPE = "recipe.yaml"
State = Literal["waiting", "running", "evaluating", "timing", "done", "failed"]
BEAT = 0.2
"""Seconds between two looks at what runs."""


class Board(Protocol):
    """Someone who shows how far the runs are."""

    def show(self, rows: Sequence[tuple[str, ...]]) -> None:
        """One row a run: name, state, how far."""
        ...


@dataclass
class RunState:
    """One run on its way.

    Args:
        run: what is done.
        plan: its steps, for what it shares with others.
        line: what `results.jsonl` has of it, once it is done or failed.
        heard: bytes of the log before its process began.
    """

    run: StudyRun
    plan: Plan
    out: Path
    state: State = "waiting"
    line: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    files: list[TextIO] = field(default_factory=list)
    heard: int = 0

    @property
    def log(self) -> Path:
        """Where what the run says goes."""
        return self.out.with_name(f"{self.out.name}.log")

    @property
    def steps_done(self) -> int:
        """Steps that are committed to its folder."""
        return len(list(self.out.glob("steps/[0-9]*/step.json")))

    def shared(self, other: RunState) -> int:
        """How many first steps both have."""
        if self.run.group != other.run.group:
            return 0
        pairs = zip(self.plan.steps, other.plan.steps, strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    @property
    def told(self) -> tuple[str, ...]:
        """Its row on the board."""
        far = ""
        if self.state == "running":
            far = f"step {min(self.steps_done + 1, len(self.plan.steps))} of {len(self.plan.steps)}"
        elif self.state == "done":
            evaluation = self.line["evaluation"]
            far = f"{evaluation['metric']} {evaluation['value']:.4f}"
        elif self.state == "waiting" and at_work(self.out):
            far = "another process is at work in it"
        elif self.state == "failed":
            far = str(self.line["error"]).splitlines()[0]
        run = self.run
        return run.data, run.checkpoint, run.name, str(run.seed), self.state, far


class Sweep:
    """The runs of a study in a folder.

    Args:
        study: what is asked for.
        plans: of each run, by its folder.
        out: takes `results.jsonl`, and a folder and a log for each run.
        jobs: processes side by side.
        launcher: words before `python`'s own arguments, such as `accelerate launch`; empty for Python alone.
    """

    def __init__(
        self,
        study: Study,
        plans: Mapping[str, Plan],
        out: Path,
        jobs: int = 1,
        launcher: Sequence[str] = (),
    ) -> None:
        self.out = out
        self.jobs = jobs
        self.launcher = tuple(launcher) or (sys.executable,)
        self.all = [RunState(run, plans[run.folder], out / run.folder) for run in study.runs]
        before = {line["folder"]: line for line in (finished(study, out) if _is_ours(out / RESULTS) else ())}
        for one in self.all:
            if one.run.folder in before:
                one.state, one.line = "done", before[one.run.folder]
                one.line.pop("timing_error", None)  # what could not be measured is tried again

    def carry_out(self, board: Board) -> list[dict[str, Any]]:
        """Do what is left to do, and return the line of every run.

        Raises:
            KeyboardInterrupt: it was stopped, by the user or by the system; what runs is stopped too, and kept as far
                as it is.
        """
        lock = self._claim()
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            _mend(self.out / RESULTS)
            while any(one.state not in ("done", "failed") for one in self.all):
                for one in self.all:
                    if one.process is not None and one.process.poll() is not None:
                        self._ended(one)
                for one in self.all:
                    if self._running() < self.jobs and one.state == "waiting" and not self._must_wait(one):
                        self._apply(one)
                board.show([one.told for one in self.all])
                time.sleep(BEAT)
            self._time(board)
            self._tidy()
        finally:
            for one in self.all:
                if one.process is not None:
                    _terminate(one.process)
                self._close(one)
            let_go(lock)
            signal.signal(signal.SIGTERM, before)
        return [one.line for one in self.all]

    def _claim(self) -> int | None:
        """Begin, or go on, in a folder that nothing else is in, and keep other sweeps out of it until it is let go.

        Raises:
            CompresskitError: the folder holds something else, another sweep is at work in it, or the launcher is not
                there.
        """
        if shutil.which(self.launcher[0]) is None:
            raise CompresskitError(f"--launcher {self.launcher[0]}: there is no such command; install it or correct it")
        inside = sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []
        if self.out.is_file() or (inside and not _is_ours(self.out / RESULTS)):
            what = f"{inside[0]} is in it" if inside else "it is a file"
            raise CompresskitError(f"--out {self.out} was not written by compresskit sweep ({what}); give a new folder")
        with saving(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / RESULTS).touch()  # first, as it says whose folder this is
            (self.out / "runs").mkdir(exist_ok=True)
        try:
            return hold(self.out)
        except BlockingIOError:
            told = "wait until it is done, or give another folder"
            raise CompresskitError(f"--out {self.out}: another sweep is at work in it; {told}") from None

    def _running(self) -> int:
        return sum(one.process is not None for one in self.all)

    def _must_wait(self, one: RunState) -> bool:
        """Whether somebody is at work in its folder, as a sweep that was killed leaves them behind, or is just making
        steps that this run can take over, and further than it is itself.
        """
        if at_work(one.out):
            return True
        busy = [other for other in self.all if other.state == "running"]
        return any(max(one.steps_done, other.steps_done) < one.shared(other) for other in busy)

    def _apply(self, one: RunState) -> None:
        # All folders, for runs that this sweep is not asked for have steps too, such as those of another `--only`.
        before = any(run.parent != one.out for run in (self.out / "runs").glob(f"*/{RUN}"))
        reuse = ("--reuse", str(self.out / "runs")) if before else ()
        command = (*one.run.command, "--out", str(one.out), *reuse, "--no-timing", *one.run.machine)
        self._start(one, "running", command)

    def _start(self, one: RunState, state: State, command: Sequence[str], launcher: Sequence[str] = ()) -> None:
        one.state = state
        settings = dict(os.environ)
        if self.jobs > 1 and state != "timing":
            settings.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // self.jobs, 1)))
        log = one.log.open("a", encoding="utf-8")
        one.heard = log.tell()
        answer = self._answer(one).open("w", encoding="utf-8") if "--json" in command else log
        one.files = [log, answer]
        words = [*(launcher or self.launcher), "-m", "compresskit", *command]
        # In a session of its own, so that what a launcher starts can be stopped with it.
        one.process = subprocess.Popen(words, stdout=answer, stderr=log, env=settings, start_new_session=True)

    def _answer(self, one: RunState) -> Path:
        return one.out.with_name(f"{one.out.name}.json")

    def _close(self, one: RunState) -> None:
        for file in one.files:
            file.close()
        one.files, one.process = [], None

    def _ended(self, one: RunState) -> None:
        assert one.process is not None
        code = one.process.returncode
        self._close(one)
        if code and "evaluation" in one.line:
            # The scores are there; that its speed could not be measured makes no failure of it.
            self._write(one, "done", {"timing_error": _last_words(one, code)})
        elif code:
            self._write(one, "failed", {"error": _last_words(one, code)})
        elif one.state == "running" and _is_other(one):
            # Out of the way of the recipe that the folder is named after, should it come back.
            one.out.rename(one.out.with_name(f"{one.out.name}-changed-{time.time_ns()}"))
            told = "its recipe was changed after the sweep began; the same command does it as it is now"
            self._write(one, "failed", {"error": told})
        elif one.state == "running":
            # What a launcher prints is no report, so it is read where it is kept.
            report = self._read(one, one.out / REPORT)
            if report is not None:
                one.line["report"] = report
                one.line["seconds"] = sum(step["seconds"] for step in report.get("steps", []))
                self._evaluate(one, "evaluating", "--no-timing")
        else:
            evaluation = self._read(one, self._answer(one))
            if evaluation is not None:
                # With other threads an answer may come out otherwise, and `.answers.json` are those of the first.
                told = one.line.get("evaluation", evaluation)
                self._write(one, "done", {"evaluation": {**told, "milliseconds": evaluation["milliseconds"]}})

    def _read(self, one: RunState, path: Path) -> dict[str, Any] | None:
        """What a process wrote; where it didn't, the run has failed."""
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._write(one, "failed", {"error": f"it ended without writing {path.name}; see {one.log}"})
            return None
        return found

    def _evaluate(self, one: RunState, state: State, timing: str) -> None:
        data = one.run.command[one.run.command.index("--data") + 1]
        told: tuple[str, ...] = ()
        if state == "evaluating":
            answers = one.out.with_name(f"{one.out.name}.answers.json")
            answers.unlink(missing_ok=True)
            told = ("--answers", str(answers))
        words = ("evaluate", str(one.out), "--data", data, *one.run.rows, *told, timing, "--json")
        self._start(one, state, (*words, *one.run.machine), launcher=(sys.executable,))

    def _time(self, board: Board) -> None:
        """Measure milliseconds once nothing else runs, one after the other."""
        for one in self.all:
            if one.state == "done" and not one.line["evaluation"]["milliseconds"] and "timing_error" not in one.line:
                self._evaluate(one, "timing", "--timing")
                board.show([other.told for other in self.all])
                assert one.process is not None
                one.process.wait()
                self._ended(one)
                board.show([other.told for other in self.all])

    def _tidy(self) -> None:
        """One line a run, where there are older ones of the same run."""
        lines = [json.dumps(line) for line in read_results(self.out)]
        beside = self.out / f".{RESULTS}"
        with saving(self.out):
            beside.write_text("\n".join([*lines, ""]), encoding="utf-8")
            beside.replace(self.out / RESULTS)

    def _write(self, one: RunState, state: State, more: Mapping[str, Any]) -> None:
        run = one.run
        names = {"data": run.data, "checkpoint": run.checkpoint, "run": run.name, "seed": run.seed}
        about: dict[str, Any] = {"fingerprint": run.fingerprint, "folder": run.folder, "state": state}
        about |= {"command": list(run.command), "machine": list(run.machine)}
        one.state, one.line = state, {**names, **about, **one.line, "state": state, **more}
        with saving(self.out), (self.out / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(one.line) + "\n")


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and all that it started."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def _stop(*_: object) -> None:
    """A plain SIGTERM would leave the runs behind without anybody who waits for them."""
    raise KeyboardInterrupt


def finished(study: Study, out: Path) -> list[dict[str, Any]]:
    """The lines of those runs of a study that are done, in its order."""
    lines = {line["folder"]: line for line in read_results(out) if line["state"] == "done"}
    return [lines[run.folder] for run in study.runs if run.folder in lines]


def unfinished(study: Study, out: Path) -> str:
    """How many runs of a study have no results yet, and which have failed; empty where all are done."""
    states = {line["folder"]: line["state"] for line in read_results(out)}
    missing = [run for run in study.runs if states.get(run.folder) != "done"]
    failed = [run for run in missing if states.get(run.folder) == "failed"]
    told = f"{len(missing)} of {len(study.runs)} runs have no results yet." if missing else ""
    if failed:
        named = ", ".join(f"{run.data} {run.checkpoint} {run.name} {run.seed}" for run in failed)
        told += f" Failed: {named}."
    return told


def _is_ours(path: Path) -> bool:
    """Whether a file begins as the results of a sweep do, as far as it goes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return START.startswith(file.read(len(START)))


def _mend(path: Path) -> None:
    """Take away the beginning of a line that a kill cut short, or the next one would be written behind it."""
    text = path.read_bytes() if path.is_file() else b""
    whole, last = text[: text.rfind(b"\n") + 1], text[text.rfind(b"\n") + 1 :]
    if last:
        path.write_bytes(text + b"\n" if _folder_of(last) else whole)


def _folder_of(text: bytes | str) -> str | None:
    """The folder of the run that a line is of, or None where it is no such line."""
    try:
        return str(json.loads(text)["folder"])
    except (ValueError, TypeError, KeyError):
        return None


def read_results(out: Path) -> list[dict[str, Any]]:
    """The latest line of each run in a sweep's folder, in the order in which they were first written.

    Raises:
        CompresskitError: a line other than the last, which a kill may have cut short, can't be read.
    """
    path = out / RESULTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(lines, start=1):
        folder = _folder_of(text)
        if folder is not None:
            found[folder] = json.loads(text)
        elif number < len(lines):
            raise CompresskitError(f"{path}, line {number}, is not a run's; delete the line")
    return list(found.values())


def _is_other(one: RunState) -> bool:
    """Whether what was applied is not what the run's folder is named after."""
    applied = one.out / RECIPE
    return applied.is_file() and applied.read_text(encoding="utf-8") != one.run.recipe.to_yaml()


def _last_words(one: RunState, code: int) -> str:
    """The error that a process ended with: its last lines from `Error:` on, or the last line, or what killed it."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"it was ended by {name}; see {one.log}"
    said = one.log.read_bytes()[one.heard :].decode("utf-8", errors="replace")
    lines = [line for line in said.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    told = lines[starts[-1] :] if starts else lines[-1:]
    return "\n".join(told).removeprefix("Error: ") or f"it said nothing; see {one.log}"
