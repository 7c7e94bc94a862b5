"""What a person at a terminal sees. The only file that imports rich.

Results go to stdout; progress, messages and errors go to stderr, so that results can be piped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.table import Table as Grid
from rich.text import Text

from compresskit.progress import Silent, Task

if TYPE_CHECKING:
    from compresskit.report import Report

LINE_EVERY = 30.0
"""Seconds between two lines about one task where there is no terminal to draw a bar on."""


class Board:
    """A table of work under way; the last but one cell of a row is its state, the last how far it is."""

    def __init__(self, columns: Sequence[str], show: Callable[[Sequence[tuple[str, ...]]], None]) -> None:
        self.columns = tuple(columns)
        self.show = show


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]], height: int) -> Group:
    """Rows in a table of at most so many lines; where there are more, what is under way comes first and the rest is
    counted.
    """
    fitting = max(height - len(("blank", "head", "rule", "blank", "count", "prompt")), 1)
    shown, rest = list(rows), Counter[str]()
    if len(rows) > fitting:
        order = sorted(rows, key=lambda row: {"failed": 1, "waiting": 2, "done": 3}.get(row[-2], 0))
        shown, rest = order[:fitting], Counter(row[-2] for row in order[fitting:])
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in shown:
        grid.add_row(*row)
    told = f"and {', '.join(f'{count} {state}' for state, count in rest.items())}"
    return Group(grid, Text(told, no_wrap=True)) if rest else Group(grid)


class Terminal:
    """A `Progress` that people can watch, and printing for results.

    Args:
        quiet: no progress and no messages; results, warnings and errors are still printed.
        results, messages: streams; stdout and stderr where None.
        clock: seconds, ever increasing.
    """

    def __init__(
        self,
        quiet: bool = False,
        results: TextIO | None = None,
        messages: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Text is printed as it is: a token such as [CLS] is no markup, and numbers need no colours.
        self._results = Console(file=results, markup=False, highlight=False, emoji=False)
        self._messages = Console(file=messages, stderr=True, markup=False, highlight=False, emoji=False)
        self._quiet = quiet
        self._clock = clock
        self._bars: Bars | None = None

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """A bar with the time left on a terminal; now and then a line elsewhere; nothing when quiet."""
        if self._quiet:
            return nullcontext(Silent())
        if self._messages.is_terminal and not self._messages.is_dumb_terminal:
            return self._bar(description, total)
        return self._lines(description, total)

    def board(self, columns: Sequence[str]) -> AbstractContextManager[Board]:
        """A table that changes on a terminal; a line for each row that has changed elsewhere; nothing when quiet."""
        if self._quiet:
            return nullcontext(Board(columns, lambda rows: None))
        if self._messages.is_terminal and not self._messages.is_dumb_terminal:
            return self._live_board(columns)
        return nullcontext(Board(columns, self._changed_rows()))

    @contextmanager
    def _live_board(self, columns: Sequence[str]) -> Iterator[Board]:
        with Live(console=self._messages, refresh_per_second=4, transient=True) as live:
            yield Board(columns, lambda rows: live.update(_grid(columns, rows, self._messages.height)))

    def _changed_rows(self) -> Callable[[Sequence[tuple[str, ...]]], None]:
        shown: set[tuple[str, ...]] = set()

        def show(rows: Sequence[tuple[str, ...]]) -> None:
            for row in rows:
                # What waits has nothing to tell, and how far a run is would be a line for every step.
                if row[:-1] not in shown and row[-2] != "waiting":
                    shown.add(row[:-1])
                    self._messages.print(" ".join(filter(None, row)), soft_wrap=True)

        return show

    def say(self, message: str) -> None:
        """A message, unless quiet."""
        if not self._quiet:
            self._messages.print(message, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Something that the user should know, even when quiet."""
        self._messages.print(f"warning: {message}", style="yellow", soft_wrap=True)

    def print_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
        """A result in columns. Words wrap where the terminal (or 80 columns) is too narrow; numbers never do."""
        grid = Grid(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            numbers = index > 0 and all(_is_number(row[index]) for row in rows)
            justify: Literal["left", "right"] = "right" if numbers else "left"
            grid.add_column(column, justify=justify, no_wrap=numbers, overflow="fold")
        for row in rows:
            grid.add_row(*row)
        self._results.print(grid)
        if note:
            self._results.print(note, style="dim")
            self._results.print()

    def print_report(self, report: Report) -> None:
        """All tables of a report."""
        for table in report.tables():
            self.print_table(table.title, table.columns, table.rows, table.note)

    @contextmanager
    def _bar(self, description: str, total: int) -> Iterator[Task]:
        """Tasks inside tasks share one display, which lasts as long as the outermost."""
        outermost = self._bars is None
        bars = self._bars = self._bars or Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _TimeLeft(),
            console=self._messages,
            transient=True,
        )
        if outermost:
            bars.start()
        bar = bars.add_task(description, total=total)
        try:
            yield _BarTask(bars, bar)
        finally:
            bars.remove_task(bar)
            if outermost:
                bars.stop()
                self._bars = None

    @contextmanager
    def _lines(self, description: str, total: int) -> Iterator[Task]:
        lines = _LineTask(self.say, self._clock, description, total)
        yield lines
        lines.close()


class _BarTask:
    """A task that moves a bar."""

    def __init__(self, bars: Bars, bar: TaskID) -> None:
        self._bars, self._bar = bars, bar

    def advance(self, n: int = 1) -> None:
        self._bars.advance(self._bar, n)

    def update(self, description: str) -> None:
        self._bars.update(self._bar, description=description)


class _LineTask:
    """A task that says a line every `LINE_EVERY` seconds, and one when it is done."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float], description: str, total: int) -> None:
        self._say, self._clock, self._description, self._total = say, clock, description, total
        self._done = 0
        self._start = self._last = clock()

    def advance(self, n: int = 1) -> None:
        self._done += n
        now = self._clock()
        if self._done < self._total and now - self._last >= LINE_EVERY:
            self._last = now
            left = (now - self._start) / self._done * (self._total - self._done)
            self._say(f"{self._description}: {self._done:,} of {self._total:,}, {duration(left)} left")

    def update(self, description: str) -> None:
        self._description = description

    def close(self) -> None:
        self._say(f"{self._description}: {self._done:,} of {self._total:,} in {duration(self._clock() - self._start)}")


class _TimeLeft(ProgressColumn):
    """Time left, in words."""

    max_refresh = 0.5

    def render(self, task: Bar) -> Text:
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{duration(left)} left", style="cyan")


def duration(seconds: float) -> str:
    """`12 s`, `3 min 05 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _is_number(cell: str) -> bool:
    return not cell or cell.lstrip("+-")[:1].isdigit()
