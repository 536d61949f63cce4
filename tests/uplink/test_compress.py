"""Low-rank, quantised and sparse uploads: by hand, by their laws, and in rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.workload import broadcast_shape, touched_rows, upload_shape
from fedvlr_jax.uplink import Compression, SlotUploads, Upload, client_noise, low_rank, no_noise
from fedvlr_jax.uplink.compress import BASIS, ROUNDING, largest_rows, quantised, shared_basis

ITEMS, VIEWS, WIDTH, RANK = 6, 2, 4, 3


def test_the_sum_of_what_clients_send_is_what_the_server_makes_of_the_sum():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(3, ITEMS, VIEWS, WIDTH)).astype(np.float32)
    head = {"bias": jnp.ones(2)}
    key = jax.random.key(4)
    found = low_rank(RANK, no_noise()).add(key, Upload(own.sum(axis=0), head), jnp.ones(3), 1.0)
    basis = np.asarray(shared_basis(jax.random.fold_in(key, BASIS), VIEWS * WIDTH, RANK))
    np.testing.assert_allclose(basis.T @ basis, np.eye(RANK), atol=1e-6)
    sent = [rows.reshape(ITEMS, -1) @ basis for rows in own]
    expected = sum(sent) @ basis.T
    np.testing.assert_allclose(found.views.reshape(ITEMS, -1), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.head["bias"], head["bias"])
    whole = low_rank(VIEWS * WIDTH, no_noise()).add(key, Upload(own[0], head), jnp.ones(1), 1.0)
    np.testing.assert_allclose(whole.views, own[0], rtol=1e-4, atol=1e-5)


def test_the_basis_shares_no_draw_with_the_noise():
    shape = (VIEWS * WIDTH, RANK)
    head = {name: jnp.zeros(shape) for name in "abc"}
    key = jax.random.key(4)
    noisy = low_rank(RANK, client_noise(1.0)).add(
        key, Upload(jnp.zeros((ITEMS, VIEWS, WIDTH)), head), jnp.ones(1), 1.0
    )
    basis = np.asarray(shared_basis(jax.random.fold_in(key, BASIS), *shape))
    for leaf in noisy.head.values():
        assert not np.allclose(np.linalg.qr(leaf)[0], basis, atol=1e-3)


def test_a_round_of_low_rank_uploads_and_its_bytes():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})
    flags = dict(fusion="none", width=8, local_epochs=1, server_optimizer="sgd")
    config = Config.from_flat(**flags, server_decay=0.0, server_lr_items=30.0, upload_rank=2)
    simulation = make_simulation(config, dataset)
    before = np.array(simulation.init().server.shared["items"])
    state, _ = simulation.run_rounds(simulation.init(), 1)
    moved = np.asarray(state.server.shared["items"]) - before
    assert np.linalg.matrix_rank(moved, tol=1e-5) == 2
    # 8 numbers an item down, 2 up.
    setup = simulation.setup
    assert broadcast_shape(setup).row == 8 and upload_shape(setup).row == 2


def test_quantised_rows_by_hand():
    """3 bits: whole numbers of -3 to 3, times the largest of the row over 3."""
    rows = jnp.array([[6.0, -3.0, 0.0], [0.0, 0.0, 0.0], [0.3, 0.1, -0.3]])[:, None, :]
    draws = jax.vmap(lambda key: quantised(key, rows, 3))(jax.random.split(jax.random.key(0), 4000))
    levels = np.asarray(draws)[:, :, 0] / np.array([2.0, 1.0, 0.1])[:, None]
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-5)
    # 6, 0 and +-0.3 are levels; -3 is -2 or -4, each half of the time.
    assert set(np.round(levels[:, 0, 1])) == {-1.0, -2.0}
    np.testing.assert_allclose(levels[:, 2], np.tile([3, 1, -3], (4000, 1)), atol=1e-5)
    # Deviation 1 of each draw, so 0.016 of the mean.
    np.testing.assert_allclose(np.mean(draws, axis=0), rows, atol=0.08)


def test_a_row_is_scaled_by_its_largest_size():
    """5 bits: -15 to 15. The largest number of the row is negative."""
    row = jnp.array([-30.0, 4.0, 10.0])[None, None, :]
    found = np.asarray(quantised(jax.random.key(0), row, 5)).ravel()
    np.testing.assert_allclose(found, [-30, 4, 10], rtol=1e-6)


def test_the_longest_rows_by_hand():
    views = jnp.array([[[1.0], [3.0], [-4.0], [2.0]], [[0.0], [5.0], [1.0], [0.0]]])[..., None]
    found = largest_rows(views, 2)[..., 0, 0]
    np.testing.assert_array_equal(found, [[0, 3, -4, 0], [0, 5, 1, 0]])


@pytest.mark.parametrize("bits", [0, 4])
def test_a_client_keeps_what_it_did_not_send(bits):
    rng = np.random.default_rng(1)
    own = rng.normal(size=(2, ITEMS, VIEWS, WIDTH)).astype(np.float32)
    kept = rng.normal(size=own.shape).astype(np.float32)
    place = jnp.tile(jnp.arange(ITEMS, dtype=jnp.int32), (2, 1))
    uploads = SlotUploads(
        item=place,
        rows_of_views=jnp.asarray(own),
        head={},
        scale=jnp.array([1.0, 0.5]),
        num_items=ITEMS,
        whole=True,
    )
    key = jax.random.key(0)
    sent, after = Compression(bits, 2).sent(key, jnp.array([4, 9]), uploads, jnp.asarray(kept))
    arrived = sent.rows().views
    assert ((np.asarray(arrived) != 0).any(axis=(2, 3)).sum(axis=1) == 2).all()
    whole = own * np.array([1, 0.5], np.float32)[:, None, None, None] + kept
    np.testing.assert_allclose(arrived + after, whole, rtol=1e-5, atol=1e-6)
    # Draws are of the client, not of its place.
    turned = jax.tree.map(lambda leaf: leaf[::-1], uploads)
    other, _ = Compression(bits, 2).sent(key, jnp.array([9, 4]), turned, jnp.asarray(kept[::-1]))
    np.testing.assert_array_equal(other.rows().views[::-1], arrived)


def test_rounding_draws_from_round_and_client_alone_and_not_as_an_epoch_does():
    """Local epochs fold their numbers into the same key."""
    assert ROUNDING > 10**6
    own = np.random.default_rng(2).normal(size=(2, ITEMS, VIEWS, WIDTH)).astype(np.float32)
    place = jnp.tile(jnp.arange(ITEMS, dtype=jnp.int32), (2, 1))
    uploads = SlotUploads(
        item=place, rows_of_views=own, head={}, scale=1.0, num_items=ITEMS, whole=True
    )
    key = jax.random.key(3)
    sent, after = Compression(3, 0).sent(key, jnp.array([4, 9]), uploads, None)
    assert after is None
    for row, client in enumerate((4, 9)):
        drawn = jax.random.fold_in(jax.random.fold_in(key, client), ROUNDING)
        np.testing.assert_array_equal(sent.rows().views[row], quantised(drawn, own[row], 3))


def test_the_shared_subspace_has_no_preferred_direction():
    """The mean projection on 2 of 4 directions is half of the identity; 5 deviations of it."""
    keys = jax.random.split(jax.random.key(0), 2000)
    basis = np.asarray(jax.vmap(lambda key: shared_basis(key, 4, 2))(keys))
    mean = np.mean(basis @ basis.transpose(0, 2, 1), axis=0)
    np.testing.assert_allclose(mean, np.eye(4) / 2, atol=5 * 0.5 / np.sqrt(2000))


SPARSE = dict(upload_rows=3, upload_format="sparse")


def small(**choices):
    plain = dict(fusion="none", width=8, local_epochs=1, rounds=4, cohort=6, baselines=False)
    return Config.from_flat(**{**plain, **choices})


def users(count=20):
    return load_dataset("synthetic", data_root="", synthetic={"users": count, "items": 50})


def test_a_round_of_few_rows_and_their_bytes():
    config = small(cohort=1, server_optimizer="sgd", server_decay=0.0, upload_bits=4, **SPARSE)
    simulation = make_simulation(config, users())
    before = np.array(simulation.init().server.shared["items"])
    state, _ = simulation.run_rounds(simulation.init(), 1)
    moved = (np.asarray(state.server.shared["items"]) != before).any(axis=1)
    assert moved.sum() == 3
    residual = np.asarray(simulation.pack(state)["private"]["residual"])
    (client,) = np.flatnonzero((residual != 0).any(axis=(1, 2, 3)))
    (row,) = simulation.sampling.sampled_rows(0, 0)
    assert client == simulation.buckets[0][row[0]]
    # What was not sent is of all rows; those that were sent have a rounding error.
    assert (residual[client] != 0).any(axis=(1, 2)).sum() >= 47
    # 8 numbers of 4 bits, a scale and an index.
    setup = simulation.setup
    assert (touched_rows(setup) == 3).all() and upload_shape(setup).row_bytes == 8


@pytest.mark.parametrize("flags", [SPARSE, dict(upload_bits=8)], ids=["rows", "bits"])
def test_a_divided_run_is_a_whole_one_to_the_bit(flags):
    make = lambda: make_simulation(small(**flags), users())
    whole, first, again = make(), make(), make()
    state, _ = whole.run_rounds(whole.init(), 3)
    half, _ = first.run_rounds(first.init(), 1)
    other, _ = again.run_rounds(again.unpack(first.pack(half)), 2)
    one, other = whole.pack(state), again.pack(other)
    pairs = [(x["server"].shared, x["private"]) for x in (one, other)]
    for a, b in zip(*map(jax.tree.leaves, pairs), strict=True):
        np.testing.assert_array_equal(a, b)
    valid = whole.evaluate(state, "valid")
    assert valid.finite.all()


def test_residuals_are_the_same_from_every_store():
    packed = []
    for store in ("device", "host"):
        simulation = make_simulation(small(store=store, **SPARSE), users())
        state, _ = simulation.run_rounds(simulation.init(), 3)
        packed.append(simulation.pack(state))
    device, host = packed
    rows = [device["private"]["residual"][host["clients"]], host["private"]["residual"]]
    assert np.abs(rows[1]).max(axis=(1, 2, 3)).min() > 0
    np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "flags, piece",
    [
        (dict(upload_rank=4, aggregation="median"), "--aggregation=median does not commute"),
        (dict(upload_rank=4, attack="alie"), "not compressed"),
        (dict(upload_bits=4, attack="alie"), "--upload_bits=4: forged uploads"),
        (dict(upload_bits=4, aggregation="krum"), "--upload_bits=4: --aggregation=krum"),
        (dict(upload_bits=4, noise_multiplier=1.0, clip_norm=1.0), "which is not compressed"),
        (dict(upload_bits=1), "--upload_bits=1"),
        (dict(upload_bits=4, upload_rank=2), "not combined with --upload_bits"),
        (dict(upload_rows=4), "--upload_format=dense sends every row"),
        (dict(upload_rows=51, upload_format="sparse"), "there are 50 items"),
        (dict(upload_bits=4, plan="factored", backbone="fedrap"), "--plan=factored"),
        (dict(upload_rank=9, width=8, fusion="none"), "a row of the views has 8 numbers"),
    ],
)
def test_what_cannot_be_combined_is_refused(flags, piece):
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})
    with pytest.raises(InputError) as caught:
        make_simulation(Config.from_flat(**flags), dataset)
    assert piece in caught.value.line
