"""The command line. Only this package imports click; everything heavy is imported inside the commands."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from compresskit import __version__
from compresskit.cli.options import (
    KINDS,
    MOST_GIGABYTES,
    SEEDS,
    Commands,
    columns_option,
    complete_recipe,
    count,
    data_options,
    folder,
    is_main_process,
    json_option,
    machine_options,
    model_option,
    names_of,
    option,
    recipe_argument,
    run_options,
    set_option,
    terminal_for,
    timing_option,
)
from compresskit.cli.sweep import sweep
from compresskit.errors import CheckpointError, CompresskitError

if TYPE_CHECKING:
    from compresskit.checkpoint import Checkpoint
    from compresskit.data import DataOptions
    from compresskit.run import Run
    from compresskit.tables import Table
    from compresskit.terminal import Terminal


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Make BERT-like encoders small and fast by recipe: prune, factorize, distil and leave early.

    RECIPE is a path or a name that `compresskit recipes` lists. A model is a folder or a Hub id.
    Options also go by their Hugging Face names: --model_name_or_path, --output_dir, --max_seq_length and so on.
    """


@cli.command()
@recipe_argument
@model_option
@option("--data", "--dataset_name", "--train_file", metavar="D", help="Labelled text: folder, file or Hub id.")
@option("--out", "--output_dir", required=True, type=folder, metavar="OUT", help="A new folder.")
@set_option("steps.3.epochs=1")
@option("--seed", type=click.IntRange(0, SEEDS), metavar="N", help="In place of the recipe's.")
@data_options
@option("--max-train-rows", "--max_train_samples", type=count, metavar="N", help="Draw N training rows.")
@run_options
@option(
    "--cache-gigabytes",
    type=float,
    default=4.0,
    show_default=True,
    metavar="GB",
    help="For teachers' hidden states, and for banks.",
)
@option("--reuse", type=folder, metavar="DIR", help="Take over equal steps from another OUT, or a folder of some.")
@timing_option
@option("--report-to", multiple=True, metavar="TRACKER", help="Experiment trackers, as transformers names them.")
@json_option
def apply(
    *, recipe: str, model: str, data: str | None, out: Path, overrides: Sequence[str], seed: int | None,
    options: DataOptions, run: Run, terminal: Terminal, cache_gigabytes: float, reuse: Path | None,
    timing: bool, report_to: Sequence[str], as_json: bool,
) -> None:  # fmt: skip
    """Compress a model by a recipe and print the report. The same command again goes on where it was stopped."""
    from compresskit.recipe import read_recipe

    resolved = read_recipe(recipe, overrides)
    resolved = resolved if seed is None else replace(resolved, seed=seed)
    from compresskit import apply as applying

    trackers = tuple(name for names in report_to for name in names.split(",") if name != "none")
    if not 0 <= cache_gigabytes < MOST_GIGABYTES:
        raise click.UsageError(f"--cache-gigabytes {cache_gigabytes}: give a number of gigabytes from 0")
    run = replace(run, cache_bytes=int(cache_gigabytes * 2**30), trackers=trackers, timing=timing)
    report = applying.apply(resolved, model, data, replace(options, seed=resolved.seed), out, run, reuse)
    if not is_main_process():
        return
    if as_json:
        _print_json(report.to_json())
    else:
        terminal.print_report(report)


@cli.command()
@recipe_argument
@model_option
@set_option("steps.3.epochs=1")
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
        _print_tables(terminal_for(), plan_tables(planned))


@cli.command()
@recipe_argument
@set_option("steps.3.epochs=1")
def check(*, recipe: str, overrides: Sequence[str]) -> None:
    """Find every mistake in a recipe, without a model."""
    from compresskit.recipe import read_recipe

    steps = len(read_recipe(recipe, overrides).steps)
    click.echo(f"{recipe}: no mistakes in {steps} {'step' if steps == 1 else 'steps'}")


