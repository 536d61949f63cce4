"""A private run that is killed, continued, extended or walked back keeps what it has spent."""

import dataclasses
import io
import json
import shutil
import threading

import numpy as np
import pytest
from rich.console import Console

from fedvlr_jax.commands.one_run.experiment import run_experiment
from fedvlr_jax.commands.one_run.privacy_accounts import budget_note, with_held_noise
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import Progress
from fedvlr_jax.simulation import Simulation, make_simulation

pytestmark = pytest.mark.usefixtures("undrawn")

USERS, ROUNDS = 60, 20


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": USERS, "items": 60, "seed": 0}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def config(workdir, **flags):
    small = dict(width=8, local_epochs=1, eval_every=5, baselines=False, fusion="none", patience=0)
    private = dict(privacy="central", aggregation="fixed_mean", clip_norm=0.1)
    saving = dict(checkpoint_every=3, checkpoint_share=1.0, rounds=ROUNDS, workdir=str(workdir))
    spending = {} if "target_epsilon" in flags else {"noise_multiplier": 2.0}
    return Config.from_flat(**(small | private | saving | spending | flags))


def start(asked, dataset):
    """`python -m experiments.train` with these flags: (simulation, summary, what it printed)."""
    simulation = make_simulation(with_held_noise(asked), dataset)
    told = io.StringIO()
    try:
        with Progress(ROUNDS, console=Console(file=told)) as progress:
            summary, _ = run_experiment(simulation, progress)
    finally:
        # A killed process saves no more; here its thread would.
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
    return simulation, summary, told.getvalue()


def ledger(path):
    return json.loads((path / "ledger.json").read_text())


class Killed(BaseException):
    pass


def killed_within(monkeypatch, last):
    """Training dies in the round that would be the `last`."""
    run_rounds = Simulation.run_rounds

    def dies(self, state, num_rounds):
        if int(state.server.round) + num_rounds >= last:
            raise Killed
        return run_rounds(self, state, num_rounds)

    monkeypatch.setattr(Simulation, "run_rounds", dies)


def test_twenty_kills_and_the_ledger_never_goes_back(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fedvlr_jax.training.loop.PIECE_S", 1e-9
    )  # Every round is a piece of its own.
    start(config(tmp_path / "whole"), dataset)
    divided = tmp_path / "divided"
    simulation = make_simulation(config(divided), dataset)
    monkeypatch.setattr(
        "tests.experiments.test_private_runs.make_simulation", lambda *_: simulation
    )
    for last in range(1, ROUNDS + 1):
        with monkeypatch.context() as patch:
            killed_within(patch, last)
            with pytest.raises(Killed):
                start(config(divided), dataset)
        assert ledger(divided)["rounds"] == last
    _, summary, _ = start(config(divided), dataset)
    assert ledger(divided) == ledger(tmp_path / "whole") == {"rounds": 20, "noise_multiplier": 2.0}
    assert summary["privacy"]["rounds"] == {"spent": 20, "planned": 20}
    stated = [json.loads((p / "privacy.json").read_text()) for p in (divided, tmp_path / "whole")]
    assert stated[0] == stated[1] and stated[0]["epsilon"]["spent"]["pld"] > 1
    ends = [np.load(p / "users.npz")["ahead"] for p in (divided, tmp_path / "whole")]
    np.testing.assert_array_equal(*ends)


