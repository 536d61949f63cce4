"""A finished run that is told to do more does it, or says why not; it works on other machines."""

import json
import shutil

import numpy as np
import pytest

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands import evaluate
from fedvlr_jax.commands.launching.faults import Interrupted
from fedvlr_jax.commands.members import complete, finished_results
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.offloaded import Offloaded
from tests.experiments.test_interruption import at, go, result

pytestmark = pytest.mark.usefixtures("undrawn")

# Rounds 0, 2 and 4 are evaluated.
FLAGS = {"rounds": 4, "eval_every": 2, "cohort": 0, "client_dropout": 0.0}
# What the synthetic data of the fixture are called on the command line.
DATA = {"synthetic_users": 40, "synthetic_items": 60}


@pytest.fixture(scope="module")
def simulation():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})
    values = {"width": 8, "router_hidden": 8, "local_epochs": 2, "baselines": False}
    return make_simulation(Config.from_flat(**values, **FLAGS, **DATA), dataset)


@pytest.fixture(scope="module")
def finished(simulation, tmp_path_factory):
    """The folder of a finished run; to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "w"
    go(at(simulation, folder, **FLAGS))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "w")


def again(simulation, folder, leave=lambda: False, **flags):
    """The command once more; its summary."""
    return go(at(simulation, folder, **{**FLAGS, **flags}), leave)[0]


def untrained(simulation, folder, **flags):
    """As `again`, which must not train a round."""
    told = at(simulation, folder, **{**FLAGS, **flags})
    told.__dict__["_run"] = None
    return go(told)[0]


def content(folder):
    """Every file of a run directory but the checkpoints, to the byte."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != ".lock"]
    return {path.name: path.read_bytes() for path in files}


def test_the_same_command_changes_nothing(simulation, folder, finished):
    summary = untrained(simulation, folder)
    assert content(folder) == content(finished)
    assert summary == json.loads((finished / "summary.json").read_text())


@pytest.mark.parametrize("name", ["report.html", "users.npz", "summary.json", "metrics.jsonl"])
def test_a_deleted_file_is_made_again(name, simulation, folder, finished):
    (folder / name).unlink()
    untrained(simulation, folder)
    assert content(folder).keys() == content(finished).keys()
    assert result(folder) == result(finished)
    before, after = (RunDirectory.open(path).read_users() for path in (finished, folder))
    for column, values in before.items():
        np.testing.assert_array_equal(after[column], values)
    if name != "summary.json":  # The only file that has it.
        timings = [
            json.loads((p / "summary.json").read_text())["timing"] for p in (folder, finished)
        ]
        assert timings[0] == timings[1]


def test_a_damaged_file_is_made_again_and_named(simulation, folder, finished, capsys):
    (folder / "users.npz").write_bytes(b"PK")
    untrained(simulation, folder)
    printed = capsys.readouterr().out
    assert "the run had finished, but" in printed and "users.npz: damaged" in printed
    assert result(folder) == result(finished)


def test_baselines_are_added_and_stay(simulation, folder, finished):
    summary = untrained(simulation, folder, baselines=True)
    assert "ease" in summary["baselines"]
    assert summary == json.loads((folder / "summary.json").read_text())
    reports = [(path / "report.html").read_text() for path in (folder, finished)]
    assert ["EASE (linear" in report for report in reports] == [True, False]
    was = json.loads((finished / "summary.json").read_text())
    assert {**summary, "baselines": {}, "paired": {}} == was
    before = content(folder)
    assert untrained(simulation, folder, baselines=True) == summary
    assert content(folder) == before
    # A call without baselines changes nothing in them, whatever it says about tuning.
    for tune in (True, False):
        assert untrained(simulation, folder, baselines=False, tune_baselines=tune) == summary
    retuned = untrained(simulation, folder, baselines=True, tune_baselines=False)
    tried = [of["baselines"]["ease"]["settings_tried"] for of in (summary, retuned)]
    assert tried == [9, 1]


def test_while_more_rounds_are_trained_there_is_no_summary_of_fewer(simulation, folder, tmp_path):
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        again(simulation, folder, lambda: next(asked), rounds=8)
    assert content(folder).keys() == {"config.json", "metrics.jsonl"}
    assert again(simulation, folder, rounds=8)["rounds_run"] == 8
    again(simulation, tmp_path / "once", rounds=8)
    assert result(folder) == result(tmp_path / "once")


