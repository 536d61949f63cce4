"""Clipping: its bound, its published update, and what a chain of transforms does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.types import Cohort, Histories
from fedvlr_jax.uplink import (
    Needs,
    UplinkTransform,
    adaptive_clip,
    chain,
    fixed_clip,
    identity,
    private_adaptive_clip,
)
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


def test_the_bound_moves_at_the_published_rate():
    """Andrew et al. take a rate of 0.2."""
    for transform in (adaptive_clip(1.0, 0.5), private_adaptive_clip(1.0, 0.5, 1.0, 0.0)):
        clipped = jnp.asarray([False])
        state = transform.next_state(jax.random.key(0), jnp.ones(()), clipped, ~clipped)
        np.testing.assert_allclose(state, np.exp(-0.2 * (1 - 0.5)), rtol=1e-6)


def test_the_private_share_has_a_fixed_denominator_and_noise():
    transform = private_adaptive_clip(2.0, 0.5, clients=8.0, deviation=0.0, rate=0.3)
    responded = jnp.asarray([True, True, True, False])
    clipped = jnp.asarray([True, False, False, False])
    state = transform.next_state(jax.random.key(0), jnp.asarray(2.0), clipped, responded)
    # Two of the three who responded were within the bound: b = 1/2 + (1/2 + 1/2 - 1/2) / 8.
    b = 0.5625
    np.testing.assert_allclose(state, 2.0 * np.exp(-0.3 * (b - 0.5)), rtol=1e-6)
    noisy = private_adaptive_clip(2.0, 0.5, clients=8.0, deviation=0.1, rate=0.3)
    draw = lambda key: noisy.next_state(key, jnp.asarray(2.0), clipped, responded)
    states = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(1), 4000)), np.float64)
    share = 0.5 - np.log(states / 2.0) / 0.3
    assert share.mean() == pytest.approx(b, abs=5 * 0.1 / np.sqrt(4000))
    assert share.std() == pytest.approx(0.1, rel=5 / np.sqrt(8000))
    # Normal: a uniform draw is never beyond two deviations.
    assert 0.03 < np.mean(np.abs(share - b) > 0.2) < 0.06


@pytest.mark.parametrize("clipped", [True, False])
def test_one_client_moves_the_private_share_by_a_half(clipped):
    """The accounting has noise of clients / 20 beside a sensitivity of 1/2."""
    transform = private_adaptive_clip(1.0, 0.5, clients=10.0, deviation=0.0, rate=1.0)
    others = jnp.asarray([True, True, False, False])
    flags = jnp.asarray([False, True, clipped, False])
    count = lambda responded: (
        -10 * np.log(transform.next_state(jax.random.key(0), jnp.ones(()), flags, responded))
    )
    moved = count(others.at[2].set(True)) - count(others)
    np.testing.assert_allclose(moved, -0.5 if clipped else 0.5, rtol=1e-5)


def test_an_upload_that_is_zero_is_within_the_bound():
    factor, clipped = weigh(fixed_clip(1e-3), [0.0, 1e-25])
    assert factor.tolist() == [1, 1] and not clipped.any()


def counting(by, *, draws=False):
    """A transform whose state grows by `by` each round, or by a draw."""
    grow = lambda state, clipped, responded: state + by
    drawn = lambda key, state, clipped, responded: state + jax.random.uniform(key)
    transform = flip(1.0)._replace(init=lambda: jnp.zeros(()), update=grow)
    return transform._replace(noisy_update=drawn if draws else None)


def test_each_state_of_a_chain_moves_by_its_own_update():
    nobody = jnp.zeros(2, bool)
    plain = chain(counting(1.0), counting(2.0))
    assert plain.noisy_update is None
    found = plain.next_state(jax.random.key(0), plain.init(), nobody, nobody)
    assert found == (1.0, 2.0)
    drawing = chain(counting(1.0), counting(0.0, draws=True), counting(0.0, draws=True))
    one, two, three = drawing.next_state(jax.random.key(0), drawing.init(), nobody, nobody)
    assert one == 1.0 and 0 < two < 1 and 0 < three < 1 and two != three


def test_a_chain_without_norms_needs_none():
    transform = chain(flip(3.0), flip(0.5))
    assert transform.needs == Needs.SUM
    factor, clipped = transform.weigh(None, cohort([True, False]), transform.init())
    assert factor.tolist() == [1.5, 1.5] and not clipped.any()


def test_the_identity_has_no_bound_and_needs_no_norms():
    assert identity().bound(identity().init()) == np.inf
    assert identity().needs == Needs.SUM and fixed_clip(1.0).needs == Needs.NORMS
    assert adaptive_clip(1.0, 0.5).needs == Needs.NORMS


def test_the_bound_of_a_chain_is_that_of_its_last_part_and_state():
    transform = chain(fixed_clip(3.0), flip(1.0), adaptive_clip(7.0, 0.5))
    assert transform.bound(transform.init()) == 7.0
