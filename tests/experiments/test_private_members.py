"""Private runs that train together: each has its ledger and its statement."""

import json
import types

import pytest

from fedvlr_jax.commands.launching.faults import Interrupted
from fedvlr_jax.commands.members import MemberOptions, make_members, train_together
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training.ensemble import Programs
from fedvlr_jax.training.summary import BaselineSummary

pytestmark = pytest.mark.usefixtures("undrawn")

GOING = types.SimpleNamespace(asked=False, name="")


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})


@pytest.fixture(scope="module")
def simulation(dataset):
    return make_simulation(config("unused"), dataset)


def config(workdir, **flags):
    small = {"width": 4, "fusion": "none", "rounds": 4, "eval_every": 2, "patience": 0}
    private = {"privacy": "central", "clip_norm": 0.1, "noise_multiplier": 2.0}
    private["target_delta"] = 0.01
    return Config.from_flat(baselines=False, workdir=str(workdir), **small, **private, **flags)


def train(base, simulation, seeds=(0, 1), **given):
    group = make_members(base, [], seeds)
    baselines = lambda config: BaselineSummary({}, {})
    options = MemberOptions(baselines, given.pop("stop", GOING), **given)
    train_together(group, Programs(simulation), None, options)
    return [member.directory for member in group]


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_every_member_has_a_ledger_and_a_statement(simulation, tmp_path):
    for folder in train(config(tmp_path), simulation):
        assert read(folder, "ledger.json") == {"rounds": 4, "noise_multiplier": 2.0}
        stated = read(folder, "privacy.json")
        assert stated["rounds"] == {"spent": 4, "planned": 4}
        assert stated == read(folder, "summary.json")["privacy"]


def test_rounds_are_spent_before_they_are_trained(simulation, tmp_path):
    class Killed(BaseException):
        pass

    def watch(members, runs):
        if runs[0].evaluations[-1]["round"] == 2:
            raise Killed
        return ()

    with pytest.raises(Killed):
        train(config(tmp_path), simulation, watch=watch)
    seen = []
    for folder in sorted((tmp_path / "default").iterdir()):
        assert not (folder / "config.json").exists()
        seen.append(read(folder, "ledger.json")["rounds"])
        assert read(folder, "privacy.json")["rounds"]["spent"] == 2
    assert seen == [2, 2]
    # Trained again: the same releases.
    for folder in train(config(tmp_path), simulation):
        assert read(folder, "ledger.json")["rounds"] == 4


def test_a_ledger_of_other_noise_is_refused_but_with_overwrite_replaced(simulation, tmp_path):
    (folder,) = train(config(tmp_path), simulation, seeds=(0,))
    other = {"rounds": 9, "noise_multiplier": 1.0}
    (folder / "ledger.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="its rounds have noise_multiplier=1"):
        train(config(tmp_path), simulation, seeds=(0,))
    assert read(folder, "ledger.json") == other
    train(config(tmp_path, overwrite=True), simulation, seeds=(0,))
    assert read(folder, "ledger.json")["rounds"] == 4


def test_a_member_without_privacy_has_neither(dataset, tmp_path):
    base = config(tmp_path).changed(privacy="none", aggregation="float32", noise_multiplier=0.0)
    simulation = make_simulation(base, dataset)
    (folder,) = train(base, simulation, seeds=(0,))
    assert not {file.name for file in folder.iterdir()} & {"ledger.json", "privacy.json"}


def test_a_stopped_member_has_its_statement(simulation, tmp_path):
    asked = iter([False, True, True])
    stop = type("Stop", (), {"asked": property(lambda self: next(asked)), "name": "SIGTERM"})()
    with pytest.raises(Interrupted):
        train(config(tmp_path), simulation, stop=stop)
    for folder in sorted((tmp_path / "default").iterdir()):
        assert (folder / "config.json").exists()
        assert read(folder, "privacy.json")["rounds"]["spent"] == 2
