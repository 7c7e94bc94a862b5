"""The tutorials and how-tos run as they are written, block by block, and print what they say that they print.

A block below `<!-- file: NAME -->` is written to that file. `python` blocks share one namespace, and a `text` block
right below one is its output. A `console` block has commands after `$ ` and their output; `...` stands for anything.
Commands that install or that run pytest are for the reader: here the plugin is installed, and its tests run by
themselves. An `sh` block has commands for models that are not here, of which only the options are checked.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import runpy
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from compresskit import catalogue
from compresskit.checkpoint import load
from compresskit.cli import cli
from compresskit.errors import CheckpointError
from compresskit.testing import apply_tiny, save_tiny

ROOT = Path(__file__).parent.parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
HOW_TOS = sorted((ROOT / "docs" / "how-to").glob("*.md"))
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


def check_command(line):
    """That there is such a command with such options."""
    words = shlex.split(line, comments=True)
    if words[0] != "compresskit" and "compresskit" in words:  # accelerate launch -m compresskit
        words = words[words.index("compresskit") :]
    if words[0] == "compresskit":
        command = cli.commands[words[1]]
        context = click.Context(command, info_name=words[1])
        options, _, _ = command.make_parser(context).parse_args(words[2:])
        assert all(option.name in options for option in command.params if option.required), line


def run_page(page):
    namespace = {"__name__": page.stem}
    found = blocks(page)
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
        elif block.language == "sh":
            for line in block.text.splitlines():
                check_command(line)
        else:
            assert block.language == "text", f"line {block.line}: nobody runs a {block.language} block"
    return namespace


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """Paths in the pages are relative, and tables are as wide as shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial(page):
    assert len(blocks(page)) > 5
    run_page(page)


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_how_to(page, tmp_path):
    if any(re.search(r'"OUT"', block.text) for block in blocks(page)):
        apply_tiny("shape-8x", tmp_path, layers=2)
        (tmp_path / "out").rename("OUT")
    namespace = run_page(page)
    if page.stem == "choose-a-threshold":
        again = namespace["AutoModelForSequenceClassification"].from_pretrained("OUT")
        assert again.policy.threshold == 0.2


def test_the_architecture_of_the_how_to_works(tmp_path, monkeypatch):
    page = next(page for page in HOW_TOS if page.stem == "add-an-architecture")
    run_page(page)
    module = tmp_path / "compresskit_camembert.py"
    assert module.is_file()
    metadata = tmp_path / "compresskit_camembert-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: compresskit-camembert\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[compresskit]\ncamembert = compresskit_camembert\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "camembert")
    catalogue._load_once.cache_clear()
    try:
        namespace = {}
        exec((tmp_path / "test_camembert.py").read_text(encoding="utf-8"), namespace)
        namespace["test_every_part_can_be_cut"](tmp_path)
    finally:
        catalogue._load_once.cache_clear()


def test_the_conversion_of_the_how_to_makes_a_pickle_readable(tmp_path, monkeypatch):
    run_page(next(page for page in HOW_TOS if page.stem == "start-from-published-weights"))
    folder = save_tiny(tmp_path / "model", "mobilebert")
    weights = load_file(folder / "model.safetensors")
    tied = weights["mobilebert.embeddings.word_embeddings.weight"]
    across = "mobilebert.encoder.layer.0.attention.self.query.weight"
    stored = weights | {"cls.predictions.decoder.weight": tied, across: weights[across].t().contiguous().t()}
    torch.save(stored, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="only as a pickle"):
        load(str(folder))
    monkeypatch.setattr("sys.argv", ["convert.py", str(folder)])
    runpy.run_path("convert.py", run_name="__main__")
    again = load(str(folder)).model.network.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


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
    with pytest.raises(click.NoSuchOption):
        check_command("compresskit plan shape-8x --model M --datum D")
    with pytest.raises(AssertionError):
        check_command("compresskit apply shape-8x --model M")
    with pytest.raises(KeyError):
        check_command("python -m compresskit squeeze M")
