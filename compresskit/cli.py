"""The command line. The only file that imports click; everything heavy is imported inside the commands."""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from compresskit import __version__
from compresskit.errors import CheckpointError, CompresskitError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from compresskit.checkpoint import Checkpoint
    from compresskit.data import DataOptions
    from compresskit.run import Run
    from compresskit.tables import Table
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
            click.echo(f"Stopped.{kept if ctx.invoked_subcommand == 'apply' else ''}", err=True)
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
MOST_GIGABYTES = 2**20


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option; each name may be spelt with hyphens or with underscores."""
    both = [spelling for name in names for spelling in (name, _swap(name, "-", "_"), _swap(name, "_", "-"))]
    return click.option(*dict.fromkeys(both), cls=Option, **settings)


def _swap(name: str, old: str, new: str) -> str:
    return "--" + name[2:].replace(old, new) if name.startswith("--") and "/" not in name else name


def _complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    shipped = sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))
    names = [CompletionItem(name) for name in shipped if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


count = click.IntRange(min=1)
folder = click.Path(path_type=Path)
recipe_argument = click.argument("recipe", shell_complete=_complete_recipe)
set_option = option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="As in steps.3.epochs=1.")
json_option = option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
model_option = option("--model", "--model_name_or_path", required=True, metavar="M", help="Folder or Hub id.")
columns_option = option("--text-columns", "--text_column_names", metavar="A[,B]", help="One or two columns of text.")
timing_option = option("--timing/--no-timing", default=True, show_default=True, help="Measure milliseconds here.")

DATA_OPTIONS = (
    option("--eval-data", "--validation_file", metavar="FILE", help="Rows to evaluate on, where --data has none."),
    columns_option,
    option("--label-column", "--label_column_name", metavar="Y", help="The column of labels."),
    option("--task", type=click.Choice(["auto", "classification", "regression"]), default="auto", show_default=True),
    option("--max-eval-rows", "--max_eval_samples", type=count, metavar="N", help="Draw N evaluation rows."),
)
RUN_OPTIONS = (
    option(
        "--max-tokens",
        "--max_seq_length",
        type=count,
        default=128,
        show_default=True,
        metavar="N",
        help="Cut longer texts.",
    ),
    option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True),
    option("--quiet", is_flag=True, help="No progress and no messages."),
)


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for add in reversed(options):
        command = add(command)
    return command


def data_options(command: Command) -> Command:
    """The options that say how to read the data, handed to the command as one `DataOptions`."""

    @functools.wraps(command)
    def with_data(
        *, eval_data: Any, text_columns: Any, label_column: Any, task: Any, max_eval_rows: Any,
        max_train_rows: Any = None, **others: Any,
    ) -> Any:  # fmt: skip
        from compresskit.data import DataOptions

        columns = _names(text_columns)
        options = DataOptions(columns, label_column, task, eval_data, max_train_rows, max_eval_rows)
        return command(options=options, **others)

    return _with(DATA_OPTIONS, with_data)


def run_options(command: Command) -> Command:
    """The options about this machine, handed to the command as a `Run` and the `Terminal` that shows its progress."""

    @functools.wraps(command)
    def with_run(*, max_tokens: int, device: str, precision: str, quiet: bool, **others: Any) -> Any:
        from compresskit.run import Run, pick_bf16, pick_device

        terminal, picked = _terminal(quiet), pick_device(device)
        run = Run(picked, pick_bf16(precision, picked), max_tokens, progress=terminal)
        return command(run=run, terminal=terminal, **others)

    return _with(RUN_OPTIONS, with_run)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Make BERT-like encoders small and fast by recipe: prune, factorize, distil and leave early.

    RECIPE is a path or the name of a shipped recipe (see `compresskit recipes`). A model is a folder or a Hub id.
    Options also go by their Hugging Face names: --model_name_or_path, --output_dir, --max_seq_length and so on.
    """