@cli.command()
@click.argument("model")
@option("--against", metavar="ORIGINAL", help="The model to compare with.")
@option("--tokens", type=count, default=128, show_default=True, metavar="N", help="Length of the example that counts.")
@timing_option
@machine_options
@json_option
@option("--markdown", is_flag=True, help="Print Markdown, for a model card.")
def report(
    *, model: str, against: str | None, tokens: int, timing: bool, run: Run, terminal: Terminal, as_json: bool,
    markdown: bool,
) -> None:  # fmt: skip
    """Show what a model costs: parameters and FLOPs by block, heads and neurons by layer, milliseconds."""
    from compresskit.report_builder import report_on

    if as_json and markdown:
        raise click.UsageError("give --json or --markdown, not both")
    found = report_on(model, against, run, timing, tokens)
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
@option("--answers", type=folder, metavar="FILE", help="Write each row's label, length and answers as JSON.")
@timing_option
@run_options
@json_option
def evaluate(
    *, model: str, data: str, options: DataOptions, seed: int, thresholds: str | None, answers: Path | None,
    timing: bool, run: Run, terminal: Terminal, as_json: bool,
) -> None:  # fmt: skip
    """Score a model on labelled text: at every exit, and at every threshold."""
    from compresskit.batches import collate, encode
    from compresskit.data import load_corpus
    from compresskit.evaluate import evaluate as evaluate_model
    from compresskit.evaluate import settings
    from compresskit.views import evaluation_tables
    from compresskit.writing import saving

    tried = _numbers(thresholds)
    if answers is not None and (answers.exists() or not answers.parent.is_dir()):
        why = "is there already" if answers.exists() else "is in a folder that is not there"
        raise CompresskitError(f"--answers {answers} {why}; name a new file in a folder that is there")
    ready = _load(model, run)
    if tried is not None and not settings(ready.model.policy, len(ready.labels), ready.model.depth):
        raise CheckpointError(f"{model} does not leave early by a threshold; leave --thresholds out")
    corpus = load_corpus(data, replace(options, eval_seed=seed), ready.labels, need_train=False, before=ready.columns)
    terminal.say(str(corpus))
    rows = encode(corpus.eval, ready.tokenizer, run.max_tokens, "token_type_ids" in ready.model.input_names)
    padded = collate(ready.tokenizer.pad_token_id, ready.tokenizer.pad_token_type_id)
    found = evaluate_model(ready.model, rows, padded, corpus.task, run, tried, timing)
    if answers is not None and found.answers is not None:
        told = {"task": corpus.task.kind, "classes": list(corpus.task.labels)} | found.answers.to_json()
        with saving(answers):
            answers.write_text(json.dumps(told), encoding="utf-8")
        terminal.say(f"{len(found.answers.labels):,} answers written to {answers}")
    if as_json:
        _print_json(found.to_json())
    else:
        _print_tables(terminal, evaluation_tables(found))


@cli.command()
@click.argument("model")
@option("--input", "--test_file", "source", metavar="FILE", help="csv, tsv, json lines or parquet.")
@option("--output", "target", metavar="FILE", help="csv, tsv or json lines: with label, probability and exit added.")
@option("--text", "texts", multiple=True, metavar="TEXT", help="Classify this text; may be given again.")
@option("--text-pair", "pairs", multiple=True, metavar="TEXT", help="The second text of a pair, one for each --text.")
@columns_option
@option("--overwrite", is_flag=True, help="Replace the output file where it is there already.")
@run_options
@json_option
def predict(
    *, model: str, source: str | None, target: str | None, texts: Sequence[str], pairs: Sequence[str],
    text_columns: str | None, overwrite: bool, run: Run, terminal: Terminal, as_json: bool,
) -> None:  # fmt: skip
    """Label the rows of a file, or texts given here."""
    from compresskit import predict as predicting
    from compresskit.views import prediction_table

    if bool(texts) == bool(source) or bool(source) != bool(target):
        raise click.UsageError("give --input and --output, or --text")
    if source and as_json:
        raise click.UsageError("--json goes with --text; name an --output that ends in .jsonl")
    if texts and (text_columns or overwrite):
        raise click.UsageError(f"{'--text-columns' if text_columns else '--overwrite'} goes with --input, not --text")
    if pairs and len(pairs) != len(texts):
        raise click.UsageError(f"{len(pairs)} --text-pair for {len(texts)} --text; give one for each")
    ready = _load(model, run)
    if source and target:
        rows = predicting.predict(ready, source, target, run, names_of(text_columns), overwrite)
        terminal.say(f"{rows:,} rows written to {target}")
        return
    if ready.columns is not None and (len(ready.columns.texts) == 2) != bool(pairs):
        was = f"pairs of texts ({', '.join(ready.columns.texts)})" if not pairs else "single texts"
        advice = "give the second with --text-pair" if not pairs else "leave --text-pair out"
        raise CheckpointError(f"{model} was compressed with {was}; {advice}")
    given = list(zip(texts, pairs, strict=True)) if pairs else [(text,) for text in texts]
    answers = predicting.predict_texts(ready.model, ready.tokenizer, given, run)
    if as_json:
        named = [dict(zip(("text", "text_pair"), row, strict=False)) for row in given]
        _print_json([row | asdict(answer) for row, answer in zip(named, answers, strict=True)])
    else:
        _print_tables(terminal, [prediction_table(given, answers)])


