"""The secure mean: what the server makes of the sum of whole numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.reduce.registry import REDUCTIONS, RuleOptions
from fedvlr_jax.uplink import Needs, SlotUploads, Upload
from fedvlr_jax.uplink.ring import Ring

RESPONDED = np.array([True, False, True, True])


def rule(ring=None):
    options = RuleOptions(expected=4.0, byzantine_share=0.0)
    return REDUCTIONS["secure"](options if ring is None else options._replace(ring=ring))


def test_the_sum_is_divided_by_the_clients_that_responded():
    """A level is 2 / 10. Levels 30 and -15 of three clients are 2 and -1."""
    total = Upload(jnp.asarray([[[30, -15]]], jnp.int32), {"bias": jnp.asarray([3], jnp.int32)})
    found = rule(Ring(2.0, 10)).decode(total, RESPONDED)
    np.testing.assert_allclose(found.views, [[[2.0, -1.0]]], rtol=1e-6)
    np.testing.assert_allclose(found.head["bias"], [0.2], rtol=1e-6)
    assert found.views.dtype == jnp.float32
    nobody = rule(Ring(2.0, 10)).decode(jax.tree.map(jnp.zeros_like, total), ~RESPONDED)
    assert not nobody.views.any()


def test_all_clients_that_responded_count_alike():
    weights = rule().weights(jnp.asarray([1.0, 2.0, 3.0, 4.0]), RESPONDED)
    assert weights.tolist() == [1, 0, 1, 1]


def test_the_round_trip_of_the_default_ring():
    """A bound of 1 and 2^23 levels: numbers are right to 2^-23, and clamped at 1."""
    rows = np.array([[0.3, -0.7], [9.0, 9.0], [0.1, 0.2], [2.0, 0.5]], np.float32)
    uploads = SlotUploads(
        item=jnp.zeros((4, 1), jnp.int32),
        rows_of_views=jnp.asarray(rows.reshape(4, 1, 1, 2)),
        head={},
        scale=1.0,
        num_items=1,
        whole=True,
    )
    secure = rule()
    assert secure.needs == Needs.NORMS and secure.sum_type is jnp.int32
    alpha = secure.weights(jnp.ones(4), RESPONDED)
    total, clamped = secure.encode(
        uploads, alpha, jnp.arange(4, dtype=jnp.int32), jax.random.key(0)
    )
    assert clamped.tolist() == [False, False, False, True]
    kept = np.clip(rows[np.asarray(RESPONDED)], -1, 1).mean(axis=0)
    np.testing.assert_allclose(secure.decode(total, RESPONDED).views[0, 0], kept, atol=2.0**-22)


def test_a_rule_without_an_encoding_sums_what_uploads_are():
    options = RuleOptions(expected=4.0, byzantine_share=0.2)
    for name in REDUCTIONS:
        made = REDUCTIONS[name](options)
        assert made.exact == (name == "int32")
        assert (made.sum_type is None) == (name != "secure")
