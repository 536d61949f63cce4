"""Whole numbers in a ring: rounding, and the sum with the noise of the clients."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.uplink import SlotUploads, Upload, ring
from fedvlr_jax.uplink.ring import Ring, client_draws, from_ring, ring_sum, to_ring

CLIENTS, ITEMS = 4, 3


def test_rounding_by_hand():
    """Bound 2 is level 10: a level is 0.2, and numbers go toward 0."""
    values = jnp.asarray([0.19, 0.21, -0.39, 1.99, 2.0, 5.0, -2.0, -5.0])
    found = to_ring(Ring(2.0, 10), values)
    assert found.dtype == jnp.int32
    assert found.tolist() == [0, 1, -1, 9, 10, 10, -10, -10]
    assert Ring(2.0, 10).deviation == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=8, max_size=8), st.integers(1, 50))
def test_values_come_back_and_no_upload_gets_longer(values, clients):
    ring = Ring(2.0, 2**19)
    levels = to_ring(ring, jnp.asarray(values, jnp.float32))
    back, inside = np.asarray(from_ring(ring, levels)), np.clip(values, -2, 2)
    assert back.dtype == np.float32 and (np.abs(back) <= np.abs(inside)).all()
    np.testing.assert_allclose(back, inside, atol=2.0 / 2**19)
    np.testing.assert_allclose(from_ring(ring, clients * levels), clients * back, rtol=1e-6)


def test_fractions_below_the_most_levels_are_exact_in_float32():
    """Else a number just below a level would be rounded up to it."""
    for number in (ring.MOST_LEVELS - 0.5, 0.5 - ring.MOST_LEVELS):
        assert float(np.float32(number)) == number
    assert ring.MOST_LEVELS >= 2**20


def uploads(missing=None):
    rows = np.linspace(-1.6, 1.6, CLIENTS * ITEMS * 2, dtype=np.float32)
    if missing is not None:
        rows = rows.reshape(CLIENTS, -1)
        rows[missing] = np.nan
    return SlotUploads(
        item=jnp.tile(jnp.arange(ITEMS, dtype=jnp.int32), (CLIENTS, 1)),
        rows_of_views=jnp.asarray(rows.reshape(CLIENTS, ITEMS, 1, 2)),
        head={"bias": jnp.asarray([[0.5], [-3.0], [1.0], [0.0]])},
        scale=1.0,
        num_items=ITEMS,
        whole=True,
    )


def summed(deviation=0.0, alpha=(1.0, 0.5, 0.0, -1.0), key=0):
    client = jnp.asarray([3, 8, 2, 5], jnp.int32)
    given = Ring(1.5, 100, deviation)
    return ring_sum(given, uploads(), jnp.asarray(alpha), client, jax.random.key(key))


def test_the_sum_of_rounded_uploads_by_hand():
    rows = np.asarray(uploads().rows_of_views)
    levels = lambda x: np.trunc(np.clip(np.float32(x) * np.float32(100 / 1.5), -100, 100))
    total, clamped = summed()
    expected = levels(rows[0]) + levels(0.5 * rows[1]) + levels(-rows[3])
    np.testing.assert_array_equal(total.views, expected)
    # 0.5, half of -3 and none of the others: 33 - 100.
    assert total.head["bias"].tolist() == [-67]
    # -1.6 of client 0 and 1.6 of client 3 are beyond 1.5; -1.5 of client 1 is the bound itself.
    assert clamped.tolist() == [True, False, False, True]


def test_what_a_client_without_a_share_uploads_is_not_read():
    """Client 2 has alpha 0, and no upload: its numbers may be anything."""
    alpha = jnp.asarray([1.0, 0.5, 0.0, -1.0])
    client, key = jnp.arange(CLIENTS, dtype=jnp.int32), jax.random.key(0)
    ring_of = lambda missing: ring_sum(Ring(1.5, 100), uploads(missing), alpha, client, key)
    found, expected = ring_of(2), ring_of(None)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_at_the_bound_are_not_clamped_and_those_beyond_it_are():
    for size, beyond in ((1.5, False), (1.5 * (1 + 1e-7), False), (1.5001, True)):
        alpha = [size / 3.0 * sign for sign in (0.0, 1.0, 0.0, 0.0)]
        assert summed(alpha=alpha)[1].tolist() == [False, beyond, False, False]


def test_each_client_that_counts_adds_its_own_noise():
    plain, _ = summed()
    noisy, clamped = summed(deviation=5.0)
    like = Upload(plain.views, plain.head)
    draws = [client_draws(5.0, jax.random.key(0), jnp.asarray(c), like) for c in (3, 8, 5)]
    added = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), noisy, plain)
    expected = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *draws)
    for a, b in zip(jax.tree.leaves(added), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert clamped.tolist() == [True, False, False, True]


def test_noise_of_clients_rounds_and_leaves_is_independent():
    like = Upload(jnp.zeros(4000, jnp.int32), {"bias": jnp.zeros(4000, jnp.int32)})
    own = client_draws(6.0, jax.random.key(0), jnp.asarray(1), like)
    other = client_draws(6.0, jax.random.key(0), jnp.asarray(2), like)
    later = client_draws(6.0, jax.random.key(1), jnp.asarray(1), like)
    for a, b in ((own.views, own.head["bias"]), (own.views, other.views), (own.views, later.views)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(4000)
