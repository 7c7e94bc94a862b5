"""What goes wrong: one sentence on stderr, nothing on stdout, and the right exit code."""

from __future__ import annotations

import pytest

import compresskit.apply
from compresskit import cli as module

WHAT = "give --input and --output, or --text"


def test_an_input_to_mend_is_one_sentence_and_exit_code_1(command, tmp_path):
    failed = command("report", tmp_path / "nowhere", code=1)
    assert failed.stdout == ""
    assert failed.stderr == (
        f"Error: model folder {tmp_path / 'nowhere'} does not exist; give a folder with config.json and "
        "model.safetensors, or a Hub id\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["apply", "shape-8x", "--out", "o"], "Missing option '--model'."),
        (["check", "r", "--sett", "a=1"], "No such option '--sett'. Did you mean '--set'?"),
        (["predict", "m"], WHAT),
        (["predict", "m", "--input", "i.csv"], WHAT),
        (["predict", "m", "--text", "t", "--input", "i.csv", "--output", "o.csv"], WHAT),
        (["predict", "m", "--text", "t", "--text-columns", "a"], "--text-columns goes with --input, not --text"),
        (["predict", "m", "--input", "i.csv", "--output", "o.csv", "--json"],
         "--json goes with --text; name an --output that ends in .jsonl"),
        (["predict", "m", "--text", "t", "--overwrite"], "--overwrite goes with --input, not --text"),
        (["predict", "m", "--text", "t", "--text", "u", "--text-pair", "v"],
         "1 --text-pair for 2 --text; give one for each"),
        (["report", "m", "--json", "--markdown"], "give --json or --markdown, not both"),
        (["evaluate", "m", "--data", "d", "--thresholds", "a"],
         "--thresholds a: give numbers with commas between, as in 0.1,0.3"),
        (["frobnicate"], "No such command 'frobnicate'."),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(command, arguments, complaint):
    failed = command(*arguments, code=2)
    assert failed.stdout == ""
    assert failed.stderr.endswith(f"Error: {complaint}\n")


def _interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupted_apply_says_what_is_kept(command, monkeypatch):
    monkeypatch.setattr(compresskit.apply, "apply", _interrupt)
    stopped = command("apply", "shape-8x", "--model", "m", "--out", "o", code=130)
    assert stopped.stdout == ""
    assert stopped.stderr == "Stopped. Finished steps are kept, and the same command goes on after them.\n"


def test_other_commands_just_stop(command, monkeypatch):
    monkeypatch.setattr("compresskit.recipe.read_recipe", _interrupt)
    assert command("check", "shape-8x", code=130).stderr == "Stopped.\n"


def test_an_interrupt_before_any_command_is_130_too(monkeypatch):
    monkeypatch.setattr(module, "cli", lambda **_: _interrupt())
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 130


def test_a_device_that_is_not_there(command, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    failed = command("evaluate", "m", "--data", "d", "--device", "cuda", code=1)
    assert failed.stderr == (
        "Error: --device cuda: torch sees no CUDA device here; use --device cpu or install a CUDA build of torch\n"
    )