@cli.command()
@recipe_argument
@model_option
@option("--data", "--dataset_name", "--train_file", metavar="D", help="Labelled text: folder, file or Hub id.")
@option("--out", "--output_dir", required=True, type=folder, metavar="OUT", help="A new folder.")
@set_option
@option("--seed", type=click.IntRange(0, SEEDS), metavar="N", help="In place of the recipe's.")
@data_options
@option("--max-train-rows", "--max_train_samples", type=count, metavar="N", help="Draw N training rows.")
@run_options
@option(
    "--cache-gigabytes", type=float, default=4.0, show_default=True, metavar="GB", help="For teachers' hidden states."
)
@option("--reuse", type=folder, metavar="DIR", help="Take over equal steps from another output folder.")
@option("--report-to", multiple=True, metavar="TRACKER", help="Experiment trackers, as transformers names them.")
@json_option
def apply(
    *, recipe: str, model: str, data: str | None, out: Path, overrides: Sequence[str], seed: int | None,
    options: DataOptions, run: Run, terminal: Terminal, cache_gigabytes: float, reuse: Path | None,
    report_to: Sequence[str], as_json: bool,
) -> None:  # fmt: skip
    """Compress a model by a recipe and print the report. The same command again goes on where it was stopped."""
    from compresskit.recipe import read_recipe

    resolved = read_recipe(recipe, overrides)
    resolved = resolved if seed is None else replace(resolved, seed=seed)
    from compresskit import apply as applying

    trackers = tuple(name for names in report_to for name in names.split(",") if name != "none")
    if not 0 <= cache_gigabytes < MOST_GIGABYTES:
        raise click.UsageError(f"--cache-gigabytes {cache_gigabytes}: give a number of gigabytes from 0")
    run = replace(run, cache_bytes=int(cache_gigabytes * 2**30), trackers=trackers)
    report = applying.apply(resolved, model, data, replace(options, seed=resolved.seed), out, run, reuse)
    if not _is_main_process():
        return
    if as_json:
        _print_json(report.to_json())
    else:
        terminal.print_report(report)


@cli.command()
@recipe_argument
@model_option
@set_option
@option("--num-labels", type=count, metavar="N", help="Classes of a head still to be trained.")
@json_option
def plan(*, recipe: str, model: str, overrides: Sequence[str], num_labels: int | None, as_json: bool) -> None:
    """Show what a recipe would make of a model, from its config alone."""
    from compresskit.checkpoint import read_original
    from compresskit.plan import make_plan
    from compresskit.recipe import read_recipe
    from compresskit.views import plan_tables

    planned = make_plan(read_recipe(recipe, overrides), read_original(model, num_labels))
    if as_json:
        _print_json(planned.to_json())
    else:
        _print_tables(_terminal(), plan_tables(planned))


@cli.command()
@recipe_argument
@set_option
def check(*, recipe: str, overrides: Sequence[str]) -> None:
    """Find every mistake in a recipe, without a model."""
    from compresskit.recipe import read_recipe

    steps = len(read_recipe(recipe, overrides).steps)
    click.echo(f"{recipe}: no mistakes in {steps} {'step' if steps == 1 else 'steps'}")


@cli.command()
@click.argument("model")
@option("--against", metavar="ORIGINAL", help="The model to compare with.")
@timing_option
@run_options
@json_option
@option("--markdown", is_flag=True, help="Print Markdown, for a model card.")
def report(
    *, model: str, against: str | None, timing: bool, run: Run, terminal: Terminal, as_json: bool, markdown: bool
) -> None:
    """Show what a model costs: parameters and FLOPs by block, heads and neurons by layer, milliseconds."""
    from compresskit.report_builder import report_on

    if as_json and markdown:
        raise click.UsageError("give --json or --markdown, not both")
    found = report_on(model, against, run, timing)
    if as_json:
        _print_json(found.to_json())
    elif markdown:
        click.echo(found.to_markdown())
    else:
        terminal.print_report(found)


@cli.command()
@click.argument("model")
@option("--data", "--dataset_name", required=True, metavar="D", help="Labelled text: folder, file or Hub id.")
@data_options
@option("--seed", type=click.IntRange(0, SEEDS), default=42, show_default=True, metavar="N", help="Of the rows drawn.")
@option("--thresholds", metavar="T[,T...]", help="Exit thresholds to try, in place of the usual ones.")
@timing_option
@run_options
@json_option
def evaluate(
    *, model: str, data: str, options: DataOptions, seed: int, thresholds: str | None, timing: bool, run: Run,
    terminal: Terminal, as_json: bool,
) -> None:  # fmt: skip
    """Score a model on labelled text: at every exit, and at every threshold."""
    from compresskit.batches import collate, encode
    from compresskit.data import load_corpus
    from compresskit.evaluate import evaluate as evaluate_model
    from compresskit.views import evaluation_tables

    tried = _numbers(thresholds)
    ready = _load(model, run)
    corpus = load_corpus(data, replace(options, seed=seed), ready.labels, need_train=False)
    rows = encode(corpus.eval, ready.tokenizer, run.max_tokens, "token_type_ids" in ready.model.input_names)
    padded = collate(ready.tokenizer.pad_token_id, ready.tokenizer.pad_token_type_id)
    found = evaluate_model(ready.model, rows, padded, corpus.task, run, tried, timing)
    if as_json:
        _print_json(found.to_json())
    else:
        _print_tables(terminal, evaluation_tables(found))


