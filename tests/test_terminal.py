"""What stands on the screen, with a clock and streams of our own."""

from __future__ import annotations

import io
import re

import pytest

from compresskit import terminal
from compresskit.cost import Dims
from compresskit.edits import LayerShape, Shape
from compresskit.progress import Progress
from compresskit.report import Report, Score, Side
from compresskit.strategies.tanh_heads import ClsTanh
from compresskit.terminal import Terminal, duration


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def plain(text: str) -> str:
    """Without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def drawn(text: str) -> list[str]:
    return [line.rstrip() for line in plain(text).splitlines()]


def test_results_go_to_stdout_and_messages_to_stderr(capsys):
    shown = Terminal()
    shown.print_table("Scores", ["exit", "accuracy"], [["layer 1", "0.7"]])
    shown.say("hello")
    shown.warn("slow disk")
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("Scores")
    assert err == "hello\nwarning: slow disk\n"


def test_quiet_keeps_results_and_warnings(capsys):
    shown = Terminal(quiet=True)
    with shown.task("distill", 2) as task:
        task.advance(2)
        task.update("distill more")
    shown.say("hello")
    shown.warn("slow disk")
    shown.print_table("", ["exit", "accuracy"], [["layer 1", "0.7"]])
    out, err = capsys.readouterr()
    assert "layer 1" in out
    assert err == "warning: slow disk\n"


def test_messages_are_printed_as_they_are(capsys):
    message = "recipes/half.yaml: 1 mistake\n  line 6: steps[1] [bold]prune[/bold] :smile: " + "x" * 200
    Terminal().warn(message)
    assert capsys.readouterr().err == f"warning: {message}\n"


def test_a_table_in_full():
    results = io.StringIO()
    Terminal(results=results).print_table(
        "Exits", ["exit", "accuracy", "about"], [["layer 1", "0.71", "[CLS]"], ["layer 12", "-1,000", ""]], "A note."
    )
    assert [line.rstrip() for line in results.getvalue().splitlines()] == [
        "Exits",
        "",
        " exit       accuracy   about",
        " ───────────────────────────",
        " layer 1        0.71   [CLS]",
        " layer 12     -1,000",
        "",
        "A note.",
        "",
    ]


def test_tables_fit_in_80_columns_and_lose_nothing():
    results = io.StringIO()
    number = "123,456,789,012"
    Terminal(results=results).print_table("T", ["a", "n", "b"], [["x" * 100, number, "y " * 100]])
    text = results.getvalue()
    assert max(map(len, text.splitlines())) == 80
    assert number in text
    assert (text.count("x"), text.count("y")) == (100, 100)


def test_a_report_fits_in_80_columns():
    dims = Dims(30_522, 512, 2, 768, 768, 64, 2, 12, 12, 3072)
    original = Side.sized("bert-base-uncased", dims, Shape((LayerShape(12, 3072),) * 12))
    small = Shape((LayerShape(2, 256),) * 12, 128, tuple(range(1, 13)), ClsTanh(), read_out=False)
    scores = (Score("accuracy", 0.9, dict.fromkeys(range(1, 13), 0.9)),)
    side = Side.sized("out/cost-eff-8x", dims, small)
    report = Report(Side(side.name, small, side.parameters, side.flops, side.blocks, scores=scores), original)
    results = io.StringIO()
    Terminal(results=results).print_report(report)
    lines = drawn(results.getvalue())
    assert max(map(len, lines)) <= 80
    assert " parameters          109,483,778   13,920,024   7.87 times fewer" in lines
    assert [line for line in lines if line in {table.title for table in report.tables()}] == [
        "out/cost-eff-8x against bert-base-uncased",
        "Exits",
        "Layers",
        "Blocks",
    ]


def test_colour_on_a_terminal_unless_no_color(monkeypatch):
    screen = Screen()
    Terminal(messages=screen).warn("wrong")
    assert screen.getvalue() == "\x1b[33mwarning: wrong\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    Terminal(messages=screen).warn("wrong")
    assert "33m" not in screen.getvalue()
    assert plain(screen.getvalue()) == "warning: wrong\n"


def test_off_a_terminal_a_line_comes_now_and_then():
    log, clock = io.StringIO(), Clock()
    progress: Progress = Terminal(messages=log, clock=clock)
    with progress.task("distill", 400) as task:
        for _ in range(4):
            clock.now += 10
            task.advance(10)
        task.update("distill, loss 0.5")
        clock.now += 60
        task.advance(160)
        clock.now += 100
        task.advance(200)
    assert log.getvalue().splitlines() == [
        "distill: 30 of 400, 6 min 10 s left",
        "distill, loss 0.5: 200 of 400, 1 min 40 s left",
        "distill, loss 0.5: 400 of 400 in 3 min 20 s",
    ]


def test_off_a_terminal_an_interrupted_task_does_not_say_it_is_done():
    log = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Terminal(messages=log).task("distill", 4):
        raise KeyboardInterrupt
    assert log.getvalue() == ""


def test_nothing_to_do_is_done_at_once():
    log = io.StringIO()
    with Terminal(messages=log, clock=Clock()).task("evaluate", 0) as task:
        task.advance(0)
    assert log.getvalue() == "evaluate: 0 of 0 in 0 s\n"


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    with Terminal(messages=screen, clock=Clock()).task("evaluate", 1) as task:
        task.advance()
    assert screen.getvalue() == "evaluate: 1 of 1 in 0 s\n"


def test_on_a_terminal_bars_are_drawn_and_cleaned_away():
    screen = Screen()
    shown = Terminal(messages=screen)
    with shown.task("distill [CLS]", 8) as outer:
        outer.advance(2)
        with shown.task("read data", 3) as inner:
            inner.advance(3)
            shown._bars.refresh()
        outer.update("distill, loss 0.5")
        shown.say("read")
        shown._bars.refresh()
    text = plain(screen.getvalue())
    assert re.search(r"distill \[CLS\] +━+.*2/8", text)
    assert re.search(r"read data +━+ 3/3", text)
    assert re.search(r"distill, loss 0\.5 ━+.*2/8", text)
    assert "\nread\n" in text.replace("\r", "\n")
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1
    assert shown._bars is None


def test_bars_are_cleaned_away_after_an_interruption():
    screen = Screen()
    shown = Terminal(messages=screen)
    with pytest.raises(KeyboardInterrupt), shown.task("distill", 8), shown.task("read", 8):
        raise KeyboardInterrupt
    assert shown._bars is None
    assert screen.getvalue().count("\x1b[?25h") == 1
    with shown.task("again", 1) as task:
        task.advance()


def board(rows, height):
    """A live board's picture, line by line; a line is left for the cursor."""
    console = terminal.Console(file=io.StringIO(), width=80)
    console.print(terminal._grid(["run", "state", "result"], rows, height))
    lines = console.file.getvalue().splitlines()
    assert len(lines) < height
    return [line.split() for line in lines if line.strip()]


