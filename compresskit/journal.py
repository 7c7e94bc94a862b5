"""What has been done in an output folder, step by step, so that a run that was stopped goes on where it was.

Each finished step is a folder `steps/NN-name`: a whole model and `step.json` with a digest of everything its result
depends on. Steps inside a repeat keep their weights only until the next one is done; their record stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compresskit.checkpoint import save
from compresskit.edits import Edit, edit_from_json, edit_to_json
from compresskit.errors import CompresskitError
from compresskit.model import CompressedForSequenceClassification
from compresskit.writing import saving

fcntl: Any = None
with suppress(ImportError):  # Windows has none
    import fcntl

STEP = "step.json"
RUN = "run.json"
WEIGHTS = "model.safetensors"


def digest(*parts: object) -> str:
    """A short fingerprint of JSON-able things."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """One finished step.

    Args:
        number, name: as in its folder's name.
        digest: of the recipe so far, the model, the data, the seed and the version.
        edits: that this step performed.
        saved: folders (relative to the output) of the models saved by name so far.
        seconds: of training, or of measuring importance, in this step.
        skipped: whether there was nothing to do.
    """

    number: int
    name: str
    digest: str
    edits: tuple[Edit, ...] = ()
    saved: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: bool = False

    @property
    def folder(self) -> str:
        """Relative to the output folder."""
        return f"steps/{self.number:02d}-{self.name}"

    def to_json(self) -> dict[str, Any]:
        """As `step.json` holds it."""
        return {
            "number": self.number,
            "name": self.name,
            "digest": self.digest,
            "edits": [edit_to_json(edit) for edit in self.edits],
            "saved": dict(self.saved),
            "seconds": self.seconds,
            "skipped": self.skipped,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Entry:
        """Read what `to_json` wrote."""
        edits = tuple(edit_from_json(edit) for edit in data["edits"])
        rest = {key: value for key, value in data.items() if key != "edits"}
        return Entry(edits=edits, **rest)


def hold(folder: Path) -> int | None:
    """Keep others out of a folder until `let_go`; where the system has no such locks, hope for the best.

    Raises:
        BlockingIOError: somebody else has it.
    """
    if fcntl is None:
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:
        os.close(lock)
        return None
    return lock


def let_go(lock: int | None) -> None:
    """Let others work in the folder that `hold` got."""
    if lock is not None:
        os.close(lock)


def at_work(out: Path) -> bool:
    """Whether a run is at work in an output folder."""
    if not out.is_dir():
        return False
    try:
        let_go(hold(out))
    except BlockingIOError:
        return True
    return False


@dataclass
class Journal:
    """The steps of one output folder.

    Args:
        out: the output folder.
        whole: digests of what the whole run depends on, by the names that its user has for it.
        digests: of all the steps of the plan, in order.
        names: of all the steps of the plan, in order.
        kept: whether each step's weights stay after the next one is done.
    """

    out: Path
    whole: Mapping[str, str]
    digests: Sequence[str]
    names: Sequence[str]
    kept: Sequence[bool]
    lock: int | None = None

    def open(self, reuse: Path | None) -> None:
        """Claim the folder for this run, and clear away what a kill left half-done.

        Args:
            reuse: another output folder, or a folder of some; of the one that has most of them, the first steps are
                taken over where they are the same.

        Raises:
            CompresskitError: the folder holds something else, another run is at work in it, or there is nothing to
                reuse.
        """
        others = [] if reuse is None else [reuse, *(sorted(reuse.iterdir()) if reuse.is_dir() else ())]
        others = [other for other in others if (other / RUN).is_file()]
        if reuse is not None and not others:
            told = "give an output folder of it, or a folder of such"
            raise CompresskitError(f"--reuse {reuse} was not written by compresskit apply; {told}")
        self._claim()
        self._lock()
        if others:
            self._adopt(max(others, key=lambda other: len(_resumable(other, self.digests, self.names))))
        done = self.done()
        for entry in done[:-1]:
            self._drop_weights(entry.number)
        wanted = {*(Path(entry.folder).name for entry in done), self.scratch(len(done) + 1).name}
        for stray in sorted((self.out / "steps").glob("*")):
            if stray.name not in wanted and stray.is_dir():
                shutil.rmtree(stray)

    def close(self) -> None:
        """Let others work in the folder."""
        let_go(self.lock)
        self.lock = None

    def is_finished(self, papers: Sequence[str]) -> bool:
        """Whether this very run has been here and has written its papers, which come last."""
        ours = _read(self.out / RUN) == self.whole
        return ours and all((self.out / paper).is_file() for paper in papers)

    def done(self) -> list[Entry]:
        """The finished steps, up to the last one whose weights are there."""
        return _resumable(self.out, self.digests, self.names)

    def commit(self, entry: Entry, model: CompressedForSequenceClassification, tokenizer: Any) -> None:
        """Write a finished step, whole or not at all, and drop what nothing will ask for again.

        Raises:
            CheckpointError: it could not be written; all before it is kept.
        """
        text = json.dumps(entry.to_json(), indent=1)
        save(model, tokenizer, self.out / entry.folder, {STEP: text})
        shutil.rmtree(self.scratch(entry.number), ignore_errors=True)
        if entry.number > 1:
            self._drop_weights(entry.number - 1)

    def scratch(self, number: int) -> Path:
        """Where the Trainer's checkpoints of a step are while it is under way."""
        return self.out / "steps" / f"training-{number:02d}"

    def _drop_weights(self, number: int) -> None:
        if not self.kept[number - 1]:
            (self.out / "steps" / f"{number:02d}-{self.names[number - 1]}" / WEIGHTS).unlink(missing_ok=True)

    def _claim(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise CompresskitError(f"--out {self.out} is a file; give a folder")
        scratch = self.out / f".{RUN}"
        inside = sorted(path.name for path in self.out.iterdir() if path != scratch) if self.out.is_dir() else []
        if RUN in inside:
            theirs = _read(self.out / RUN)
            differing = [name for name, ours in self.whole.items() if theirs.get(name) != ours]
            if differing:
                told = f"what differs: {', '.join(differing)}" if theirs else f"its {RUN} can't be read"
                raise CompresskitError(
                    f"--out {self.out} holds another run ({told}); "
                    f"give a new folder, with --reuse {self.out} to take over the steps that are the same"
                )
            return
        if inside:
            raise CompresskitError(
                f"--out {self.out} is not empty and was not written by compresskit apply ({inside[0]} is in it); "
                "give a new or empty folder"
            )
        with saving(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(dict(self.whole)), encoding="utf-8")
            scratch.replace(self.out / RUN)

    def _lock(self) -> None:
        """Keep other runs out until `close`."""
        try:
            self.lock = hold(self.out)
        except BlockingIOError as error:
            raise CompresskitError(
                f"--out {self.out}: another run is at work in it; wait until it is done, or give another folder"
            ) from error

    def _adopt(self, other: Path) -> None:
        """Link in the steps of another output folder that are the same as ours."""
        for entry in _resumable(other, self.digests, self.names):
            target = self.out / entry.folder
            if not (target / STEP).is_file():
                with saving(target):
                    beside = target.with_name(f".{target.name}.linking")
                    shutil.rmtree(beside, ignore_errors=True)
                    shutil.copytree(other / entry.folder, beside, copy_function=_link)
                    beside.rename(target)


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none; nothing where a run at work has just dropped the file."""
    with suppress(FileNotFoundError):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


def _resumable(out: Path, digests: Sequence[str], names: Sequence[str]) -> list[Entry]:
    """Finished steps from the first on, as far as their digests are the expected ones; the last one has its weights."""
    found = []
    for number, (expected, name) in enumerate(zip(digests, names, strict=True), start=1):
        data = _read(out / "steps" / f"{number:02d}-{name}" / STEP)
        if data.get("digest") != expected:
            break
        found.append(Entry.from_json(data))
    while found and not (out / found[-1].folder / WEIGHTS).is_file():
        found.pop()
    return found


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
