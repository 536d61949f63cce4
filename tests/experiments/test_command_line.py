"""The commands as users run them: results on disk, clear refusals, going on."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.conftest import mostly_slow
from tests.experiments.commands import SMALL, refused


@pytest.mark.slow
def test_a_run_leaves_everything_and_goes_on(run, tmp_path):
    first = run("train", *SMALL, "--workdir=w")
    assert first.returncode == 0, first.stderr
    assert "round 6/6" in first.stdout and "EASE" in first.stdout
    summary = json.loads((tmp_path / "w/summary.json").read_text())
    for part in ("test", "valid"):
        assert 0 <= summary[part]["ndcg@50"] <= summary[part]["hr@50"] <= 100
        assert {"hr@50", "ndcg@50"} <= summary[part]["warm"].keys()
        assert "users" in summary[part]["cold"]
    assert {"dataset", "protocol", "backbone", "fusion", "seed", "selected_round"} <= summary.keys()
    timing = {"first_block_s", "round_s_median", "eval_s_median", "total_s"}
    assert all(summary["timing"][name] > 0 for name in timing)
    assert summary["peak_rss_mb"] > 50
    assert {"random", "popularity", "item_knn", "ease"} <= summary["baselines"].keys()
    assert "hr@50" in summary["baselines"]["ease"]["warm"]
    config = json.loads((tmp_path / "w/config.json").read_text())
    assert config["flags"]["rounds"] == 6 and config["dataset"]["num_users"] == 60
    metrics = [json.loads(line) for line in (tmp_path / "w/metrics.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in metrics] == [0, 2, 4, 6]
    best = max(metrics, key=lambda entry: entry["valid"]["ndcg@50"])
    assert summary["selected_round"] == best["round"]
    assert summary["valid"]["ndcg@50"] == best["valid"]["ndcg@50"]
    page = (tmp_path / "w/report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")

    again = run("train", *SMALL, "--workdir=w")
    assert again.returncode == 0 and "already finished" in again.stdout
    assert json.loads((tmp_path / "w/summary.json").read_text()) == summary

    # More rounds go on from the checkpoint, and end as if they had never stopped.
    longer = [*SMALL, "--rounds=10"]
    assert run("train", *longer, "--workdir=w").returncode == 0
    assert run("train", *longer, "--workdir=whole").returncode == 0
    lines = [(tmp_path / d / "metrics.jsonl").read_bytes() for d in ("w", "whole")]
    assert lines[0] == lines[1]
    one, other = (json.loads((tmp_path / d / "summary.json").read_text()) for d in ("w", "whole"))
    assert one["test"] == other["test"] and one["selected_round"] == other["selected_round"]

    line = refused(run("train", *longer, "--workdir=w", "--seed=7"))
    assert "--seed was 0, is 7" in line

    exported = run("evaluate", "--workdir=w", "--export=out/best.csv", "--k=5")
    assert exported.returncode == 0, exported.stderr
    table = pd.read_csv(tmp_path / "out/best.csv")
    assert list(table.columns) == ["user", "rank", "item", "score", "tie"]
    assert (table.groupby("user")["rank"].max() == 5).all() and table["user"].nunique() == 60
    assert set(table["tie"]) <= {0, 1}
    assert not table.duplicated(["user", "item"]).any()
    assert (table.groupby("user")["score"].diff().dropna() <= 0).all()


BAD = {
    "--fusion=magic": "choose one of none, vbpr, mlp, shared, bilevel",
    "--rounds=many": "rounds=many",
    "--round=3": "round",
    "--rounds=0": "at least 1",
    "--flagfile=missing.flags": "missing.flags",
    "--dataset=nowhere --data_root=.": "nowhere",
    "--views=id,sound": "'sound' is not a view",
    "--views=id,,text": "empty or repeated",
    "--ks=10,0": "give positive integers",
    "--select=auc@50": "no metric 'auc'",
    "--noise_multiplier=1": "needs --clip_norm",
    "--plan=dense --backbone=fedncf": "are catalogue, gathered",
    "--cohort=100": "has 60 users",
    "--synthetic_users=3": "users",
    "--min_local_epochs=9": "more than",
    "--client_lr=nan": "finite",
    "--client_dropout=1": "[0, 1)",
    "--resume=must": "holds no run",
    "--split=global-time": "leave-one-out",
    "rounds=3": "not a flag",
    "--workdir=file/w": "is a file",
}


@pytest.mark.parametrize("arguments", mostly_slow(BAD, 3))
def test_bad_flags_end_in_one_line(arguments, run, tmp_path):
    (tmp_path / "file").write_text("x")
    extra = [] if "--workdir" in arguments else ["--workdir=w"]
    line = refused(run("train", *SMALL, *arguments.split(), *extra))
    assert BAD[arguments] in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("workdir", ["", "nowhere"])
def test_evaluate_refuses_what_is_no_run(workdir, run):
    assert "--workdir" in refused(run("evaluate", f"--workdir={workdir}"))


def test_bad_data_leaves_no_run(run, tmp_path):
    folder = tmp_path / "data/mine"
    folder.mkdir(parents=True)
    rows = [f"{u}\t{i}\t{i}" for u in range(3) for i in range(4)]
    (folder / "inter.csv").write_text("\n".join(["userID\titemID\ttimestamp", *rows]) + "\n")
    features = np.ones((4, 3), np.float32)
    features[2, 1] = np.nan
    np.save(folder / "image_features.npy", features)
    line = refused(run("train", "--dataset=mine", "--data_root=data", "--workdir=w"))
    assert "image_features.npy" in line and "row 2" in line
    assert not (tmp_path / "w").exists()


def test_a_diverging_run_stops_with_its_own_status(run, tmp_path):
    result = run("train", *SMALL, "--client_lr=1e30", "--workdir=w")
    assert result.returncode == 3
    assert "round 0" in result.stderr or "round 1" in result.stderr
    assert "client" in result.stderr and "leaf" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("module", ["train", "evaluate", "validate", "show"])
def test_help(module, run):
    result = run(module, "--help")
    assert result.returncode == 0 and "Flags" in result.stdout


def test_the_time_of_the_baselines_is_announced(run):
    """Tuning them can take longer than the training."""
    told = "now: the test part, and tuned baselines; --tune_baselines=false is faster"
    small = [flag for flag in SMALL if "baselines" not in flag]
    assert told in run("train", *small, "--workdir=a").stdout.splitlines()
    assert told not in run("train", *small, "--tune_baselines=false", "--workdir=b").stdout


@pytest.mark.parametrize(
    ("flag", "found"), [("rounds=five", "a whole number"), ("client_lr=much", "a number")]
)
def test_a_number_that_cannot_be_read(flag, found, run):
    line = refused(run("train", f"--{flag}"))
    assert f"--{flag}: expected {found}, found '{flag.partition('=')[2]}'" in line


def test_help_lists_choices_alike_and_breaks_no_name(run):
    search = run("search", "--help").stdout
    choice = "--sampler  Sampler of the values of a trial. One of: tpe, random. (default: tpe)\n"
    assert choice in search and "repeat this option" not in search
    assert "geometric_median,\n      norm_bound," in run("robustness", "--help").stdout
