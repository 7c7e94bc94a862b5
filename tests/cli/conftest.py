"""Commands as a shell would run them, in this process; and one tiny model that has been compressed."""

from __future__ import annotations

import json
from functools import partial

import pytest
from click.testing import CliRunner

from compresskit.cli import cli
from compresskit.runtime import latency
from compresskit.testing import save_tiny, tiny_text


@pytest.fixture(autouse=True)
def _quick(quick_clock):
    """Nobody looks at the times."""


@pytest.fixture(scope="session")
def command():
    """Runs a command line and returns click's result: exit_code, stdout, stderr."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="compresskit")
        if result.exit_code != code:
            print(result.stderr)
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A fine-tuned model of six heads, which shape-8x can divide."""
    return save_tiny(tmp_path_factory.mktemp("original") / "m", layers=3, heads=6, hidden=48, neurons=96)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return tiny_text(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def compressed(command, original, tmp_path_factory):
    """What `compresskit apply shape-8x` makes of the original, as if its exits had been trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compresskit.speed.milliseconds", partial(latency.milliseconds, repeats=2, min_seconds=0))
        out = tmp_path_factory.mktemp("compressed") / "out"
        command("apply", "shape-8x", "--model", original, "--out", out, "--quiet")
    return as_if_trained(out)


def as_if_trained(folder, untrained=()):
    """The folder, of whose exits only these are said to be untrained."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"untrained": list(untrained)}), encoding="utf-8")
    return folder
