"""The table of hours, bytes and energy: its numbers by hand, and the command."""

import json

import pytest

from fedvlr_jax.commands.fleet import level_of, line_of, row_of
from fedvlr_jax.training.costs import first_reaching
from tests.experiments.commands import SMALL, refused


def curve(*values):
    """A point an hour, with 1 MB and 2 Wh each."""
    return [
        {"round": n, "hours": float(n), "bytes": 1e6 * n, "wh": 2.0 * n, "ndcg@50": value}
        for n, value in enumerate(values)
    ]


def summary(*values):
    costs = {"simulated_h": 3.0, "bytes_down": 2e6, "bytes_up": 1e6, "energy": {"total_wh": 6.0}}
    return {
        "select": "all_ndcg@50",
        "test": {"ndcg@50": values[-1] + 1},
        "costs": {**costs, "curve": curve(*values)},
    }


def test_the_first_point_at_a_level():
    points = curve(None, 4.0, 8.0, 6.0)
    assert first_reaching(points, 5.0)["round"] == 2 and first_reaching(points, 9.0) is None


def test_a_line_by_hand():
    one, other = summary(1.0, 5.0, 10.0), summary(9.0, 11.0, 8.0)
    level = level_of([one["costs"]["curve"], other["costs"]["curve"]], 80.0)
    assert level == pytest.approx(0.8 * 10.5)
    line = line_of("buffer=0", [one, other], level)
    # At rounds 2 and 0.
    assert line["to_level"] == {"hours": 1.0, "bytes": 1e6, "wh": 2.0}
    assert line["ndcg@50"] == 10.0 and line["hours_to_level_by_seed"] == [2.0, 0.0]
    assert row_of(line) == ["buffer=0", "2", "10.00", "3", "2", "1", "6", "1", "1", "2"]
    missed = line_of("buffer=9", [one, summary(1.0, 2.0)], level)
    assert row_of(missed)[-3:] == ["-", "-", "-"]


@pytest.mark.long
@pytest.mark.slow
def test_the_command_compares_synchronous_and_buffered_rounds(run, tmp_path):
    arguments = [*SMALL, "--cohort=20", "--over=buffer=0,10", "--workdir=w"]
    done = run("fleet", *arguments)
    assert done.returncode == 0, done.stderr
    lines = json.loads((tmp_path / "w/fleet.json").read_text())
    assert [line["choice"] for line in lines] == ["buffer=0", "buffer=10"]
    assert all(line["hours"] > 0 for line in lines)
    assert "buffer=10" in (tmp_path / "w/fleet-hours.svg").read_text()
    line = refused(run("fleet", *SMALL, "--deadline_s=0", "--workdir=x"))
    assert "hours need a simulated clock" in line


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fleet", "sweep"])
def test_a_flag_may_need_what_over_gives(run, command):
    flags = [*SMALL, "--rounds=1", "--seeds=0", "--workdir=w", "--noise_multiplier=0.5"]
    done = run(command, *flags, "--over=clip_norm=0.1,0.2")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_members_may_differ_in_their_data(run, tmp_path):
    """None of them has the --recency of the command itself."""
    arguments = [*SMALL, "--cohort=20", "--rounds=1", "--seeds=0", "--workdir=w"]
    done = run("fleet", *arguments, "--over=recency=0.5,1")
    assert done.returncode == 0, done.stderr
    lines = json.loads((tmp_path / "w/fleet.json").read_text())
    assert [line["choice"] for line in lines] == ["recency=0.5", "recency=1.0"]