@cli.command()
@click.argument("model")
@option("--input", "--test_file", "source", metavar="FILE", help="csv, tsv, json lines or parquet.")
@option("--output", "target", metavar="FILE", help="csv, tsv or json lines: with label, probability and exit added.")
@option("--text", "texts", multiple=True, metavar="TEXT", help="Classify this text; may be given again.")
@columns_option
@run_options
@json_option
def predict(
    *, model: str, source: str | None, target: str | None, texts: Sequence[str], text_columns: str | None, run: Run,
    terminal: Terminal, as_json: bool,
) -> None:  # fmt: skip
    """Label the rows of a file, or texts given here."""
    from compresskit import predict as predicting
    from compresskit.views import prediction_table

    if bool(texts) == bool(source) or bool(source) != bool(target):
        raise click.UsageError("give --input and --output, or --text")
    ready = _load(model, run)
    if source and target:
        rows = predicting.predict(ready.model, ready.tokenizer, source, target, run, _names(text_columns))
        terminal.say(f"{rows:,} rows written to {target}")
        return
    answers = predicting.predict_texts(ready.model, ready.tokenizer, texts, run)
    if as_json:
        _print_json([{"text": text, **asdict(answer)} for text, answer in zip(texts, answers, strict=True)])
    else:
        _print_tables(terminal, [prediction_table(texts, answers)])


@cli.command()
@click.argument("name", required=False)
@json_option
def strategies(*, name: str | None, as_json: bool) -> None:
    """List what recipes can name after `by`, and where it comes from; or show one's manual page."""
    from compresskit.catalogue import load_catalogue
    from compresskit.views import catalogue_tables, manual_page

    entries = [entry for entry in load_catalogue().entries() if name in (None, entry.name)]
    if not entries:
        raise CompresskitError(f"there is no strategy '{name}'; `compresskit strategies` lists them")
    if as_json:
        listed = [{"kind": entry.kind, "name": entry.name, "summary": entry.summary} for entry in entries]
        _print_json([row | asdict(entry.origin) for row, entry in zip(listed, entries, strict=True)])
    elif name is None:
        _print_tables(_terminal(), catalogue_tables(entries))
    else:
        click.echo("\n\n".join(manual_page(entry) for entry in entries))


@cli.command()
@click.argument("name", required=False, shell_complete=_complete_recipe)
def recipes(*, name: str | None) -> None:
    """List the shipped recipes, or print one to start from."""
    from compresskit.recipe import read_recipe, recipe_text, recipes_shipped
    from compresskit.views import recipe_table

    if name is None:
        _print_tables(_terminal(), [recipe_table([read_recipe(shipped) for shipped in recipes_shipped()])])
    else:
        click.echo(recipe_text(name), nl=False)


@cli.command()
@click.argument("model")
@option("--out", "--output_dir", type=folder, metavar="OUT", help="A new folder; MODEL-stock where not given.")
@option("--format", "form", type=click.Choice(["stock"]), default="stock", show_default=True, help="What to write.")
def export(*, model: str, out: Path | None, form: Literal["stock"]) -> None:
    """Write a compressed model as a plain checkpoint of its original kind, for tools without compresskit."""
    from compresskit import export as exporting
    from compresskit.checkpoint import load

    target = out or Path(f"{model.rstrip('/')}-{form}")
    exporting.export(load(model), target, form)
    click.echo(f"{target}: a plain checkpoint with the function of the last exit; {exporting.NOTE}")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print a script that completes commands and recipe names, to be sourced by SHELL."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "compresskit", "_COMPRESSKIT_COMPLETE").source())


def _terminal(quiet: bool = False) -> Terminal:
    from compresskit.terminal import Terminal

    return Terminal(quiet=quiet or not _is_main_process())


def _is_main_process() -> bool:
    """Of several processes under `accelerate launch` or `torchrun`, only the first one talks."""
    return os.environ.get("RANK", "0") == "0"


def _load(model: str, run: Run) -> Checkpoint:
    """A model that can answer: on its device, in eval mode."""
    from compresskit.checkpoint import load

    ready = load(model)
    if not ready.head_trained:
        raise CheckpointError(f"{model} has no trained head to answer with; train it first with `compresskit apply`")
    ready.check_length(run.max_tokens)
    ready.model.to(run.device).eval()
    return ready


def _names(columns: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in columns.split(",")) if columns else None


def _numbers(listed: str | None) -> list[float] | None:
    try:
        return [float(number) for number in listed.split(",")] if listed else None
    except ValueError:
        raise click.UsageError(f"--thresholds {listed}: give numbers with commas between, as in 0.1,0.3") from None


def _print_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _print_tables(terminal: Terminal, tables: Sequence[Table]) -> None:
    for table in tables:
        terminal.print_table(table.title, table.columns, table.rows, table.note)


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    """A warning as a sentence; the line of code that it came from helps nobody here."""
    from compresskit.terminal import Terminal

    Terminal(quiet=not _is_main_process()).warn(str(message))


def main() -> None:
    """The console script."""
    warnings.showwarning = _warn
    try:
        cli(prog_name="compresskit")
    except KeyboardInterrupt:
        sys.exit(130)
