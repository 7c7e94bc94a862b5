"""A new plugin installs, passes its own tests and runs in its recipe, whatever its kind."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from compresskit.cli import cli
from compresskit.cli.options import KINDS
from compresskit.scaffold import TEMPLATES


def run(*words):
    return CliRunner().invoke(cli, ["new-plugin", *words])


def test_every_kind_has_its_templates():
    assert {path.name for path in TEMPLATES.iterdir() if path.is_dir()} - {"common", "__pycache__"} == set(KINDS)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """One plugin of each kind, in a folder each, and how to run Python where pip has installed them all."""
    root = tmp_path_factory.mktemp("plugins")
    folders = {kind: root / f"compresskit-my-{kind}" for kind in KINDS}
    for kind, folder in folders.items():
        assert run(f"my-{kind}", "--kind", kind, "--out", str(folder)).exit_code == 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(root / "site"), *map(str, folders.values())], check=True)
    own = {"PYTHONPATH": str(root / "site"), "COMPRESSKIT_PLUGINS": ",".join(f"my-{kind}" for kind in KINDS)}

    def python(*words, cwd=None):
        command, settings = [sys.executable, "-m", *words], os.environ | own
        return subprocess.run(command, cwd=cwd or root, env=settings, capture_output=True, text=True, check=False)

    return folders, python


def test_they_pass_their_own_tests(installed):
    """Each runs its recipe on a tiny model too."""
    folders, python = installed
    tests = python(
        "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib", *folders.values()
    )
    assert tests.returncode == 0, tests.stdout
    assert "passed" in tests.stdout and "failed" not in tests.stdout


def test_their_recipes_are_right_and_their_code_is_tidy(installed):
    folders, python = installed
    for kind, folder in folders.items():
        checked = python("compresskit", "check", f"my-{kind}")
        assert checked.returncode == 0, checked.stderr
        assert checked.stdout.startswith(f"my-{kind}: no mistakes in ")
        tidied = python("ruff", "check", "--isolated", "--line-length=120", ".", cwd=folder)
        assert tidied.returncode == 0, tidied.stdout


def test_it_tells_what_it_wrote_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = "compresskit-sharp"
    found = run("sharp", "--kind", "exit")
    assert found.exit_code == 0
    assert found.output.splitlines() == [
        "compresskit-sharp/README.md",
        "compresskit-sharp/compresskit_sharp/__init__.py",
        "compresskit-sharp/compresskit_sharp/recipes/sharp.yaml",
        "compresskit-sharp/pyproject.toml",
        "compresskit-sharp/tests/test_compresskit_sharp.py",
        f"Install it with: pip install -e {made} pytest. Then: compresskit strategies sharp; pytest {made}",
    ]
    files = [path for path in Path("compresskit-sharp").rglob("*") if path.is_file()]
    assert not any("$" in path.read_text(encoding="utf-8") for path in files)


@pytest.mark.parametrize("name", ["My-Idea", "2nd", "my_idea", "-x", "idea-", ""])
def test_other_names_are_refused(name, tmp_path):
    found = run("--kind", "pruner", "--out", str(tmp_path / "there"), "--", name)
    assert (found.exit_code, (tmp_path / "there").exists()) == (1, False)
    assert found.output == (
        f"Error: '{name}' is no name for a plugin; use small letters, digits and hyphens, as in my-score\n"
    )


def test_a_name_that_is_taken_is_refused(tmp_path):
    found = run("taylor", "--kind", "exit", "--out", str(tmp_path / "there"))
    assert (found.exit_code, (tmp_path / "there").exists()) == (1, False)
    origin = f"compresskit {metadata.version('compresskit')}"
    assert found.output == f"Error: there is a pruner called 'taylor' already ({origin}); choose another name\n"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    found = run("idea", "--kind", "pruner", "--out", str(tmp_path))
    assert found.exit_code == 1
    assert found.output == f"Error: {tmp_path} is there already and not empty; give another folder with --out\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
