"""Checkpoints without the numbers that training has not moved: to the bit with them again."""

import functools

import jax
import numpy as np
import pytest

from fedvlr_jax import trees
from fedvlr_jax.checkpointing import Checkpoints, SavedRows, layout
from fedvlr_jax.commands.one_run.saving import load_run, load_state, save_run
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.simulation import drawn, make_simulation, remaking
from fedvlr_jax.training import RunState
from tests.simulation.offloaded_bits import digest

SMALL = dict(width=8, router_hidden=8, local_epochs=1, rounds=3, select="all_ndcg@50")
CASES = {
    "cohort": dict(backbone="fcf", fusion="bilevel", cohort=8),
    "closed form": dict(backbone="fcf", fusion="bilevel", init="ease", cohort=8),
    "item rows": dict(backbone="fedrap", fusion="none", cohort=8),
    "dropout": dict(backbone="pfedrec", fusion="none", client_dropout=0.8),
    "frozen": dict(backbone="fcf", fusion="bilevel", router_lr=0.0),
    "host": dict(backbone="fedrap", fusion="bilevel", cohort=8, store="host"),
}


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 30, "items": 50})


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch):
    """No leaf is too small, and parts and blocks are of a few rows."""
    monkeypatch.setattr(drawn, "LEAST_BYTES", 0)
    monkeypatch.setattr(layout, "SMALL_BYTES", 256)
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1 << 10)


def simulate(dataset, **flags):
    return make_simulation(Config.from_flat(**{**SMALL, "init": "random", **flags}), dataset)


def copy(state):
    return jax.tree.map(lambda leaf: leaf.copy(), state)


def run_of(simulation, best_round=1, rounds=3):
    """A run after some rounds, with the best state after `best_round`."""
    state, best = simulation.init(), None
    for number in range(rounds + 1):
        if number == best_round:
            best = copy(state)
        if number < rounds:
            state, _ = simulation.run_rounds(state, 1)
    return RunState(state, best, best_round, (), None, "")


@pytest.fixture(scope="module")
def finished(dataset):
    """finished("host"): the simulation of a case and its run, only to be read."""

    @functools.cache
    def finished(name):
        simulation = simulate(dataset, **CASES[name])
        return simulation, run_of(simulation)

    return finished


def saved(simulation, folder, run):
    checkpoints = Checkpoints(folder)
    save_run(simulation, checkpoints, run, simulation.config.flat)
    checkpoints.wait()
    return checkpoints


def packed(simulation, run):
    return [simulation.pack(state) for state in (run.state, run.best_state)]


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_loaded_to_the_bit(name, finished, tmp_path):
    simulation, run = finished(name)
    checkpoints = saved(simulation, tmp_path, run)
    leaves = checkpoints.read_meta(3)["leaves"]
    assert drawn.shapes(leaves, "state") and drawn.shapes(leaves, "best")
    loaded = load_run(simulation, checkpoints, 3)
    assert digest(packed(simulation, loaded)) == digest(packed(simulation, run))
    # It continues as the run would have.
    states = [simulation.run_rounds(one, 1)[0] for one in (loaded.state, copy(run.state))]
    assert digest(simulation.pack(states[0])) == digest(simulation.pack(states[1]))


@pytest.mark.parametrize(
    "stores",
    [
        ("device", "host"),
        pytest.param(("host", "device"), marks=pytest.mark.slow),
        pytest.param(("device", "disk"), marks=pytest.mark.slow),
    ],
)
def test_another_store_loads_the_same_rows(stores, dataset, tmp_path):
    flags = dict(backbone="fedrap", fusion="bilevel", cohort=8)
    one, other = (simulate(dataset, **flags, store=store) for store in stores)
    run = run_of(one)
    checkpoints = saved(one, tmp_path, run)
    state, _ = load_state(other, checkpoints, 3, "state")
    again, before = other.pack(state), one.pack(run.state)
    clients = np.intersect1d(again["clients"], before["clients"])
    assert len(clients) >= 8
    rows = lambda of: jax.tree.map(
        lambda leaf: leaf[np.searchsorted(of["clients"], clients)], of["private"]
    )
    assert digest(rows(again)) == digest(rows(before))


def numbers_in(checkpoints, state):
    """Numbers of large leaves that a checkpoint holds for a state: moved ones, and whole leaves."""
    leaves = checkpoints.read_meta(3)["leaves"]
    size = lambda below: sum(
        int(np.prod(shape))
        for name, (shape, _) in leaves.items()
        if name.startswith(f"{state}.{below}.") and not name.endswith(("mask", "witness"))
    )
    return size("drawn"), size("private")


