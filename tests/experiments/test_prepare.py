"""From raw files to recommendations with titles, by commands alone."""

import csv
import shlex
import sys
from pathlib import Path

import pytest

from fedvlr_jax.commands.features import check_row_numbers
from fedvlr_jax.commands.launching.messages import command
from fedvlr_jax.commands.one_run.runs import describe_code, load
from fedvlr_jax.commands.prepare import next_command
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare import prepare
from fedvlr_jax.prepare.writing import whole_folder
from tests.experiments.commands import SMALL, refused
from tests.prepare import forms

TRAIN = [flag for flag in SMALL if "synthetic" not in flag]


@pytest.mark.slow
def test_raw_files_to_recommendations_with_titles(run, tmp_path):
    forms.recbole(tmp_path / "raw")
    prepared = run("prepare", "--input=raw", "--output=data/toy", "--min_rating=2")
    assert prepared.returncode == 0, prepared.stderr
    assert "rating >= 2" in prepared.stdout and "verdict: usable" in prepared.stdout
    features, train = (
        line.partition(": fedvlr ")[2].split() for line in prepared.stdout.splitlines()[-2:]
    )
    encoded = run(*features)
    assert encoded.returncode == 0, encoded.stderr
    assert "wrote data/toy/text_features.npy: 9 items" in encoded.stdout
    trained = run(*train, *TRAIN)
    assert trained.returncode == 0, trained.stderr
    exported = run("evaluate", "--workdir=runs/toy", "--export=best.csv", "--k=2")
    assert exported.returncode == 0, exported.stderr
    with (tmp_path / "best.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    titles = {forms.item_id(i): f'{title} "x' for i, title in enumerate(forms.TITLES)}
    assert len(rows) > 10 and all(row["title"] == titles[row["item"]] for row in rows)


@pytest.mark.slow
def test_bad_input_is_one_line(run, tmp_path):
    forms.put(tmp_path / "raw.csv", "user_id,item_id,rating,timestamp\nu,i,good,1\n")
    line = refused(run("prepare", "--input=raw.csv", "--output=data/toy"))
    assert "raw.csv, row 2, column rating: found 'good'" in line and "--rating=none" in line
    assert not list((tmp_path / "data").iterdir())
    assert "--input: empty; give a path" in refused(run("prepare"))
    assert "--dataset: empty; give" in refused(run("features"))
    line = refused(run("features", "--dataset=toy", "--device=cuda"))
    assert line == "error: --device: does nothing with --encoder=hashing; leave it out"


def test_wrong_titles_are_refused_before_training(tmp_path):
    forms.recbole(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "data/toy")
    config = Config.from_flat(dataset="toy", data_root=str(tmp_path / "data"))
    load(config, note=lambda line: None)
    with (tmp_path / "data/toy/items.csv").open("a") as file:
        file.write("9,x,A title too many,\n")
    with pytest.raises(InputError, match=r"items\.csv, row 11, column itemID: found '9'"):
        load(config, note=lambda line: None)


def test_features_need_row_numbers_as_item_ids(tmp_path):
    """Without a mapping, item ids are names; with features, the loader reads row numbers."""
    folder = tmp_path / "toy"
    header = "userID,itemID,timestamp\n"
    interactions = forms.put(folder / "inter.csv", header + "u,1,1\nu,2,2\nu,3,3\n")
    found = load_dataset("toy", data_root=tmp_path)
    with pytest.raises(InputError, match=r"its item ids are names such as '1', but features need"):
        check_row_numbers(found, folder)
    interactions.write_text(header + "u,0,1\nu,1,2\nu,2,3\n")
    check_row_numbers(load_dataset("toy", data_root=tmp_path), folder)
    forms.put(folder / "i_id_mapping.csv", "item_id,itemID\na,0\nb,1\nc,2\n")
    check_row_numbers(load_dataset("toy", data_root=tmp_path), folder)


def test_a_shell_reads_the_printed_commands(monkeypatch):
    given = ["--dataset=dir with späce", "--data_root=my data", "--workdir=runs/dir with späce"]
    assert shlex.split(next_command(Path("my data/dir with späce"))) == ["fedvlr", "train", *given]
    assert command("train", rounds=3) == "fedvlr train --rounds=3"
    # config.json, the report and `watch` show this one.
    monkeypatch.setattr(sys, "argv", ["fedvlr train", *given])
    assert shlex.split(describe_code()["command"]) == ["fedvlr", "train", *given]


def test_a_full_disk_is_named(tmp_path):
    with (
        pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\)$"),
        whole_folder(tmp_path / "out", overwrite=False),
    ):
        raise OSError("No space left on device")
    assert not list(tmp_path.iterdir())
