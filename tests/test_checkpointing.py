"""What a checkpoint promises: whole or refused, the right ones kept, any part of it read alone."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.survival import DAMAGE, contents, damage_once
from fedvlr_jax import sealing
from fedvlr_jax.checkpointing import Checkpoints, RowsLater, SavedRows, layout, reading
from fedvlr_jax.errors import InputError
from fedvlr_jax.sealing import Damaged
from tests.conftest import mostly_slow

TREE = {
    "best": {
        "server": {"shared": {"items": np.arange(12.0, dtype=np.float32).reshape(4, 3)}},
        "clients": np.array([0, 1, 2, 4], np.int32),
        "private": {"head": np.arange(8.0, dtype=np.float32).reshape(4, 2)},
    },
}


@pytest.fixture(
    params=[(0, 1 << 26), (1 << 16, 1 << 26), (0, 16)],
    ids=["apart", "packed", "in blocks"],
    autouse=True,
    scope="module",
)
def packing(request):
    """Every promise holds for leaves that are stored apart, for those that are packed, and for
    those that are cut into blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "SMALL_BYTES", request.param[0])
        patch.setattr(layout, "BLOCK_BYTES", request.param[1])
        yield


def saved(directory, rounds=(1, 2, 3), scores=None, **options):
    checkpoints = Checkpoints(directory, **options)
    for round_number in rounds:
        score = (scores or {}).get(round_number, 0.0)
        checkpoints.save(round_number, TREE, {"best_round": round_number}, score)
    checkpoints.wait()
    return checkpoints


@pytest.fixture(scope="module")
def three(tmp_path_factory, packing):
    return saved(tmp_path_factory.mktemp("three") / "checkpoints", keep=3)


@pytest.mark.parametrize("seed", mostly_slow(range(5), 2))
@pytest.mark.parametrize("kind", DAMAGE)
def test_no_damage_is_silent(kind, seed, three, tmp_path):
    outcome = damage_once(three.directory, tmp_path, kind, random.Random(seed))
    assert outcome in ("detected", "harmless")
    if kind in ("bit flip", "truncation", "zeroing", "two steps swapped"):
        assert outcome == "detected"


def test_damage_to_every_file_is_named(three, tmp_path):
    step = three.path(3)
    for path in sorted(p for p in step.rglob("*") if p.is_file() and p.stat().st_size):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        noticed = []
        assert Checkpoints(three.directory).newest(noticed.append) == 2
        assert len(noticed) == 1 and str(path) in noticed[0]
        path.write_bytes(content)
    assert Checkpoints(three.directory).newest() == 3


def test_the_newest_and_the_best_are_kept(tmp_path):
    scores = {1: 5.0, 2: 9.0, 3: 7.0, 4: 1.0, 5: 2.0}
    assert saved(tmp_path / "a", range(1, 6), scores, keep=2, keep_best=1).rounds() == [2, 4, 5]
    assert saved(tmp_path / "b", range(1, 6), scores, keep=1, keep_best=2).rounds() == [2, 3, 5]
    assert saved(tmp_path / "c", range(1, 6), scores, keep=2).rounds() == [4, 5]


def test_what_is_not_whole_takes_no_place(tmp_path):
    checkpoints = saved(tmp_path, (1, 2), keep=1)
    (tmp_path / "round_00000009").mkdir()
    (tmp_path / "round_00000008").write_text("a file")
    (tmp_path / "round_9").mkdir()
    (tmp_path / "round_000000002").mkdir()
    assert checkpoints.newest() == 2
    checkpoints.save(3, TREE, {"best_round": 3})
    checkpoints.wait()
    assert checkpoints.rounds() == [3] and checkpoints.newest() == 3
    assert (tmp_path / "round_9").exists()


def test_a_step_of_the_same_round_is_replaced(tmp_path):
    checkpoints = saved(tmp_path, (1, 1), keep=1)
    assert checkpoints.rounds() == [1] and checkpoints.newest() == 1


def test_a_failing_disk_leaves_the_older_one(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, (1,))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealing, "seal", full)
    checkpoints.save(2, TREE, {"best_round": 2})
    with pytest.raises(InputError, match="cannot save a checkpoint: No space left on device"):
        checkpoints.wait()
    assert checkpoints.rounds() == [1] and checkpoints.newest() == 1


def test_another_schema_is_refused_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(sealing, "SCHEMA", 99)
    checkpoints = saved(tmp_path, (1,))
    monkeypatch.undo()
    with pytest.raises(Damaged, match="written by schema 99; this version reads 3 and 4"):
        Checkpoints(checkpoints.directory).verify(1)


def test_shared_alone(three):
    shared = three.load_shared(3)
    assert list(shared) == ["items"]
    np.testing.assert_array_equal(shared["items"], TREE["best"]["server"]["shared"]["items"])


