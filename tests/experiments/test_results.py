"""A results page takes its tables and plots from files, and keeps what is written by hand."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedvlr_jax.commands import results
from fedvlr_jax.commands.results import Command, chosen, commands_of, filled, run, status_of
from fedvlr_jax.errors import InputError

PAGE = """# Title

<!-- from ku/table.md -->
an older table
<!-- end -->

By hand.

<!-- from ku/plot.svg -->
<!-- end -->

<!-- from ml/table.md -->
kept
<!-- end -->
"""


def test_places_are_filled_and_the_rest_stays(tmp_path):
    with pytest.raises(
        InputError, match=r"has none of the folders that the page names, such as ku; train"
    ):
        filled(PAGE, tmp_path, tmp_path / "figures")
    (tmp_path / "ku").mkdir()
    with pytest.raises(InputError, match=r"table.md, which does not exist"):
        filled(PAGE, tmp_path, tmp_path / "figures")
    (tmp_path / "ku/table.md").write_text("| a |\n|---|\n| 1 |\n")
    (tmp_path / "ku/plot.svg").write_text("<svg/>")
    page, count = filled(PAGE, tmp_path, tmp_path / "figures")
    assert count == 2 and "\nkept\n" in page
    assert "| 1 |" in page and "an older table" not in page and "\nBy hand.\n" in page
    assert "![plot](figures/ku-plot.svg)" in page
    assert (tmp_path / "figures/ku-plot.svg").read_text() == "<svg/>"
    assert filled(page, tmp_path, tmp_path / "figures") == (page, 2)


SHOWN = """
    python -m experiments.ablation --dataset=KU --over="a=1;b=2" \\
        --seeds=0,1 --workdir=runs/results/ku

    python -m experiments.train --workdir=runs/first

<!-- from ku/ablation.md -->
<!-- end -->
"""


def test_the_commands_of_a_page_are_those_of_its_places(tmp_path):
    flags = ["--dataset=KU", "--over=a=1;b=2", "--seeds=0,1"]
    assert commands_of(SHOWN) == [Command("ablation", flags, "ku")]
    with pytest.raises(InputError, match=r"no command on the page has workdir=.../ml"):
        commands_of(SHOWN + PAGE)
    assert chosen(commands_of(SHOWN), ["ku"]) == commands_of(SHOWN)
    with pytest.raises(InputError, match=r"only=KU: the page has ku"):
        chosen(commands_of(SHOWN), ["KU"])


def test_a_command_that_fails_ends_the_page_with_its_status(tmp_path, monkeypatch, capsys):
    started = []

    def fake(command):
        started.append(command)
        return 75 if command[-1].endswith("/fails") else 0

    monkeypatch.setattr(results, "status_of", fake)
    run(Command("ablation", ["--dataset=KU"], "ku"), tmp_path)
    expected = ["-m", "fedvlr_jax", "ablation", "--dataset=KU", f"--workdir={tmp_path / 'ku'}"]
    assert started[0][1:] == expected
    with pytest.raises(SystemExit) as stop:
        run(Command("ablation", [], "fails"), tmp_path)
    assert stop.value.code == 75
    assert "fails: ended with status 75; repeat to continue" in capsys.readouterr().out


def test_what_is_written_while_the_commands_run_stays(tmp_path, monkeypatch):
    page, workdir = tmp_path / "page.md", tmp_path / "runs"
    page.write_text(SHOWN)

    def fake(command):
        (workdir / "ku").mkdir(parents=True)
        (workdir / "ku/ablation.md").write_text("| a |\n")
        page.write_text(f"By hand.\n{SHOWN}")
        return 0

    monkeypatch.setattr(results, "status_of", fake)
    given = SimpleNamespace(page=str(page), workdir=str(workdir), train=True, only=[])
    monkeypatch.setattr(results, "FLAGS", given)
    results.main()
    assert page.read_text().startswith("By hand.\n") and "| a |" in page.read_text()


SAVES = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def test_a_signal_to_stop_reaches_the_command_that_runs(tmp_path):
    ready = tmp_path / "ready"

    def stop():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    before = signal.getsignal(signal.SIGTERM)
    assert status_of([sys.executable, "-c", SAVES, str(ready)]) == 75
    assert signal.getsignal(signal.SIGTERM) == before
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert status_of(killed) == 137


def test_every_place_of_the_results_page_has_its_command():
    page = Path(__file__).parents[2] / "docs/results.md"
    assert len(commands_of(page.read_text(encoding="utf-8"))) >= 10
