"""The sweep: its arguments, and the comparison it leaves."""

import json
import os
import types

import pandas as pd
import pytest

from fedvlr_jax.commands.launching.faults import Interrupted
from fedvlr_jax.commands.members import (
    folders,
    make_members,
    parse_over,
    parse_seeds,
    training,
)
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import locked
from tests.experiments.commands import SMALL, refused

pytestmark = pytest.mark.usefixtures("undrawn")


def test_values_have_their_flags_types():
    single = lambda text: [pair for (pair,) in parse_over(text)]
    assert single("rounds=3,5") == [("rounds", 3), ("rounds", 5)]
    assert single("client_lr=1,0.5") == [("client_lr", 1.0), ("client_lr", 0.5)]
    assert single("views=id;id,text") == [("views", "id"), ("views", "id,text")]
    assert single("baselines=true,false") == [("baselines", True), ("baselines", False)]
    assert parse_over("fusion:rounds=none:3,bilevel:5") == [
        (("fusion", "none"), ("rounds", 3)),
        (("fusion", "bilevel"), ("rounds", 5)),
    ]
    assert parse_seeds("2,0") == [2, 0]


@pytest.mark.parametrize(
    "text",
    [
        *("fusion", "fuson=none", "rounds=few", "seed=1,2", "baselines=maybe", "=3"),
        *(
            "dataset=KU,ML",
            "synthetic_seed=0,1",
            "fusion:rounds=none:3,mlp",
            "rounds=3:4",
            "fusion:seed=none:1",
        ),
    ],
)
def test_bad_values_are_refused(text):
    with pytest.raises(InputError, match="over="):
        parse_over(text)


@pytest.mark.parametrize("text", ["", "0,0", "a", "1.5", "-1", "2147483648"])
def test_bad_seeds_are_refused(text):
    with pytest.raises(InputError, match=r"seeds=.* from 0 to 2147483647"):
        parse_seeds(text)


def test_a_member_chooses_the_rule_that_its_privacy_needs():
    def rules(over, **flags):
        base = Config.from_flat(workdir="w", clip_norm=0.1, noise_multiplier=1.0, **flags)
        return [m.config.federation.aggregation for m in make_members(base, [over], [0])]

    chosen = ["float32", "fixed_mean", "secure"]
    assert rules("privacy=none,central,distributed") == chosen
    # The same from a base whose own rule was chosen by its privacy.
    assert rules("privacy=none,central,distributed", privacy="central") == chosen
    # A rule that was given stays.
    assert rules("privacy=none", privacy="central", aggregation="fixed_mean") == ["fixed_mean"]
    with pytest.raises(InputError, match="privacy=central: with aggregation=float32"):
        rules("privacy=none,central", aggregation="float32")


def test_members_with_other_rates_share_a_program():
    base = Config.from_flat(workdir="w")
    members = make_members(base, ["client_lr=1,3", "fusion=none,bilevel"], [0, 1])
    together = make_members(base, ["fusion:client_lr=none:1,bilevel:3", "rounds=2,3"], [0])
    assert [m.choice for m in together][1] == (
        ("fusion", "none"),
        ("client_lr", 1.0),
        ("rounds", 3),
    )
    assert len(members) == 8 and len({m.program for m in members}) == 2
    assert len({m.directory for m in members}) == 8