def test_only_clients_that_took_part_take_space(finished, tmp_path):
    simulation, _ = finished("item rows")
    checkpoints = saved(simulation, tmp_path, run_of(simulation, best_round=0))
    assert numbers_in(checkpoints, "best") == (0, 0)
    moved, whole = numbers_in(checkpoints, "state")
    a_client = sum(leaf.size for leaf in jax.tree.leaves(simulation.initial.client_shapes))
    # At most 3 x 8 of 30 clients took part.
    assert whole == 0 and 8 * a_client <= moved <= 24 * a_client


def test_untrained_routers_take_no_space(finished, tmp_path):
    simulation, run = finished("frozen")
    checkpoints = saved(simulation, tmp_path, run)
    leaves = checkpoints.read_meta(3)["leaves"]
    kernels = [leaves[f"{state}.drawn.router.first.kernel.numbers"] for state in ("state", "best")]
    assert kernels == [[[0], "float32"]] * 2
    masks = [leaves[f"{state}.drawn.router.first.kernel.mask"] for state in ("state", "best")]
    assert masks == [[[30, 0], "uint8"]] * 2


def test_best_and_last_share_equal_leaves(finished, tmp_path):
    simulation, run = finished("frozen")
    meta = saved(simulation, tmp_path, run).read_meta(3)
    kernel = "drawn.router.first.kernel.witness"
    assert meta["same_as"][f"state.{kernel}"] == f"best.{kernel}"
    assert meta["same_as"]["state.clients"] == "best.clients"
    assert "state.server.shared.items" not in meta["same_as"]


def test_rows_that_are_made_again_leave_a_small_leaf_to_check(dataset, tmp_path, monkeypatch):
    """A router of the state before the last round is stored once, not twice."""
    monkeypatch.setattr(drawn, "LEAST_BYTES", 1 << 10)
    simulation = simulate(dataset, backbone="pfedrec", fusion="bilevel")
    state, _, before = remaking.run_rounds(simulation, simulation.init(), 3)
    run = RunState(state, state, 3, (), None, "", before=before, best_before=before)
    checkpoints = saved(simulation, tmp_path, run)
    leaves = checkpoints.read_meta(3)["leaves"]
    assert "state.before.private.router.first.kernel" in leaves
    assert "state.private.router.first.kernel" not in leaves
    assert "state.private.router.last.bias" in leaves
    loaded = load_run(simulation, checkpoints, 3)
    assert digest(packed(simulation, loaded)) == digest(packed(simulation, run))


def test_a_leaf_that_has_moved_is_stored_as_it_is(dataset, tmp_path):
    simulation = simulate(dataset, backbone="fcf", fusion="none")
    run = run_of(simulation)
    leaves = saved(simulation, tmp_path, run).read_meta(3)["leaves"]
    assert "state.private.head.vector" in leaves and not drawn.shapes(leaves, "state")


def test_other_draws_are_refused(finished):
    simulation, run = finished("cohort")
    tree = remaking.pack(simulation, run.state, None)
    stored = tree[drawn.DRAWN]["router.first.kernel"]
    stored["witness"] = stored["witness"] + np.float32(0.01)
    with pytest.raises(InputError, match=r"other ones are drawn here; use the version"):
        remaking.unpack(simulation, tree)


def test_rows_are_made_in_any_order_from_blocks(finished, tmp_path):
    simulation, run = finished("item rows")
    checkpoints = saved(simulation, tmp_path, run)
    leaves = checkpoints.read_meta(3)["leaves"]
    like = {**simulation.packed_shapes(leaves, "state"), "drawn": drawn.shapes(leaves, "state")}
    tree = checkpoints.load(3, {"state": like})["state"]
    stored = tree["drawn"]["items"]
    assert isinstance(stored["numbers"], SavedRows)
    rows = drawn.put_back(simulation.initial, tree)["private"]["items"]
    whole = simulation.pack(run.state)["private"]["items"]
    order = np.array([29, 3, 3, 17, 0])
    np.testing.assert_array_equal(rows[order], whole[order])


def test_negative_zero_is_not_zero(finished):
    simulation, _ = finished("item rows")
    tree = simulation.pack(simulation.init())
    tree["private"]["items"] = np.full_like(tree["private"]["items"], -0.0)
    left = drawn.leave_out(simulation.initial, tree)
    assert "items" in trees.named_leaves(left["private"])