def test_an_older_checkpoint_or_none_does_not_give_back(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("fedvlr_jax.training.loop.PIECE_S", 1e-9)
    with monkeypatch.context() as patch:
        killed_within(patch, 11)
        with pytest.raises(Killed):
            start(config(tmp_path), dataset)
    kept = sorted((tmp_path / "checkpoints").glob("round_*"))
    assert ledger(tmp_path)["rounds"] == 11 and len(kept) >= 2
    (kept[-1] / "meta.json").write_text("{")
    with monkeypatch.context() as patch:
        killed_within(patch, int(kept[-2].name[6:]) + 1)
        with pytest.raises(Killed):
            start(config(tmp_path), dataset)
    stated = json.loads((tmp_path / "privacy.json").read_text())
    assert ledger(tmp_path)["rounds"] == stated["rounds"]["spent"] == 11
    # The ledger is lost: the checkpoints, whole or not, prove what was spent at least.
    (tmp_path / "ledger.json").unlink()
    with monkeypatch.context() as patch:
        killed_within(patch, 1)
        with pytest.raises(Killed):
            start(config(tmp_path), dataset)
    assert ledger(tmp_path)["rounds"] >= int(kept[-1].name[6:]) == 9
    # No checkpoint is left: the run begins again, its spending does not.
    shutil.rmtree(tmp_path / "checkpoints")
    with monkeypatch.context() as patch:
        killed_within(patch, 1)
        with pytest.raises(Killed):
            start(config(tmp_path), dataset)
    assert ledger(tmp_path)["rounds"] >= 9


def test_more_rounds_than_the_budget_are_not_run(dataset, tmp_path):
    first, summary, told = start(config(tmp_path, target_epsilon=4.0), dataset)
    noise = first.config.privacy.noise_multiplier
    assert summary["privacy"]["epsilon"]["spent"]["pld"] <= 4.0 < 1.1 * 4.0
    assert told.index("NOT COVERED") < told.index("round 5/20")
    asked = config(tmp_path, target_epsilon=4.0, rounds=60)
    again, summary, told = start(asked, dataset)
    assert again.config.privacy.noise_multiplier == noise
    stopped = again.config.federation.rounds
    assert ROUNDS <= stopped < 22 and summary["rounds_run"] == stopped
    assert summary["privacy"]["epsilon"]["spent"]["pld"] <= 4.0
    assert f"stops after round {stopped} of --rounds=60" in budget_note(asked, again)
    assert budget_note(dataclasses.replace(again.config), again) == ""


def test_a_damaged_ledger_is_refused_before_anything_is_written(dataset, tmp_path, monkeypatch):
    killed_within(monkeypatch, 6)
    with pytest.raises(Killed):
        start(config(tmp_path), dataset)
    (tmp_path / "ledger.json").write_text("{}")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json*")}
    with pytest.raises(InputError, match=r"ledger\.json: damaged"):
        start(config(tmp_path), dataset)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json*")}


@pytest.mark.parametrize(("init", "number", "alone"), [("spectral", 3, 10.0), ("ease", 1, 18.0)])
def test_the_exchanges_of_a_start_are_spent_once_and_before_the_rounds(
    init, number, alone, dataset, tmp_path, monkeypatch
):
    flags = dict(init=init, target_epsilon=20.0, target_delta=1e-3)
    flags |= {"init_exchanges": 3} if init == "spectral" else {}
    with monkeypatch.context() as patch:
        killed_within(patch, 1)
        with pytest.raises(Killed):
            start(config(tmp_path, **flags), dataset)
    begun = ledger(tmp_path)
    stated = json.loads((tmp_path / "privacy.json").read_text())
    assert begun["exchanges"] == stated["exchanges"]["number"] == number
    assert begun["exchange_noise_multiplier"] == stated["exchanges"]["noise_multiplier"] > 0
    assert 0.99 * alone < stated["epsilon"]["spent"]["pld"] <= alone or stated["rounds"]["spent"]
    _, summary, told = start(config(tmp_path, **flags), dataset)
    after = ledger(tmp_path)
    assert {**begun, "rounds": ROUNDS} == after
    assert 19.8 < summary["privacy"]["epsilon"]["spent"]["pld"] <= 20.0
    assert f"before the first round: {number} exchange" in told
    # The finished run, continued with more rounds: its budget is spent.
    simulation, *_ = start(
        config(
            tmp_path,
            **flags,
        ),
        dataset,
    )
    longer = dataclasses.replace(config(tmp_path, **flags).federation, rounds=2 * ROUNDS)
    asked = with_held_noise(dataclasses.replace(config(tmp_path, **flags), federation=longer))
    assert make_simulation(asked, dataset).config.federation.rounds == ROUNDS
    assert simulation.config.init.init_noise_multiplier == begun["exchange_noise_multiplier"]


def test_no_file_has_a_result_of_the_exchanges_before_the_ledger_has_them(
    dataset, tmp_path, monkeypatch
):
    found = []

    def dies(self, *_):
        found.extend(path.name for path in tmp_path.rglob("*") if path.is_file())
        raise Killed

    monkeypatch.setattr("fedvlr_jax.privacy.ledger.Ledger.begin_exchanges", dies)
    with pytest.raises(Killed):
        start(config(tmp_path, init="ease"), dataset)
    assert set(found) == {"config.json", ".lock"}
