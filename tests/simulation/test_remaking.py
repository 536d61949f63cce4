"""Checkpoints of tuned item rows: without the rows, and to the bit with them again."""

import functools

import jax
import numpy as np
import pytest

from fedvlr_jax import training
from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.one_run import disk
from fedvlr_jax.commands.one_run.saving import Saver, load_run, load_state
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.simulation import make_simulation, remaking
from fedvlr_jax.training import new_run
from fedvlr_jax.trees import num_bytes
from tests.simulation.offloaded_bits import digest

SMALL = {"backbone": "pfedrec", "fusion": "mlp", "width": 8, "local_epochs": 2}


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 30, "items": 50})


@pytest.fixture(scope="module")
def simulate(dataset):
    """simulate(store="host"): the simulation of these flags, made and compiled once."""

    make = functools.cache(lambda config: make_simulation(config, dataset))

    def simulate(rounds=5, **flags):
        values = {**SMALL, "rounds": rounds, "eval_every": 2, "select": "all_ndcg@50", **flags}
        return make(Config.from_flat(**values))

    return simulate


def saved(simulation, folder, run=None):
    """A run that is trained to its end and saved."""
    checkpoints = Checkpoints(folder)
    saver = Saver(simulation, checkpoints, new_run(simulation))
    # Whatever the ranks are, the second evaluation is the best one.
    worth = iter([1.0, 3.0, 2.0, 0.0] if run is None else [0.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedvlr_jax.training.loop.averages", lambda *of: {"ndcg@50": next(worth)})
        run, _ = training.train(simulation, run)
    saver.finish(run)
    return run, checkpoints


def rows_in(checkpoints):
    leaves = checkpoints.read_meta(checkpoints.newest())["leaves"]
    return sorted(name for name in leaves if name.endswith("private.items"))


def packed(simulation, run):
    return {name: simulation.pack(state) for name, state in states_of(run).items()}


def states_of(run):
    return {"state": run.state, "best": run.best_state}


@pytest.mark.parametrize("store", ["device", "host"])
def test_rows_are_made_again_to_the_bit(store, simulate, tmp_path):
    simulation = simulate(store=store)
    run, checkpoints = saved(simulation, tmp_path)
    assert rows_in(checkpoints) == []
    loaded = load_run(simulation, checkpoints, 5)
    assert loaded.best_round == 2
    assert digest(packed(simulation, loaded)) == digest(packed(simulation, run))
    assert np.any(simulation.pack(loaded.best_state)["private"]["items"])
    # Programs of these tests are not optimised, and stores agree to the bit only if they are.
    other = simulate(store="host" if store == "device" else "device")
    moved, _ = load_state(other, checkpoints, 5, "best")
    rows = [
        s.pack(x)["private"]["items"] for s, x in ((other, moved), (simulation, run.best_state))
    ]
    np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-6)


def test_a_run_that_was_loaded_is_saved_again_without_its_rows(simulate, tmp_path):
    simulation = simulate()
    _, checkpoints = saved(simulation, tmp_path / "once")
    longer = simulate(rounds=6)
    expected, _ = saved(longer, tmp_path / "longer")
    again, second = saved(longer, tmp_path / "twice", load_run(simulation, checkpoints, 5))
    assert rows_in(second) == []
    assert digest(packed(longer, again)) == digest(packed(longer, expected))


def test_rows_that_do_not_follow_from_the_last_round_are_saved(simulate, tmp_path):
    simulation = simulate(client_dropout=0.3)
    run, checkpoints = saved(simulation, tmp_path)
    assert rows_in(checkpoints) == ["best.private.items", "state.private.items"]
    loaded = load_run(simulation, checkpoints, 5)
    assert digest(packed(simulation, loaded)) == digest(packed(simulation, run))


@pytest.mark.parametrize("backbone", ["pfedrec", "fedrap"])
def test_no_rows_are_saved_before_the_first_round(backbone, simulate, tmp_path):
    simulation = simulate(backbone=backbone)
    state = simulation.init()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, {"state": remaking.pack(simulation, state, None)}, {})
    checkpoints.wait()
    assert rows_in(checkpoints) == []
    loaded, before = load_state(simulation, checkpoints, 0, "state")
    assert before is None
    assert digest(simulation.pack(loaded)) == digest(simulation.pack(state))


def test_a_round_that_gives_other_heads_is_refused(simulate):
    simulation = simulate()
    state, _, before = remaking.run_rounds(simulation, simulation.init(), 2)
    tree = remaking.pack(simulation, state, before)
    tree["private"]["head"] = jax.tree.map(lambda leaf: leaf + 1.0, tree["private"]["head"])
    with pytest.raises(InputError, match="last round gives another head"):
        remaking.unpack(simulation, tree)


def test_the_bytes_of_a_save_are_those_of_its_leaves(simulate, tmp_path):
    for flags in ({}, {"client_dropout": 0.3}, {"store": "host"}, {"attack": "sign_flip"}):
        simulation = simulate(**flags)
        state, _, before = remaking.run_rounds(simulation, simulation.init(), 2)
        tree = remaking.pack(simulation, state, before)
        assert num_bytes(tree) == pytest.approx(sum(remaking.saved_bytes(simulation)), rel=0.05)


@pytest.mark.parametrize("flags", [{}, {"client_dropout": 0.3}, {"attack": "sign_flip"}])
def test_a_run_says_what_it_writes(flags, simulate, tmp_path):
    simulation = simulate(keep_checkpoints=1, **flags)
    saved(simulation, tmp_path)
    files = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    found = disk.written(simulation)
    # Orbax's own files and the manifest are a few kB here.
    assert 0.5 * found.checkpoint < sum(files) < found.checkpoint + 20_000
    stated = f"checkpoints of {disk.megabytes(found.checkpoint)}, other files"
    assert stated in disk.describe_disk(simulation)
