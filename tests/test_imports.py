"""The import contracts of pyproject.toml, shown to catch a module that did not exist when they were written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUARDED = ("compresskit.strategies", "compresskit.architectures", "rich", "click", "datasets")
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


@pytest.mark.parametrize("place", ["intruder", "testing.intruder"])
def test_a_new_module_breaks_every_contract(tmp_path: Path, place: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "compresskit", tmp_path / "compresskit", ignore=shutil.ignore_patterns("__pycache__"))
    intruder = tmp_path / "compresskit" / (place.replace(".", "/") + ".py")
    hidden = "".join(f"    import {name}\n" for name in GUARDED)
    intruder.write_text(f"def late():\n{hidden}", encoding="utf-8")

    checked = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 1
    for name in GUARDED:
        assert f"- compresskit.{place} -> {name} (l." in checked.stdout