@pytest.mark.parametrize("clients", [[2], [4, 1, 0], [1, 2], [4, 4]])
def test_some_clients_in_the_given_order(three, clients):
    by_client = {0: [0, 1], 1: [2, 3], 2: [4, 5], 4: [6, 7]}
    rows = three.load_clients(3, clients)
    np.testing.assert_array_equal(rows["head"], [by_client[c] for c in clients])


def test_what_stands_in_two_places_is_stored_once_and_loaded_twice(tmp_path):
    rows = np.arange(6000.0, dtype=np.float32).reshape(8, 750)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"state": {"head": rows}, "best": {"head": rows.copy()}}, {})
    checkpoints.save(2, {"state": {"head": rows}, "best": {"head": rows}}, {})
    checkpoints.wait()
    twice, once = (
        sum(path.stat().st_size for path in checkpoints.path(r).rglob("*") if path.is_file())
        for r in (1, 2)
    )
    assert twice - once > 0.9 * rows.nbytes
    loaded = checkpoints.load(2, {"state": {"head": rows}, "best": {"head": rows}})
    # Each is whole after the other was given away.
    jax.block_until_ready(jax.jit(lambda x: 0 * x, donate_argnums=0)(loaded["state"]["head"]))
    np.testing.assert_array_equal(loaded["best"]["head"], rows)
    np.testing.assert_array_equal(checkpoints.load_leaves(2, "best.head")[""], rows)


def test_rows_are_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SMALL_BYTES", 0)
    monkeypatch.setattr(layout, "BLOCK_BYTES", 100)
    rows = np.arange(77.0, dtype=np.float32).reshape(11, 7)
    best = {"clients": np.arange(0, 22, 2, dtype=np.int32), "private": {"head": rows}}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"best": best}, {})
    checkpoints.wait()
    # A row takes 28 bytes: three a block, in four blocks, of which the last has two.
    stored = [path.name for path in (checkpoints.path(1) / "state").rglob("*@*")]
    assert sorted(stored) == [f"best.private.head@{start}" for start in (0, 3, 6, 9)]
    blocks = layout.blocks_of("head", (rows.shape, "float32"), 100)
    assert [(block.start, block.stop) for block in blocks] == [(0, 3), (3, 6), (6, 9), (9, 11)]

    read = []
    load = reading.load_stored
    note = lambda step, names, wanted: read.extend(wanted) or load(step, names, wanted)
    monkeypatch.setattr(reading, "load_stored", note)
    like = {"best": {"private": {"head": RowsLater(rows.shape, rows.dtype)}}}
    later = checkpoints.load(1, like)["best"]["private"]["head"]
    assert isinstance(later, SavedRows) and later.shape == rows.shape and read == []
    np.testing.assert_array_equal(later[4:8], rows[4:8])
    np.testing.assert_array_equal(later[np.array([8, 6, 8])], rows[[8, 6, 8]])
    assert read == ["best.private.head@3", "best.private.head@6"]
    read.clear()
    np.testing.assert_array_equal(checkpoints.load_clients(1, [18, 0])["head"], rows[[9, 0]])
    assert sorted(read) == ["best.clients", "best.private.head@0", "best.private.head@9"]
    np.testing.assert_array_equal(later[9:], rows[9:])
    whole = checkpoints.load(1, {"best": {"private": {"head": rows}}})
    np.testing.assert_array_equal(whole["best"]["private"]["head"], rows)


def test_the_schema_before_blocks_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1 << 26)
    monkeypatch.setattr(sealing, "SCHEMA", 3)
    checkpoints = saved(tmp_path, (1,))
    monkeypatch.undo()
    meta = checkpoints.read_meta(1)
    del meta["block_bytes"]
    monkeypatch.setattr(Checkpoints, "read_meta", lambda self, round_number: meta)
    rows = Checkpoints(tmp_path).load_clients(1, [4])
    np.testing.assert_array_equal(rows["head"], [[6, 7]])


def test_what_is_not_there_is_named(three):
    with pytest.raises(InputError, match=r"client 3: has no row in .*, which holds 4"):
        three.load_clients(3, [0, 3])
    with pytest.raises(InputError, match=r"holds no leaf 'best\.serve'"):
        three.load_leaves(3, "best.serve")


@pytest.mark.parametrize(
    "like", [jnp.zeros((4, 2)), jnp.zeros((4, 3), jnp.int32), np.zeros((4, 3))]
)
def test_another_shape_or_dtype_is_refused(three, like):
    tree = {"best": {"server": {"shared": {"items": like}}}}
    with pytest.raises(InputError, match=r"leaf best.server.shared.items is \[\[4, 3\], 'float32'"):
        three.load(3, tree)


def test_contents_tell_states_apart(three):
    assert contents(three, 3) == contents(three, 2)
    assert len(contents(three, 3)) == 3