@pytest.mark.long
@pytest.mark.slow
def test_a_sweep_compares_and_is_not_repeated(run, tmp_path):
    arguments = [*SMALL, "--seeds=0,1", "--over=fusion=none,bilevel", "--workdir=w"]
    first = run("sweep", *arguments)
    assert first.returncode == 0, first.stderr
    lines = json.loads((tmp_path / "w/sweep.json").read_text())
    baselines = ["popularity", "item_knn", "rp3beta", "puresvd", "ials", "ease", "transitions"]
    baselines += [f"content_knn_{name}" for name in ("text", "image", "all")]
    baselines.append("ease_content")
    assert [line["choice"] for line in lines] == ["fusion=none", "fusion=bilevel", *baselines]
    assert sum("chosen" in line for line in lines[:2]) == 1
    assert not any("chosen" in line for line in lines[2:])
    assert all(0 <= line["p_value"] <= 1 for line in lines[1:])
    each = [
        json.loads((tmp_path / f"w/fusion=bilevel/seed{seed}/summary.json").read_text())
        for seed in (0, 1)
    ]
    assert [summary["seed"] for summary in each] == [0, 1]
    mean = sum(summary["test"]["hr@50"] for summary in each) / 2
    assert lines[1]["all_hr@50"] == pytest.approx(mean)
    assert len(pd.read_csv(tmp_path / "w/sweep.csv")) == 2 + len(baselines)

    # A member is the run that train would have made.
    alone = run("train", *SMALL, "--fusion=bilevel", "--seed=1", "--workdir=alone")
    assert alone.returncode == 0, alone.stderr
    assert json.loads((tmp_path / "alone/summary.json").read_text())["test"] == each[1]["test"]

    again = run("sweep", *arguments)
    assert again.returncode == 0 and "round" not in again.stdout
    refused(run("sweep", *SMALL, "--over=fusion=none,magic", "--workdir=w2"))
    assert not (tmp_path / "w2").exists()


@pytest.mark.parametrize("command", ["sweep", "table2"])
@pytest.mark.slow
def test_a_second_process_in_one_folder_is_refused(command, run, tmp_path):
    with locked(tmp_path / "w"):
        line = refused(run(command, *SMALL, "--workdir=w"))
    assert f"--workdir=w: process {os.getpid()} is writing there" in line
    assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]


def test_a_value_that_is_there_twice_is_refused():
    with pytest.raises(InputError, match="fusion=none occurs twice"):
        make_members(Config.from_flat(workdir="w"), ["fusion=none,mlp,none"], [0])


@pytest.mark.parametrize(
    "over", [["fusion=none,mlp", "width=4", "fusion=none"], ["fusion:fusion=mlp:none"]]
)
def test_a_flag_that_is_there_twice_is_refused(over):
    """The last value would count, under a label with both."""
    with pytest.raises(InputError, match="over: fusion is there twice"):
        make_members(Config.from_flat(workdir="w"), over, [0])


def test_a_negative_number_of_members_at_once_is_refused(run):
    line = refused(run("sweep", *SMALL, "--members_at_once=-1", "--workdir=w"))
    assert "members_at_once" in line and "-1" in line


@pytest.mark.slow
def test_a_folder_of_other_members_is_refused_before_any_is_trained(run, tmp_path):
    arguments = [*SMALL, "--seeds=0", "--workdir=w", "--baselines=false"]
    assert run("sweep", *arguments, "--over=fusion=none").returncode == 0
    before = (tmp_path / "w/fusion=none/seed0/summary.json").read_bytes()
    other = [*arguments, "--over=fusion=mlp,none", "--width=4"]
    assert "--width was 8, is 4" in refused(run("sweep", *other))
    assert not (tmp_path / "w/fusion=mlp").exists()
    assert (tmp_path / "w/fusion=none/seed0/summary.json").read_bytes() == before
    assert run("sweep", *other, "--overwrite").returncode == 0


@pytest.mark.slow
def test_a_choice_that_diverges_is_named_and_flags_of_one_run_are_unknown(run, tmp_path):
    arguments = [*SMALL, "--seeds=0", "--workdir=w", "--baselines=false"]
    done = run("sweep", *arguments, "--over=client_lr=1,1e30")
    assert done.returncode == 0, done.stderr
    assert "Without a finished run: client_lr=1e+30." in (tmp_path / "w/sweep.md").read_text()
    for flag in ("--seed=1", "--resume=must", "--store=disk", "--checkpoint_every=3"):
        assert "Unknown" in refused(run("sweep", *arguments, flag))
    assert "--workdir: empty; give a directory" in refused(run("sweep", *SMALL))


