"""`compresskit sweep`: many runs side by side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compresskit.cli.options import count, folder, json_option, machine_flags, option, set_option, terminal_for
from compresskit.errors import CompresskitError

if TYPE_CHECKING:
    from compresskit.plan import Plan
    from compresskit.sweep.study import Study


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@option("--out", "--output_dir", type=folder, metavar="DIR", help="Takes the runs and their results.")
@set_option("checkpoints.mine=FOLDER")
@option("--plan-only", is_flag=True, help="Print parameters and FLOPs of every run, from the configs alone.")
@option("--only", multiple=True, metavar="NAME", help="These runs alone, or all on this data; may be given again.")
@option("--jobs", type=count, default=1, show_default=True, metavar="N", help="Runs side by side.")
@option("--launcher", default="", metavar="WORDS", help="Starts each run, as in 'accelerate launch --num_processes 2'.")
@machine_flags
@json_option
def sweep(
    *, study: Path, out: Path | None, overrides: Sequence[str], plan_only: bool, only: Sequence[str], jobs: int,
    launcher: str, device: str, precision: str, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Carry out every run of a study and compare them. The same command again goes on where it was stopped."""
    from compresskit.sweep import results
    from compresskit.sweep.charts import write_charts
    from compresskit.sweep.plans import plan_table, plans_to_json
    from compresskit.sweep.runner import Sweep, finished, unfinished
    from compresskit.sweep.study_file import read_study

    whole = read_study(study, overrides, data_needed=not plan_only).on(("--device", device, "--precision", precision))
    terminal = terminal_for(quiet)
    if plan_only:
        asked = whole.only(only)
        if as_json:
            click.echo(json.dumps(plans_to_json(asked), indent=2))
        else:
            table = plan_table(asked)
            terminal.print_table(table.title, table.columns, table.rows, table.note)
        return
    if out is None:
        raise click.UsageError("give --out DIR, where the runs go, or --plan-only")
    whole, plans = _checked(whole, only)
    asked = whole.only(only)
    todo = Sweep(asked, plans, out, jobs, _words(launcher))
    with terminal.board(["data", "checkpoint", "run", "seed", "state", "result"]) as board:
        lines = todo.carry_out(board)
    every = finished(whole, out)
    shown = results.tables(results.cells(lines, out, asked.against, every), asked.against)
    if every:
        # The page is of the whole study, and not only of what was asked for now.
        found = results.cells(every, out, whole.against)
        about = f"{whole.about} {unfinished(whole, out)}".strip()
        page = write_charts(found, results.tables(found, whole.against), whole.name, out, about)[-1]
        terminal.say(f"charts and tables: {page}")
    if as_json:
        click.echo(json.dumps(lines, indent=2))
    for table in () if as_json else shown:
        terminal.print_table(table.title, table.columns, table.rows, table.note)
    for line in lines:
        if "timing_error" in line:
            terminal.warn(
                f"{line['folder']}: its speed could not be measured; the same command tries again\n"
                f"  {line['timing_error']}"
            )
    failed = [line for line in lines if line["state"] == "failed"]
    if failed:
        told = "\n".join(f"  {line['folder']}: {line['error']}" for line in failed)
        raise CompresskitError(f"{len(failed)} of {len(lines)} runs failed; the same command tries them again\n{told}")


def _checked(whole: Study, only: Sequence[str]) -> tuple[Study, dict[str, Plan]]:
    """All of the study, for the page is of all that is done; what is asked for where the rest is not at hand."""
    from compresskit.sweep.plans import check

    part = whole.only(only)
    if part is whole:
        return check(whole)
    try:
        return check(whole)
    except CompresskitError:
        return check(part)


def _words(launcher: str) -> list[str]:
    try:
        return shlex.split(launcher)
    except ValueError as error:
        raise CompresskitError(f"--launcher {launcher}: a quotation mark is left open; close it") from error
