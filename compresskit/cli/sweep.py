"""`compresskit sweep`: many runs side by side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from compresskit.cli.options import count, folder, json_option, option, set_option, terminal_for
from compresskit.errors import CompresskitError


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@option("--out", "--output_dir", type=folder, metavar="DIR", help="Takes the runs and their results.")
@set_option
@option("--plan-only", is_flag=True, help="Print parameters and FLOPs of every run, from the configs alone.")
@option("--only", multiple=True, metavar="NAME", help="These runs alone, or all on this data; may be given again.")
@option("--jobs", type=count, default=1, show_default=True, metavar="N", help="Runs side by side.")
@option("--launcher", default="", metavar="WORDS", help="Starts each run, as in 'accelerate launch --num_processes 2'.")
@option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
@option("--quiet", is_flag=True, help="No progress and no messages.")
@json_option
def sweep(
    *, study: Path, out: Path | None, overrides: Sequence[str], plan_only: bool, only: Sequence[str], jobs: int,
    launcher: str, device: str, precision: str, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Carry out every run of a study and compare them. The same command again goes on where it was stopped."""
    from compresskit.sweep import results
    from compresskit.sweep.charts import write_charts
    from compresskit.sweep.plans import check, plan_table, plans_to_json
    from compresskit.sweep.runner import Sweep, read_results
    from compresskit.sweep.study import read_study

    asked = read_study(study, overrides, data_needed=not plan_only).only(only)
    terminal = terminal_for(quiet)
    if plan_only:
        if as_json:
            click.echo(json.dumps(plans_to_json(asked), indent=2))
        else:
            table = plan_table(asked)
            terminal.print_table(table.title, table.columns, table.rows, table.note)
        return
    if out is None:
        raise click.UsageError("give --out DIR, where the runs go, or --plan-only")
    asked, plans = check(asked.on(("--device", device, "--precision", precision)))
    todo = Sweep(asked, plans, out, jobs, _words(launcher))
    with terminal.board(["data", "checkpoint", "run", "seed", "state", "result"]) as board:
        lines = todo.carry_out(board)
    found = results.cells(lines, out, asked.against, read_results(out))
    shown = results.tables(found, asked.against)
    if found:
        terminal.say(f"charts and tables: {write_charts(found, shown, asked.name, out, asked.about)[-1]}")
    if as_json:
        click.echo(json.dumps(lines, indent=2))
    for table in () if as_json else shown:
        terminal.print_table(table.title, table.columns, table.rows, table.note)
    failed = [line for line in lines if line["state"] == "failed"]
    if failed:
        told = "\n".join(f"  {line['folder']}: {line['error']}" for line in failed)
        raise CompresskitError(f"{len(failed)} of {len(lines)} runs failed; the same command tries them again\n{told}")


def _words(launcher: str) -> list[str]:
    try:
        return shlex.split(launcher)
    except ValueError as error:
        raise CompresskitError(f"--launcher {launcher}: a quotation mark is left open; close it") from error