cli.add_command(sweep)


@cli.command()
@click.argument("name", required=False)
@json_option
def strategies(*, name: str | None, as_json: bool) -> None:
    """List what recipes can name after `by`, and where it comes from; or show one's manual page."""
    from compresskit.catalogue import load_catalogue
    from compresskit.views import catalogue_tables, manual_page
    from compresskit.wording import did_you_mean

    entries = [entry for entry in load_catalogue().entries() if name in (None, entry.name)]
    if not entries:
        hint = did_you_mean(str(name), sorted({entry.name for entry in load_catalogue().entries()}))
        raise CompresskitError(f"there is no strategy '{name}'{hint}; `compresskit strategies` lists them")
    if as_json:
        listed = [{"kind": entry.kind, "name": entry.name, "summary": entry.summary} for entry in entries]
        _print_json([row | asdict(entry.origin) for row, entry in zip(listed, entries, strict=True)])
    elif name is None:
        _print_tables(terminal_for(), catalogue_tables(entries))
    else:
        click.echo("\n\n".join(manual_page(entry) for entry in entries))


@cli.command()
@click.argument("name", required=False, shell_complete=complete_recipe)
@json_option
def recipes(*, name: str | None, as_json: bool) -> None:
    """List the recipes that come with compresskit and with plugins, or print one to start from."""
    from compresskit.recipe import about
    from compresskit.recipe_files import recipe_text, recipes_installed
    from compresskit.views import recipe_tables

    if name is None:
        told = [(recipe, about(recipe)) for recipe in recipes_installed()]
        if as_json:
            _print_json([{"name": recipe.name, "about": words} | asdict(recipe.origin) for recipe, words in told])
        else:
            _print_tables(terminal_for(), recipe_tables(told))
    elif as_json:
        _print_json({"name": name, "text": recipe_text(name)})
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

    target, ready = out or Path(f"{model.rstrip('/')}-{form}"), load(model)
    if not ready.head_trained:
        raise CheckpointError(f"{model} has no trained head to export; train it first, by a recipe that finetunes")
    exporting.export(ready, target, form)
    click.echo(f"{target}: a plain checkpoint with the function of the last exit; {exporting.NOTE}")


@cli.command()
@click.argument("name")
@option("--kind", type=click.Choice(KINDS), required=True, help="What the strategy decides.")
@option("--out", type=folder, metavar="DIR", help="A new folder; compresskit-NAME where not given.")
def new_plugin(*, name: str, kind: str, out: Path | None) -> None:
    """Write a plugin to start from: it installs, passes its tests and runs in a recipe at once."""
    from compresskit import scaffold

    target = out or Path(f"compresskit-{name}")
    for path in scaffold.new_plugin(name, kind, target):
        click.echo(target / path)
    then = f"compresskit strategies {name}; pytest {target}"
    click.echo(f"Install it with: pip install -e {target} pytest. Then: {then}")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print a script that completes commands and recipe names, as in: source <(compresskit completion bash)."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "compresskit", "_COMPRESSKIT_COMPLETE").source())


def _load(model: str, run: Run) -> Checkpoint:
    """A model that can answer: on its device, in eval mode."""
    from compresskit.checkpoint import load

    ready = load(model)
    if not ready.head_trained:
        raise CheckpointError(f"{model} has no trained head to answer with; train it first, by a recipe that finetunes")
    ready.check_length(run.max_tokens)
    _warn_untrained(ready)
    ready.model.to(run.device).eval()
    return ready


def _warn_untrained(ready: Checkpoint) -> None:
    if ready.model.untrained:
        listed = ", ".join(map(str, ready.model.untrained))
        _warn(f"{ready.original.name} has exits that nobody trained, after layers {listed}; their answers mean nothing")


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

    Terminal(quiet=not is_main_process()).warn(str(message))


def main() -> None:
    """The console script."""
    warnings.showwarning = _warn
    try:
        cli(prog_name="compresskit")
    except KeyboardInterrupt:
        sys.exit(130)
