"""Clipping: its bound, its published update, and what a chain of transforms does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.types import Cohort, Histories
from fedvlr_jax.uplink import Needs, UplinkTransform, adaptive_clip, chain, fixed_clip, identity
from fedvlr_jax.uplink.transform import unchanged


def cohort(responded):
    clients = len(responded)
    zeros = np.zeros(clients, np.int32)
    return Cohort(
        histories=Histories(client=zeros, item=zeros[:, None], count=zeros),
        responded=jnp.asarray(responded),
        local_epochs=zeros,
        weight=np.ones(clients, np.float32),
    )


def weigh(transform, norms, state=None):
    state = transform.init() if state is None else state
    return transform.weigh(jnp.asarray(norms, jnp.float32), cohort([True] * len(norms)), state)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1e30), min_size=3, max_size=3),
    st.floats(1e-6, 1e6),
)
def test_no_upload_is_longer_than_the_bound_and_none_inside_it_moves(norms, bound):
    factor, clipped = weigh(fixed_clip(bound), norms)
    norms = np.asarray(norms, np.float32)
    # One unit in the last place: the product is rounded.
    assert (factor * norms <= np.nextafter(np.float32(bound), np.float32(np.inf))).all()
    inside = norms <= np.float32(bound)
    assert (np.asarray(factor)[inside] == 1).all() and not np.asarray(clipped)[inside].any()
    assert np.asarray(clipped)[norms > 1.0001 * bound].all()


def test_the_adaptive_bound_follows_the_quantile():
    transform = adaptive_clip(2.0, quantile=0.5, rate=0.2)
    factor, clipped = weigh(transform, [1.0, 4.0, 8.0, 1.0])
    np.testing.assert_allclose(factor, [1, 0.5, 0.25, 1])
    # Of the first three, who responded, one was within the bound: b = 1/3.
    responded = jnp.asarray([True, True, True, False])
    state = transform.update(transform.init(), clipped, responded)
    np.testing.assert_allclose(state, 2.0 * np.exp(-0.2 * (1 / 3 - 0.5)), rtol=1e-6)
    assert transform.bound(state) == state
    nobody = transform.update(transform.init(), clipped, jnp.zeros(4, bool))
    assert nobody == 2.0


def test_the_adaptive_bound_settles_where_the_quantile_is():
    norms = np.random.default_rng(0).exponential(size=999).astype(np.float32)
    transform = adaptive_clip(50.0, quantile=0.8)
    step = jax.jit(lambda state: transform.update(state, norms > state, jnp.ones(len(norms), bool)))
    state = transform.init()
    for _ in range(300):
        state = step(state)
    assert float(state) == pytest.approx(np.quantile(norms, 0.8), rel=0.05)


def flip(share):
    """An outside transform: needs no norms."""

    def weigh(norms, cohort, state):
        clients = cohort.responded.shape[0]
        return jnp.full(clients, -share), jnp.zeros(clients, bool)

    return UplinkTransform(Needs.SUM, lambda: (), weigh, unchanged, lambda state: jnp.inf)


def test_a_chain_passes_the_norms_on():
    transform = chain(flip(3.0), fixed_clip(1.5))
    assert transform.needs == Needs.NORMS
    factor, clipped = weigh(transform, [0.1, 1.0])
    np.testing.assert_allclose(factor, [-3.0, -1.5], rtol=1e-6)
    assert clipped.tolist() == [False, True]
    assert transform.bound(transform.init()) == 1.5


def test_the_identity_changes_nothing():
    factor, clipped = weigh(identity(), [1.0, 2.0])
    assert factor.tolist() == [1, 1] and not clipped.any()
