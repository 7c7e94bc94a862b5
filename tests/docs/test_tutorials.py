"""The tutorials run as they are written, block by block, and print what they say that they print.

A block below `<!-- file: NAME -->` is written to that file. `python` blocks share one namespace, and a `text` block
right below one is its output. A `console` block has commands after `$ ` and their output; `...` stands for anything.
Commands that install or that run pytest are for the reader: here the plugin is installed, and its tests run by
themselves.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from compresskit.cli import cli

ROOT = Path(__file__).parent.parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
PLUGIN = ROOT / "plugins" / "compresskit-margin"
BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
READERS_OWN = ("pip", "pytest")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    file: str | None
    line: int


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["text"], found["file"], text[: found.start()].count("\n") + 1)
        for found in BLOCK.finditer(text)
    ]


def says(want, got):
    """Whether the output is what the page shows; runs of spaces don't matter."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(want + "\n", got + "\n", flags)


def run_python(block, namespace, expected):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(block.text, f"line {block.line}", "exec"), namespace)
    if expected is not None:
        assert says(expected.text, output.getvalue()), output.getvalue()


def run_console(block):
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, want = part.partition("\n")
        program, *arguments = shlex.split(line)
        if program in READERS_OWN:
            continue
        assert program == "compresskit", line
        done = CliRunner().invoke(cli, arguments)
        wrong = want.startswith("Error: ")
        assert done.exit_code == (1 if wrong else 0), done.output
        if want:
            got = done.stderr if wrong else done.stdout
            assert says(want, got), f"$ {line}\n{got}"


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    namespace = {"__name__": page.stem}
    found = blocks(page)
    assert len(found) > 5
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.file is not None:
            path = Path(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            expected = following if following is not None and following.language == "text" else None
            run_python(block, namespace, expected)
        elif block.language == "console":
            run_console(block)
        else:
            assert block.language == "text", f"line {block.line}: nobody runs a {block.language} block"


def test_the_plugin_of_tutorial_2_is_the_one_in_plugins():
    files = {block.file: block.text for block in blocks(TUTORIALS[1]) if block.file is not None}
    assert {Path(name).suffix for name in files} == {".py", ".toml", ".yaml"}
    for name, text in files.items():
        assert text == (PLUGIN.parent / name).read_text(encoding="utf-8")
    written = {path.relative_to(PLUGIN.parent).as_posix() for path in PLUGIN.rglob("*") if path.is_file()}
    written = {name for name in written if "__pycache__" not in name}
    assert written == {*files, "compresskit-margin/README.md"}


def test_a_page_that_lies_is_caught():
    assert says("a ... c\n", "a\n  b c")
    assert not says("a ... d", "a b c")
    with pytest.raises(AssertionError):
        run_console(Block("console", "$ compresskit check shape-8x\nshape-8x: no mistakes in 7 steps\n", None, 1))
    with pytest.raises(AssertionError):
        run_python(Block("python", "print(1)", None, 1), {}, Block("text", "2", None, 2))


def test_the_reader_is_shown_commands_that_exist():
    commands = {
        line.split()[2] for page in TUTORIALS for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("$ compresskit")
    }  # fmt: skip
    assert commands <= set(cli.commands)
    assert {"check", "plan", "apply", "evaluate", "predict"} <= commands
