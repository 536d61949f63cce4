"""Whole numbers in a ring: rounding, the discrete noise, and the sum of both."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.uplink import SlotUploads, Upload, ring
from fedvlr_jax.uplink.ring import Ring, client_draws, discrete_gaussian, ring_sum, to_ring

CLIENTS, ITEMS = 4, 3


@pytest.mark.parametrize("threshold", ["0", "0.001", "0.5", "0.67", "0.9", "1"])
def test_the_least_number_of_answers_is_the_share_rounded_up(threshold):
    sampled = np.array([0, 1, 7, 20, 999, 1000, 1001, 123_457], np.int32)
    expected = [math.ceil(Fraction(threshold) * int(n)) for n in sampled]
    assert ring.least_answers(float(threshold), sampled).tolist() == expected


def test_a_threshold_is_rounded_up_to_thousandths():
    assert ring.least_answers(0.0004, 1000) == 1
    assert ring.least_answers(0.6661, 1000) == 667


def test_rounding_by_hand():
    """Bound 2 is level 10: a level is 0.2, and numbers go toward 0."""
    values = jnp.asarray([0.19, 0.21, -0.39, 1.99, 2.0, 5.0, -2.0, -5.0])
    found = to_ring(Ring(2.0, 10), values)
    assert found.dtype == jnp.int32
    assert found.tolist() == [0, 1, -1, 9, 10, 10, -10, -10]
    assert Ring(2.0, 10).deviation == 0


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


def law(values, deviation):
    mass = np.exp(-np.square(values.astype(float)) / (2 * deviation**2))
    # Beyond 40 deviations a float64 has nothing left to add.
    everything = np.arange(-int(40 * deviation), int(40 * deviation) + 1)
    return mass / np.exp(-np.square(everything.astype(float)) / (2 * deviation**2)).sum()


@pytest.mark.parametrize("deviation", [4.0, 16 / 3, 30.0, 900.0])
def test_the_table_holds_each_probability_to_2_to_the_minus_32(deviation):
    table = ring._table(deviation)
    size = len(table.accept)
    assert size & (size - 1) == 0 and size // 2 - 1 >= ring.REACH * deviation
    # A place is drawn, and accepted for accept + 1 of the 2^32 values of the other word.
    accepted = (table.accept.astype(float) + 1) / 2**32
    share = accepted + np.bincount(table.other, 1 - accepted, size)
    expected = law(np.arange(size) - size // 2, deviation)
    np.testing.assert_allclose(share / size, expected, rtol=0, atol=2.0**-32)


def test_draws_have_the_law_of_the_table():
    deviation, count = 5.0, 100_000
    draws = np.asarray(discrete_gaussian(jax.random.key(0), (count // 4, 4), deviation))
    assert draws.shape == (count // 4, 4) and draws.dtype == np.int32
    values = np.arange(-15, 16)
    found = np.bincount(np.clip(draws.ravel(), -16, 16) + 16, minlength=33)
    inside = law(values, deviation)
    outside = (1 - inside.sum()) / 2
    expected = count * np.concatenate([[outside], inside, [outside]])
    assert stats.chisquare(found, expected).pvalue > 1e-6
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 5 / np.sqrt(count / 4)