@pytest.mark.slow
def test_nothing_can_be_chosen_without_a_validation_part(run, tmp_path):
    folder = tmp_path / "data/toy"
    folder.mkdir(parents=True)
    rows = [f"{u},{(u + i) % 9},{i},{2 if i == 4 else 0}" for u in range(8) for i in range(5)]
    (folder / "inter.csv").write_text("\n".join(["userID,itemID,timestamp,x_label", *rows]) + "\n")
    data = ("--dataset=toy", "--data_root=data", "--fusion=none", "--rounds=2", "--width=8")
    line = refused(run("sweep", *data, "--seeds=0", "--workdir=w"))
    assert "toy: has no validation interaction" in line
    assert not (tmp_path / "w/default").exists()
    alone = run("train", *data, "--workdir=alone")
    assert alone.returncode == 0 and "tests the last state" in alone.stdout


class Signal:
    """In place of StopRequest: asks to stop once `asked` was looked at `calm` times."""

    name = "SIGTERM"

    def __init__(self, calm):
        self._calm = calm

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def asked(self):
        self._calm -= 1
        return self._calm < 0


def results(folder):
    for path in sorted(folder.glob("*/seed*")):
        summary = json.loads((path / "summary.json").read_text())
        assert not (path / "checkpoints").exists()
        lines = (path / "metrics.jsonl").read_text()
        yield path.parent.name, path.name, summary["valid"], summary["test"], lines


@pytest.mark.parametrize(
    ("over", "named"),
    [
        ("cohort=5,500", "cohort=500: cohort=500: the data set has 40 users"),
        ("views=id;id,sound", "'sound' is not a view"),
        ("init=random,spectral", "has no private vector"),
        ("plan=auto,dense", "plan=dense: cannot train"),
        ("over_selection=1,3", "asks for more than the 40 clients"),
        ("upload_rank=0,9999", "a row of the views has"),
    ],
)
def test_every_member_is_checked_before_one_is_trained(monkeypatch, tmp_path, over, named):
    monkeypatch.setattr(training, "train_group", None)
    small = dict(synthetic_users=40, synthetic_items=60, width=8, baselines=False, init="random")
    own = {
        "init=random,spectral": dict(backbone="fedavg"),
        "plan=auto,dense": dict(history_weight=1.0),
        "over_selection=1,3": dict(cohort=20),
    }
    base = Config.from_flat(**small | own.get(over, {}), workdir=str(tmp_path / "w"))
    with pytest.raises(InputError, match=named):
        training.train_waiting(make_members(base, [over], [0]))
    assert not (tmp_path / "w").exists()


def test_a_signal_loses_no_member_of_a_sweep(monkeypatch, tmp_path):
    """The sweep is stopped after the first blocks of rounds of its first and second program."""
    monkeypatch.setattr(training, "FLAGS", types.SimpleNamespace(members_at_once=1))
    small = dict(synthetic_users=40, synthetic_items=60, width=8, rounds=4, eval_every=2)

    def train(name, calm):
        monkeypatch.setattr(training, "StopRequest", lambda: Signal(calm))
        base = Config.from_flat(**small, workdir=str(tmp_path / name), baselines=False)
        training.train_waiting(make_members(base, ["fusion=none,vbpr", "client_lr=1,0.1"], [0]))

    train("whole", 10**9)
    for calm, saved in ((1, 2), (3, 2)):
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            train("w", calm)
        assert len(list((tmp_path / "w").glob("*/seed0/checkpoints/round_00000002"))) == saved
    train("w", 10**9)
    assert list(results(tmp_path / "w")) == list(results(tmp_path / "whole"))

    # Finished members are not trained again, and each is read once.
    read, members_read = folders.read_results, []
    counted = lambda run, note: members_read.append(run.path) or read(run, note)
    monkeypatch.setattr(folders, "read_results", counted)
    monkeypatch.setattr(training, "train_together", None)
    train("w", 10**9)
    assert len(members_read) == len(set(members_read)) == 4