def test_more_patience_than_was_needed_changes_no_number(simulation, folder, finished):
    """The run ended by its rounds; what its flags are is written down all the same."""
    untrained(simulation, folder, patience=11)
    assert result(folder) == result(finished)
    assert RunDirectory.open(folder).read_config()["flags"]["patience"] == 11


def test_fewer_rounds_are_refused_and_change_nothing(simulation, folder, finished):
    with pytest.raises(InputError, match=r"rounds=3: the run has trained 4 rounds"):
        again(simulation, folder, rounds=3)
    (folder / "summary.json").unlink()
    with pytest.raises(InputError, match=r"rounds=3: the run has trained 4 rounds"):
        again(simulation, folder, rounds=3)
    left = content(finished)
    del left["summary.json"]
    assert content(folder) == left


def test_without_a_checkpoint_nothing_is_trained_in_silence(simulation, folder, finished):
    shutil.rmtree(folder / "checkpoints")
    (folder / "report.html").unlink()
    assert "ease" in untrained(simulation, folder, baselines=True)["baselines"]
    assert (folder / "report.html").is_file()
    before = content(folder)
    with pytest.raises(InputError, match=r"has no whole checkpoint, .* overwrite"):
        again(simulation, folder, rounds=8)
    assert content(folder) == before
    (folder / "users.npz").unlink()
    with pytest.raises(InputError, match=r"has no whole checkpoint, .* overwrite"):
        again(simulation, folder)


def test_a_member_without_users_is_trained_again_and_a_report_is_made(simulation, folder, capsys):
    here = at(simulation, folder, **FLAGS)
    config = RunDirectory.open(folder).read_config()
    (folder / "report.html").unlink()
    assert complete(folder, here.config.flat, lambda: config, dict)
    assert (folder / "report.html").is_file()
    (folder / "users.npz").unlink()
    assert finished_results(folder) is None
    assert "users.npz: not found" in capsys.readouterr().out


ELSEWHERE = {"devices": 8, "store": "disk", "store_dir": "/nowhere/there", "chunk": 7}


@pytest.fixture
def moved(folder, tmp_path):
    """A run of another machine, in another folder."""
    config = json.loads((folder / "config.json").read_text())
    config["flags"] |= {**ELSEWHERE, "memory_budget_gb": 500.0, "data_root": "/nowhere/data"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder.rename(tmp_path / "moved")


def test_evaluate_takes_what_this_machine_has(moved):
    here = evaluate.config_here(str(moved)).run
    assert (here.devices, here.store, here.store_dir, here.memory_budget_gb) == (0, "disk", "", 0.0)
    given = evaluate.config_here(str(moved), devices=1, store="host", store_dir=None).run
    assert (given.devices, given.store, given.store_dir) == (1, "host", "")
    users = RunDirectory.open(moved).read_users()
    simulation, state, _ = evaluate.load_best(str(moved))
    ranks = simulation.evaluate(state, "test")
    np.testing.assert_array_equal(ranks.ahead, users["ahead"])
    np.testing.assert_array_equal(ranks.tied, users["tied"])


def test_evaluate_keeps_rows_on_the_disk_where_they_do_not_fit(folder, capsys):
    streamed, _, _ = evaluate.load_best(str(folder), memory_budget_gb=0.1)
    assert isinstance(streamed.engine, Offloaded)
    assert "uses --store=disk: --store=device needs about" in capsys.readouterr().out
    told, _, _ = evaluate.load_best(str(folder), memory_budget_gb=0.1, store="device")
    assert not isinstance(told.engine, Offloaded)


def test_evaluate_names_the_flag_for_data_that_have_moved(folder):
    config = json.loads((folder / "config.json").read_text())
    config["flags"] |= {"dataset": "mine", "data_root": "/nowhere/data"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"data_root=/nowhere/data: no such folder; give"):
        evaluate.load_best(str(folder))


def test_a_run_of_another_machine_goes_on_here(simulation, moved, tmp_path):
    """Its flags of devices, stores and folders bind nobody: those given now hold."""
    assert again(simulation, moved, rounds=6)["rounds_run"] == 6
    again(simulation, tmp_path / "once", rounds=6)
    assert result(moved) == result(tmp_path / "once")
    assert Checkpoints(moved / "checkpoints").newest() == 6
