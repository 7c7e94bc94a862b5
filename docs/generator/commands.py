"""The page about the command line, from click."""

from __future__ import annotations

import click

from compresskit import cli as module
from generator.parts import fenced, page, table

WIDTH = 100
EXIT_CODES = (
    ("0", "done"),
    ("1", "the input is wrong or the run failed; one sentence on stderr says what to do"),
    ("2", "the command was called in a way that it does not know"),
    ("130", "interrupted; finished steps are kept"),
)
ENVIRONMENT = (
    ("COMPRESSKIT_PLUGINS", "plugins to load, with commas between; empty for none; unset for all that are installed"),
    ("HF_HOME, HF_TOKEN, HF_HUB_OFFLINE ...", "as Hugging Face's libraries read them"),
    ("NO_COLOR, COLUMNS", "no colours; width of the tables"),
)  # fmt: skip


def cli() -> str:
    """Every command with its help, the other spellings of its options, exit codes and variables."""
    group = module.cli
    blocks = [_help(group, "compresskit")]
    for name, command in group.commands.items():
        blocks += [f"## compresskit {name}", _help(command, f"compresskit {name}"), _aliases(command)]
    return page(
        "Command line",
        "Results go to stdout, progress and messages to stderr.",
        *blocks,
        "## Exit codes",
        table(("code", "means"), EXIT_CODES),
        "## Environment",
        table(("variable", "what it does"), ((f"`{name}`", text) for name, text in ENVIRONMENT)),
    )


def _help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    return fenced(command.get_help(context), "text")


def _aliases(command: click.Command) -> str:
    """Options that go by other names too."""
    rows = [
        [f"`{option.opts[0]}`", ", ".join(f"`{other}`" for other in option.opts[1:])]
        for option in command.params
        if isinstance(option, click.Option) and len(option.opts) > 1
    ]
    return table(("option", "also"), rows) if rows else ""
