"""A new plugin installs, passes its own tests and runs in its recipe, whatever its kind."""

from __future__ import annotations

import ast
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


def test_the_name_of_the_distribution_is_made_from_the_plugins(tmp_path):
    found = run("--kind", "pruner", "--out", str(tmp_path / "there"), "compresskit-sharp")
    assert (found.exit_code, (tmp_path / "there").exists()) == (1, False)
    assert found.output == (
        "Error: the distribution is called compresskit-NAME by itself; give the name without it, as in sharp\n"
    )


OURS = f"compresskit {metadata.version('compresskit')}"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("taylor", f"'taylor' is the name of a strategy already ({OURS})"),
        (
            "margin",
            f"'margin' is the name of a strategy already (compresskit-margin {metadata.version('compresskit-margin')})",
        ),
        (
            "gates",
            f"'gates' is the name of a plugin already (compresskit-gates {metadata.version('compresskit-gates')})",
        ),
        ("cost-eff-8x", f"'cost-eff-8x' is the name of a recipe already ({OURS})"),
        ("null", "'null' is no text in YAML, where recipes would name it"),
    ],
)
def test_a_name_that_is_taken_is_refused(tmp_path, name, told):
    """Also by a plugin that is installed and not in use: pip would put the new one in its place."""
    found = run(name, "--kind", "exit", "--out", str(tmp_path / "there"))
    assert (found.exit_code, (tmp_path / "there").exists()) == (1, False)
    assert found.output == f"Error: {told}; choose another name\n"


@pytest.mark.parametrize(("name", "kind"), [("largest-head", "exit-head"), ("path", "pruner"), ("exit-policy", "exit")])
def test_a_name_may_be_that_of_something_in_the_templates(tmp_path, name, kind):
    """The class is called neither like what it imports nor like what it defines."""
    out = tmp_path / "there"
    assert run(name, "--kind", kind, "--out", str(out)).exit_code == 0
    module = f"compresskit_{name.replace('-', '_')}"
    for path in (out / module / "__init__.py", out / "tests" / f"test_{module}.py"):
        tree = ast.parse(path.read_text())
        bound = [
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        ]
        bound += [node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
        assert len(set(bound)) == len(bound)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    found = run("idea", "--kind", "pruner", "--out", str(tmp_path))
    assert found.exit_code == 1
    assert found.output == f"Error: {tmp_path} is there already and not empty; give another folder with --out\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