def test_a_board_that_fits_shows_every_row_in_its_order():
    rows = [("a", "done", "0.5"), ("b", "waiting", ""), ("c", "running", "step 1 of 2")]
    told = board(rows, 24)
    assert told[0] == ["run", "state", "result"]
    assert [line[:2] for line in told[2:]] == [["a", "done"], ["b", "waiting"], ["c", "running"]]


def test_a_board_that_is_too_long_shows_what_runs_and_counts_the_rest():
    rows = [(f"d{number}", "done", "0.5") for number in range(20)] + [("f", "failed", "no memory")]
    rows += [("r", "running", "step 1 of 2"), *((f"w{number}", "waiting", "") for number in range(30))]
    told = board(rows, 10)
    shown = [" ".join(line[:2]) for line in told[2:-1]]
    assert shown == ["r running", "f failed", "w0 waiting", "w1 waiting"]
    assert " ".join(told[-1]) == "and 28 waiting, 20 done"


def test_a_row_of_a_board_is_one_line():
    rows = [("a", "failed", "no " * 60), *(("b", "waiting", "") for _ in range(40))]
    assert len(board(rows, 12)) == 2 + 6 + 1


def test_bars_fit_in_80_columns():
    screen = Screen()
    shown = Terminal(messages=screen)
    with shown.task("step 12 of 16: distill assistant, hidden states and predictions, loss 0.1234", 123_456) as task:
        task.advance(1000)
        shown._bars.refresh()
    lines = re.split(r"[\r\n]", plain(screen.getvalue()))
    assert max(map(len, lines)) <= 80


def test_time_left_is_shown_in_words(monkeypatch):
    monkeypatch.setattr(terminal.Bar, "time_remaining", 200.0)
    assert terminal._TimeLeft().render(terminal.Bar(0, "x", 10, 5, _get_time=lambda: 0.0)).plain == "3 min 20 s left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (7530, "2 h 05 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
