"""The losses by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.centralized.model import bpr_loss, dropout, info_nce, squared_norm, unit_rows


def test_bpr_by_hand():
    user = jnp.array([[1.0, 2.0], [0.5, 0.0]])
    positive = jnp.array([[1.0, 1.0], [2.0, 7.0]])
    negative = jnp.array([[3.0, -1.0], [-2.0, 1.0]])
    # Margins: (1 + 2) - (3 - 2) = 2 and 1 - (-1) = 2.
    expected = math.log(1 + math.exp(-2))
    assert float(bpr_loss(user, positive, negative)) == pytest.approx(expected, rel=1e-6)


def test_bpr_stays_finite_where_the_sigmoid_underflows():
    far = jnp.array([[100.0]])
    assert float(bpr_loss(far, -far, far)) == pytest.approx(20000)


def test_squared_norm_by_hand():
    # ((1 + 4) + (0 + 9)) / 2 rows / 2 = 3.5, and (16 + 0) / 2 / 2 = 4.
    first, second = jnp.array([[1.0, 2.0], [0.0, 3.0]]), jnp.array([[4.0], [0.0]])
    assert float(squared_norm(first, second)) == 7.5


def test_info_nce_by_hand():
    first = jnp.array([[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    second = jnp.array([[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]])
    rows = jnp.array([0, 1])
    # Row 0: cosines 1 and 1, the match is one of two. Row 1: cosines 0 and 0, likewise.
    assert float(info_nce(first, second, rows, 0.2)) == pytest.approx(math.log(2), rel=1e-6)
    # Rows equal to their match and orthogonal to the other: -ln(e^5 / (e^5 + 1)).
    expected = math.log(1 + math.exp(-5))
    assert float(info_nce(first, first, rows, 0.2)) == pytest.approx(expected, rel=1e-4)


def test_info_nce_counts_what_occurs_twice_as_if_it_were_written_out():
    first, second = jax.random.normal(jax.random.key(0), (2, 5, 3))
    rows = jnp.array([3, 0, 3, 3, 1, 1, 0])  # More rows than the table has.
    loss = lambda first, rows: info_nce(first, second, rows, 0.2)
    longer = lambda x: jnp.concatenate([x, jnp.zeros((9, 3))])
    written_out = info_nce(longer(first), longer(second), rows, 0.2)
    assert float(loss(first, rows)) == pytest.approx(float(written_out), rel=1e-5)
    gradient = jax.grad(loss)(first, rows)
    assert np.isfinite(gradient).all() and not gradient[jnp.array([2, 4])].any()


def test_unit_rows_of_nothing_is_nothing():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_rows(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(unit_rows(x)))(x)).all()


def test_dropout_keeps_the_expectation():
    x = dropout(jax.random.key(0), jnp.ones((100, 100)), 0.3)
    assert set(np.unique(x).tolist()) == {0.0, np.float32(1 / 0.7).item()}
    assert float(x.mean()) == pytest.approx(1, abs=0.02)
