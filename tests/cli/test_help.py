"""What is quick: help, version and completion import neither torch nor transformers."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from compresskit import __version__
from compresskit.cli import cli
from compresskit.cli.options import Option

HEAVY = ("torch", "transformers", "datasets", "rich", "pydantic", "sklearn", "numpy")


def run(*arguments, code="import compresskit.cli; compresskit.cli.main()"):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_help_answers_at_once():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        shown = run("--help")
        seconds.append(time.perf_counter() - start)
        assert shown.returncode == 0
    # The best of three, because other work may share the machine.
    assert min(seconds) < 0.5
    for name in cli.commands:
        assert f"\n  {name} " in shown.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["apply", "--help"], ["completion", "bash"]])
def test_what_needs_no_model_imports_nothing_heavy(arguments):
    code = (
        "import sys, compresskit.cli\n"
        "try: compresskit.cli.main()\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    shown = run(*arguments, code=code)
    assert (shown.returncode, shown.stderr) == (0, "[]\n")


def test_python_m_compresskit_is_the_same():
    shown = subprocess.run(
        [sys.executable, "-m", "compresskit", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == f"compresskit, version {__version__}\n"


def test_every_command_and_option_says_what_it_is():
    for name, command in cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, Option):
                assert parameter.help or hasattr(parameter.type, "choices"), f"{name} {parameter.opts[0]}"


def test_hugging_face_spellings_mean_the_same_and_stay_out_of_the_help(command):
    shown = command("apply", "--help").stdout
    by_name = {name: parameter for parameter in cli.commands["apply"].params for name in parameter.opts}
    same = {
        "--model_name_or_path": "--model",
        "--model-name-or-path": "--model",
        "--output_dir": "--out",
        "--max_seq_length": "--max-tokens",
        "--train_file": "--data",
        "--dataset_name": "--data",
        "--validation_file": "--eval-data",
        "--text_column_names": "--text-columns",
        "--label_column_name": "--label-column",
        "--max_train_samples": "--max-train-rows",
        "--max_eval_samples": "--max-eval-rows",
        "--report_to": "--report-to",
    }
    for theirs, ours in same.items():
        assert by_name[theirs] is by_name[ours]
        assert theirs not in shown
        assert ours in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_a_shell(command, shell):
    assert "_COMPRESSKIT_COMPLETE" in command("completion", shell).stdout


@pytest.mark.parametrize(
    ("begun", "offered"),
    [("cost-eff-8x-l", ["plain,cost-eff-8x-labels"]), ("shape", ["plain,shape-8x"]), ("./mine", ["file,./mine"])],
)
def test_recipe_names_are_completed_or_else_files(begun, offered):
    # Bash forgets the names where files are offered after them.
    assert completed(begun).stdout.splitlines() == offered


def test_completion_says_nothing_of_what_is_wrong(monkeypatch):
    monkeypatch.setenv("COMPRESSKIT_PLUGINS", "nonsense")
    shown = completed("shape")
    assert (shown.stdout, shown.stderr) == ("file,shape\n", "")


def completed(begun):
    """What pressing the key after `compresskit apply` and these letters shows."""
    asked = {
        "_COMPRESSKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": f"compresskit apply {begun}",
        "COMP_CWORD": "2",
    }
    return subprocess.run(
        [sys.executable, "-c", "import compresskit.cli; compresskit.cli.main()"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | asked,
    )


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-c", "import compresskit.cli; compresskit.cli.main()", "completion", "bash"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() in (0, 1)
