"""Private rows on the device, in host memory and in files: the same numbers to the bit."""

import os

import jax
import numpy as np
import pytest

from fedvlr_jax.checkpointing import Checkpoints, SavedRows, layout
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.federated.store import ClientStore
from tests.simulation.offloaded_bits import CASES, digest, rows_of, simulate


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})


@pytest.mark.long
@pytest.mark.slow
def test_stores_and_blocks_of_rounds_change_no_bit(printed_json):
    # Optimised, as programs are not in these tests: it is those bits that matter.
    digests = printed_json("tests.simulation.offloaded_bits")
    for name in CASES:
        assert digests[f"{name} host"] == digests[f"{name} device"], name
        assert digests[f"{name} disk"] == digests[f"{name} device"], name
    # Three rounds in one call, or one after the other: what resuming relies on.
    assert len({digests[name] for name in digests if name.startswith("blocks")}) == 1


@pytest.mark.parametrize("stores", [("device", "disk"), ("host", "device"), ("disk", "host")])
@pytest.mark.slow
def test_a_packed_state_moves_to_another_store(stores, dataset):
    one, other = (simulate(dataset, cohort=20, store=store) for store in stores)
    state, _ = one.run_rounds(one.init(), 2)
    packed = one.pack(state)
    again = other.pack(other.unpack(packed))
    assert digest(again["server"]) == digest(packed["server"])
    both = np.intersect1d(again["clients"], packed["clients"])
    assert digest(rows_of(again, both)) == digest(rows_of(packed, both))


@pytest.mark.parametrize("to", ["disk", "host", "device"])
@pytest.mark.slow
def test_rows_in_files_are_saved_and_loaded_by_blocks(to, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(layout, "SMALL_BYTES", 1 << 10)
    one, other = simulate(dataset, cohort=20, store="disk"), simulate(dataset, store=to)
    state, _ = one.run_rounds(one.init(), 2)
    packed = one.pack(state)
    assert {type(leaf) for leaf in jax.tree.leaves(packed["private"])} == {np.memmap}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, {"state": packed}, {})
    checkpoints.wait()
    assert list((checkpoints.path(2) / "state").rglob("state.private.*@*"))
    shapes = other.packed_shapes(checkpoints.read_meta(2)["leaves"], "state")
    loaded = checkpoints.load(2, {"state": shapes})["state"]
    later = {type(leaf) for leaf in jax.tree.leaves(loaded["private"])}
    assert (SavedRows in later) == (to != "device")
    again = other.pack(other.unpack(loaded))
    assert digest(again["server"]) == digest(packed["server"])
    clients = packed["clients"]
    assert digest(rows_of(again, clients)) == digest(rows_of(packed, clients))


@pytest.mark.parametrize("store", ["host", "disk"])
@pytest.mark.slow
def test_a_failed_round_leaves_every_row(store, dataset):
    good = simulate(dataset, store=store)
    state, _ = good.run_rounds(good.init(), 1)
    before = good.pack(state)
    bad = simulate(dataset, store=store, client_lr=1e30)
    with pytest.raises(NonFiniteError, match=r"round 1: .* client") as caught:
        bad.run_rounds(state, 3)
    assert digest(bad.pack(caught.value.state)["private"]) == digest(before["private"])


SHAPES = {"a": jax.ShapeDtypeStruct((2, 3), np.float32), "b": jax.ShapeDtypeStruct((), np.float32)}


@pytest.mark.parametrize("in_files", [False, True])
def test_store(in_files, tmp_path):
    store = ClientStore(SHAPES, 10, str(tmp_path) if in_files else None)
    rows = lambda value: {
        "a": np.full((2, 2, 3), value, np.float32),
        "b": np.full(2, value, np.float32),
    }
    store.stage(np.array([7, 3]), rows(1.0))
    assert not store.touched.any() and not store.gather(np.array([3]))["a"].any()
    assert sorted(store.commit()) == [3, 7]
    copy = store.copy()
    store.stage(np.array([3, 4]), rows(2.0))
    store.discard()
    assert list(store.commit()) == []
    store.stage(np.array([3, 4]), rows(5.0))
    store.commit()
    found = store.gather(np.array([7, 4, 3, 0]))
    assert found["b"].tolist() == [1.0, 5.0, 5.0, 0.0]
    assert found["a"][:, 1, 2].tolist() == [1.0, 5.0, 5.0, 0.0]
    assert np.flatnonzero(store.touched).tolist() == [3, 4, 7]
    assert copy.gather(np.array([7, 4, 3]))["b"].tolist() == [1.0, 0.0, 1.0]


def test_a_million_untouched_clients_cost_nothing(tmp_path):
    shapes = {"items": jax.ShapeDtypeStruct((1000, 64), np.float32)}
    store = ClientStore(shapes, 1_000_000, str(tmp_path))
    last = np.array([999_999])
    store.stage(last, {"items": np.ones((1, 1000, 64), np.float32)})
    store.commit()
    assert store.gather(last)["items"].all()


def test_a_folder_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="store_dir=/nowhere"):
        ClientStore(SHAPES, 10, "/nowhere")


def test_a_row_goes_over_whole_or_not_at_all(tmp_path, monkeypatch):
    """A system call may do a part, as before a disk is full; the next one says why."""
    store = ClientStore({"v": jax.ShapeDtypeStruct((50,), np.float32)}, 4, str(tmp_path))
    rows = {"v": np.arange(100, dtype=np.float32).reshape(2, 50)}
    write, read = os.pwritev, os.preadv
    part = lambda call: lambda file, views, at: call(file, [views[0][:70]], at)
    monkeypatch.setattr(os, "pwritev", part(write))
    monkeypatch.setattr(os, "preadv", part(read))
    store.stage(np.array([1, 3]), rows)
    store.commit()
    np.testing.assert_array_equal(store.gather(np.array([1, 3]))["v"], rows["v"])
    monkeypatch.setattr(os, "pwritev", lambda file, views, at: 0)
    with pytest.raises(InputError, match="only 0 of the 200 bytes"):
        store.stage(np.array([0]), {"v": rows["v"][:1]})


def test_clients_without_private_rows_are_ranked_in_every_store(dataset):
    ranks = {}
    for store in ("device", "host"):
        simulation = simulate(dataset, backbone="fedavg", fusion="none", store=store)
        assert not jax.tree.leaves(simulation.initial.client_shapes)
        ranks[store] = simulation.evaluate(simulation.init(), "test")
    np.testing.assert_array_equal(ranks["host"].ahead, ranks["device"].ahead)


def test_functions_of_the_whole_population_need_it_on_the_devices(dataset):
    assert simulate(dataset).on_device.histories
    with pytest.raises(InputError, match="store=host: this needs every client on the devices"):
        _ = simulate(dataset, store="host").on_device


def test_no_rounds_are_refused_in_every_store(dataset):
    for store in ("device", "host"):
        simulation = simulate(dataset, store=store)
        with pytest.raises(InputError, match="num_rounds=0: give a whole number of at least 1"):
            simulation.run_rounds(simulation.init(), 0)
