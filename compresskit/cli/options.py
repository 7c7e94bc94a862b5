"""What the commands share: options under all their spellings, and errors as one sentence."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compresskit.errors import CompresskitError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from compresskit.terminal import Terminal

Command = Callable[..., Any]


class Commands(click.Group):
    """Turns errors and interrupts into one sentence on stderr and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are defined."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command: exit code 1 for what the user can mend, 130 when interrupted."""
        try:
            return super().invoke(ctx)
        except CompresskitError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            kept = " Finished steps are kept, and the same command goes on after them."
            click.echo(f"Stopped.{kept if ctx.invoked_subcommand in ('apply', 'sweep') else ''}", err=True)
            ctx.exit(130)


class Option(click.Option):
    """An option of which only the first spelling is shown; the others are Hugging Face's names for the same thing."""

    @contextmanager
    def _first_alone(self) -> Iterator[None]:
        every, self.opts = self.opts, self.opts[:1]
        try:
            yield
        finally:
            self.opts = every

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As click does, without the other spellings."""
        with self._first_alone():
            return super().get_help_record(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """As click does, without the other spellings."""
        with self._first_alone():
            return super().get_error_hint(ctx)


SEEDS = 2**32 - 1
KINDS = ("pruner", "factorizer", "exit", "distiller", "exit-head", "masker")
MOST_GIGABYTES = 2**20


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option; each name may be spelt with hyphens or with underscores."""
    both = [spelling for name in names for spelling in (name, _swap(name, "-", "_"), _swap(name, "_", "-"))]
    return click.option(*dict.fromkeys(both), cls=Option, **settings)


def _swap(name: str, old: str, new: str) -> str:
    return "--" + name[2:].replace(old, new) if name.startswith("--") and "/" not in name else name


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of installed recipes; files where none begins so, because bash can't be offered both."""
    from click.shell_completion import CompletionItem

    from compresskit.recipe_files import recipes_installed

    known: set[str] = set()
    with suppress(CompresskitError):  # whoever presses the key reads no error
        known = {recipe.name for recipe in recipes_installed()}
    names = [CompletionItem(name) for name in sorted(known) if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


count = click.IntRange(min=1)
folder = click.Path(path_type=Path)
recipe_argument = click.argument("recipe", shell_complete=complete_recipe)
json_option = option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
model_option = option("--model", "--model_name_or_path", required=True, metavar="M", help="Folder or Hub id.")
columns_option = option("--text-columns", "--text_column_names", metavar="A[,B]", help="One or two columns of text.")
timing_option = option("--timing/--no-timing", default=True, show_default=True, help="Measure milliseconds here.")

DATA_OPTIONS = (
    option("--eval-data", "--validation_file", metavar="FILE", help="Rows to evaluate on, in place of --data's."),
    columns_option,
    option("--label-column", "--label_column_name", metavar="Y", help="The column of labels."),
    option("--task", type=click.Choice(["auto", "classification", "regression"]), default="auto", show_default=True),
    option("--max-eval-rows", "--max_eval_samples", type=count, metavar="N", help="Draw N evaluation rows."),
)
MACHINE_OPTIONS = (
    option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True),
    option("--quiet", is_flag=True, help="No progress and no messages."),
)
RUN_OPTIONS = (
    option(
        "--max-tokens",
        "--max_seq_length",
        type=count,
        metavar="N",
        help="Cut longer texts; 128, or what a compressed model was compressed with.",
    ),
    *MACHINE_OPTIONS,
)


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for add in reversed(options):
        command = add(command)
    return command


def set_option(example: str) -> Callable[[Command], Command]:
    """What stands in place of a file's own words."""
    return option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help=f"As in {example}.")


def data_options(command: Command) -> Command:
    """The options that say how to read the data, handed to the command as one `DataOptions`."""

    @functools.wraps(command)
    def with_data(
        *, eval_data: Any, text_columns: Any, label_column: Any, task: Any, max_eval_rows: Any,
        max_train_rows: Any = None, **others: Any,
    ) -> Any:  # fmt: skip
        from compresskit.data import DataOptions

        columns = names_of(text_columns)
        options = DataOptions(columns, label_column, task, eval_data, max_train_rows, max_eval_rows)
        return command(options=options, **others)

    return _with(DATA_OPTIONS, with_data)


def run_options(command: Command) -> Command:
    """How long texts may be, and the options about this machine, as `machine_options`."""
    return _with(RUN_OPTIONS, _with_run(command))


def machine_flags(command: Command) -> Command:
    """The options about this machine, handed on as they are."""
    return _with(MACHINE_OPTIONS, command)


def machine_options(command: Command) -> Command:
    """The options about this machine, handed to the command as a `Run` and the `Terminal` that shows its progress."""
    return _with(MACHINE_OPTIONS, _with_run(command))


def _with_run(command: Command) -> Command:
    @functools.wraps(command)
    def with_run(*, model: str, device: str, precision: str, quiet: bool, max_tokens: Any = None, **others: Any) -> Any:
        from compresskit.checkpoint import usual_tokens
        from compresskit.run import Run, pick_bf16, pick_device
        from compresskit.runtime.processor import keep_freed_memory

        terminal, picked = terminal_for(quiet), pick_device(device)
        if picked == "cpu":
            keep_freed_memory()
        run = Run(picked, pick_bf16(precision, picked), max_tokens or usual_tokens(model), progress=terminal)
        return command(model=model, run=run, terminal=terminal, **others)

    return with_run


def names_of(columns: str | None) -> tuple[str, ...] | None:
    """`a,b` as ("a", "b")."""
    return tuple(columns.split(",")) if columns else None


def terminal_for(quiet: bool = False) -> Terminal:
    """Where this process talks."""
    from compresskit.terminal import Terminal

    return Terminal(quiet=quiet or not is_main_process())


def is_main_process() -> bool:
    """Of several processes under `accelerate launch` or `torchrun`, only the first one talks."""
    return os.environ.get("RANK", "0") == "0"
