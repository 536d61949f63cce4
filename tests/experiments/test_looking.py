"""The commands that only look: validate a data set, show checkpoints."""

import json

import numpy as np

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands import show
from tests.experiments.commands import refused
from tests.test_checkpointing import TREE, saved


def folder(root, features):
    mine = root / "data/mine"
    mine.mkdir(parents=True)
    rows = [f"{u},{(u + 3 * i) % 9},{i}" for u in range(6) for i in range(5)]
    (mine / "inter.csv").write_text("\n".join(["userID,itemID,timestamp", *rows, rows[0]]) + "\n")
    np.save(mine / "text_features.npy", features)


def test_validate_reports_and_gives_a_verdict(run, tmp_path):
    folder(tmp_path, np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    result = run("validate", "--dataset=mine", "--data_root=data", "--json=report.json")
    assert result.returncode == 0, result.stderr
    assert "merged 13 duplicate interactions" in result.stdout
    assert "warning: text: content-kNN is no better" in result.stdout
    assert "verdict: usable" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["verdict"], report["users"], report["items"]) == ("usable", 6, 9)
    assert report["features"]["text"]["width"] == 4 and report["warnings"]


def test_validate_refuses_as_training_does(run, tmp_path):
    folder(tmp_path, np.full((9, 4), np.nan, np.float32))
    line = refused(run("validate", "--dataset=mine", "--data_root=data", "--json=report.json"))
    assert "text_features.npy, row 0, column 0: found 'nan'" in line
    assert not (tmp_path / "report.json").exists()
    assert "no data set 'other'" in refused(run("validate", "--dataset=other", "--data_root=data"))


def test_show_tells_whole_from_damaged(run, tmp_path):
    checkpoints = saved(tmp_path / "w/checkpoints", (2, 4, 6), keep=3)
    (tmp_path / "w/config.json").write_text("{}")
    (checkpoints.path(6) / "meta.json").write_text("{}")
    result = run("show", "--workdir=w", "--values")
    assert result.returncode == 0, result.stderr
    assert "damaged: meta.json: differs from what was written" in result.stdout
    assert "round 4" in result.stdout
    row = next(line for line in result.stdout.splitlines() if "best.server.shared.items" in line)
    # 0 to 11: mean 5.5, standard deviation sqrt((12^2 - 1) / 12).
    assert [cell.strip() for cell in row.split("│")[2:-1]] == [
        *("4×3", "float32", "48", "100%", "5.5", "3.452")
    ]
    result = run("show", "--workdir=w", "--round=6")
    assert (
        result.returncode == 2
        and "no whole checkpoint of this round; give one of [2, 4]" in result.stderr
    )


def test_show_has_a_value_only_of_an_evaluated_state(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    meta = {"best_round": 3, "evaluations": [{"round": 0}, {"round": 3}]}
    for number, score in ((2, 0.0), (3, 25.0)):
        checkpoints.save(number, TREE, meta, score)
    checkpoints.wait()
    table, whole = show.survey(checkpoints)
    assert whole == [2, 3] and list(table.columns[2].cells) == ["-", "25.00"]
    # Of any --select.
    assert table.columns[2].header == "validation"
