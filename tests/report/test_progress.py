"""Plain lines where there is no terminal, a bar where there is one."""

import io

import pytest
from rich.console import Console

from fedvlr_jax.report.progress import Progress
from fedvlr_jax.selection import Selection

VALID = {"hr@50": 41.23, "ndcg@50": 16.31, "warm": {}}


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def test_one_plain_line_for_each_evaluation():
    console = plain()
    with Progress(100, console=console) as progress:
        progress.update(20, 0.21341, VALID, 20, 78.4)
        progress.update(40, 0.2, {"hr@50": 40.0, "ndcg@50": 16.0}, 20, 80.0)
    assert console.file.getvalue().splitlines() == [
        "round 20/100  loss 0.2134  valid HR@50 41.2  NDCG@50 16.3  best 16.3 @ 20  78.4 rounds/s",
        "round 40/100  loss 0.2000  valid HR@50 40.0  NDCG@50 16.0  best 16.3 @ 20  80 rounds/s",
    ]


def test_what_is_not_known_is_left_out():
    console = plain()
    with Progress(100, console=console) as progress:
        progress.update(20, 0.5, {}, None, None)
        progress.update(25, 0.5, VALID, 10, 0.0)
        # Nor does round 0 have a loss, and what was before a restart can be told of.
        progress.remember(10, {"ndcg@50": 17.0})
        progress.update(0, None, VALID, 10, None)
    assert console.file.getvalue().splitlines() == [
        "round 20/100  loss 0.5000",
        "round 25/100  loss 0.5000  valid HR@50 41.2  NDCG@50 16.3  best @ 10",
        "round 0/100  valid HR@50 41.2  NDCG@50 16.3  best 17.0 @ 10",
    ]


def test_notes_are_printed_as_they_are():
    console = plain()
    with Progress(1, console=console) as progress:
        progress.note("[red]stopped[/] at :smile: " + "x" * 60)
    assert console.file.getvalue() == "[red]stopped[/] at :smile: " + "x" * 60 + "\n"


def test_a_terminal_gets_a_bar_with_the_time_left():
    console = Console(
        file=io.StringIO(), force_terminal=True, width=110, _environ={"TERM": "xterm"}
    )
    with Progress(100, console=console) as progress:
        progress.update(20, 0.2134, VALID, 20, 0.5)
        progress.note("a note")
    printed = console.file.getvalue()
    for text in ("round 20/100", "2:40 left", "loss 0.2134", "best 16.3 @ 20", "a note"):
        assert text in printed


def test_the_bar_goes_away_when_the_run_fails():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    with pytest.raises(RuntimeError), Progress(100, console=console):
        raise RuntimeError
    assert console.file.getvalue().endswith("\x1b[?25h")  # The cursor is shown again.


def test_the_numbers_are_those_of_the_slice_that_rounds_are_chosen_by():
    console = Console(file=io.StringIO(), width=200)
    warm = Selection("warm", "ndcg", 50)
    valid = {"hr@50": 9.0, "ndcg@50": 9.0, "warm": {"hr@50": 7.0, "ndcg@50": 5.0}}
    with Progress(4, selection=warm, console=console) as progress:
        progress.remember(1, {"ndcg@50": 9.0, "warm": {"ndcg@50": 6.0}})
        progress.update(2, None, valid, 1, None)
    assert console.file.getvalue() == "round 2/4  valid warm HR@50 7.0  NDCG@50 5.0  best 6.0 @ 1\n"
