"""Selected order statistics against a sort in NumPy: the median to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedvlr_jax.reduce import order

CLIENTS, COORDINATES = 7, 3
# Few values, so that there are ties; and any others that are far from the least float.
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf]),
    st.floats(-(2.0**100), 2.0**100, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0),
)
VALUES = arrays.arrays(np.float32, (CLIENTS, COORDINATES), elements=FLOATS)
MASKS = arrays.arrays(bool, (CLIENTS, COORDINATES))
MEDIAN = jax.jit(order.median)
BETWEEN = jax.jit(order.mean_between)
NEAREST = jax.jit(order.mean_of_nearest)


def in_order(column):
    """Ascending, -0.0 before 0.0, NaN last."""
    key = lambda x: (np.isnan(x), x, not np.signbit(x))
    return np.array(sorted(column, key=key), column.dtype)


def sorted_median(column):
    if not len(column):
        return column.dtype.type(0)
    column = in_order(column)
    return (column[(len(column) - 1) // 2] + column[len(column) // 2]) / column.dtype.type(2)


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found, expected)
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[there], np.signbit(expected)[there])


def medians(values, counted):
    counted = np.broadcast_to(counted, values.shape)
    with np.errstate(all="ignore"):
        columns = zip(values.T, counted.T, strict=True)
        return np.array([sorted_median(column[kept]) for column, kept in columns])


@settings(deadline=None, max_examples=200)
@given(VALUES, MASKS)
def test_the_median_is_that_of_a_sort_to_the_bit(values, counted):
    assert_same_bits(np.asarray(MEDIAN(values, counted)), medians(values, counted))


@pytest.mark.parametrize("clients", [1, 2, 10, 101])
def test_more_coordinates_than_a_block(clients):
    values = np.random.default_rng(clients).normal(size=(clients, 300)).astype(np.float32)
    counted = np.arange(clients)[:, None] != 1
    assert_same_bits(np.asarray(MEDIAN(values, counted)), medians(values, counted))


def test_the_median_in_float64(double_precision):
    values = np.random.default_rng(3).normal(size=(8, 150))
    values[:, :9] = np.round(values[:, :9])
    # Values that are one in float32.
    values[:, 9] = 1 + np.arange(8) * 1e-12
    found = order.median(jnp.asarray(values), jnp.ones((8, 1), bool))
    assert found.dtype == jnp.float64
    assert_same_bits(np.asarray(found), medians(values, np.ones((8, 1), bool)))


def test_numbers_order_as_their_bits():
    values = np.array([-np.inf, -2.5, -1e-38, -0.0, 0.0, 1e-38, 2.5, np.inf], np.float32)
    bits = order.ordered_bits(values)
    assert (np.diff(np.asarray(bits, np.int64)) > 0).all()
    assert_same_bits(np.asarray(order.values_of(bits)), values)


@settings(deadline=None, max_examples=200)
@given(VALUES, MASKS.map(lambda mask: mask[:, :1]), st.integers(0, 3))
def test_the_mean_between_two_places(values, counted, cut):
    count = int(counted.sum())
    cut = min(cut, max(0, count - 1) // 2)
    found = np.asarray(BETWEEN(values, counted, jnp.int32(cut), jnp.int32(count - cut)))
    for one, column in zip(found, values[counted[:, 0]].T, strict=True):
        kept = in_order(column)[cut : count - cut].astype(np.float64)
        with np.errstate(invalid="ignore"):
            expected = kept.mean() if count else 0.0
        # Infinities must agree, and so must NaN, which two opposite ones give.
        rounding = 1e-6 * np.abs(kept).max(initial=0.0) if np.isfinite(expected) else 0.0
        np.testing.assert_allclose(one, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("nearest", [1, 2, 5, 6])
def test_the_mean_of_the_nearest(nearest):
    values = np.random.default_rng(nearest).normal(size=(CLIENTS, 200)).astype(np.float32)
    counted = np.arange(CLIENTS)[:, None] != 4
    centre = values[0] + np.float32(0.01)
    there = values[counted[:, 0]]
    distance = np.abs(there - centre)
    expected = np.take_along_axis(there, np.argsort(distance, axis=0), axis=0)[:nearest]
    found = NEAREST(values, counted, centre, jnp.int32(nearest))
    np.testing.assert_allclose(found, expected.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_values_at_equal_distance_share_their_places():
    """Around 2: the value 2, then 1, 3 and 3 share the second place, or the second and third."""
    values = np.array([[1.0], [3.0], [2.0], [9.0], [3.0]], np.float32)
    counted, centre = np.ones((5, 1), bool), np.array([2.0], np.float32)
    shared = (1 + 3 + 3) / 3
    for nearest, expected in [(1, 2), (2, (2 + shared) / 2), (3, (2 + 2 * shared) / 3)]:
        np.testing.assert_allclose(
            NEAREST(values, counted, centre, jnp.int32(nearest)), [expected], rtol=1e-6
        )


def test_not_a_number_is_the_largest_and_only_the_counted_matter():
    """Of 1, 2 and NaN the median is 2; the last two clients are not counted."""
    for nan in (np.float32(np.nan), -np.float32(np.nan)):
        values = np.array([[nan], [1.0], [2.0], [-np.inf], [nan]], np.float32)
        counted = np.array([[True], [True], [True], [False], [False]])
        assert MEDIAN(values, counted) == 2
        assert BETWEEN(values, counted, jnp.int32(0), jnp.int32(2)) == 1.5
        assert np.isnan(BETWEEN(values, counted, jnp.int32(1), jnp.int32(3)))
        assert NEAREST(values, counted, np.float32([1.5]), jnp.int32(2)) == 1.5


def test_nobody_counted_gives_zero():
    values, nobody = np.full((4, 2), np.nan, np.float32), np.zeros((4, 1), bool)
    zero = jnp.int32(0)
    for found in (
        MEDIAN(values, nobody),
        BETWEEN(values, nobody, zero, zero),
        NEAREST(values, nobody, np.ones(2, np.float32), jnp.int32(1)),
    ):
        np.testing.assert_array_equal(found, [0, 0])
