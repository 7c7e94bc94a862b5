"""What exists is documented, what is documented exists, and links lead somewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import compresskit
from compresskit import testing
from compresskit.catalogue import HOOKS, load_catalogue
from compresskit.cli import cli
from compresskit.recipe import read_recipe
from compresskit.recipe_files import recipe_text, recipes_shipped
from compresskit.testing import apply_tiny
from compresskit.verbs import VERBS

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
SKIPPED = {".venv", "demo", "build", "dist"}
PAGES = sorted(
    path for path in ROOT.rglob("*.md")
    if not any(part in SKIPPED or part.startswith(".") for part in path.relative_to(ROOT).parts)
)  # fmt: skip
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def reference(name):
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def headings(name, level):
    return [line.removeprefix(f"{'#' * level} ") for line in reference(name).splitlines()
            if line.startswith(f"{'#' * level} ")]  # fmt: skip


def first_cells(text):
    """What stands in code in the first column of tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_strategies():
    entries = [entry for entry in load_catalogue([]).entries() if isinstance(entry.what, type)]
    assert sorted(headings("strategies", 3)) == sorted(entry.name for entry in entries)
    options = {field.name for entry in entries for field in dataclasses.fields(entry.what)}
    assert first_cells(reference("strategies")) == options


def test_architectures():
    names = set(load_catalogue([]).names("architecture"))
    assert names <= first_cells(reference("architectures"))
    known = (DOCS.parent / "README.md").read_text(encoding="utf-8").lower().replace("xlm-r,", "xlm-roberta,")
    assert all(name in known for name in names)


def test_hooks():
    assert {heading.partition("(")[0] for heading in headings("hooks", 2)[:-1]} == set(HOOKS)


def test_commands():
    assert headings("cli", 2)[:-2] == [f"compresskit {name}" for name in cli.commands]
    for name, command in cli.commands.items():
        section = reference("cli").partition(f"## compresskit {name}\n")[2].partition("\n## ")[0]
        for option in command.params:
            assert all(f"{spelling}" in section for spelling in option.opts if spelling.startswith("--")), option.opts


def test_verbs_and_recipes():
    found = headings("recipe", 2)
    assert found[: len(VERBS)] == list(VERBS)
    shipped = reference("recipe").partition("## Shipped recipes")[2]
    assert first_cells(shipped) == set(recipes_shipped())
    for verb in VERBS.values():
        assert set(verb.options()) <= first_cells(reference("recipe"))


def test_public_names():
    documented = headings("python", 3)
    assert documented == sorted([*compresskit.__all__]) + sorted(testing.__all__)
    for name in compresskit.__all__:
        assert getattr(compresskit, name) is not None


def test_errors():
    from compresskit import errors

    assert first_cells(reference("errors")) == {name for name in vars(errors) if name.endswith("Error")}


def test_recipes_named_in_pages_exist():
    named = {
        name for page in PAGES for name in re.findall(r"\b(?:cost-eff|shape)-[0-9a-z-]+[0-9a-z]", page.read_text())
    }
    assert named <= set(recipes_shipped())


def test_commands_named_in_pages_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?:`|\$ |^    )compresskit ([a-z]+(?:-[a-z]+)*)", text, flags=re.MULTILINE):
            assert name in cli.commands, f"{page.relative_to(ROOT)}: compresskit {name}"


def test_every_module_is_in_the_list_of_secrets():
    text = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8").partition("## Where each secret")[2]
    package = ROOT / "compresskit"
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert all((package / name).is_file() for name in named)
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert modules <= named


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for folder in ("tutorial", "how-to", "reference", "explanation"):
        for path in (DOCS / folder).iterdir():
            assert f"({folder}/{path.name})" in index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            assert anchor in map(slug, HEADING.findall(other.read_text(encoding="utf-8"))), target


def test_the_recipe_in_readme_is_the_demos():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("<!-- recipe -->\n```yaml\n")[2].partition("```\n<!-- /recipe -->")[0]
    assert shown == recipe_text("cost-eff-demo")
    assert readme.count("<!-- report -->") == readme.count("<!-- /report -->") == 1


def test_how_to_names_every_ablation():
    text = (DOCS / "how-to" / "ablations.md").read_text(encoding="utf-8")
    for name in recipes_shipped():
        if "Ablation" in read_recipe(name).about:
            assert f"`{name}`" in text


def test_what_apply_writes_is_described(tmp_path):
    report = apply_tiny("shape-8x", tmp_path)
    text = reference("formats")
    files = text.partition("## The folder that apply writes")[2].partition("\n## ")[0]
    for path in (tmp_path / "out").iterdir():
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in files
    record = json.loads((tmp_path / "out" / "compression.json").read_text(encoding="utf-8"))
    assert first_cells(text.partition("## compression.json")[2].partition("The edits:")[0]) == set(record)
    outline = text.partition("## report --json")[2].partition("```json\n")[2].partition("```")[0]
    described = json.loads(outline)
    assert set(described) == set(report.to_json())
    assert set(described["model"]) == set(report.to_json()["model"])


def test_the_reference_is_up_to_date_and_what_is_not_is_named(tmp_path):
    """`make check` looks too; here it is without plugins and on a narrow terminal, which must make no difference."""
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs" / "reference" / "errors.md").write_text("None known.\n", encoding="utf-8")
    (tmp_path / "docs" / "reference" / "wishes.md").touch()
    command = [sys.executable, str(tmp_path / "docs" / "generate.py"), "--check"]
    narrow = os.environ | {"COMPRESSKIT_PLUGINS": "", "COLUMNS": "40"}
    done = subprocess.run(command, env=narrow, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == [
        "docs/reference/errors.md is out of date; run `make docs`",
        "docs/reference/wishes.md is written by nobody; run `make docs` to remove it",
    ]
    assert (done.returncode, done.stdout) == (1, "")
