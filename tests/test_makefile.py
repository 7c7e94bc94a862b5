"""What README promises of make, as far as it can be seen without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=folder, env=kept, capture_output=True, text=True, check=False)


def repository(folder: Path) -> Path:
    """The Makefile and demo.sh in a folder whose .venv holds stand-ins that print how they were called."""
    for name in ("Makefile", "scripts/demo.sh", "pyproject.toml", "constraints.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "compresskit"):
        program = folder / ".venv" / "bin" / name
        program.write_text('#!/bin/sh\nprintf "[%s]" "${0##*/}" "$@"\necho\n', encoding="utf-8")
        program.chmod(0o755)
    (folder / ".venv" / "installed").touch()
    return folder


def test_the_demo_asks_about_the_sentences_that_were_typed(tmp_path: Path) -> None:
    done = make(repository(tmp_path), "demo", 'SENTENCES=It\'s "fine", for $5 & more. | -1 star |100% `joy`')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[python][scripts/prepare_demo.py][demo]",
        "[compresskit][apply][cost-eff-demo][--model][demo/checkpoint][--data][demo/data][--max-train-rows][4000][--out][demo/out]",
        '[compresskit][predict][demo/out][--text=It\'s "fine", for $5 & more.][--text=-1 star][--text=100% `joy`]',
    ]


def test_the_demo_has_three_sentences_of_its_own(tmp_path: Path) -> None:
    done = make(repository(tmp_path), "demo")
    assert done.stdout.splitlines()[-1].count("[--text=") == 3


def test_the_demo_without_a_sentence_says_how_to_give_some(tmp_path: Path) -> None:
    done = make(repository(tmp_path), "demo", "SENTENCES= | ")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == (
        "error: no sentence to classify; give some, as in: make demo SENTENCES='A joy.|Too long.|I liked it.'"
    )


def test_plugins_are_installed_too_and_may_be_absent(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    (folder / ".venv" / "installed").unlink()
    assert "-e '.[dev]' \n" in make(folder, "--dry-run", "check").stdout
    for name in ("compresskit-one", "compresskit-two"):
        (folder / "plugins" / name).mkdir(parents=True)
        (folder / "plugins" / name / "pyproject.toml").touch()
    (folder / "plugins" / "notes").mkdir()
    planned = make(folder, "--dry-run", "check").stdout
    assert "-e '.[dev]' -e ./plugins/compresskit-one -e ./plugins/compresskit-two\n" in planned


def test_ci_runs_what_readme_has() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "make test"
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
