"""`python -m experiments.centralized` as users run it, and its parts."""

import json

import numpy as np
import pytest

from fedvlr_jax.commands.centralized import parse_weights
from fedvlr_jax.errors import InputError
from tests.experiments.commands import refused

SMALL = ("--synthetic_users=60", "--synthetic_items=80", "--width=4", "--epochs=2")


@pytest.mark.slow
def test_a_run_leaves_what_a_federated_one_does(run, tmp_path):
    arguments = (*SMALL, "--tune=false", "--weights=l2=0.1", "--seeds=0,1", "--workdir=w")
    first = run("centralized", *arguments)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "w/default"
    summaries = [json.loads((folder / f"seed{s}/summary.json").read_text()) for s in (0, 1)]
    for summary in summaries:
        assert summary["backbone"] == "vbpr" and summary["protocol"] == "strict"
        assert {"hr@50", "ndcg@50", "warm", "cold", "activity"} <= summary["test"].keys()
        assert "ease" in summary["baselines"] and 1 <= summary["selected_round"] <= 2
    flags = json.loads((folder / "seed1/config.json").read_text())["flags"]
    assert (flags["model"], flags["weights"], flags["seed"]) == ("vbpr", {"l2": 0.1}, 1)
    (line,) = json.loads((tmp_path / "w/centralized.json").read_text())
    expected = np.mean([summary["test"]["ndcg@50"] for summary in summaries])
    assert line["all_ndcg@50"] == pytest.approx(expected) and line["seeds"] == 2
    assert "<svg" in (folder / "seed1/report.html").read_text()

    again = run("centralized", *arguments)
    assert again.returncode == 0 and "epoch" not in again.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    {
        "--weights=contrast=1 --tune=false": "vbpr has no 'contrast'",
        "--model=sasrec --weights=dropout=1 --tune=false": "give at least 0 and less than 1",
        "--rounds=3": "rounds",
    }.items(),
)
def test_bad_flags_end_in_one_line(arguments, said, run):
    assert said in refused(run("centralized", *SMALL, "--workdir=w", *arguments.split()))


def test_weights_are_read():
    assert parse_weights("l2=0.1, contrast=1e-3") == {"l2": 0.1, "contrast": 1e-3}
    assert parse_weights("") == {}
    with pytest.raises(InputError, match="weights=l2"):
        parse_weights("l2")
